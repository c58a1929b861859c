"""Whom the engine tells what happened. The plugin manager is one; tests may bring their own."""

from __future__ import annotations

from typing import Protocol

from dimesh.bus.receipt import Receipt
from dimesh.events.event import Event


class BusObserver(Protocol):
    """Every call is synchronous and must not raise. The flags keep the hot path free where nobody listens."""

    @property
    def observes_published(self) -> bool:
        """Whether :meth:`published` does anything."""
        ...

    @property
    def observes_delivered(self) -> bool:
        """Whether :meth:`delivered` does anything."""
        ...

    def published(self, topic: str, event: Event, receipt: Receipt) -> None:
        """The backend acknowledged an event."""
        ...

    def delivered(self, topic: str, subscription: str, event: Event) -> None:
        """A handler finished an event."""
        ...

    def failed(self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
        """A handler failed an event."""
        ...

    def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """An event went to the dead letters."""
        ...
