"""A cluster of three brokers that loses one or two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dimesh import Event, EventBus
from dimesh.spi.bus import TopicConfig
from dimesh_contracts.history.exercise import exercise
from dimesh_contracts.waiting import be_patient, eventually, until
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.names import group_id
from servers.availability import available
from servers.kafka import LEAKS, Broker, KafkaCluster, kafka_cluster

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def three(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Start three brokers; each topic has three copies, of which two must be in sync."""
    with available(kafka_cluster(3), request) as cluster:
        yield cluster


@pytest.fixture
def make(new_backend: Callable[..., KafkaBackend], three: KafkaCluster) -> Callable[..., KafkaBackend]:
    be_patient(60.0)
    return lambda **options: new_backend(bootstrap_servers=three.servers(), **options)


@pytest.fixture
async def topic(make: Callable[..., KafkaBackend]) -> str:
    """Return a topic in which each broker leads a partition."""
    name = f"cluster.{uuid4().hex[:10]}"
    backend = make()
    await backend.open()
    await backend.create_topic(name, TopicConfig(partitions=3))
    await backend.close()
    return name


async def restored(three: KafkaCluster, backend: KafkaBackend) -> None:
    """Start all brokers again, and wait until all copies are in sync."""
    for broker in three.brokers:
        if not broker.process.running:
            await asyncio.to_thread(broker.start)

    async def in_sync() -> bool:
        topics = await backend.admin.client.describe_topics()
        return all(
            len(part["isr"]) == len(part["replicas"]) for topic in topics for part in topic["partitions"]
        )

    await eventually(in_sync)


async def with_one_lost(
    make: Callable[..., KafkaBackend], three: KafkaCluster, folder: Path, topic: str, lose: Any
) -> None:
    async def disturb() -> None:
        await asyncio.to_thread(lose)

    await exercise(make, folder, disturb, topic=topic, events=1_500, members=2, pause=0.004)
    backend = make()
    await backend.open()
    await restored(three, backend)
    await backend.close()


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_a_broker_is_lost_while_events_flow(
    make: Callable[..., KafkaBackend], three: KafkaCluster, tmp_path: Path, topic: str, kill: bool
) -> None:
    broker: Broker = three.brokers[1]
    await with_one_lost(make, three, tmp_path, topic, broker.process.kill if kill else broker.process.stop)


async def test_the_coordinator_of_a_group_is_lost(
    make: Callable[..., KafkaBackend], three: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    """Another broker becomes the coordinator: commits continue, and no committed event is handled again."""
    backend = make()
    await backend.open()

    async def coordinator() -> int:
        return int(
            await backend.admin._ask("", lambda: backend.admin.client.find_coordinator(group_id("g", topic)))
        )

    number = await coordinator()
    await with_one_lost(make, three, tmp_path, topic, three.brokers[number - 1].process.kill)
    await backend.close()


async def test_too_few_copies_is_an_error_until_brokers_return(
    make: Callable[..., KafkaBackend], three: KafkaCluster, topic: str
) -> None:
    """While two of three brokers are down, nothing is acknowledged; when they are back, everything continues."""
    bus = EventBus(make(delivery_timeout=3.0))
    handled: list[int] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await bus.publish(topic, Event("a.b", None, 0), key="k")
    await until(lambda: handled == [0])
    for broker in three.brokers[1:]:
        await asyncio.to_thread(broker.process.pause)
    event = Event("a.b", None, 1)
    with pytest.raises(Exception, match=r"unknown|in sync|no broker"):
        await bus.publish(topic, event, key="k")
    for broker in three.brokers[1:]:
        await asyncio.to_thread(broker.process.resume)

    async def published() -> bool:
        try:
            await bus.publish(topic, event, key="k")
        except Exception:
            return False
        return True

    await eventually(published)
    await until(lambda: handled == [0, 1])
    await bus.close()
