"""A handler: a function, and which events it wants."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from dimesh.errors import ConfigurationError
from dimesh.events.event import Event
from dimesh.events.metadata import check_text
from dimesh.events.names import check_type, show
from dimesh.events.types import EventPriority, EventType
from dimesh.spi.bus import Filter

Next = Callable[[Event], Awaitable[Any]]
_PRIORITIES = tuple(priority.value for priority in EventPriority)
Middleware = Callable[[Event, Next], Awaitable[Any]]
"""``async def middleware(event, call_next)``: may look, change what is passed on, time, skip or fail it."""


class EventHandler:
    """A function with its filters. An empty filter wants everything.

    Args:
        handler_func: called with one :class:`Event` (or a list of them, with ``batch_size``); ``async def``, or
            a plain function, which then runs in a thread. What it returns answers a request.
        event_types: types to handle.
        pillars: pillars of the sender to handle.
        priority_filter: priorities to handle.
        batch_size: hand over up to this many events at once, as a list.
        batch_wait: seconds to wait for a batch to fill; 0: hand over what is there.
        name: for listings and dead letters; by default the function's own.

    Raises:
        ConfigurationError: not callable, or an unknown priority.
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
        if not callable(handler_func):
            raise ConfigurationError(f"a handler must be callable, {type(handler_func).__name__} is not")
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
        self.name: str = name or getattr(handler_func, "__qualname__", "") or type(handler_func).__name__
        self.filter = Filter(self.event_types, self.pillars, self.priorities)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function (also behind a callable object or a partial)."""
        function = inspect.unwrap(self.handler_func)
        while hasattr(function, "func"):  # functools.partial
            function = function.func
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - the method itself is asked for
        )

    def should_handle(self, event: Event) -> bool:
        """Whether the event passes all filters."""
        metadata = event.metadata
        return self.filter.wants(event._event_type, metadata.source_pillar, metadata.priority.value)

    def __repr__(self) -> str:
        return f"<EventHandler {self.name}>"


def str_value(name: EventType | str) -> str:
    """The dotted name of a type given either way."""
    return name.value if isinstance(name, EventType) else name


def _several(value: Iterable[Any] | str | None) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def as_handler(handler: EventHandler | Callable[..., Any]) -> EventHandler:
    """A bare function is a handler without filters."""
    return handler if isinstance(handler, EventHandler) else EventHandler(handler)


def compose(call: Next, middleware: Sequence[Middleware]) -> Next:
    """One callable; the first middleware is the outermost."""
    for layer in reversed(middleware):
        call = _wrap(layer, call)
    return call


def _wrap(layer: Middleware, inner: Next) -> Next:
    async def call(event: Event) -> Any:
        return await layer(event, inner)

    return call
