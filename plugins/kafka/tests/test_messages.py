"""Records as messages and back, without a broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dimesh import Event, EventMetadata, EventPriority, ForeignRecords
from dimesh.errors import CodecError
from dimesh.events.cloudevents import to_binary
from dimesh.spi.bus import Delivery, Record, RefusedRecord
from dimesh_kafka.messages import COMPACT, ROUTE, from_message, to_headers

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = text.filter(bool)


@st.composite
def events(draw: Any) -> Event:
    metadata = EventMetadata(
        source_pillar=draw(text | st.sampled_from(["", "\0", "a\0b"])),
        source_agent=draw(text),
        target_agent=draw(st.none() | text),
        priority=draw(st.sampled_from(EventPriority)),
        tags=draw(st.dictionaries(text, text, max_size=3)),
    )
    payload = draw(st.none() | st.integers(-(2**53), 2**53) | text | st.lists(text, max_size=3))
    headers = draw(
        st.dictionaries(
            names.filter(lambda n: not n.lower().startswith(("ce-", "ce_", "dimesh", "content-type"))),
            text | st.binary(max_size=20),
            max_size=4,
        )
    )
    event = Event(draw(st.sampled_from(["a.b", "growth.lead_scored", "x"])), metadata, payload)
    return event.replace(headers=headers) if headers else event


def there_and_back(record: Record) -> Record:
    key = record.key.encode("utf-8", "surrogatepass")
    return from_message(key, record.payload, tuple(to_headers(record)))


@given(events(), text)
def test_an_event_comes_back_byte_for_byte(event: Event, key: str) -> None:
    sent = Record.of(event, key)
    found = there_and_back(sent)
    assert (found.header, found.payload, found.key) == (sent.header, sent.payload, sent.key)
    assert (found.event_type, found.pillar, found.priority) == (sent.event_type, sent.pillar, sent.priority)
    assert found.event == event


@given(st.binary(max_size=200), st.binary(max_size=200), text, text.filter(lambda t: "\0" not in t))
def test_bytes_that_are_no_event_come_back_too(header: bytes, payload: bytes, key: str, kind: str) -> None:
    found = there_and_back(Record.stored(header, payload, key, kind, "p", "normal"))
    assert (found.header, found.payload, found.key, found.event_type) == (header, payload, key, kind)


@given(
    st.none() | st.binary(max_size=50),
    st.none() | st.binary(max_size=200),
    st.lists(
        st.tuples(
            text | st.sampled_from([COMPACT, ROUTE, "ce_specversion", "ce_id"]), st.binary(max_size=50)
        ),
        max_size=6,
    ),
)
@example(key=None, value=None, headers=[(COMPACT, b""), (ROUTE, b"\x80")])
@example(key=None, value=None, headers=[(COMPACT, b""), (ROUTE, b"a.b\0p\0normal\0" + b"9" * 5_000)])
def test_any_message_becomes_a_record(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    """Hostile messages never raise: the engine dead-letters a message that is not an event, with its original bytes."""
    record = from_message(key, value, headers)
    try:
        assert record.event.event_id
    except CodecError:
        assert record.payload == (value or b"")


def test_what_plain_consumers_see() -> None:
    event = Event("a.b", EventMetadata(source_pillar="P", source_agent="a"), {"n": 1}).replace(
        headers={"X-Own": "1", "raw": b"\xff"}
    )
    headers = dict(to_headers(Record.of(event, "k")))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == event.event_id.encode()
    assert headers["ce_type"] == b"a.b"
    assert headers["ce_source"] == b"/dimesh/P/a"
    assert headers["content-type"] == b"application/json"
    assert (headers["X-Own"], headers["raw"]) == (b"1", b"\xff")


def test_headers_added_on_the_way_are_kept() -> None:
    event = Event("a.b", None, 1).replace(headers={"own": "1"})
    headers = [*to_headers(Record.of(event, "k")), ("trace", b"abc"), ("trace", b"def"), ("bin", b"\xff")]
    found = from_message(b"k", event.data, headers).event
    assert dict(found.headers) == {"own": "1", "trace": "abc", "trace;2": "def", "bin": b"\xff"}
    assert found.metadata == event.metadata


def test_a_cloudevent_of_another_system() -> None:
    binary = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"i-1"),
        ("ce_source", b"/shop"),
        ("ce_type", b"com.shop.order"),
        ("ce_color", b"red"),
        ("content-type", b"application/json"),
        ("traceroute", b"x"),
    ]
    found = from_message(b"k", b'{"a":1}', binary)
    assert (found.key, found.event.event_id, found.event.payload) == ("k", "i-1", {"a": 1})
    assert found.event.headers["ce-color"] == "red"
    assert found.event.headers["traceroute"] == "x"
    structured = json.dumps(
        {"specversion": "1.0", "id": "i-2", "source": "/s", "type": "t", "data": [1]}
    ).encode()
    found = from_message(None, structured, [("content-type", b"application/cloudevents+json; charset=utf-8")])
    assert (found.event.event_id, found.event.payload) == ("i-2", [1])


@given(events())
def test_the_attributes_are_those_of_the_binary_mode(event: Event) -> None:
    """The attributes do not depend on how the headers were built."""
    attributes, _ = to_binary(event, "ce_")
    written = dict(to_headers(Record.of(event, "k")))
    assert {name: written[name].decode() for name in attributes} == attributes


def test_records_that_are_not_events_say_why() -> None:
    plain = from_message(b"k", b'{"a": 1}', [])
    with pytest.raises(CodecError, match="no CloudEvents attributes"):
        plain.event  # noqa: B018
    tombstone = from_message(b"k", None, [])
    assert isinstance(tombstone, RefusedRecord)
    assert tombstone.tombstone
    with pytest.raises(CodecError, match="tombstone"):
        tombstone.event  # noqa: B018
    rule = ForeignRecords("order.imported")
    read = rule.read("orders", Delivery(tombstone, 3, 7, 0.0)).record.event
    assert (read.event_type, read.event_id, read.headers["key"]) == ("record.deleted", "orders/3/7", "k")
    read = rule.read("orders", Delivery(plain, 3, 8, 0.0)).record.event
    assert (read.event_type, read.event_id, read.payload) == ("order.imported", "orders/3/8", {"a": 1})
