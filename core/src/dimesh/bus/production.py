"""Handlers that produce: what they return goes to another topic, together with the position of what they handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from dimesh.errors import EventError
from dimesh.events.event import Event
from dimesh.spi.bus import Record

if TYPE_CHECKING:
    from dimesh.bus.engine import EventBus

INTERVAL: Final = 0.1
"""Seconds that what was produced waits for more, at most: each commit is a transaction."""


def producing(
    bus: EventBus, call: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[list[Record]]]:
    """``call``, with what it returns as records. What is no event counts as a failure of the handler."""

    async def produced(event: Any) -> list[Record]:
        result = await call(event)
        if result is None:
            return []
        events: Iterable[Any] = (result,) if isinstance(result, Event) else result
        records = []
        for made in events:
            if not isinstance(made, Event):
                raise EventError(
                    f"the handler returned {type(made).__name__}: with produce_to it returns an Event, several, or None"
                )
            records.append(await bus.record_of(made))
        return records

    return produced
