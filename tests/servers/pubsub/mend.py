"""Patches for Google's fake of Pub/Sub, where it lacks documented behaviour of the service or crashes.

Each entry is a piece of ``pstest/fake.go`` and its replacement. A piece that is not found is an error: the version has
changed, and the list must be reviewed.
"""

from __future__ import annotations

import sys
from pathlib import Path

MENDED = {
    # A seek drops the state of the messages and includes those of other topics; then the server crashes (nil pointer).
    """		if m.PublishTime.Before(target) {
			continue
		}
		sub.msgs[m.ID] = &message{
			publishTime: m.PublishTime,
			proto: &pb.ReceivedMessage{
				AckId: m.ID,
				// This was not preserved!
				//Message: pm,
			},
""": """		if m.PublishTime.Before(target) || m.Topic != sub.topic.proto.Name {
			continue
		}
		sub.msgs[m.ID] = &message{
			publishTime: m.PublishTime,
			proto: &pb.ReceivedMessage{
				AckId: m.ID,
				Message: &pb.PubsubMessage{
					Data: m.Data, Attributes: m.Attributes, MessageId: m.ID,
					PublishTime: timestamppb.New(m.PublishTime), OrderingKey: m.OrderingKey,
				},
			},
""",
    # The messages of a deleted topic are gone: a new topic of the same name starts empty.
    """	t.stop()
	delete(s.topics, req.Topic)
""": """	t.stop()
	delete(s.topics, req.Topic)
	left := s.msgs[:0]
	for _, m := range s.msgs {
		if m.Topic != req.Topic {
			left = append(left, m)
		}
	}
	s.msgs = left
""",
    # The service delivers several messages of an ordering key at once, in order; the fake delivers one.
    """	result := make(map[string]*message)

	type msg struct {
		id string
		m  *message
	}
	orderingKeyMap := make(map[string]msg)
	for id, m := range msgs {
		orderingKey := m.proto.Message.OrderingKey
		if orderingKey == "" {
			orderingKey = id
		}
		if val, ok := orderingKeyMap[orderingKey]; !ok || m.publishTime.Before(val.m.publishTime) {
			orderingKeyMap[orderingKey] = msg{m: m, id: id}
		}
	}
	for _, val := range orderingKeyMap {
		result[val.id] = val.m
	}
	return result
}
""": """	ids := make([]string, 0, len(msgs))
	for id := range msgs {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return earlier(ids[i], ids[j]) })
	return func(yield func(string, *message) bool) {
		for _, id := range ids {
			if !yield(id, msgs[id]) {
				return
			}
		}
	}
}

func earlier(one, other string) bool {
	return len(one) < len(other) || len(one) == len(other) && one < other
}

// again makes a message available, and with it those of its ordering key that came after it.
func (s *subscription) again(id string, m *message) {
	m.makeAvailable()
	key := m.proto.Message.OrderingKey
	if key == "" || !s.proto.EnableMessageOrdering {
		return
	}
	for other, n := range s.msgs {
		if n.proto.Message.OrderingKey == key && earlier(id, other) {
			n.makeAvailable()
		}
	}
}
""",
    """func orderMsgs(msgs map[string]*message, enableMessageOrdering bool) map[string]*message {
	if !enableMessageOrdering {
		return msgs
	}
""": """func orderMsgs(msgs map[string]*message, enableMessageOrdering bool) iter.Seq2[string, *message] {
	if !enableMessageOrdering {
		return maps.All(msgs)
	}
""",
    """		if m.outstanding() && now.After(m.ackDeadline) {
			m.makeAvailable()
""": """		if m.outstanding() && now.After(m.ackDeadline) {
			s.again(id, m)
""",
    """	if d == 0 { // nack
		m.makeAvailable()
""": """	if d == 0 { // nack
		s.again(id, m)
""",
    # The service sends the messages of an ordering key to one client while it has one of them (documentation: Ordering messages,
    # *Ordered delivery*); the fake, which had one outstanding message of a key, sends to any client.
    """	streamIndex int // index of stream that currently owns msg, for round-robin delivery
""": """	streamIndex int // index of stream that currently owns msg, for round-robin delivery
	stream      *stream
""",
    """	curIndex := 0
	filterMsgs(s.msgs, s.filter)
""": """	curIndex := 0
	filterMsgs(s.msgs, s.filter)
	owners := make(map[string]*stream)
	if s.proto.EnableMessageOrdering {
		for _, m := range s.msgs {
			if key := m.proto.Message.OrderingKey; key != "" && m.outstanding() && m.stream != nil {
				owners[key] = m.stream
			}
		}
	}
""",
    """		if m.streamIndex < 0 {
			delIndex, ok := s.tryDeliverMessage(m, curIndex, now)
			if !ok {
				break
			}
			curIndex = delIndex + 1
			m.streamIndex = curIndex
		} else {
			delIndex, ok := s.tryDeliverMessage(m, m.streamIndex, now)
			if !ok {
				break
			}
			m.streamIndex = delIndex
		}
""": """		key := m.proto.Message.OrderingKey
		first, start := m.streamIndex < 0, m.streamIndex
		if first {
			start = curIndex
		}
		if owner := slices.Index(s.streams, owners[key]); owner >= 0 {
			if len(owners[key].msgc) == cap(owners[key].msgc) {
				break // it is full, and nobody else may have the message
			}
			start = owner
		}
		delIndex, ok := s.tryDeliverMessage(m, start, now)
		if !ok {
			break
		}
		if m.streamIndex = delIndex; first {
			curIndex = delIndex + 1
			m.streamIndex = curIndex
		}
		if key != "" && s.proto.EnableMessageOrdering {
			owners[key] = m.stream
		}
""",
    """			(*m.deliveries)++
			m.ackDeadline = now.Add(st.ackTimeout)
			return idx, true
""": """			(*m.deliveries)++
			m.stream = st
			m.ackDeadline = now.Add(st.ackTimeout)
			return idx, true
""",
    # One message in ten milliseconds for each stream is too slow for tests; messages that were not sent when a stream ends
    # are available at once.
    """		msgc:                      make(chan *pb.ReceivedMessage),
""": """		msgc:                      make(chan *pb.ReceivedMessage, 2000),
""",
    """	if i < len(s.streams) {
		s.streams = deleteStreamAt(s.streams, i)
	}
""": """	if i < len(s.streams) {
		s.streams = deleteStreamAt(s.streams, i)
	}
	for {
		select {
		case rm := <-st.msgc:
			if m := s.msgs[rm.AckId]; m != nil {
				s.again(rm.AckId, m)
			}
			continue
		default:
		}
		break
	}
""",
    """	"io"
""": """	"io"
	"iter"
	"maps"
	"slices"
""",
}


def main(path: Path) -> None:
    """Rewrite the file."""
    text = path.read_text("utf-8")
    for piece, mended in MENDED.items():
        if text.count(piece) != 1:
            raise SystemExit(f"{path} has changed; there is no\n{piece}")
        text = text.replace(piece, mended)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
