"""Handlers: a function, and a filter for the events that it is called with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from dimesh.bus.callables import check_handler, is_async, name_of
from dimesh.errors import ConfigurationError
from dimesh.events.event import Event
from dimesh.events.metadata import check_text
from dimesh.events.names import check_type, show
from dimesh.events.types import EventPriority, EventType
from dimesh.spi.bus import Filter

Next = Callable[[Event], Awaitable[Any]]
_PRIORITIES = tuple(priority.value for priority in EventPriority)
Middleware = Callable[[Event, Next], Awaitable[Any]]
"""``async def middleware(event, call_next)``: may read, change, time, skip or fail what is passed on."""


class EventHandler:
    """A function with its filters. An empty filter lets everything through.

    Args:
        handler_func: called with one :class:`Event` (or a list of them, with ``batch_size``); ``async def``, or a plain function,
            which then runs in a thread. What it returns answers a request.
        event_types: the event types to handle.
        pillars: the pillars of senders to handle.
        priority_filter: the priorities to handle.
        batch_size: the largest number of events to hand over at once, as a list.
        batch_wait: the seconds to wait for a batch to fill; 0: hand over what is there.
        name: a name for listings and dead letters; by default that of the function.

    Raises:
        ConfigurationError: the function is a class or a generator function, or cannot be called with one argument; or a
            priority is unknown.
        EventError: a type or pillar that no event can have.
    """

    def __init__(
        self,
        handler_func: Callable[..., Any],
        event_types: Iterable[EventType | str] | None = None,
        pillars: Iterable[str] | None = None,
        priority_filter: Iterable[EventPriority | str] | EventPriority | str | None = None,
        *,
        batch_size: int | None = None,
        batch_wait: float = 0.0,
        name: str | None = None,
    ) -> None:
        check_handler(handler_func, batch_size is not None)
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError("batch_size must be 1 or more")
        self.handler_func = handler_func
        self.event_types = frozenset(check_type(str_value(t)) for t in _several(event_types))
        self.pillars = frozenset(_several(pillars))
        for pillar in self.pillars:
            check_text("pillar", pillar)
        priorities = frozenset(_several(priority_filter))
        for priority in priorities:
            if priority not in _PRIORITIES:
                raise ConfigurationError(
                    f"{show(priority)} is not a priority; priorities are {', '.join(_PRIORITIES)}"
                )
        self.priorities = frozenset(EventPriority(priority).value for priority in priorities)
        self.batch_size = batch_size
        self.batch_wait = batch_wait
        self.name: str = name or name_of(handler_func)
        self.filter = Filter(self.event_types, self.pillars, self.priorities)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function, also behind a callable object or a partial."""
        return is_async(self.handler_func)

    def should_handle(self, event: Event) -> bool:
        """Return whether the event passes all filters."""
        metadata = event.metadata
        return self.filter.wants(event._event_type, metadata.source_pillar, metadata.priority.value)

    def __repr__(self) -> str:
        return f"<EventHandler {self.name}>"


def str_value(name: EventType | str) -> str:
    """Return the dotted name of a type that is given as an EventType or as text."""
    return name.value if isinstance(name, EventType) else name


def _several(value: Iterable[Any] | str | None) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def as_handler(handler: EventHandler | Callable[..., Any]) -> EventHandler:
    """Return the handler, or make one without filters from a function."""
    return handler if isinstance(handler, EventHandler) else EventHandler(handler)


def compose(call: Next, middleware: Sequence[Middleware]) -> Next:
    """Return one callable with all middleware around ``call``; the first middleware is the outermost."""
    for layer in reversed(middleware):
        call = _wrap(layer, call)
    return call


def _wrap(layer: Middleware, inner: Next) -> Next:
    async def call(event: Event) -> Any:
        return await layer(event, inner)

    return call
