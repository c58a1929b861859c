from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import CodecError, EventError, PayloadError
from dimesh.events import Event, EventMetadata, EventPriority
from dimesh.events.codec import FORMAT, encode_header
from dimesh.events.event import decode_event, restore

PLAIN = Event(
    "deal.won",
    EventMetadata(source_pillar="Growth Engine", source_agent="bot", tags={"a": "b"}),
    {"amount": 3},
    headers={"x": "text", "y": b"\xff"},
)

# -- compact -----------------------------------------------------------------------------------------


@given(st.from_type(Event))
def test_compact_round_trip(event: Event) -> None:
    assert decode_event(encode_header(event), event.data) == event


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_codec_error(header: bytes) -> None:
    try:
        decode_event(header, b"")
    except CodecError:
        pass


@given(st.from_type(Event), st.data())
def test_damaged_headers_are_an_event_or_a_codec_error(event: Event, data: st.DataObject) -> None:
    header = bytearray(encode_header(event))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, max(len(header) - 1, 0)))
        header[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = decode_event(bytes(header), event.data)
    except CodecError:
        return
    # What passed is an event like any other.
    assert found.event_type.value
    assert decode_event(encode_header(found), found.data) == found
    assert Event.from_json(found.to_json()) == found


@given(
    st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats()
            | st.text()
            | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3)
            ),
            max_leaves=20,
        ),
        max_size=8,
    )
)
def test_well_formed_nonsense_is_a_codec_error(parts: list[Any]) -> None:
    try:
        header = msgspec.msgpack.encode(parts)
    except UnicodeEncodeError:
        return
    with pytest.raises(CodecError):
        decode_event(header, b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: FORMAT + 1}, "upgrade dimesh"),
        ({0: 0}, "there is no format 0"),
        ({0: True}, "not an event header"),
        ({1: "Not A Type"}, "event type"),
        ({2: ""}, "not an event header"),
        ({2: "x" * 65}, "not an event header"),
        ({4: ""}, "not an event header"),
        ({5: {"a": 1}}, "not an event header"),
        ({5: {"": "a"}}, "not an event header"),
        ({6: {"a": "text"}}, "not an event header"),
        ({3: [""]}, "not an event header"),
    ],
)
def test_fields_of_the_header_are_checked(change: dict[int, Any], reason: str) -> None:
    parts = msgspec.msgpack.decode(encode_header(PLAIN))
    for index, value in change.items():
        parts[index] = value
    with pytest.raises(CodecError, match=reason):
        decode_event(msgspec.msgpack.encode(parts), PLAIN.data)


def test_metadata_of_the_header_is_checked() -> None:
    for index, value in (
        (0, ""),
        (0, "x" * 1_025),
        (8, "2026-01-01T00:00:00"),
        (9, "urgent"),
        (12, {"a": 1}),
    ):
        parts = msgspec.msgpack.decode(encode_header(PLAIN))
        parts[3][index] = value
        with pytest.raises(CodecError):
            decode_event(msgspec.msgpack.encode(parts), PLAIN.data)


def test_a_header_with_further_fields_can_be_read() -> None:
    # A later dimesh of the same format may append fields.
    parts = msgspec.msgpack.decode(encode_header(PLAIN))
    parts[3].append("new")
    parts.append({"new": 1})
    assert decode_event(msgspec.msgpack.encode(parts), PLAIN.data) == PLAIN


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 100_000])
def test_headers_that_declare_too_much(header: bytes) -> None:
    with pytest.raises(CodecError):
        decode_event(header, b"")


# -- JSON --------------------------------------------------------------------------------------------


@given(st.from_type(Event))
def test_json_round_trip_of_every_event(event: Event) -> None:
    text = event.to_json()
    assert Event.from_json(text) == event
    assert Event.from_json(text.encode()) == event
    assert Event.from_json(json.dumps(json.loads(text), indent=2)).metadata == event.metadata


@given(st.from_type(Event))
def test_json_has_the_documented_names(event: Event) -> None:
    found = json.loads(event.to_json())
    assert found["event_type"] == event.event_type.value
    assert found["schema_version"] == event.schema_version
    assert set(found["metadata"]) == set(EventMetadata.__struct_fields__)
    if "payload" in found:
        assert found["payload"] == event.payload
    elif event.data:
        assert base64.b64decode(found["payload_base64"]) == event.data


def test_json_has_the_expected_form() -> None:
    found = json.loads(PLAIN.to_json())
    assert list(found) == ["event_type", "metadata", "payload", "schema_version", "headers", "headers_base64"]
    assert found["payload"] == {"amount": 3}
    assert found["metadata"]["tags"] == {"a": "b"}
    assert found["metadata"]["priority"] == "normal"
    assert found["metadata"]["span_id"] is None
    assert found["metadata"]["timestamp"].endswith("Z")
    assert found["headers"] == {"x": "text"}
    assert found["headers_base64"] == {"y": "/w=="}


def test_only_the_type_is_required() -> None:
    event = Event.from_json('{"event_type": "order.created"}')
    assert event.event_type == "order.created"
    assert event.payload is None
    assert event.metadata.priority is EventPriority.NORMAL
    assert event.event_id != Event.from_json('{"event_type": "order.created"}').event_id
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize("number", ["9007199254740993", str(2**64), str(2**200), "-" + "9" * 4_000])
def test_big_integers_are_exact(number: str) -> None:
    event = Event.from_json(f'{{"event_type":"a.b","payload":{{"n":{number}}}}}')
    assert str(event.payload["n"]) == number
    assert Event.from_json(event.to_json()) == event


def test_payload_bytes_are_kept_unchanged() -> None:
    event = Event.from_json(b'{"event_type":"a.b","payload": {"b" : 1.50, "a":[ ]} }')
    assert event.data == b'{"b" : 1.50, "a":[ ]}'
    assert Event.from_json(event.to_json()) == event


def test_a_payload_cannot_break_out_of_the_document() -> None:
    event = restore("a.b", EventMetadata(), b'1},"event_type":"evil","x":{"y":1')
    assert Event.from_json(event.to_json()) == event
    assert json.loads(event.to_json())["event_type"] == "a.b"


DEEP = '{"event_type":"a.b","payload":' + "[" * 10_000 + "]" * 10_000 + "}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{}",
        "{",
        '{"event_type":3}',
        '{"event_type":"Bad Type"}',
        '{"event_type":"a.b","event_type":"a.b"}',
        '{"event_type":"a.b","unknown":1}',
        '{"event_type":"a.b","metadata":{"unknown":1}}',
        '{"event_type":"a.b","metadata":{"event_id":"x","event_id":"y"}}',
        '{"event_type":"a.b","metadata":{"tags":{"a":"b","a":"c"}}}',
        '{"event_type":"a.b","metadata":{"tags":{"a":1}}}',
        '{"event_type":"a.b","metadata":{"event_id":""}}',
        '{"event_type":"a.b","metadata":{"event_id":7}}',
        '{"event_type":"a.b","metadata":{"timestamp":"2026-01-01T00:00:00"}}',
        '{"event_type":"a.b","metadata":{"timestamp":"9999-12-31T23:59:59-05:00"}}',
        '{"event_type":"a.b","metadata":{"timestamp":"yesterday"}}',
        '{"event_type":"a.b","metadata":{"priority":"urgent"}}',
        '{"event_type":"a.b","metadata":null}',
        '{"event_type":"a.b","schema_version":""}',
        '{"event_type":"a.b","schema_version":1}',
        '{"event_type":"a.b","content_type":5}',
        '{"event_type":"a.b","content_type":""}',
        '{"event_type":"a.b","headers":{"a":1}}',
        '{"event_type":"a.b","headers":{"":"x"}}',
        '{"event_type":"a.b","headers":{"a":"x","a":"y"}}',
        '{"event_type":"a.b","headers":{"a":"x"},"headers_base64":{"a":"eA=="}}',
        '{"event_type":"a.b","headers_base64":{"a":"!"}}',
        '{"event_type":"a.b","payload":1,"payload_base64":"eA=="}',
        '{"event_type":"a.b","payload_base64":"!"}',
        '{"event_type":"a.b","payload":{"a":1,"a":2}}',
        '{"event_type":"a.b","payload":NaN}',
        '{"event_type":"a.b","payload":1e400}',
        '{"event_type":"a.b","payload":"\\ud800"}',
        '{"event_type":"a.b","payload":"\ud800"}',
        '{"event_type":"a.b","payload":' + "9" * 5_000 + "}",
        DEEP,
        DEEP.encode(),
        b'{"event_type":"a.b","payload":"\xff"}',
        b"\xff\xfe",
        None,
        3,
        [],
    ],
    ids=lambda text: ascii(text)[:70],
)
def test_json_that_is_not_an_event_is_refused(text: Any) -> None:
    with pytest.raises(EventError) as caught:
        Event.from_json(text)
    assert len(str(caught.value)) < 500


@given(st.binary() | st.text())
def test_any_text_is_an_event_or_an_event_error(text: Any) -> None:
    try:
        Event.from_json(text)
    except EventError:
        pass


@given(st.from_type(Event), st.data())
def test_damaged_json_is_an_event_or_an_event_error(event: Event, data: st.DataObject) -> None:
    text = bytearray(event.to_json().encode())
    where = data.draw(st.integers(0, len(text) - 1))
    text[where : where + data.draw(st.integers(0, 3))] = data.draw(
        st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"]", b",", b":", b"\\u", b"1e999"])
    )
    try:
        found = Event.from_json(bytes(text))
    except EventError:
        return
    assert Event.from_json(found.to_json()) == found


def test_the_reason_is_in_the_message() -> None:
    with pytest.raises(PayloadError, match="has the key 'a' twice"):
        Event.from_json('{"event_type":"a.b","payload":{"a":1,"a":2}}')
    with pytest.raises(EventError, match="unknown"):
        Event.from_json('{"event_type":"a.b","unknown":1}')
    with pytest.raises(EventError, match="event_type"):
        Event.from_json('{"payload":1}')
