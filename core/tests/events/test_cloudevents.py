"""Both directions against the CloudEvents SDK, which had no part in writing the module."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import EventError, PayloadError
from dimesh.events import Event, EventMetadata
from dimesh.events.cloudevents import (
    BATCH_CONTENT_TYPE,
    CONTENT_TYPE,
    KAFKA_PREFIX,
    from_batch,
    from_binary,
    from_structured,
    to_batch,
    to_binary,
    to_structured,
)
from dimesh.events.event import restore
from dimesh.events.fields import NO_HEADERS

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FORMAT = JSONFormat()

# Controls are not allowed in attributes, and the SDK writes Kafka headers without quoting.
text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
names = st.from_regex(r"\A[a-z][a-z0-9]{0,12}\Z").filter(
    lambda name: name not in {"data", "specversion", "id", "source", "type", "time", "subject", "tags"}
)
foreign_types = (
    st.sampled_from(["com.GitHub.Push/v1", "Microsoft.Storage.BlobCreated", "123", "🚀", "deal.won"]) | text
)


@st.composite
def foreign(draw: st.DrawFn) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": draw(text),
        "source": draw(
            st.sampled_from(["https://github.com/x", "/dimesh/%41/b", "/dimesh/a/b", "urn:x"]) | text
        ),
        "type": draw(foreign_types),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "time": st.datetimes(timezones=st.just(UTC)),
        "subject": text,
        "dataschema": st.just("https://schemas.example/x"),
        "traceparent": st.sampled_from([f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-x", "garbage"]),
        "tracestate": st.just("vendor=1"),
        "priority": st.sampled_from(["high", "5", "normal"]),
        "tags": st.sampled_from(['{"a":"b"}', "a,b", '{"a": "b"}', '{"a":1}', "{}"]),
        "schemaversion": st.sampled_from(["2", "x" * 100]),
        "correlationid": text,
    }
    for name, strategy in optional.items():
        if draw(st.booleans()):
            attributes[name] = draw(strategy)
    return draw(st.dictionaries(names, text, max_size=3)) | attributes


def without_foreign_headers(event: Event) -> Event:
    """Return the part of an event that crosses the border: headers of the mesh stay inside."""
    return event.replace(headers=NO_HEADERS)


# -- our own events ------------------------------------------------------------------------------------


@given(st.from_type(Event))
def test_our_events_survive_a_round_trip(event: Event) -> None:
    event = without_foreign_headers(event)
    assert from_binary(*to_binary(event)) == event
    assert from_binary(*to_binary(event, KAFKA_PREFIX), KAFKA_PREFIX) == event
    assert from_structured(to_structured(event)) == event
    assert from_batch(to_batch([event, event])) == [event, event]


@given(st.from_type(Event))
def test_the_sdk_reads_our_events(event: Event) -> None:
    headers, body = to_binary(event)
    binary = http.from_binary(http.HTTPMessage(headers, body), FORMAT)
    structured = http.from_structured(
        http.HTTPMessage({"content-type": CONTENT_TYPE}, to_structured(event)), FORMAT
    )
    for found in (binary, structured):
        assert found.get_specversion() == "1.0"
        assert found.get_id() == event.event_id
        assert found.get_type() == event.event_type.value
        assert found.get_time() == event.metadata.timestamp
        assert found.get_datacontenttype() == event.content_type
        assert found.get_extension("priority") == event.metadata.priority.value
        assert found.get_extension("correlationid") == event.metadata.correlation_id
    assert binary.get_attributes() == structured.get_attributes()


@given(st.from_type(Event))
def test_our_events_survive_a_round_trip_through_the_sdk(event: Event) -> None:
    event = without_foreign_headers(event)
    binary = http.from_binary(http.HTTPMessage(*to_binary(event)), FORMAT)
    sent = http.to_binary(CloudEvent(dict(binary.get_attributes()), event.data), FORMAT)
    assert from_binary(sent.headers, sent.body) == event


def test_the_form_of_an_event_outside_the_mesh() -> None:
    metadata = EventMetadata(
        event_id="e 1",
        trace_id=TRACE,
        span_id=SPAN,
        source_pillar="Growth Engine",
        source_agent="bot/1",
        target_pillar="Customer Success",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        tags={"k": "v"},
    )
    headers, body = to_binary(Event("deal.won", metadata, {"n": 1}, "2.0"))
    assert body == b'{"n":1}'
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "e%201",
        "ce-source": "/dimesh/Growth%2520Engine/bot%252F1",
        "ce-type": "deal.won",
        "ce-time": "2026-01-02T03:04:05Z",
        "ce-schemaversion": "2.0",
        "ce-priority": "normal",
        "ce-traceparent": f"00-{TRACE}-{SPAN}-01",
        "ce-targetpillar": "Customer%20Success",
        "ce-tags": "{%22k%22:%22v%22}",
        "content-type": "application/json",
    }
    assert to_binary(Event("deal.won", metadata), KAFKA_PREFIX)[0]["ce_id"] == "e 1"


def test_headers_of_the_mesh_stay_inside() -> None:
    event = Event("deal.won", payload=1, headers={"dimesh-reply-to": "x", "authorization": b"secret"})
    assert "secret" not in str(to_binary(event))
    assert b"reply" not in to_structured(event)


@pytest.mark.parametrize(
    "name", ["dimesh-reply-to", "ce-dimesh-reply-to", "ce-dimeshreplyto", "Dimesh-Redrives"]
)
def test_no_cloudevent_brings_a_header_of_the_engine(name: str) -> None:
    """Headers that begin with dimesh- steer the bus; an event from outside has none, whatever it is called there."""
    given = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "a.b", name: "system.audit"}
    try:
        headers = from_binary(given, b"1").headers
    except EventError:
        headers = {}  # not a name that CloudEvents allow
    assert not [header for header in headers if header.lower().startswith("dimesh-")]
    document = {
        "specversion": "1.0",
        "id": "1",
        "source": "/x",
        "type": "a.b",
        name: "system.audit",
        "data": 1,
    }
    try:
        headers = from_structured(json.dumps(document)).headers
    except EventError:
        headers = {}
    assert not [header for header in headers if header.lower().startswith("dimesh-")]


def test_media_types() -> None:
    assert CONTENT_TYPE.startswith("application/cloudevents+json")
    assert BATCH_CONTENT_TYPE.startswith("application/cloudevents-batch+json")


# -- foreign events ------------------------------------------------------------------------------------


@given(foreign(), st.none() | st.dictionaries(text, text | st.integers()) | st.binary(min_size=1))
def test_foreign_events_survive_a_round_trip(attributes: dict[str, Any], data: Any) -> None:
    if isinstance(data, dict):
        attributes["datacontenttype"] = "application/json"
    elif data is not None:
        attributes["datacontenttype"] = "application/octet-stream"
    sent = CloudEvent(attributes, data)
    over_http = http.to_binary(sent, FORMAT)
    over_kafka = kafka.to_binary(sent, FORMAT)
    structured = http.to_structured(sent, FORMAT)

    for event in (
        from_binary(over_http.headers, over_http.body),
        from_binary(over_kafka.headers, over_kafka.value, KAFKA_PREFIX),
        from_structured(structured.body),
    ):
        assert event.event_id == attributes["id"]
        assert event.event_type.value
        if isinstance(data, dict):
            assert event.payload == data
        elif data is None:
            assert event.payload is None
        else:
            assert event.data == data
            with pytest.raises(PayloadError):
                _ = event.payload
        # Through the mesh, as bytes, and out again.
        event = Event.from_json(event.to_json())
        again = http.from_binary(http.HTTPMessage(*to_binary(event)), FORMAT)
        also = http.from_structured(http.HTTPMessage({}, to_structured(event)), FORMAT)
        for found in (again, also):
            kept = {name: found.get_attributes().get(name) for name in attributes}
            assert kept == attributes
        if isinstance(data, dict) or data is None:
            assert also.get_data() == data
        assert to_binary(event)[1] == event.data


def test_the_fields_of_foreign_attributes() -> None:
    event = from_structured(
        json.dumps(
            {
                "specversion": "1.0",
                "id": "1",
                "source": "https://github.com/x",
                "type": "com.GitHub.Push/v1",
                "subject": "pr/1",
                "dataschema": "https://s",
                "traceparent": f"00-{TRACE}-{SPAN}-00",
                "tracestate": "v=1",
                "priority": "urgent",
                "correlationid": "c",
                "retries": 3,
                "final": True,
                "nothing": None,
                "data": {"a": 1},
            }
        )
    )
    assert event.event_type == "com.github.push-v1"
    assert event.metadata.source_pillar == ""
    assert event.metadata.source_agent == "https://github.com/x"
    assert (event.metadata.trace_id, event.metadata.span_id) == (TRACE, SPAN)
    assert event.metadata.correlation_id == "c"
    assert event.headers == {
        "ce-source": "https://github.com/x",
        "ce-type": "com.GitHub.Push/v1",
        "ce-subject": "pr/1",
        "ce-dataschema": "https://s",
        "ce-traceparent": f"00-{TRACE}-{SPAN}-00",
        "ce-tracestate": "v=1",
        "ce-priority": "urgent",
        "ce-retries": "3",
        "ce-final": "true",
    }


def test_changes_made_in_the_mesh_are_written() -> None:
    event = from_structured(
        f'{{"specversion":"1.0","id":"1","source":"https://x","type":"A","traceparent":"00-{TRACE}-{SPAN}-00",'
        '"time":"2026-01-01T00:00:00.123456789+02:00","priority":"5"}'
    )
    out = to_binary(event)[0]
    assert out["ce-time"] == "2026-01-01T00:00:00.123456789+02:00"
    assert event.metadata.timestamp == datetime(2025, 12, 31, 22, 0, 0, 123456, UTC)
    changed = event.replace(metadata=EventMetadata(source_agent="bot", trace_id=TRACE, priority="high"))
    out = to_binary(changed)[0]
    assert out["ce-source"] == "/dimesh//bot"
    assert out["ce-type"] == "A"
    assert out["ce-priority"] == "high"
    assert out["ce-traceid"] == TRACE
    assert "ce-traceparent" not in out
    assert not out["ce-time"].startswith("2026-01-01T00:00:00.123456789")


@given(foreign_types)
def test_every_foreign_type_becomes_a_valid_type(kind: str) -> None:
    event = from_binary({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "x"}, b"")
    assert event.event_type == "x"
    body = json.dumps({"specversion": "1.0", "id": "1", "source": "x", "type": kind})
    found = from_structured(body)
    assert found.event_type.value
    assert json.loads(to_structured(found))["type"] == kind


def test_base64_and_text_data() -> None:
    base = '{"specversion":"1.0","id":"1","source":"x","type":"x",'
    image = from_structured(base + '"datacontenttype":"image/png","data_base64":"iVBORw=="}')
    assert image.data == b"\x89PNG"
    assert json.loads(to_structured(image))["data_base64"] == "iVBORw=="
    note = from_structured(base + '"datacontenttype":"text/plain","data":"héllo"}')
    assert note.data == "héllo".encode()
    number = from_structured(base + '"data": 9007199254740993 }')
    assert number.data == b"9007199254740993"
    assert json.loads(to_structured(number))["data"] == 9007199254740993
    broken = restore("a.b", EventMetadata(), b'{"a":1,"a":2}')
    assert from_structured(to_structured(broken)) == broken


def test_quoted_and_encoded_http_values() -> None:
    found = from_binary(
        {
            "CE-SpecVersion": "1.0",
            "Ce-Id": ' "a\\"b" ',
            "ce-source": "x",
            "ce-type": "x",
            "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
            "Content-Type": "text/plain",
            "Host": "ignored",
        },
        b"hi",
    )
    assert found.event_id == 'a"b'
    assert found.headers["ce-subject"] == "Euro € 😀"
    assert found.content_type == "text/plain"


GOOD = {"specversion": "1.0", "id": "1", "source": "x", "type": "x"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"specversion": None}, "specversion is missing"),
        ({"specversion": "0.3"}, "specversion is '0.3'"),
        ({"id": None}, "id is missing"),
        ({"id": ""}, "id is missing or empty"),
        ({"source": None}, "source is missing"),
        ({"type": ""}, "type is missing"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "2026-01-01T00:00:00"}, "with an offset"),
        ({"time": "9999-12-31T23:59:59-12:00"}, "time is"),
        ({"time": "2026-13-01T00:00:00Z"}, "time is"),
        ({"id": "x" * 1_025}, "longer than 1,024"),
        ({"traceid": "x" * 1_025}, "longer than 1,024"),
        ({"Capital": "x"}, "is not an attribute name"),
        ({"with-dash": "x"}, "is not an attribute name"),
        ({"datacontenttype": "text/plain\r\nX-Evil: 1"}, "printable ASCII"),
        ({"datacontenttype": ""}, "printable ASCII"),
        ({"ext": 1.5}, "float"),
        ({"ext": {"a": 1}}, "dict"),
        ({"data": 1, "data_base64": "eA=="}, "both data"),
        ({"data_base64": "!"}, "not base64"),
        ({"data_base64": 5}, "not base64"),
    ],
)
def test_structured_events_that_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        from_structured(json.dumps(GOOD | change))
    with pytest.raises(EventError, match=f"event 1 of the batch.*{reason}"):
        from_batch(json.dumps([GOOD, GOOD | change]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"id":"1","id":"2"}',
        b"[" * 10_000,
        b'{"specversion":"1.0","x":"\\ud800"}',
        b"\xff",
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(EventError):
        from_structured(body)
    with pytest.raises(EventError):
        from_batch(b'{"a":1}')


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "specversion is missing"),
        ({"ce-id": "%ff"}, "percent-encoded"),
        ({"ce-id": b"\xff"}, "UTF-8"),
        ({"ce-id": 5}, "int"),
        ({"ce-id": "1", "CE-ID": "2"}, "twice"),
        (
            {"ce-data": "x", "ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "x"},
            "attribute",
        ),
        ({"ce-": "x", "ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "x"}, "attribute"),
    ],
)
def test_binary_messages_that_are_refused(headers: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        from_binary(headers, b"")


def test_kept_headers_that_cannot_be_written() -> None:
    with pytest.raises(EventError, match="is not an attribute name"):
        to_binary(Event("a.b", headers={"ce-Bad Name": "x"}))
    with pytest.raises(EventError, match="UTF-8"):
        to_structured(Event("a.b", headers={"ce-x": b"\xff"}))
    with pytest.raises(EventError, match="content type"):
        to_binary(restore("a.b", EventMetadata(), b"", content_type="a\r\nX-Evil: 1"))


@given(
    st.dictionaries(st.sampled_from([f"ce-{n}" for n in [*GOOD, "time", "tags", "traceparent"]]), st.text())
)
@pytest.mark.slow
def test_any_headers_are_an_event_or_an_event_error(headers: dict[str, str]) -> None:
    try:
        event = from_binary({"ce-specversion": "1.0"} | headers, b"")
    except EventError:
        return
    assert from_binary(*to_binary(event)) == event
