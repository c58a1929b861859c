"""What this process published and a group has not received yet, so that ``caught_up`` can be answered.

The service says nowhere how far a subscription is. What this process published is known to it by the message's id, and
waited for; not for ever, since another member of the group, in another process, may have got it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dimesh.clock import Clock
from dimesh.spi.bus import Filter, Record

_PATIENCE: Final = 5.0
"""Seconds after which a message has surely gone to somebody else."""
_MOST: Final = 100_000


class Arrivals:
    """Of one group's subscription (or a lone one) in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[str, float] = {}
        self._early: dict[str, None] = {}
        """Arrived before the acknowledgement of their publishing did."""
        self.streams = 0

    def published(self, records: Iterable[Record], ids: Iterable[str], wanted: Filter) -> None:
        """These were acknowledged."""
        now = self._clock.monotonic()
        for record, sent in zip(records, ids, strict=True):
            if sent in self._early:
                del self._early[sent]
            elif wanted.everything or wanted.wants(record.event_type, record.pillar, record.priority):
                self._expected[sent] = now
        while len(self._expected) > _MOST:
            del self._expected[next(iter(self._expected))]

    def arrived(self, id: str) -> None:
        """A message came."""
        if self._expected.pop(id, None) is None:
            self._early[id] = None
            if len(self._early) > _MOST:
                del self._early[next(iter(self._early))]

    def complete(self) -> bool:
        """Whether nothing is waited for."""
        now = self._clock.monotonic()
        while self._expected:
            oldest = next(iter(self._expected))
            if now - self._expected[oldest] < _PATIENCE:
                return False
            del self._expected[oldest]
        return True
