"""The event that is being handled, for code that a handler calls without passing it on."""

from __future__ import annotations

from dimesh.events.current import handling_event
from dimesh.events.event import Event


def current_event() -> Event | None:
    """Return the event that the running handler was called with; None outside of a handler, and in one that was called with
    several events at once.

    Threads and tasks that a handler starts see its event, too. An event that is created meanwhile belongs to the same trace
    and names the current one as its cause, unless it is given others: see :func:`dimesh.events.causation.inherit`.
    """
    found = handling_event.get()
    return found if isinstance(found, Event) else None
