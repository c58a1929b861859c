"""Retries: which errors are transient, how long they are retried, and redelivery later."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import pytest

from dimesh import (
    ConfigurationError,
    Event,
    EventBus,
    EventHandler,
    ManualClock,
    NotOfferedError,
    RejectError,
    RetryPolicy,
    SubscriptionOptions,
)
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.transient import is_transient
from dimesh.errors import BackpressureError, EventError, SourceUnavailableError, StorageError

from .conftest import Recorder, event, eventually, eventually_async


class ConnectError(Exception):
    """Has the name of an error of a library for HTTP, which derives from Exception alone."""


class Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HTTPError(OSError):
    def __init__(self, status: int) -> None:
        self.response = Response(status)


class Nasty(Exception):
    @property
    def response(self) -> object:
        raise RuntimeError("no response was set")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        OSError(28, "no space"),
        ConnectError(),
        sqlite3.OperationalError("database is locked"),
        HTTPError(503),
        HTTPError(429),
        BackpressureError(),
        StorageError(),
        SourceUnavailableError("down"),
        raised_from(RuntimeError("payment failed"), ConnectionResetError()),
    ],
    ids=repr,
)
def test_errors_that_may_go_away(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        KeyError("x"),
        TypeError(),
        RuntimeError("boom"),
        FileNotFoundError(),
        HTTPError(404),
        HTTPError(400),
        Nasty(),
        EventError(),
        NotOfferedError(),
        ConfigurationError(),
        raised_from(HTTPError(422), ConnectionResetError()),
    ],
    ids=repr,
)
def test_errors_that_stay(error: Exception) -> None:
    assert not is_transient(error)


def test_a_chain_of_causes_that_goes_round_ends() -> None:
    one, two = RuntimeError(), RuntimeError()
    one.__cause__, two.__cause__ = two, one
    assert not is_transient(one)


def test_when_a_policy_gives_up() -> None:
    down, bug = ConnectionError(), ValueError()
    default = RetryPolicy()
    assert [default.gives_up(bug, n, 0.0) for n in (1, 4, 5)] == [False, False, True]
    assert not default.gives_up(down, 500, 599.0)
    assert default.gives_up(down, 5, 600.0)
    assert not default.gives_up(down, 4, 9_000.0)  # the process was down between its attempts
    assert RetryPolicy(attempts=2).gives_up(down, 2, 0.0)
    assert not RetryPolicy(attempts=2, patience=60).gives_up(down, 99, 59.0)
    assert RetryPolicy(attempts=2, patience=60).gives_up(bug, 2, 0.0)
    assert RetryPolicy(patience=60, fatal=(ConnectionError,)).gives_up(down, 1, 0.0)
    for wrong in ({"patience": -1}, {"redeliver": (0,)}, {"redeliver": (1e10,)}):
        with pytest.raises(ConfigurationError):
            RetryPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [None, 4])
async def test_an_outage_of_minutes_dead_letters_nothing(batch_size: int | None) -> None:
    """With the defaults: a service is away for eight minutes, and every event is handled afterwards."""
    from dimesh import EventBusFactory

    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock, seed=3)
    down = True
    handled: list[int] = []

    async def handle(given: Event | list[Event]) -> None:
        if down:
            raise ConnectError
        handled.extend(e.payload["n"] for e in (given if isinstance(given, list) else [given]))

    await bus.subscribe("t", EventHandler(handle, batch_size=batch_size), "g")
    await bus.publish_many("t", [event(n, agent=f"a{n % 3}") for n in range(30)])
    for _ in range(480):
        await clock.advance(1)
    assert bus.stats()["g"].failed >= 20
    if batch_size is None:  # batches are few calls anyway
        assert bus.stats()["g"].opened > 1
    assert bus.stats()["g"].dead_lettered == 0
    down = False
    for _ in range(120):
        await clock.advance(1)
    assert sorted(handled) == list(range(30))
    await bus.close()


async def test_redelivery_does_not_hold_up_the_key_and_keeps_the_identity(bus: EventBus) -> None:
    got = Recorder(lambda e: ValueError("x") if e.payload["n"] == 1 and len(got.attempts) < 4 else None)
    policy = RetryPolicy(attempts=2, base=0, redeliver=(0.2,))
    await bus.subscribe("t", got, "g", options=SubscriptionOptions(retry=policy))
    sent = event(1)
    await bus.publish_many("t", [sent, event(2)])
    await eventually(lambda: got.numbers == [2, 1])
    assert {e.event_id for e in got.attempts if e.payload["n"] == 1} == {sent.event_id}
    assert (bus.stats()["g"].redelivered, bus.stats()["g"].dead_lettered) == (1, 0)


async def test_members_of_a_batch_are_delivered_again_later(bus: EventBus) -> None:
    calls: list[list[int]] = []
    fixed = False

    async def handle(events: list[Event]) -> None:
        numbers = [e.payload["n"] for e in events]
        calls.append(numbers)
        if 1 in numbers and not fixed:
            raise ValueError("1")

    policy = RetryPolicy(attempts=1, redeliver=(0.3,))
    await bus.subscribe(
        "t", EventHandler(handle, batch_size=3), "g", options=SubscriptionOptions(retry=policy)
    )
    await bus.publish_many("t", [event(n) for n in range(3)])
    await eventually(lambda: bus.stats()["g"].redelivered == 1)
    assert calls == [[0, 1, 2], [0], [1], [2]]
    fixed = True
    await eventually(lambda: calls[-1] == [1] and bus.stats()["g"].handled == 3)


async def test_fatal_errors_are_not_delivered_again(bus: EventBus) -> None:
    policy = RetryPolicy(redeliver=(0.01,))
    await bus.subscribe(
        "t", Recorder(lambda _: RejectError("no")), "g", options=SubscriptionOptions(retry=policy)
    )
    await bus.publish("t", event(1))
    await eventually(lambda: bus.stats()["g"].dead_lettered == 1)
    assert bus.stats()["g"].redelivered == 0


async def test_redelivery_survives_a_restart(make_bus: Callable[..., EventBus], kind: str) -> None:
    if kind == "memory":
        pytest.skip("memory keeps nothing")
    options = SubscriptionOptions(retry=RetryPolicy(attempts=1, redeliver=(0.5,)))
    bus = make_bus()
    await bus.subscribe("t", Recorder(lambda _: ValueError()), "g", options=options)
    await bus.publish("t", event(1))
    await eventually(lambda: bus.stats()["g"].redelivered == 1)
    await bus.close()
    again = make_bus()
    got = Recorder()
    await again.subscribe("t", got, "g", options=options)
    await eventually(lambda: got.numbers == [1])


async def test_redelivery_that_cannot_be_is_refused(bus: EventBus) -> None:
    options = SubscriptionOptions(retry=RetryPolicy(redeliver=(60,)))
    for topic, group in (("t", None), ("t.dlq", "g")):
        with pytest.raises(ConfigurationError, match="redeliver needs"):
            await bus.subscribe(topic, Recorder(), group=group, options=options)


async def test_a_redriven_event_may_be_delivered_again_later_as_often_as_a_new_one(bus: EventBus) -> None:
    options = SubscriptionOptions(retry=RetryPolicy(attempts=1, redeliver=(0.01,)))
    got = Recorder(lambda _: ValueError())
    await bus.subscribe("t", got, "g", options=options)
    await bus.publish("t", event(1))
    letters = DeadLetters(bus)

    async def one() -> bool:
        return bus.stats()["g"].dead_lettered >= 1 and len(await letters.entries("t")) == 1

    await eventually_async(one)
    assert len(got.attempts) == 2
    await letters.redrive("t")
    await eventually(lambda: len(got.attempts) == 4)
    await asyncio.sleep(0)
    await eventually(lambda: bus.stats()["g"].dead_lettered == 2)
