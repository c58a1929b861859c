"""Damaged and forged headers: an event, a typed error, or a dead letter that holds the original bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from dimesh import Event, EventBus, EventMetadata
from dimesh.errors import CodecError, EventError
from dimesh.events import cloudevents
from dimesh.events.codec import encode_header
from dimesh.events.event import decode_event
from dimesh.events.trace import format_traceparent, parse_traceparent
from dimesh.spi.bus import Record

from .hostile import (
    amounts,
    gathered,
    hostile_text,
    mutated,
    refused,
    some_events,
    some_metadata,
    sort_out,
    try_all,
)

compact_headers = mutated(some_events.map(encode_header)) | st.binary(max_size=60)


# -- the compact header ----------------------------------------------------------------------------------


@amounts(66, 1_000)
def test_a_compact_header_is_an_event_or_a_codec_error(cases: int) -> None:
    def check(header: bytes) -> None:
        try:
            event = decode_event(header, b"{}")
        except CodecError as error:
            refused(error)
            return
        # A valid header is a complete event: every encoding accepts it, and it decodes to the same event.
        assert decode_event(encode_header(event), b"{}") == event
        assert Event.from_json(event.to_json()) == event
        assert EventMetadata.from_headers(event.metadata.to_headers()) == event.metadata

    try_all(cases, check, header=compact_headers)


@amounts(50, 1_000)
@pytest.mark.slow
def test_a_record_with_any_header_is_handled_or_a_dead_letter(
    cases: int, make_bus: Callable[[], EventBus]
) -> None:
    headers = gathered(cases, compact_headers)
    # Each payload is different, so that every one can be found afterwards.
    records = {
        b"%d" % n: Record.stored(header, b"%d" % n, f"key {n % 50}", "custom", "", "normal")
        for n, header in enumerate(headers)
    }
    bus = make_bus()
    handled, letters = asyncio.run(sort_out(bus, list(records.values()), lambda event: None))
    broken = [payload for payload, record in records.items() if not decodes(record)]
    undecodable = {event.data: event for event in letters if "dimesh-dlq-raw-header" in event.headers}
    assert sorted(undecodable) == sorted(broken)
    assert len(broken) > cases // 4
    for payload, event in undecodable.items():
        assert event.event_type == "system.undecodable"
        assert event.headers["dimesh-dlq-raw-header"] == records[payload].encoded
        assert str(event.headers["dimesh-dlq-reason"]).startswith("CodecError: ")
    # A header may address the record to another group, which skips it; these headers do not.
    assert sorted(handled + [event.data for event in letters]) == sorted(records)


def decodes(record: Record) -> bool:
    try:
        decode_event(record.header, record.payload)
    except CodecError:
        return False
    return True


# -- CloudEvents -----------------------------------------------------------------------------------------

attribute_names = st.sampled_from(
    (
        "ce-id", "ce-source", "ce-type", "ce-specversion", "ce-time", "ce-traceparent", "ce-traceid", "ce-tags",
        "ce-priority", "ce-schemaversion", "ce-data", "ce-", "CE-ID", "ce-foreign", "content-type", "Content-Type",
    )
)  # fmt: skip
attribute_values = (
    hostile_text
    | hostile_text.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=20)
    | st.sampled_from(
        (
            "1.0", "0.3", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60.9999999999Z",
            "2026-01-01t00:00:00z", '{"a": 1}', '{"a": "b"}', '["x"]', "/dimesh//", "/dimesh/%ff/%00", "text/plain",
            "application/json\r\nx: y", "COM.Example..Type", "%41%zz", "critical", "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
        )
    )
)  # fmt: skip
forged_headers = st.builds(
    lambda event, more, gone: {
        name: value for name, value in {**cloudevents.to_binary(event)[0], **more}.items() if name not in gone
    },
    some_events.filter(lambda event: not any(name.startswith("ce-") for name in event.headers)),
    st.dictionaries(
        attribute_names | hostile_text | hostile_text.map("ce-".__add__), attribute_values, max_size=3
    ),
    st.sets(attribute_names, max_size=1),
)


@amounts(50, 600)
def test_a_binary_cloudevent_is_an_event_or_an_event_error(cases: int) -> None:
    def check(headers: dict[str, str | bytes]) -> None:
        try:
            event = cloudevents.from_binary(headers, b'{"n": 1}')
        except EventError as error:
            refused(error)
            return
        assert cloudevents.from_binary(*cloudevents.to_binary(event)) == event
        assert decode_event(encode_header(event), event.data) == event

    try_all(cases, check, headers=forged_headers)


@amounts(50, 600)
def test_a_structured_cloudevent_is_an_event_or_an_event_error(cases: int) -> None:
    def check(body: bytes, batch: bool) -> None:
        try:
            events = (
                cloudevents.from_batch(b"[" + body + b"]") if batch else [cloudevents.from_structured(body)]
            )
        except EventError as error:
            refused(error)
            return
        for event in events:
            assert cloudevents.from_structured(cloudevents.to_structured(event)) == event

    right = some_events.filter(lambda event: not any(name.startswith("ce-") for name in event.headers))
    bodies = mutated(right.map(cloudevents.to_structured)) | st.binary(max_size=60)
    try_all(cases, check, body=bodies, batch=st.booleans())


# -- string headers --------------------------------------------------------------------------------------

string_headers = st.builds(
    lambda metadata, more: {**metadata.to_headers(), **more},
    some_metadata,
    st.dictionaries(
        st.sampled_from(
            (
                "event-id", "trace-id", "span-id", "timestamp", "priority", "source-pillar", "Source-Pillar", "tag-",
                "tag-x", "TAG-X", "tag-%FF", "traceparent", "correlation-id", "content-type",
            )
        )
        | hostile_text
        | hostile_text.map("tag-".__add__),
        hostile_text | st.sampled_from(("2026-01-01", "2026-W01", "99999-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59")),
        max_size=4,
    ),
)  # fmt: skip


@amounts(50, 600)
def test_string_headers_are_metadata_or_an_event_error(cases: int) -> None:
    def check(headers: dict[str, str]) -> None:
        try:
            metadata = EventMetadata.from_headers(headers)
        except EventError as error:
            refused(error)
            return
        assert EventMetadata.from_headers(metadata.to_headers()) == metadata

    try_all(cases, check, headers=string_headers)


traceparents = (
    hostile_text
    | mutated(st.just(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")).map(
        lambda text: text.decode("latin-1")
    )
    | st.from_regex(r"[0-9a-fA-F]{2}-[0-9a-g]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\n?")
)


@amounts(50, 500)
def test_a_traceparent_is_read_or_ignored(cases: int) -> None:
    def check(text: str) -> None:
        found = parse_traceparent(text)
        if found is not None:
            # The parsed value survives writing and reading.
            again = format_traceparent(found.trace_id, found.span_id, found.flags)
            assert again is not None
            assert parse_traceparent(again) == found._replace(flags=found.flags & 1)

    try_all(cases, check, text=traceparents)
