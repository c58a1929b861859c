"""What can be a handler, and what is refused when the handler is made."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dimesh import Event, EventBus, EventHandler, RetryPolicy, SubscriptionOptions
from dimesh.bus.threads import MAX_ABANDONED
from dimesh.errors import ConfigurationError

from .conftest import event, eventually
from .test_failures import dead

ONCE = SubscriptionOptions(retry=RetryPolicy(attempts=1))


def generator(e: Event) -> Iterator[int]:
    yield 1


async def async_generator(e: Event) -> AsyncIterator[int]:
    yield 1


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


class Callables:
    async def __call__(self, e: Event) -> AsyncIterator[int]:
        yield 1

    def method(self, e: Event) -> Iterator[int]:
        yield 1

    async def good(self, e: Event) -> None:
        pass


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize(
    "function",
    [
        generator,
        async_generator,
        functools.partial(generator),
        functools.partial(functools.partial(async_generator)),
        Callables(),
        functools.partial(Callables()),
        Callables().method,
        logged(async_generator),
        functools.partial(logged(generator)),
        functools.cache(generator),
    ],
)
def test_a_handler_that_would_not_run_is_refused(
    function: Callable[..., Any], batch_size: int | None
) -> None:
    with pytest.raises(ConfigurationError, match=r"generator function.*remove the 'yield'"):
        EventHandler(function, batch_size=batch_size)


async def two(a: Event, b: Event) -> None: ...


async def none() -> None: ...


async def keyword(e: Event, *, store: object) -> None: ...


@pytest.mark.parametrize(
    "function",
    [two, none, keyword, functools.partial(two, None, None), lambda: None, functools.partial(none)],
)
@pytest.mark.parametrize("batch_size", [None, 10])
def test_a_handler_that_cannot_be_called_is_refused(
    function: Callable[..., Any], batch_size: int | None
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"one argument, (the event|a list of events).*functools\.partial"
    ):
        EventHandler(function, batch_size=batch_size)


def test_a_class_is_no_handler() -> None:
    with pytest.raises(ConfigurationError, match=r"is a class"):
        EventHandler(Callables)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(two, None),
        functools.partial(keyword, store=None),
        logged(functools.partial(two, None)),
        Callables().good,
        [].append,
        print,
        lambda *events: None,
        lambda e, retries=3: None,
    ],
)
def test_a_handler_that_can_be_called_is_accepted(function: Callable[..., Any]) -> None:
    EventHandler(function)
    EventHandler(function, batch_size=10)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize(
    "function", [lambda e: async_generator(e), lambda e: generator(e)], ids=["async", "plain"]
)
async def test_a_result_that_did_not_run_is_a_failure(
    bus: EventBus, function: Callable[..., Any], batch_size: int | None
) -> None:
    await bus.subscribe("t", EventHandler(function, batch_size=batch_size), "g")
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert "whose code has not run" in entry.reason
    assert bus.stats()["g"].handled == 0


@pytest.mark.slow
async def test_calls_that_were_given_up_and_came_back_do_not_use_up_the_threads(bus: EventBus) -> None:
    release = threading.Event()
    handled: list[object] = []

    def slow(e: Event) -> None:
        if e.payload["n"] == "slow":
            release.wait(30)
        handled.append(e.payload["n"])

    options = SubscriptionOptions(
        retry=RetryPolicy(attempts=1), handler_timeout=0.2, concurrency=MAX_ABANDONED, breaker=None
    )
    await bus.subscribe("t", slow, "g", options=options)
    for number in range(MAX_ABANDONED):
        await bus.publish("t", event("slow", agent=f"a{number}"))
    await eventually(lambda: bus.stats()["g"].dead_lettered == MAX_ABANDONED)
    await bus.publish("t", event("refused"))  # all of them still run
    await eventually(lambda: bus.stats()["g"].dead_lettered == MAX_ABANDONED + 1)
    before = threading.active_count()
    release.set()
    await eventually(lambda: len(handled) == MAX_ABANDONED)
    for number in range(MAX_ABANDONED):
        await bus.publish("t", event(number, agent=f"a{number}"))
    await eventually(lambda: len(handled) == 2 * MAX_ABANDONED)
    assert bus.stats()["g"].dead_lettered == MAX_ABANDONED + 1
    assert threading.active_count() <= before  # the threads were used again
