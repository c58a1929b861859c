"""Requests and replies: repeats are answered again, replies that cannot be sent are errors, reply topics go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh import (
    BusClosedError,
    ConfigurationError,
    Event,
    EventBus,
    EventHandler,
    EventMetadata,
    ManualClock,
    RequestTimeoutError,
    SubscriptionOptions,
)
from dimesh.bus.replies import REMEMBERED, REPLY_PREFIX, reply_to
from dimesh.bus.requests import LEASE, ROTATION, RemoteError, made_at
from dimesh.errors import PublishError
from dimesh.events.ids import new_event_id
from dimesh.spi.bus import TopicConfig
from dimesh.spi.interceptor import Publishing, PublishNext

from .conftest import event, eventually, eventually_async

MakeBus = Callable[..., EventBus]


async def reply_topics(bus: EventBus) -> list[str]:
    return [t.name for t in await bus.door.topics() if t.name.startswith(REPLY_PREFIX)]


# -- again -----------------------------------------------------------------------------------------


class LosesReplies:
    """An interceptor that fails the first replies, as a broker that is away for a moment does."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def publish(self, publishing: Publishing, events: Any, call_next: PublishNext) -> Any:
        if publishing.operation == "reply" and self.count:
            self.count -= 1
            raise PublishError("the broker is away")
        return await call_next(events)


async def test_a_request_that_is_sent_again_is_answered_again_and_not_handled_again(
    make_bus: MakeBus,
) -> None:
    bus = make_bus(interceptors=[LosesReplies(1)])
    calls: list[int] = []

    async def answer(e: Event) -> dict[str, int]:
        calls.append(e.payload["n"])
        return {"calls": len(calls)}

    await bus.subscribe("ask", answer, group="desk")
    ask = event(1)
    with pytest.raises(RequestTimeoutError):
        await bus.request("ask", ask, timeout=0.3)
    first = await bus.request("ask", ask, timeout=10)
    second = await bus.request("ask", ask, timeout=10)
    assert calls == [1]
    assert first.payload == second.payload == {"calls": 1}
    assert first.metadata.correlation_id == second.metadata.correlation_id == ask.event_id
    assert next(iter(bus.stats().values())).duplicates == 2


async def test_another_requester_that_sends_the_same_request_is_answered(
    make_bus: MakeBus, kind: str
) -> None:
    bus = make_bus()
    calls: list[int] = []

    async def answer(e: Event) -> int:
        calls.append(1)
        return len(calls)

    await bus.subscribe("ask", answer, group="desk")
    ask = event(1)
    assert (await bus.request("ask", ask, timeout=10)).payload == 1
    # A requester that was restarted listens on another topic.
    bus._requests._current = None
    assert (await bus.request("ask", ask, timeout=10)).payload == 1
    assert calls == [1]


async def test_a_request_whose_answer_is_forgotten_is_handled_again(bus: EventBus) -> None:
    calls: list[int] = []

    async def answer(e: Event) -> int:
        calls.append(e.payload["n"])
        return e.payload["n"] * 2

    await bus.subscribe("ask", answer, "desk")
    ask = event(-1)
    assert (await bus.request("ask", ask, timeout=10)).payload == -2
    answers = bus.subscription("desk")._workers.answers
    for n in range(REMEMBERED):
        await answers.give(f"other-{n}", event(n), n)
    assert len(answers._kept) == REMEMBERED
    assert (await bus.request("ask", ask, timeout=10)).payload == -2
    assert calls == [-1, -1]
    await answers.give("large", event(1), "x" * 9_000_000)
    assert answers._bytes == 0


async def test_requests_to_a_batch_handler_are_answered_also_when_they_come_again(bus: EventBus) -> None:
    batches: list[int] = []

    async def handle(events: list[Event]) -> None:
        batches.append(len(events))

    await bus.subscribe("ask", EventHandler(handle, batch_size=5), "desk")
    ask = event(1)
    for _ in range(2):
        assert (await bus.request("ask", ask, timeout=10)).payload is None
    assert batches == [1]


async def test_two_at_once_share_the_answer(bus: EventBus) -> None:
    calls: list[int] = []
    gate = asyncio.Event()

    async def answer(e: Event) -> int:
        calls.append(1)
        await gate.wait()
        return len(calls)

    await bus.subscribe("ask", answer, "desk")
    ask = event(1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(bus.request("ask", ask, timeout=10))
        second = group.create_task(bus.request("ask", ask, timeout=10))
        await eventually(lambda: bus.stats()["desk"].received == 2)
        gate.set()
    assert first.result().payload == second.result().payload == 1
    assert calls == [1]
    assert not bus._requests._current.waiting  # type: ignore[union-attr]


async def test_one_event_can_be_asked_on_two_topics_at_once(bus: EventBus) -> None:
    await bus.subscribe("price", lambda e: "price", "p")
    await bus.subscribe("stock", lambda e: "stock", "s")
    ask = event(1)
    price, stock = await asyncio.gather(
        bus.request("price", ask, timeout=10), bus.request("stock", ask, timeout=10)
    )
    assert (price.payload, stock.payload) == ("price", "stock")
    await bus.publish("copies", price)  # no header of the engine is left in it


# -- replies that cannot be sent -------------------------------------------------------------------


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


@pytest.mark.parametrize("result", [b"\xff", object(), Unprintable(), float("nan"), "\ud800"])
async def test_a_reply_that_is_no_json_is_an_error_reply(bus: EventBus, result: Any) -> None:
    await bus.subscribe("ask", lambda e: result, "desk")
    with pytest.raises(RemoteError) as caught:
        await bus.request("ask", event(1), timeout=10)
    assert 0 < len(str(caught.value).encode()) <= 1_000
    assert bus.stats()["desk"].handled == 1
    assert bus.stats()["desk"].failed == 0


class SmallBroker:
    """An interceptor that refuses large replies for good, as a broker with a limit does."""

    async def publish(self, publishing: Publishing, events: Any, call_next: PublishNext) -> Any:
        if publishing.operation == "reply" and any(len(e.data) > 1_000 for e in events):
            raise ValueError("ä" * 5_000)
        return await call_next(events)


async def test_a_reply_that_is_too_large_is_an_error_reply_and_that_is_small(make_bus: MakeBus) -> None:
    bus = make_bus(interceptors=[SmallBroker()])
    await bus.subscribe("ask", lambda e: "x" * 2_000, "desk")
    ask = Event("a" * 255, EventMetadata(source_agent="a"), {"n": 1})
    for _ in range(2):  # also when it is asked again
        with pytest.raises(RemoteError, match="ä") as caught:
            await bus.request("ask", ask, timeout=10)
        assert len(str(caught.value).encode()) <= 1_000
    assert bus.stats()["desk"].handled == 1


def test_the_type_of_a_reply_is_a_type() -> None:
    assert reply_to(Event("a" * 255, None, {}), 1).event_type.value == "dimesh.reply"
    assert reply_to(Event("a.b", None, {}), 1).event_type.value == "a.b.reply"


# -- reply topics ----------------------------------------------------------------------------------


async def test_closing_removes_the_reply_topic(make_bus: MakeBus, kind: str) -> None:
    if kind == "memory":
        pytest.skip("its topics end with it")
    bus, other = make_bus(), make_bus()
    await bus.subscribe("ask", lambda e: 1, "desk")
    assert (await other.request("ask", event(1), timeout=10)).payload == 1
    assert len(await reply_topics(bus)) == 1
    await other.close()
    assert await reply_topics(bus) == []


async def test_topics_of_dead_requesters_are_removed_by_age(bus: EventBus) -> None:
    now = bus.clock.time()
    young, old = (
        REPLY_PREFIX + new_event_id(lambda age=age: int((now - age) * 1e9))
        for age in (LEASE - 60, LEASE + 60)
    )
    assert made_at(old) == pytest.approx(now - LEASE - 60, abs=0.01)
    assert made_at("dimesh.replies.mine") is made_at("orders") is None
    await bus.open()
    for name in (young, old, "dimesh.replies.mine"):
        await bus.door.create_topic(name, TopicConfig(partitions=1))
    await bus.subscribe("ask", lambda e: 1, "desk")
    await bus.request("ask", event(1), timeout=10)

    async def swept() -> bool:
        return old not in await reply_topics(bus)

    await eventually_async(swept)
    left = await reply_topics(bus)
    assert young in left
    assert "dimesh.replies.mine" in left
    assert len(left) == 3


async def test_a_requester_changes_its_topic_and_no_reply_is_lost() -> None:
    from dimesh import EventBusFactory

    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock)
    gate = asyncio.Event()

    async def answer(e: Event) -> int:
        if e.payload["n"] == 1:
            await gate.wait()
        return e.payload["n"]

    await bus.subscribe("ask", answer, "desk", options=SubscriptionOptions(handler_timeout=None))
    slow = asyncio.create_task(bus.request("ask", event(1, agent="slow"), timeout=ROTATION * 1.5))
    await eventually(lambda: bus.stats()["desk"].received == 1)
    (first,) = await reply_topics(bus)
    clock.set_wall(clock.time() + ROTATION + 1)
    assert (await bus.request("ask", event(2), timeout=10)).payload == 2
    assert len(await reply_topics(bus)) == 2
    gate.set()
    assert (await slow).payload == 1

    async def removed() -> bool:
        return first not in await reply_topics(bus)

    await eventually_async(removed)
    assert (await bus.request("ask", event(3), timeout=10)).payload == 3
    assert len(await reply_topics(bus)) == 1
    assert min(bus.stats()) == "desk"
    assert len(bus.stats()) == 2
    await bus.close()


async def test_a_requester_whose_topic_was_deleted_makes_another(bus: EventBus) -> None:
    await bus.subscribe("ask", lambda e: 1, "desk")
    assert (await bus.request("ask", event(1), timeout=10)).payload == 1
    (topic,) = await reply_topics(bus)
    inbox = bus._requests._current
    assert inbox is not None
    await bus.door.delete_topic(topic)
    await eventually(lambda: inbox.ended)
    assert (await bus.request("ask", event(2), timeout=10)).payload == 1
    assert topic not in await reply_topics(bus)


async def test_requests_that_wait_end_with_the_bus(bus: EventBus) -> None:
    waits = asyncio.create_task(bus.request("nobody", event(1), timeout=60))
    await eventually(lambda: bus._requests._current and bus._requests._current.waiting)
    await bus.close()
    with pytest.raises(BusClosedError):
        await waits


async def test_a_timeout_beyond_the_life_of_a_reply_topic_is_refused(bus: EventBus) -> None:
    for timeout in (-1, 13 * 3_600, float("nan")):
        with pytest.raises(ConfigurationError, match="12 hours"):
            await bus.request("ask", event(1), timeout=timeout)
