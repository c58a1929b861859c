"""What wraps the bus: interceptors see every publish and every handling, single events and batches alike.

An interceptor is any object with one or both of the two methods below. The first one of the list is the outermost. An
exception that an interceptor raises counts as the failure of what it wraps: the publish raises it, or the handling is
an attempt that failed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dimesh.events.event import Event
from dimesh.spi.receipt import Receipt

PublishNext = Callable[[Sequence[Event]], Awaitable[Sequence[Receipt]]]
"""Publishes the events, or what the interceptor made of them, and returns a receipt for each."""
HandleNext = Callable[[Sequence[Event]], Awaitable[Any]]
"""Calls the handler with the events and returns what the handler returned."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """Where events are on their way to."""

    topic: str
    operation: str
    """``publish``, ``request``, ``reply`` or ``produce``. What a handler with ``produce_to`` returned is appended later,
    together with the position of what was handled: its receipts have no position yet."""


@dataclass(frozen=True, slots=True)
class Handling:
    """Which handler is about to be called."""

    topic: str
    subscription: str
    group: str | None
    """None for a lone subscription."""
    handler: str
    """The name of the handler."""
    batch: bool
    """Whether the handler takes a list of events; otherwise there is exactly one event."""


@runtime_checkable
class PublishInterceptor(Protocol):
    """Wraps every publish of a bus."""

    def publish(
        self, publishing: Publishing, events: Sequence[Event], call_next: PublishNext
    ) -> Awaitable[Sequence[Receipt]]:
        """Publish ``events`` by calling ``call_next``, or raise. Events that are passed on in place of others must keep
        their number and order.
        """
        ...


@runtime_checkable
class HandleInterceptor(Protocol):
    """Wraps every call of a handler of a bus."""

    def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Awaitable[Any]:
        """Handle ``events`` by calling ``call_next``, or raise. Events that are passed on in place of others must keep
        their number and order.
        """
        ...


Interceptor = PublishInterceptor | HandleInterceptor
"""An interceptor has one of the two methods, or both."""
