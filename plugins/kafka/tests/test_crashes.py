"""An event that ends the process that handles it, on a real broker."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dimesh import Event, EventBus, EventMetadata
from dimesh.bus.redrive import DeadLetters
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

CHILD = """
import asyncio, json, os, sys
from dimesh import EventBusFactory, RetryPolicy, StartAt, SubscriptionOptions

topic, options = sys.argv[1], json.loads(sys.argv[2])

async def handle(event):
    print(event.payload, flush=True)
    if event.payload == "bad":
        os._exit(9)

async def main():
    bus = EventBusFactory.create("kafka", **options)
    retry = SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0.001))
    await bus.subscribe(topic, handle, "g", start=StartAt.EARLIEST, options=retry)
    while sum(g.lag or 0 for g in await bus.door.groups() if (g.topic, g.group) == (topic, "g")) or not bus.stats()["g"].received:
        await asyncio.sleep(0.1)
    await bus.close()

asyncio.run(main())
"""


async def test_an_event_that_ends_its_process_becomes_a_dead_letter(
    new_backend: Callable[..., KafkaBackend],
    kafka: KafkaCluster,
    namespace: str,
    fast: Mapping[str, Any],
    tmp_path: Path,
) -> None:
    topic = f"t{uuid4().hex}"
    options = json.dumps({"bootstrap_servers": kafka.servers(), "internal": namespace, **fast})
    async with EventBus(new_backend()) as bus:
        for n in range(6):
            metadata = EventMetadata(source_pillar="P", source_agent=f"a{n}")
            await bus.publish(topic, Event("a.b", metadata, "bad" if n == 2 else str(n)))
        deaths = 0
        handled: set[str] = set()
        while True:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, topic, options, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await child.communicate()
            handled.update(out.decode().split())
            if child.returncode == 0:
                break
            assert child.returncode == 9
            deaths += 1
            assert deaths <= 4, "the group is pinned"
        (entry,) = await DeadLetters(bus).entries(topic)
        assert (entry.event.payload, entry.attempts) == ("bad", 2)
        assert entry.reason.startswith("ProcessDiedError")
        assert handled == {"0", "1", "bad", "3", "4", "5"}
