"""Identifiers: event ids that sort by time (UUID version 7, RFC 9562), W3C trace and span ids.

Written out by hand because ``uuid.uuid4`` costs several times as much as everything else in an event.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Final

_random = random.Random(os.urandom(32))  # noqa: S311 - ids must be unique, not secret
_MASK_62: Final = (1 << 62) - 1

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_event_id(now: Callable[[], int] = time.time_ns) -> str:
    """A fresh UUIDv7 as text: 48 bits of milliseconds, then 74 random bits."""
    bits = _random.getrandbits(74)
    high = ((now() // 1_000_000) << 16 | 0x7000 | bits >> 62) & 0xFFFFFFFFFFFFFFFF
    text = f"{high << 64 | 1 << 63 | bits & _MASK_62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_trace_id() -> str:
    """32 lower-case hex digits, never all zero."""
    return f"{_random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """16 lower-case hex digits, never all zero."""
    return f"{_random.getrandbits(64) or 1:016x}"
