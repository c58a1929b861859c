"""Conversion of records to messages and back, names and filters, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh import Event, EventMetadata, EventPriority
from dimesh.errors import CodecError, EventError
from dimesh.events.cloudevents import to_binary
from dimesh.spi.bus import Filter, Record
from dimesh_pubsub import names
from dimesh_pubsub.filters import MAX_BYTES, pushed
from dimesh_pubsub.messages import Message, from_message, ordering_key_of, to_message
from servers.pubsub.small import passing

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
types = st.sampled_from(["a.b", "growth.lead_scored", "x"])
pillars = st.sampled_from(["", "P", "Growth Engine", 'a"b/c', "Ünï"])


@st.composite
def events(draw: Any) -> Event:
    metadata = EventMetadata(
        source_pillar=draw(text | pillars),
        source_agent=draw(text),
        target_agent=draw(st.none() | text),
        priority=draw(st.sampled_from(EventPriority)),
        tags=draw(st.dictionaries(text, text, max_size=3)),
    )
    payload = draw(st.none() | st.integers(-(2**53), 2**53) | text | st.lists(text, max_size=3))
    headers = draw(st.dictionaries(text.filter(bool), text | st.binary(max_size=20), max_size=4))
    event = Event(draw(types), metadata, payload)
    try:
        return event.replace(headers=headers) if headers else event
    except EventError:
        return event


def there_and_back(record: Record) -> Record:
    message = to_message(record, ordering_key_of(record, "key"))
    return from_message(Message.FromString(message.SerializeToString()))


@given(events(), text | st.text("k", min_size=900, max_size=1_000))
def test_an_event_comes_back_byte_for_byte(event: Event, key: str) -> None:
    sent = Record.of(event, key)
    try:
        found = there_and_back(sent)
    except EventError:
        assert any(name.startswith("ce-") for name in event.headers)  # an attribute that cannot be written
        return
    assert (found.header, found.payload, found.key) == (sent.header, sent.payload, sent.key)
    assert (found.event_type, found.pillar, found.priority) == (sent.event_type, sent.pillar, sent.priority)
    assert found.event == event


@given(st.binary(max_size=5_000), st.binary(max_size=200), text)
def test_bytes_that_are_no_event_come_back_too(header: bytes, payload: bytes, key: str) -> None:
    found = there_and_back(Record.stored(header, payload, key, "t", "p", "normal"))
    assert (found.header, found.payload, found.key) == (header, payload, key)


@given(
    st.binary(max_size=100),
    st.dictionaries(
        st.sampled_from(["dimesh", "dimesh-1", "ce-specversion", "ce-id", "ce-source", "content-type"])
        | text,
        text | st.sampled_from(["1.0", "1:AAAA", "3:!!", "application/cloudevents+json"]),
        max_size=6,
    ),
)
def test_any_message_becomes_a_record(data: bytes, attributes: dict[str, str]) -> None:
    """Hostile messages never raise: the engine dead-letters a message that is not an event, with its original bytes."""
    record = from_message(Message(data=data, attributes=attributes))
    try:
        assert record.event.event_id
    except CodecError:
        assert record.payload == data


@given(
    events(),
    st.sets(types, max_size=2),
    st.sets(pillars, max_size=2),
    st.sets(st.sampled_from(EventPriority), max_size=2),
)
def test_a_pushed_filter_lets_everything_pass_that_is_wanted(
    event: Event, wanted_types: set[str], wanted_pillars: set[str], priorities: set[EventPriority]
) -> None:
    wanted = Filter(
        frozenset(wanted_types), frozenset(wanted_pillars), frozenset(p.value for p in priorities)
    )
    said = pushed(wanted)
    assert len(said.encode()) <= MAX_BYTES
    record = Record.of(event, "k")
    try:
        message = to_message(record, "k")
    except EventError:
        return
    if wanted.wants(record.event_type, record.pillar, record.priority):
        assert passing(said)(dict(message.attributes))


def test_a_pushed_filter_leaves_out_what_is_not_wanted() -> None:
    attributes = dict(
        to_message(Record.of(Event("a.b", EventMetadata(source_pillar="P")), "k"), "k").attributes
    )
    assert passing(pushed(Filter(frozenset({"a.b"}))))(attributes)
    assert not passing(pushed(Filter(frozenset({"a.c"}))))(attributes)
    assert not passing(pushed(Filter(frozenset({"a.b"}), frozenset({"Q"}))))(attributes)
    assert pushed(Filter(frozenset(f"a.long.name.of.a.type.number{n}" for n in range(20)))) == ""
    assert pushed(Filter()) == ""


def test_what_plain_consumers_see() -> None:
    event = Event("a.b", EventMetadata(source_pillar="P Q", source_agent="a"), {"n": 1}).replace(
        headers={"X-Own": "1", "raw": b"\xff", "long": "x" * 2_000}
    )
    attributes = dict(to_message(Record.of(event, "k"), "k").attributes)
    assert attributes["ce-specversion"] == "1.0"
    assert attributes["ce-source"] == "/dimesh/P%20Q/a"
    assert attributes["content-type"] == "application/json"
    assert attributes["X-Own"] == "1"
    assert not {"raw", "long"} & set(
        attributes
    )  # they cannot be attributes, but readers of the mesh receive them
    assert dict(there_and_back(Record.of(event, "k")).event.headers) == dict(event.headers)


@given(events())
def test_the_attributes_are_those_of_the_binary_mode(event: Event) -> None:
    try:
        expected, _ = to_binary(event, "ce-", percent=False)
        written = dict(to_message(Record.of(event, "k"), "k").attributes)
    except EventError:
        return
    assert {n: written.get(n) for n, v in expected.items() if len(v.encode()) <= 1_024} == {
        n: v for n, v in expected.items() if len(v.encode()) <= 1_024
    }


def test_too_many_or_too_large_attributes_are_refused() -> None:
    event = Event("a.b").replace(headers={f"h{n}": "v" * 1_000 for n in range(99)})
    with pytest.raises(EventError, match="at most 100"):
        to_message(Record.of(event, "k"), "k")
    with pytest.raises(EventError, match="ordering key"):
        to_message(Record.of(Event("a.b"), "k" * 2_000), "#short")


def test_attributes_added_on_the_way_are_kept() -> None:
    event = Event("a.b", None, 1).replace(headers={"own": "1"})
    message = to_message(Record.of(event, "k"), "k")
    message.attributes["googclient_traceparent"] = "00-ab"
    found = from_message(message).event
    assert dict(found.headers) == {"own": "1", "googclient_traceparent": "00-ab"}
    assert found.metadata == event.metadata


def test_a_cloudevent_of_another_system() -> None:
    attributes = {
        "ce-specversion": "1.0", "ce-id": "i-1", "ce-source": "/shop", "ce-type": "com.shop.order",
        "ce-color": "100%", "ce-datacontenttype": "application/json", "traceroute": "x",
    }  # fmt: skip
    found = from_message(Message(data=b'{"a":1}', attributes=attributes, ordering_key="k"))
    assert (found.key, found.event.event_id, found.event.payload) == ("k", "i-1", {"a": 1})
    assert found.event.headers["ce-color"] == "100%"
    assert found.event.headers["traceroute"] == "x"
    structured = {"specversion": "1.0", "id": "i-2", "source": "/s", "type": "t", "data": [1]}
    message = Message(
        data=json.dumps(structured).encode(), attributes={"content-type": "application/cloudevents+json"}
    )
    assert (from_message(message).event.event_id, from_message(message).event.payload) == ("i-2", [1])


topic_names = st.from_regex(r"\A[A-Za-z0-9._-]{1,249}\Z") | st.sampled_from(
    ["goog", "9", "a", "x", "Google.x"]
)
group_names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:@-]{0,254}\Z")


@given(topic_names, group_names)
def test_names_become_ids_and_names_again(topic: str, group: str) -> None:
    own = names.topic_id(topic)
    assert names.topic_name(own) == topic
    subscription = names.subscription_id(group, topic)
    labels = names.labels(group, topic)
    assert names.group_of(subscription, topic, labels) == group
    assert not names.is_lone(subscription)
    for made in (own, subscription):
        assert 3 <= len(made) <= 255
        assert made[0].isascii()
        assert made[0].isalpha()
        assert not made.lower().startswith("goog")
        assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+%")
    assert len(labels) <= 64
    assert all(len(value) <= 63 and value == value.lower() for value in labels.values())


@given(topic_names, group_names, topic_names, group_names)
def test_ids_are_distinct(topic: str, group: str, other_topic: str, other_group: str) -> None:
    if (topic, group) != (other_topic, other_group):
        assert names.subscription_id(group, topic) != names.subscription_id(other_group, other_topic)
