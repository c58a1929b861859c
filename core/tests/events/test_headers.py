from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import EventError
from dimesh.events import EventMetadata, EventPriority
from dimesh.events.causation import child
from dimesh.events.headers import TEXT_FIELDS
from dimesh.events.trace import TraceParent, format_traceparent, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@given(st.from_type(EventMetadata))
def test_round_trip(metadata: EventMetadata) -> None:
    assert EventMetadata.from_headers(metadata.to_headers()) == metadata


def test_every_field_has_a_header() -> None:
    assert {*TEXT_FIELDS, "timestamp", "priority", "tags"} == set(EventMetadata.__struct_fields__)


@given(st.from_type(EventMetadata))
def test_headers_survive_transports(metadata: EventMetadata) -> None:
    sent = metadata.to_headers()
    for name, value in sent.items():
        assert re.fullmatch(r"[a-z0-9._%-]+", name)
        assert re.fullmatch(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?", value)
    for carry in (str.upper, str.title, str.lower):
        arrived = {carry(name): value.strip() for name, value in sent.items()}
        assert EventMetadata.from_headers(arrived | {"Host": "x", "X-Other": "\udcff"}) == metadata


def test_ordinary_values_are_readable() -> None:
    metadata = EventMetadata(
        event_id="e1",
        trace_id=TRACE,
        span_id=SPAN,
        source_pillar="Growth Engine",
        source_agent="bot",
        priority=EventPriority.HIGH,
        tags={"cdc_operation": "insert"},
    )
    headers = metadata.to_headers()
    assert headers.pop("timestamp") == metadata.timestamp.isoformat()
    assert headers == {
        "event-id": "e1",
        "trace-id": TRACE,
        "span-id": SPAN,
        "source-pillar": "Growth Engine",
        "source-agent": "bot",
        "priority": "high",
        "tag-cdc_operation": "insert",
        "traceparent": f"00-{TRACE}-{SPAN}-01",
    }


def test_no_traceparent_without_w3c_ids() -> None:
    for trace_id, span_id in (
        (TRACE, None),
        (TRACE, "0" * 16),
        ("0" * 32, SPAN),
        (TRACE.upper(), SPAN),
        ("t", "s"),
    ):
        metadata = EventMetadata(trace_id=trace_id, span_id=span_id)
        assert "traceparent" not in metadata.to_headers()


def test_traceparent_provides_missing_ids() -> None:
    found = EventMetadata.from_headers({"TraceParent": f"00-{TRACE}-{SPAN}-00"})
    assert (found.trace_id, found.span_id, found.parent_span_id) == (TRACE, None, SPAN)
    given_one = EventMetadata.from_headers({"trace-id": "mine", "traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert (given_one.trace_id, given_one.parent_span_id) == ("mine", None)
    assert EventMetadata.from_headers({"traceparent": "garbage"}).trace_id != ""


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-01-01T00:00:00"}, "time zone"),
        ({"priority": "urgent"}, "not a priority"),
        ({"event-id": ""}, "event_id is empty"),
        ({"event-id": "x" * 1_025}, "longer"),
        ({"source-agent": "%ff"}, "percent-encoded"),
        ({"tag-%ff": "x"}, "percent-encoded"),
        ({"Event-Id": "a", "event-id": "b"}, "twice"),
        ({"span-id": 3}, "is int"),
    ],
)
def test_invalid_headers_are_refused(headers: dict[str, str], reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        EventMetadata.from_headers(headers)


# -- traceparent: the cases of the standard ------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-0g",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n",
        "٠٠-" + f"{TRACE}-{SPAN}-01",
    ],
)
def test_invalid_traceparents_are_none(text: str) -> None:
    assert parse_traceparent(text) is None


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-ff", 255),
        (f" 00-{TRACE}-{SPAN}-00\t", 0),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", 1),
    ],
)
def test_valid_traceparents(text: str, flags: int) -> None:
    assert parse_traceparent(text) == TraceParent(TRACE, SPAN, flags)


def test_format_sends_only_the_flag_of_level_1() -> None:
    assert format_traceparent(TRACE, SPAN, 255) == f"00-{TRACE}-{SPAN}-01"
    assert format_traceparent(TRACE, SPAN, 0) == f"00-{TRACE}-{SPAN}-00"


@given(st.text())
def test_any_text_is_a_traceparent_or_none(text: str) -> None:
    assert parse_traceparent(text) is None or text.strip(" \t")[2] == "-"


def test_child_continues_trace_and_conversation() -> None:
    cause = EventMetadata(
        span_id=SPAN, correlation_id="c", priority="high", source_agent="a", tags={"a": "b"}
    )
    effect = child(cause, source_pillar="Growth Engine", source_agent="bot")
    assert effect.trace_id == cause.trace_id
    assert effect.parent_span_id == SPAN
    assert parse_traceparent(effect.to_headers()["traceparent"]) is not None
    assert effect.span_id != SPAN
    assert effect.causation_id == cause.event_id
    assert effect.correlation_id == "c"
    assert effect.event_id != cause.event_id
    assert effect.ordering_key == "Growth Engine:bot"
    assert (effect.priority, effect.tags) == (EventPriority.NORMAL, {})
    assert child(cause, correlation_id="other").correlation_id == "other"
    with pytest.raises(EventError):
        child(cause, priority="urgent")
