"""The messages that this process published and a group has not received yet, for ``caught_up``.

The service does not report the progress of a subscription. A process knows the ids of the messages that it published, and
waits for them; not for ever, since a member of the group in another process may have received them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dimesh.clock import Clock
from dimesh.spi.bus import Filter, Record

_PATIENCE: Final = 5.0
"""The seconds after which a message has certainly been delivered to another member."""
_MOST: Final = 100_000


class Arrivals:
    """The messages that one subscription, of a group or lone, expects in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[str, float] = {}
        self._early: dict[str, None] = {}
        """Messages that arrived before their publish was acknowledged."""
        self.streams = 0

    def published(self, records: Iterable[Record], ids: Iterable[str], wanted: Filter) -> None:
        """Expect the messages of a publish that was acknowledged."""
        now = self._clock.monotonic()
        for record, sent in zip(records, ids, strict=True):
            if sent in self._early:
                del self._early[sent]
            elif wanted.everything or wanted.wants(record.event_type, record.pillar, record.priority):
                self._expected[sent] = now
        while len(self._expected) > _MOST:
            del self._expected[next(iter(self._expected))]

    def arrived(self, id: str) -> None:
        """Record that a message has arrived."""
        if self._expected.pop(id, None) is None:
            self._early[id] = None
            if len(self._early) > _MOST:
                del self._early[next(iter(self._early))]

    def complete(self) -> bool:
        """Return whether no message is expected."""
        now = self._clock.monotonic()
        while self._expected:
            oldest = next(iter(self._expected))
            if now - self._expected[oldest] < _PATIENCE:
                return False
            del self._expected[oldest]
        return True
