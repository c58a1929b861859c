"""W3C trace context, level 1: the ``traceparent`` header.

https://www.w3.org/TR/trace-context-1/ - the header is one line of text, so OpenTelemetry is not needed to read and
write it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 1

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")


class TraceParent(NamedTuple):
    """The parts of a ``traceparent`` header."""

    trace_id: str
    """The trace id: 32 lower-case hex digits, not all zero."""
    span_id: str
    """The span id: 16 lower-case hex digits, not all zero."""
    flags: int = SAMPLED
    """The trace flags, 0 to 255. The lowest bit is set if the caller may have recorded the trace."""


def parse_traceparent(text: str) -> TraceParent | None:
    """Parse a ``traceparent`` header. None: it is invalid, and the standard requires to ignore it and start a new trace.

    Of versions above 00, the parts that version 00 defines are read. Version ff and ids of zeros are invalid.
    """
    found = _TRACEPARENT.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or not is_w3c(trace_id, span_id):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16))


def format_traceparent(trace_id: str, span_id: str | None, flags: int = SAMPLED) -> str | None:
    """Return the header in version 00; None if the ids are not valid in W3C trace context.

    The trace counts as sampled by default, because the lineage service can record every event.
    """
    if span_id is None or not is_w3c(trace_id, span_id):
        return None
    # Level 1 defines one flag and requires that the others are sent as zero.
    return f"00-{trace_id}-{span_id}-{flags & SAMPLED:02x}"


def is_w3c(trace_id: str, span_id: str) -> bool:
    """Return whether both ids are valid in W3C trace context: 32 and 16 lower-case hex digits, not all zero."""
    return _TRACE_ID.fullmatch(trace_id) is not None and _SPAN_ID.fullmatch(span_id) is not None
