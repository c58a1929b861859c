"""The observer: what the engine notifies of what happened. The plugin manager is one observer; tests may bring their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from dimesh.events.event import Event
from dimesh.printable import printable_error
from dimesh.spi.receipt import Receipt

log = logging.getLogger("dimesh.bus")


class BusObserver(Protocol):
    """Every call is synchronous. One that raises is logged, and affects nothing else. The flags keep the hot path free where
    there is no listener.
    """

    @property
    def observes_published(self) -> bool:
        """Whether :meth:`published` does anything."""
        ...

    @property
    def observes_delivered(self) -> bool:
        """Whether :meth:`delivered` does anything."""
        ...

    def published(self, topic: str, event: Event, receipt: Receipt) -> None:
        """Record that the backend acknowledged an event."""
        ...

    def delivered(self, topic: str, subscription: str, event: Event) -> None:
        """Record that a handler finished an event."""
        ...

    def failed(self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
        """Record that a handler failed an event."""
        ...

    def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Record that an event was dead-lettered."""
        ...

    def given_up(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Record that an event could neither be handled nor be dead-lettered."""
        ...


def notify(call: Callable[..., None], *arguments: Any) -> None:
    """Call a method of an observer."""
    try:
        call(*arguments)
    except (Exception, SystemExit) as error:
        observer_failed(error)


def observer_failed(error: BaseException) -> None:
    """Log that an observer raised an exception."""
    log.error("an observer of the bus failed: %s", printable_error(error), exc_info=error)
