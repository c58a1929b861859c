"""Reports of events that failed the check of their schema: counters for metrics, and a bounded number of lines in the log."""

from __future__ import annotations

import logging
from typing import Final

from dimesh.clock import Clock
from dimesh.events.event import Event
from dimesh.printable import printable_error

log = logging.getLogger("dimesh.bus")

INTERVAL: Final = 10.0
"""Seconds between two lines about the same topic, type and outcome. The counters miss nothing."""
MOST: Final = 1_000
"""The number of topics, types and outcomes that are counted and logged apart."""
OTHER: Final = "_other"


class SchemaReports:
    """Counts, and logs the first of each kind at once and the others together.

    Args:
        clock: time.
    """

    def __init__(self, clock: Clock) -> None:
        self.counts: dict[tuple[str, str, str], int] = {}
        """The number of events by topic, stage (``publish`` or ``consume``) and outcome (``rejected``, ``dead-lettered``,
        ``warned`` or ``unchecked``)."""
        self._clock = clock
        self._logged: dict[tuple[str, str, str, str], tuple[float, int]] = {}

    def count(self, topic: str, stage: str, outcome: str) -> None:
        """Count an event."""
        key = (topic, stage, outcome)
        if key not in self.counts and len(self.counts) >= MOST:
            key = (OTHER, stage, outcome)
        self.counts[key] = self.counts.get(key, 0) + 1

    def warn(
        self, topic: str, stage: str, event: Event, error: BaseException, outcome: str = "warned"
    ) -> None:
        """Count an event that is passed on all the same, and log it."""
        self.count(topic, stage, outcome)
        key = (topic, stage, event._event_type, outcome)
        now = self._clock.monotonic()
        due, silent = self._logged.get(key, (now, 0))
        if now < due:
            self._logged[key] = (due, silent + 1)
            return
        if len(self._logged) >= MOST:
            self._logged.clear()
        self._logged[key] = (now + INTERVAL, 0)
        log.warning(
            "%s of topic %s: event %s (%s) is passed on although its check failed: %s%s",
            stage,
            topic,
            event.event_id,
            event._event_type,
            printable_error(error, 500),
            f" ({silent:,} more since the last report)" if silent else "",
        )
