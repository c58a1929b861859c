"""W3C trace context, level 1: which trace an event belongs to, and what an event causes in turn.

https://www.w3.org/TR/trace-context-1/ - by hand, since it is one line of text and OpenTelemetry is not needed
to carry it.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from dimesh.events.ids import new_span_id
from dimesh.events.metadata import EventMetadata

SAMPLED: Final = 1

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")


class TraceParent(NamedTuple):
    """What a ``traceparent`` header says."""

    trace_id: str
    """32 lower-case hex digits, not all zero."""
    span_id: str
    """16 lower-case hex digits, not all zero."""
    flags: int = SAMPLED
    """0 to 255; the lowest bit: the caller may have recorded the trace."""


def parse_traceparent(text: str) -> TraceParent | None:
    """What ``text`` says, or None: the standard wants an invalid header ignored, and a new trace begun.

    A version above 00 is read as far as version 00 goes; version ff and ids of zeros are invalid.
    """
    found = _TRACEPARENT.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or not is_w3c(trace_id, span_id):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16))


def format_traceparent(trace_id: str, span_id: str | None, flags: int = SAMPLED) -> str | None:
    """The header of version 00, or None where the two are not W3C ids.

    Sampled unless told otherwise: every event is recorded, by the lineage service if by nobody else.
    """
    if span_id is None or not is_w3c(trace_id, span_id):
        return None
    # Level 1 defines one flag; the others must be sent as zero.
    return f"00-{trace_id}-{span_id}-{flags & SAMPLED:02x}"


def is_w3c(trace_id: str, span_id: str) -> bool:
    """Whether both are ids of W3C trace context: lower-case hex digits of the right number, not all zero."""
    return _TRACE_ID.fullmatch(trace_id) is not None and _SPAN_ID.fullmatch(span_id) is not None


def child(cause: EventMetadata, **fields: Any) -> EventMetadata:
    """Metadata for an event that ``cause`` brought about.

    Same trace, a new span below that of the cause, ``causation_id`` its event id, and its conversation
    (``correlation_id``). Event id and time are new; sender, target, priority and tags are given as ``fields``.

    Raises:
        EventError: a field does not fit.
    """
    inherited: dict[str, Any] = {
        "trace_id": cause.trace_id,
        "span_id": new_span_id(),
        "parent_span_id": cause.span_id,
        "causation_id": cause.event_id,
        "correlation_id": cause.correlation_id,
    }
    return EventMetadata(**(inherited | fields))
