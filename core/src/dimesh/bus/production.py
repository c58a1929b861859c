"""Handlers that produce: what they return is published to another topic, together with the position of what they handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from dimesh.bus.outgoing import Outgoing
from dimesh.errors import EventError
from dimesh.events.event import Event
from dimesh.spi.bus import Record


def producing(
    outgoing: Outgoing, topic: str, call: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[list[Record]]]:
    """Return ``call`` with its results as records for ``topic``. A result that is not an event is a failure of the handler."""

    async def produced(event: Any) -> list[Record]:
        result = await call(event)
        if result is None:
            return []
        made: Iterable[Any] = (result,) if isinstance(result, Event) else result
        events = []
        for one in made:
            if not isinstance(one, Event):
                raise EventError(
                    f"the handler returned {type(one).__name__}: with produce_to it returns an Event, several, or None"
                )
            events.append(one)
        return await outgoing.records(topic, events)

    return produced
