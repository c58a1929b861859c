"""Counters of what a bus publishes and of the errors of its handlers, for metrics. Everything else that metrics show is in the
counters that each subscription keeps anyway.
"""

from __future__ import annotations

from typing import Final

from dimesh.bus.observer import BusObserver
from dimesh.events.event import Event
from dimesh.spi.receipt import Receipt

OTHER: Final = "_other"
"""The name under which everything past a limit is counted."""
MOST: Final = 1_000
"""The largest number of topics, and of pairs of a subscription and an error, that are counted apart."""


class EventCounts:
    """An observer that counts, and passes everything on to another one.

    Args:
        observer: the other one.
    """

    observes_published = True

    def __init__(self, observer: BusObserver) -> None:
        self.events: dict[str, int] = {}
        """The number of published events by topic."""
        self.errors: dict[tuple[str, str], int] = {}
        """The number of failed calls by the id of the subscription and the class of the error."""
        self._observer = observer

    @property
    def observes_delivered(self) -> bool:
        """Whether the other observer does anything with deliveries: they are not counted here."""
        return self._observer.observes_delivered

    def published(self, topic: str, event: Event, receipt: Receipt) -> None:
        """Count a published event."""
        try:
            self.events[topic] += 1
        except KeyError:
            name = topic if len(self.events) < MOST else OTHER
            self.events[name] = self.events.get(name, 0) + 1
        if self._observer.observes_published:
            self._observer.published(topic, event, receipt)

    def delivered(self, topic: str, subscription: str, event: Event) -> None:
        """Pass on that an event was handled."""
        self._observer.delivered(topic, subscription, event)

    def failed(self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
        """Count a failed call by the class of its error: messages have no bound, and may contain secrets."""
        key = subscription, type(error).__name__
        if key not in self.errors and len(self.errors) >= MOST:
            key = OTHER, OTHER
        self.errors[key] = self.errors.get(key, 0) + 1
        self._observer.failed(topic, subscription, event, error, attempt)

    def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Pass on that an event was dead-lettered."""
        self._observer.dead_lettered(topic, subscription, event, reason)

    def given_up(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Pass on that an event could neither be handled nor be dead-lettered."""
        self._observer.given_up(topic, subscription, event, reason)
