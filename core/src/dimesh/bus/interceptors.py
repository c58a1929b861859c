"""Runs the interceptors of a bus around publishing and handling. A bus without any never comes here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from dimesh.errors import ConfigurationError, EventError
from dimesh.events.event import Event
from dimesh.spi.interceptor import (
    HandleInterceptor,
    HandleNext,
    Handling,
    Interceptor,
    Publishing,
    PublishInterceptor,
    PublishNext,
)
from dimesh.spi.receipt import Receipt


class Interceptors:
    """The interceptors of one bus; the first is the outermost.

    Raises:
        ConfigurationError: an object has neither a ``publish`` nor a ``handle`` method.
    """

    def __init__(self, interceptors: Iterable[Interceptor] = ()) -> None:
        found = tuple(interceptors)
        for interceptor in found:
            if isinstance(interceptor, type) or not isinstance(
                interceptor, (PublishInterceptor, HandleInterceptor)
            ):
                raise ConfigurationError(
                    f"{interceptor!r:.100} is not an interceptor: it needs an async method 'publish' or 'handle', see "
                    "dimesh.spi.interceptor"
                )
        self.publishing = tuple(i for i in found if isinstance(i, PublishInterceptor))
        self.handling = tuple(i for i in found if isinstance(i, HandleInterceptor))

    async def publish(
        self, publishing: Publishing, events: Sequence[Event], last: PublishNext
    ) -> Sequence[Receipt]:
        """Publish through all interceptors; ``last`` does what a bus without interceptors does."""
        call = _counted(len(events), last)
        for interceptor in reversed(self.publishing):
            call = _around_publish(interceptor, publishing, call)
        return await call(events)

    def around_handler(
        self, handling: Handling, call: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[Any], Awaitable[Any]]:
        """Return ``call`` (which takes an event, or a list of them for a batch handler) with all interceptors around it."""
        if not self.handling:
            return call
        if handling.batch:

            async def last(events: Sequence[Event]) -> Any:
                return await call(list(events))

        else:

            async def last(events: Sequence[Event]) -> Any:
                if len(events) != 1:
                    raise _miscounted(1, len(events))
                return await call(events[0])

        chain: HandleNext = last
        for interceptor in reversed(self.handling):
            chain = _around_handle(interceptor, handling, chain)
        if handling.batch:

            async def batch(events: list[Event]) -> Any:
                return await chain(events)

            return batch

        async def single(event: Event) -> Any:
            return await chain((event,))

        return single


def _around_publish(
    interceptor: PublishInterceptor, publishing: Publishing, inner: PublishNext
) -> PublishNext:
    async def call(events: Sequence[Event]) -> Sequence[Receipt]:
        return await interceptor.publish(publishing, events, inner)

    return call


def _around_handle(interceptor: HandleInterceptor, handling: Handling, inner: HandleNext) -> HandleNext:
    async def call(events: Sequence[Event]) -> Any:
        return await interceptor.handle(handling, events, inner)

    return call


def _counted(expected: int, last: PublishNext) -> PublishNext:
    async def call(events: Sequence[Event]) -> Sequence[Receipt]:
        # Ordering keys and receipts belong to events by their place in the list.
        if len(events) != expected:
            raise _miscounted(expected, len(events))
        return await last(events)

    return call


def _miscounted(expected: int, got: int) -> EventError:
    return EventError(
        f"an interceptor passed on {got} events instead of {expected}: it must keep their number and order"
    )
