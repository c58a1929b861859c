"""The event bus of an org: a log of change events, and replay ids."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from dimesh.sourcekit.sandbox import SimulatedState

RETENTION: Final = 72 * 3_600
"""Seconds for which the event bus keeps an event (documentation)."""


@dataclass(slots=True)
class LoggedEvent:
    """An event of the log."""

    number: int
    at: float
    object: str
    replay_id: bytes
    schema_id: str
    payload: bytes


class EventLog(SimulatedState):
    """The log of one org.

    Args:
        seed: makes everything that looks random repeatable.
        now: the clock; :attr:`skew` moves it.
    """

    def __init__(self, *, seed: int = 0, now: Callable[[], float] = time.time) -> None:
        super().__init__(seed=seed, now=now)
        self.events: list[LoggedEvent] = []
        self.listeners: list[Callable[[], None]] = []
        """The functions that are called after events were published."""
        self._secret = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
        self._places: dict[bytes, tuple[int, float]] = {}
        self._marks = 0

    def migrate(self) -> None:
        """Migrate the org: no earlier replay id is valid (documentation)."""
        self._places.clear()
        self.events.clear()
        self._secret = hashlib.blake2b(self._secret, digest_size=16).digest()

    def place(self, replay_id: bytes) -> int | None:
        """Return the number of the event that a replay id stands for; None if the id is unknown or too old: Salesforce has one
        error for both (documentation).
        """
        found = self._places.get(replay_id)
        if found is None or found[1] < self.now() - RETENTION:
            return None
        return found[0]

    def earliest(self) -> int:
        """Return the number before the oldest event that is kept."""
        oldest = self.now() - RETENTION
        return next((t.number - 1 for t in self.events if t.at >= oldest), self.latest())

    def latest(self) -> int:
        """Return the number of the newest event."""
        return self.events[-1].number if self.events else self._first - 1

    @property
    def _first(self) -> int:
        return self.events[0].number if self.events else self._marks + 1

    def of(self, objects: Set[str], number: int, most: int) -> list[LoggedEvent]:
        """Return the next events of objects after a number."""
        if not self.events:
            return []
        found: list[LoggedEvent] = []
        for event in self.events[max(number - self.events[0].number + 1, 0) :]:
            if len(found) >= most:
                break
            if event.object in objects:
                found.append(event)
        return found

    def mark(self, number: int) -> bytes:
        """Return a new replay id for the place after an event."""
        self._marks += 1
        replay_id = self._replay_id(-self._marks)
        self._places[replay_id] = (number, self.now())
        return replay_id

    def _replay_id(self, number: int) -> bytes:
        # Replay ids are opaque (documentation). Recorded ones are counters; these have neither an order nor one length, so
        # that a client that relies on either fails.
        size = 8 + number % 11
        return hashlib.blake2b(str(number).encode(), key=self._secret, digest_size=size).digest()

    def _log(self, object: str, payload: bytes, schema_id: str) -> None:
        number = self.latest() + 1
        self._marks = max(self._marks, number)
        replay_id = self._replay_id(number)
        self._places[replay_id] = (number, self.now())
        self.events.append(LoggedEvent(number, self.now(), object, replay_id, schema_id, payload))

    def _wake(self) -> None:
        for listener in self.listeners:
            listener()
