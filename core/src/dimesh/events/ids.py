"""Generated ids: event ids that sort by time (UUID version 7, RFC 9562), and W3C trace and span ids.

``uuid.uuid4`` would cost several times as much as everything else in an event, so the ids are formatted here.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

_random = random.Random(os.urandom(32))  # noqa: S311 - ids must be unique, not secret
_bits = _random.getrandbits

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_event_id(now: Callable[[], int] = time.time_ns) -> str:
    """Return a new UUIDv7 as text: 48 bits of milliseconds, then 74 random bits."""
    ms = now() // 1_000_000
    # "%" formats integers faster than an f-string does.
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031
        ms >> 16 & 0xFFFFFFFF,
        ms & 0xFFFF,
        _bits(12),
        0x8000 | _bits(14),
        _bits(48),
    )


def new_trace_id() -> str:
    """Return a new trace id: 32 lower-case hex digits, never all zero."""
    return "%032x" % (_bits(128) or 1)


def new_span_id() -> str:
    """Return a new span id: 16 lower-case hex digits, never all zero."""
    return "%016x" % (_bits(64) or 1)
