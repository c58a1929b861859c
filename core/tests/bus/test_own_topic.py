"""Handlers that publish to the topic that they handle, on a bus in memory, whose room is bounded."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dimesh import Event, EventBusFactory, EventHandler, SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import BackpressureError, RefusedError
from dimesh_contracts.waiting import deadline, eventually, until


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_a_handler_that_publishes_more_to_its_own_topic_than_fits_is_refused_at_once(
    batch_size: int | None,
) -> None:
    async with EventBusFactory.create("memory", capacity=10) as bus:
        handled = Counter[str]()
        refused: list[RefusedError] = []

        async def handle(event: Event) -> None:
            if event.payload == "all":
                for n in range(100):
                    try:
                        await bus.publish("t", Event("made", None, n), key=f"k{n}")
                    except RefusedError as error:
                        refused.append(error)
                        raise
            handled[str(event.payload)] += 1

        async def handle_batch(events: list[Event]) -> None:
            for event in events:
                await handle(event)

        handler = EventHandler(handle if batch_size is None else handle_batch, batch_size=batch_size)
        await bus.subscribe("t", handler, "g")
        async with deadline():
            await bus.publish_many(
                "t", [Event("made", None, what) for what in ("all", "next")], keys=["all", "next"]
            )
        await until(lambda: handled["next"])
        (entry,) = await eventually(lambda: _entries(DeadLetters(bus), "t"))
        assert entry.event.payload == "all"
        # Another attempt would publish the first ones again, and fail again. (A batch is split, and each event tried alone.)
        assert entry.attempts == (1 if batch_size is None else 2)
        assert "it would wait for itself" in str(refused[0])
        assert "capacity" in str(refused[0])
        await bus.idle()
        assert handled["all"] == 0
        published = [n for n in range(100) if handled[str(n)]]
        assert published == list(range(len(published)))
        assert 10 <= len(published) <= 20, "bounded by the capacity, and as much again"


async def _entries(letters: DeadLetters, topic: str) -> list[object]:
    return list(await letters.entries(topic))


@pytest.mark.slow
async def test_handlers_go_on_although_others_fill_their_topic() -> None:
    """Each event becomes another one of the same topic while publishers keep the topic full: handlers have room beside them."""
    async with EventBusFactory.create("memory", capacity=8) as bus:
        done: set[int] = set()

        async def handle(event: Event) -> None:
            kind, number = event.payload
            if kind == "first":
                await asyncio.sleep(0)
                await bus.publish("t", Event("made", None, ["second", number]), key=f"second{number % 5}")
            else:
                done.add(number)

        await bus.subscribe("t", EventHandler(handle), "g", options=SubscriptionOptions(concurrency=4))

        async def publisher(lane: int) -> None:
            for number in range(lane, 80, 8):
                await bus.publish(
                    "t", Event("made", None, ["first", number]), key=f"first{number % 7}", timeout=60
                )

        async with deadline():
            await asyncio.gather(*map(publisher, range(8)))
            await bus.idle()
        assert done == set(range(80))
        assert bus.stats()["g"].failed == 0


async def test_a_publisher_outside_still_waits_for_room() -> None:
    async with EventBusFactory.create("memory", capacity=3) as bus:
        gate = asyncio.Event()

        async def handle(event: Event) -> None:
            await gate.wait()

        await bus.subscribe("t", handle, "g")
        for n in range(3):
            await bus.publish("t", Event("made", None, n))
        try:
            await bus.publish("t", Event("made", None, 3), timeout=0.05)
        except BackpressureError as error:
            assert "capacity" in str(error)
        else:
            raise AssertionError("it was taken")
        gate.set()
