"""What the broker refuses for good: dead letters and results that are too large, and names that are too long."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from dimesh import Event, EventBus, EventMetadata, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.bus.deadletter import DeadLetter, Form
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import RefusedError, TopicNotFoundError
from dimesh.spi.bus import Record, TopicConfig
from dimesh_contracts.waiting import eventually, until
from dimesh_kafka.backend import KafkaBackend

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

ONCE = SubscriptionOptions(retry=RetryPolicy(attempts=1))


async def entries(bus: EventBus, topic: str, count: int = 1) -> list[DeadLetter]:
    async def enough() -> list[DeadLetter] | None:
        try:
            found = await DeadLetters(bus).entries(topic)
        except TopicNotFoundError:
            return None
        return found if len(found) >= count else None

    found = await eventually(enough, times=10)
    assert found is not None
    return found


def event(size: int, number: int = 0) -> Event:
    text = os.urandom(size // 2).hex()  # it does not shrink when it is compressed
    return Event("a.b", EventMetadata(source_pillar="P", source_agent=f"a{number}"), [number, text])


def largest(backend: KafkaBackend) -> Event:
    """Return an event that is within a few bytes of the limit for a record. The headers of two events differ by a few bytes."""
    low, high = 500_000, 1_100_000
    while high - low > 2:
        middle = (low + high) // 2
        try:
            backend.check_records("t", [Record.of(event(middle), "P:a0")])
            low = middle
        except RefusedError:
            high = middle
    return event(low - 16)


async def test_the_dead_letter_of_the_largest_event_names_where_the_event_is(
    new_backend: Callable[..., KafkaBackend],
) -> None:
    topic = f"t{uuid4().hex}"
    backend = new_backend()
    handled: list[Any] = []
    broken = True

    def handle(e: Event) -> None:
        if broken and len(e.data) > 100:
            raise ValueError("no")
        handled.append(e.payload[0])

    async with EventBus(backend) as bus:
        await bus.subscribe(topic, handle, "g", start=StartAt.EARLIEST, options=ONCE)
        sent = largest(backend)
        receipt = await bus.publish(topic, sent)
        await bus.publish(topic, event(10, 1))
        (entry,) = await entries(bus, topic)
        assert entry.form is Form.REFERENCE
        assert entry.origin == receipt.position
        assert entry.event.payload["topic"] == topic
        await until(lambda: handled == [1])
        found = await DeadLetters(bus).original(entry)
        assert found is not None
        assert found[0] == sent
        # The headers of the redrive do not fit beside the largest event: it stays an entry, with that reason.
        result = await DeadLetters(bus).redrive(topic)
        assert "the bus refuses it" in result.skipped[0][1]
        assert len(await DeadLetters(bus).entries(topic)) == 1


async def test_a_result_that_only_the_broker_refuses_fails_its_event_and_no_other(
    new_backend: Callable[..., KafkaBackend],
) -> None:
    topic, out = f"t{uuid4().hex}", f"o{uuid4().hex}"
    backend = new_backend()
    results: list[int] = []

    def work(e: Event) -> list[Event]:
        number = e.payload[0]
        return [event(50_000 if number in (2, 5) else 10, number), event(10, number)]

    async with EventBus(backend) as bus:
        await backend.admin.create(out, TopicConfig(partitions=2), **{"max.message.bytes": "20000"})
        await bus.subscribe(out, lambda e: results.append(e.payload[0]), "r", start=StartAt.EARLIEST)
        await bus.subscribe(topic, work, "g", start=StartAt.EARLIEST, produce_to=out, options=ONCE)
        await bus.publish_many(topic, [event(10, n) for n in range(8)])
        found = await entries(bus, topic, 2)
        assert sorted(entry.event.payload[0] for entry in found) == [2, 5]
        assert all("RefusedError" in entry.reason for entry in found)
        await until(lambda: len(results) >= 12, times=10)

        async def committed() -> bool:
            groups = await bus.door.groups()
            return not sum(g.lag or 0 for g in groups if (g.topic, g.group) == (topic, "g"))

        await eventually(committed, times=10)
        assert sorted(set(results)) == [0, 1, 3, 4, 6, 7]
        assert (bus.stats()["g"].handled, bus.stats()["g"].dead_lettered) == (6, 2)


async def test_the_longest_name_has_a_dead_letter_topic(new_backend: Callable[..., KafkaBackend]) -> None:
    topic = uuid4().hex.ljust(249, "x")

    def fail(e: Event) -> None:
        raise ValueError("no")

    async with EventBus(new_backend()) as bus:
        await bus.subscribe(topic, fail, "g", start=StartAt.EARLIEST, options=ONCE)
        await bus.publish(topic, event(10))
        (entry,) = await entries(bus, topic)
        assert entry.topic == topic


async def test_a_delayed_event_that_its_topic_refuses_holds_up_no_other(
    new_backend: Callable[..., KafkaBackend], caplog: pytest.LogCaptureFixture
) -> None:
    small, topic = f"s{uuid4().hex}", f"t{uuid4().hex}"
    backend = new_backend()
    got: list[int] = []
    async with EventBus(backend) as bus:
        await backend.admin.create(small, TopicConfig(partitions=1), **{"max.message.bytes": "20000"})
        await bus.subscribe(small, lambda e: got.append(e.payload[0]), start=StartAt.EARLIEST)
        await bus.subscribe(topic, lambda e: got.append(e.payload[0]), start=StartAt.EARLIEST)
        await bus.publish(small, event(50_000, 1), delay=0.5)
        await bus.publish(small, event(10, 2), delay=0.5)
        await bus.publish(topic, event(50_000, 3), delay=0.5)
        await until(lambda: sorted(got) == [2, 3], times=20)
        await until(lambda: "GIVEN UP: a delayed record for topic" in caplog.text, times=10)
