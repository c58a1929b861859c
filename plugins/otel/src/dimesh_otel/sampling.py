"""Decides which events are traced, before the SDK is called: a span that its sampler drops costs most of one that it keeps."""

from __future__ import annotations

import random
import zlib
from typing import Final

from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

_ALL: Final = 1 << 64


class Ratio:
    """Chooses a share of the traces, as ``traceidratio`` of OpenTelemetry does: all processes with a ratio choose the same ones.

    Args:
        ratio: the share, 0 to 1.
    """

    def __init__(self, ratio: float) -> None:
        bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._bound = bound
        self.bound = f"{bound:016x}" if bound < _ALL else "g"
        """What the lower half of a chosen trace id is less than, as text: hex digits of one length are in the order of their
        numbers, and comparing texts costs a third of making numbers of them."""

    def chooses(self, trace_id: str) -> bool:
        """Return whether the events of a trace are traced. An id that is not of W3C trace context is reduced to one."""
        if len(trace_id) != 32:
            trace_id = f"{zlib.crc32(trace_id.encode('utf-8', 'replace')):08x}" * 4
        return trace_id[16:] < self.bound

    def new_trace_id(self) -> int:
        """Return a random trace id that a sampler with this ratio keeps."""
        return random.getrandbits(64) << 64 | random.randrange(1, max(self._bound, 2))  # noqa: S311 - no secret
