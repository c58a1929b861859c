"""Consume, process and produce: each event has one result, whichever process is killed."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dimesh import Event, EventBus, StartAt
from dimesh.spi.bus import TopicConfig
from dimesh_contracts.waiting import be_patient, eventually
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

WORKER = Path(__file__).with_name("transform_worker.py")
EVENTS = 600


async def test_each_event_once_although_workers_are_killed(
    new_backend: Callable[..., KafkaBackend], kafka: KafkaCluster, namespace: str
) -> None:
    be_patient(60.0)
    source, target = (f"exact.{name}.{uuid4().hex[:8]}" for name in ("in", "out"))
    bus = EventBus(new_backend())
    await bus.open()
    for name in (source, target):
        await bus.door.create_topic(name, TopicConfig(partitions=3))
    options = json.dumps(
        {
            "bootstrap_servers": kafka.servers(),
            "internal": namespace,
            "session_timeout": 1.0,
            "heartbeat_interval": 0.1,
            "rebalance_timeout": 3.0,
        }
    )

    async def worker() -> asyncio.subprocess.Process:
        made = await asyncio.create_subprocess_exec(
            sys.executable, str(WORKER), options, source, target, stdout=asyncio.subprocess.PIPE
        )
        assert made.stdout is not None
        await made.stdout.readline()
        return made

    rng = random.Random(7)
    workers = [await worker(), await worker()]

    async def publish() -> None:
        for n in range(EVENTS):
            await bus.publish(source, Event("a.b", None, n), key=f"key-{n % 11}")
            await asyncio.sleep(0.01)

    publishing = asyncio.create_task(publish())
    try:
        for _ in range(5):
            await asyncio.sleep(rng.uniform(0.2, 1.5))  # a random moment
            victim = workers.pop(rng.randrange(len(workers)))
            victim.kill()
            await victim.wait()
            workers.append(await worker())
        await publishing

        async def done() -> bool:
            return sum(g.lag or 0 for g in await bus.door.groups() if g.topic == source) == 0

        await eventually(done)
    finally:
        for one in workers:
            one.kill()
            await one.wait()
    made: list[Any] = []
    following: Any = StartAt.EARLIEST
    while page := await bus.door.read(target, following, 1_000):
        made += [delivery.record.event.payload for delivery in page]
        following = {}
        for delivery in page:
            following[delivery.partition] = max(following.get(delivery.partition, 0), delivery.offset + 1)
    assert sorted(made) == [[n, part] for n in range(EVENTS) for part in (0, 1)]
    await bus.close()
