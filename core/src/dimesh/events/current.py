"""The event that is being handled right now, for whatever is created meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, Protocol


class Cause(Protocol):
    """The part of an event's metadata that what it causes inherits."""

    @property
    def event_id(self) -> str:
        """The id of the event."""
        ...

    @property
    def trace_id(self) -> str:
        """The trace that the event belongs to."""
        ...

    @property
    def span_id(self) -> str | None:
        """The span of the event."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """The conversation that the event belongs to."""
        ...


class Handled(Protocol):
    """The part of an event that counts here."""

    @property
    def metadata(self) -> Cause:
        """The metadata of the event."""
        ...


handling_event: Final[ContextVar[Handled | None]] = ContextVar("dimesh_handling_event", default=None)
"""Set by the bus around each call of a handler; threads and tasks that a handler starts inherit it."""
handling_batch: Final[ContextVar[Sequence[Handled]]] = ContextVar("dimesh_handling_batch", default=())
"""The same for a call that has several events, which are not the cause of anything one by one."""


def ids_being_handled() -> frozenset[str]:
    """Return the ids of the events that the running handler was called with; empty outside handlers."""
    event = handling_event.get()
    events = handling_batch.get() if event is None else (event,)
    return frozenset(event.metadata.event_id for event in events)
