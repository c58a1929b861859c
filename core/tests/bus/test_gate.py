"""The gate of a subscription: pause and resume, the circuit breaker, the limit on the rate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from dimesh import (
    CircuitBreaker,
    ConfigurationError,
    Event,
    EventBus,
    EventBusFactory,
    EventHandler,
    ManualClock,
    RetryPolicy,
    SubscriptionOptions,
    SubscriptionState,
)
from dimesh.ops.topics import list_stopped

from .conftest import Recorder, event, eventually, eventually_async


class Service:
    """A handler of events or batches that needs something which may be down."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0
        self.handled: list[int] = []

    async def __call__(self, given: Event | list[Event]) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.handled += [e.payload["n"] for e in (given if isinstance(given, list) else [given])]


def handler(service: Service, batch_size: int | None) -> EventHandler:
    return EventHandler(service, batch_size=batch_size)


def events(count: int, first: int = 0, keys: int = 8) -> list[Event]:
    return [event(n, agent=f"a{n % keys}") for n in range(first, first + count)]


both = pytest.mark.parametrize("batch_size", [None, 3])


# -- pause and resume ---------------------------------------------------------------------------------


@both
async def test_a_paused_subscription_calls_nothing_and_continues_in_order(
    bus: EventBus, batch_size: int | None
) -> None:
    service = Service()
    options = SubscriptionOptions(max_in_flight=10, concurrency=4)
    await bus.subscribe("t", handler(service, batch_size), "g", options=options)
    await bus.publish_many("t", events(5, keys=1))
    await eventually(lambda: len(service.handled) == 5)
    calls = service.calls
    bus.pause("g")
    assert bus.stats()["g"].state == "paused"
    await bus.publish_many("t", events(30, 5, keys=1))
    await eventually(lambda: bus.stats()["g"].received >= 10)
    assert service.calls == calls
    assert any(g.member for g in await bus.door.groups() if g.group == "g")
    bus.resume("g")
    bus.resume("g")
    assert bus.stats()["g"].state is SubscriptionState.RUNNING
    await eventually(lambda: len(service.handled) == 35)
    assert service.handled == list(range(35))


@both
async def test_a_running_call_finishes_and_the_next_one_waits(bus: EventBus, batch_size: int | None) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    finished: list[int] = []

    async def slow(given: Event | list[Event]) -> None:
        began.set()
        await go_on.wait()
        finished.extend(e.payload["n"] for e in (given if isinstance(given, list) else [given]))

    await bus.subscribe("t", EventHandler(slow, batch_size=None if batch_size is None else 1), "g")
    await bus.publish_many("t", events(3, keys=1))
    await began.wait()
    bus.pause("g")
    go_on.set()
    await eventually(lambda: finished == [0])
    await bus.publish("t", event(3))
    assert finished == [0]
    bus.resume("g")
    await eventually(lambda: sorted(finished) == [0, 1, 2, 3])


@both
async def test_a_failed_event_is_not_retried_during_a_pause(bus: EventBus, batch_size: int | None) -> None:
    service = Service()
    service.error = ConnectionError()
    options = SubscriptionOptions(retry=RetryPolicy(base=0.001, maximum=0.001))
    await bus.subscribe("t", handler(service, batch_size), "g", options=options)
    await bus.publish("t", event(1))
    await eventually(lambda: service.calls >= 2)
    bus.pause("g")
    await eventually(lambda: bus.stats()["g"].state == "paused")
    calls = service.calls
    other = Recorder()
    await bus.subscribe("other", other, options=options)
    await bus.publish("other", event(1))
    await eventually(lambda: other.numbers == [1])
    assert service.calls <= calls + 1  # one may have been running
    service.error = None
    bus.resume("g")
    await eventually(lambda: service.handled == [1])


@both
async def test_closing_does_not_wait_for_what_is_paused(
    make_bus: Callable[..., EventBus], kind: str, batch_size: int | None
) -> None:
    bus = make_bus()
    await bus.subscribe("t", handler(Service(), batch_size), "g")
    bus.pause("g")
    await bus.publish_many("t", events(20))
    await eventually(lambda: bus.stats()["g"].received == 20)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bus.unsubscribe("g")
    assert loop.time() - began < 5
    service = Service()
    await bus.subscribe("t", handler(service, batch_size), "g")
    await eventually(lambda: sorted(service.handled) == list(range(20)))


async def test_an_unknown_subscription_cannot_be_paused(bus: EventBus) -> None:
    for call in (bus.pause, bus.resume):
        with pytest.raises(ConfigurationError, match="no subscription 'x'"):
            call("x")


# -- the circuit breaker ------------------------------------------------------------------------------


async def settle() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def close_now(bus: EventBus, clock: ManualClock) -> None:
    closing = asyncio.create_task(bus.close(timeout=0.01))
    await settle()
    await clock.advance(1)
    await closing


@both
async def test_the_circuit_opens_lets_one_through_and_closes(
    batch_size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock, seed=1)
    service = Service()
    options = SubscriptionOptions(
        retry=RetryPolicy(base=0.01, maximum=0.5),
        breaker=CircuitBreaker(failures=10, pause=10, longest=25),
        concurrency=4,
    )
    await bus.subscribe("t", handler(service, batch_size), "g", options=options)
    await bus.publish_many("t", events(40))
    await settle()
    assert len(service.handled) == 40
    service.error = ConnectionRefusedError()
    stats = bus.stats()["g"]
    with caplog.at_level(logging.INFO, "dimesh.bus"):
        await bus.publish_many("t", events(200, 100))
        while stats.state is SubscriptionState.RUNNING:
            await clock.advance(0.1)
        assert (stats.state, stats.opened) == ("open", 1)
        calls = service.calls
        await clock.advance(9.8)
        assert service.calls <= calls + options.concurrency  # those that ran when it opened
        calls = service.calls
        assert stats.state == "open"
        for pause in (
            10,
            20,
            25,
            25,
        ):  # the first is over now; each probe that fails makes the next one longer
            for _ in range(20):
                await clock.advance(0.1)
            assert service.calls == calls + 1
            calls += 1
            assert stats.state == "open"
            await clock.advance(min(pause * 2, 25) - 2.5)
            assert service.calls == calls
        service.error = None
        for _ in range(40):
            await clock.advance(0.1)
        assert stats.state == "running"
        for _ in range(20):
            await clock.advance(0.5)
        await settle()
    assert sorted(service.handled)[40:] == list(range(100, 300))
    assert stats.dead_lettered == 0
    assert "is open: " in caplog.text
    assert "calls failed within" in caplog.text
    assert "is running: an event was handled" in caplog.text
    await bus.close()


@both
async def test_bad_events_open_no_circuit(bus: EventBus, batch_size: int | None) -> None:
    service = Service()
    service.error = ValueError("bad")
    options = SubscriptionOptions(
        retry=RetryPolicy(attempts=1), breaker=CircuitBreaker(failures=3, pause=50, longest=50)
    )
    await bus.subscribe("t", handler(service, batch_size), "g", options=options)
    await bus.publish_many("t", events(40))
    await eventually(lambda: bus.stats()["g"].dead_lettered == 40)
    assert bus.stats()["g"].opened == 0


async def test_failures_among_many_successes_open_no_circuit(bus: EventBus) -> None:
    got = Recorder(lambda e: ConnectionError() if e.payload["n"] % 3 == 0 else None)
    options = SubscriptionOptions(
        retry=RetryPolicy(attempts=1), breaker=CircuitBreaker(failures=10, pause=50, longest=50)
    )
    await bus.subscribe("t", got, "g", options=options)
    for n in range(0, 90, 3):
        await bus.publish_many("t", events(3, n, keys=1))
    await eventually(lambda: len(got.attempts) == 90)
    assert bus.stats()["g"].opened == 0


async def test_a_bad_event_as_the_probe_does_not_stop_the_group() -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock, seed=1)
    service = Service()
    service.error = ConnectionError()
    options = SubscriptionOptions(
        retry=RetryPolicy(attempts=1), breaker=CircuitBreaker(failures=5, pause=10), concurrency=1
    )
    await bus.subscribe("t", service, "g", options=options)
    await bus.publish_many("t", events(30))
    await settle()
    assert bus.stats()["g"].state == "open"
    service.error = ValueError("bad")
    await clock.advance(10.1)
    await settle()
    assert service.calls == 30
    assert bus.stats()["g"].dead_lettered == 30
    service.error = None
    await bus.publish("t", event(99))
    await settle()
    assert bus.stats()["g"].state == "running"
    await bus.close()


async def test_a_probe_that_hangs_does_not_stop_the_group() -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock, seed=1)
    hanging: list[int] = []
    mode = "down"

    async def handle(e: Event) -> None:
        if mode == "down":
            raise ConnectionError
        if mode == "hang":
            hanging.append(e.payload["n"])
            await asyncio.Event().wait()

    options = SubscriptionOptions(
        retry=RetryPolicy(attempts=1),
        breaker=CircuitBreaker(failures=5, pause=10, longest=20),
        handler_timeout=None,
        concurrency=2,
    )
    await bus.subscribe("t", handle, "g", options=options)
    await bus.publish_many("t", events(20))
    await settle()
    mode = "hang"
    await clock.advance(10.1)
    await settle()
    assert len(hanging) == 1
    mode = "up"
    await clock.advance(20.1)
    await bus.publish("t", event(99))
    await settle()
    assert bus.stats()["g"].state == "running"
    await close_now(bus, clock)


@pytest.mark.slow
async def test_operators_see_an_open_circuit_and_a_pause(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(partitions=1)
    service = Service()
    service.error = ConnectionError()
    options = SubscriptionOptions(
        retry=RetryPolicy(base=0.001, maximum=0.01), breaker=CircuitBreaker(failures=3, pause=30)
    )
    await bus.subscribe("t", service, "g", options=options)
    await bus.subscribe("t", Recorder(), "fine")
    await bus.publish("t", event(1))

    async def stopped() -> list[tuple[str, str]]:
        return [(s.group, s.state.value) for s in await list_stopped(bus)]

    async def is_open() -> bool:
        return await stopped() == [("g", "open")]

    async def is_paused() -> bool:
        return sorted(await stopped()) == [("fine", "paused"), ("g", "open")]

    async def is_over() -> bool:
        return await stopped() == []

    await eventually_async(is_open)
    (status,) = await list_stopped(bus)
    assert "ConnectionError" in status.reason
    bus.pause("fine")
    await eventually_async(is_paused)
    bus.resume("fine")
    await eventually_async(is_open)
    await bus.unsubscribe("g")
    await eventually_async(is_over)


# -- the limit on the rate ----------------------------------------------------------------------------


@both
async def test_the_rate_is_kept_and_everything_is_handled(batch_size: int | None) -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock)
    service = Service()
    options = SubscriptionOptions(rate=10, max_in_flight=50)
    await bus.subscribe("t", handler(service, batch_size), "g", options=options)
    await bus.publish_many("t", events(100))
    await settle()
    size = batch_size or 1
    for second in range(1, 11):
        for _ in range(20):
            await clock.advance(0.05)
        await settle()
        assert 10 * second - size <= len(service.handled) <= 10 * second + size
    assert bus.stats()["g"].state == "running"
    for _ in range(40):
        await clock.advance(0.05)
    await settle()
    assert sorted(service.handled) == list(range(100))
    await bus.close()


async def test_a_rest_does_not_save_up_a_burst() -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock)
    service = Service()
    await bus.subscribe("t", service, "g", options=SubscriptionOptions(rate=100))
    await clock.advance(3600)
    await bus.publish_many("t", events(500))
    await settle()
    assert len(service.handled) <= 10
    await close_now(bus, clock)


@pytest.mark.slow
async def test_waiting_for_the_rate_costs_nothing(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(drain_timeout=0.01)
    service = Service()
    await bus.subscribe("t", service, "g", options=SubscriptionOptions(rate=2))
    await bus.publish_many("t", events(100))
    await eventually(lambda: len(service.handled) >= 1)
    spent = time.thread_time()
    limit = asyncio.get_running_loop().time() + 20
    while len(service.handled) < 4:
        assert asyncio.get_running_loop().time() < limit
        await asyncio.sleep(0.1)
    assert time.thread_time() - spent < 0.3  # of about 1.5 seconds
    await bus.unsubscribe("g")


def test_options_of_the_gate() -> None:
    for wrong in (
        {"failures": 0},
        {"share": 1.0},
        {"share": -0.1},
        {"window": 0},
        {"pause": 0},
        {"pause": 9, "longest": 8},
    ):
        with pytest.raises(ConfigurationError):
            CircuitBreaker(**wrong)  # type: ignore[arg-type]
    for rate in (0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="rate"):
            SubscriptionOptions(rate=rate)
