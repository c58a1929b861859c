"""The Kafka bus against the raw client, on one real broker in another process. Costs are CPU time of this
process per message, with payloads of 500 bytes. The sides take turns, and a ratio is the median of neighbours' ratios.

Publishing. Floor: ``AIOKafkaProducer`` with acks=all, idempotence and batches of 128 KiB, and the same headers that the
bus writes, prepared beforehand: ``send_and_wait`` with 500 in flight against ``publish`` with 500 in flight; ``send`` and one
wait at the end against ``publish_many`` in calls of 500.

Consuming. Floor: ``getmany`` on the same topic, counting. dimesh: an empty handler that receives every event, without a
group (no commits) and with one (with commits), from the first handled event to the last, so that connecting and joining
are not counted on either side. The cost of commits is the difference in CPU time between a group that commits and one
whose commit interval is longer than the run.

FastStream: a subscriber with an empty handler, commit after each message (its ``ack_policy`` that confirms), against a
group of dimesh with its usual commits. If FastStream is not installed, it is skipped and reported as such.

Latency: one publisher that awaits each publish, one handler; from before the publish to the handler.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from dimesh import Event, EventBus, EventBusFactory, EventMetadata, StartAt
from dimesh.spi.bus import Record, TopicConfig
from dimesh_kafka.messages import to_headers

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from servers.kafka import kafka_cluster

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
COUNT = 2_000 if SHORT else 10_000
ROUNDS = 2 if SHORT else 7
IN_FLIGHT = 500
SINGLES = 200 if SHORT else 1_000
CONFIRMED = 300 if SHORT else 1_500
"""The number of messages for FastStream, which is slower."""


def events(count: int) -> list[Event]:
    return [
        Event(
            f"bench.type{n % 10}",
            EventMetadata(source_pillar="Growth Engine", source_agent=f"agent-{n % 16}"),
            {"n": n, "text": "x" * (500 - 16 - len(str(n)))},
        )
        for n in range(count)
    ]


class Floor:
    """The raw client, with the messages that the bus would write."""

    def __init__(self, servers: str, sample: list[Event]) -> None:
        self.servers = servers
        self.messages = [
            (e.metadata.ordering_key.encode(), e.data, to_headers(Record.of(e, e.metadata.ordering_key)))
            for e in sample
        ]

    async def open(self) -> None:
        self.producer = AIOKafkaProducer(
            bootstrap_servers=self.servers, acks="all", enable_idempotence=True, max_batch_size=131_072
        )
        await self.producer.start()

    async def awaited(self, topic: str) -> float:
        waiting = iter(self.messages)

        async def one() -> None:
            for key, value, headers in waiting:
                await self.producer.send_and_wait(topic, value, key, headers=headers)

        cpu = time.process_time()
        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        return (time.process_time() - cpu) / len(self.messages)

    async def many(self, topic: str) -> float:
        cpu = time.process_time()
        sent = [await self.producer.send(topic, v, k, headers=h) for k, v, h in self.messages]
        await asyncio.gather(*sent)
        return (time.process_time() - cpu) / len(self.messages)

    async def consumed(self, topic: str, count: int) -> float:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=self.servers, auto_offset_reset="earliest")
        await consumer.start()
        first = await consumer.getmany(timeout_ms=5_000, max_records=500)
        seen = handed = sum(map(len, first.values()))
        cpu = time.process_time()
        while seen < count:
            for messages in (await consumer.getmany(timeout_ms=500, max_records=500)).values():
                seen += len(messages)
        cpu = time.process_time() - cpu
        await consumer.stop()
        return cpu / (count - handed)


async def awaited(bus: EventBus, topic: str, sample: list[Event]) -> float:
    waiting = iter(sample)

    async def one() -> None:
        for event in waiting:
            await bus.publish(topic, event)

    cpu = time.process_time()
    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    return (time.process_time() - cpu) / len(sample)


async def many(bus: EventBus, topic: str, sample: list[Event]) -> float:
    cpu = time.process_time()
    for first in range(0, len(sample), 500):
        await bus.publish_many(topic, sample[first : first + 500])
    return (time.process_time() - cpu) / len(sample)


async def consumed(bus: EventBus, topic: str, count: int, group: str | None) -> float:
    seen = 0
    cpu = 0.0
    done = asyncio.get_running_loop().create_future()

    async def handle(event: Event) -> None:
        nonlocal seen, cpu
        seen += 1
        if seen == 1:
            cpu = time.process_time()
        elif seen == count:
            done.set_result(time.process_time() - cpu)

    name = await bus.subscribe(topic, handle, group=group, start=StartAt.EARLIEST)
    took: float = await done
    await bus.unsubscribe(name)
    return took / (count - 1)


async def confirmed(bus: EventBus, servers: str) -> tuple[float, float] | None:
    """Return the CPU time per message of FastStream and of dimesh, both confirming."""
    try:
        from faststream import AckPolicy
        from faststream.kafka import KafkaBroker
    except ImportError:
        return None
    topic = f"bench.{uuid4().hex[:8]}"
    await bus.door.create_topic(topic, TopicConfig(partitions=1))
    await bus.publish_many(topic, events(CONFIRMED))
    broker = KafkaBroker(servers, logger=None)
    seen = 0
    done = asyncio.get_running_loop().create_future()

    @broker.subscriber(topic, group_id=uuid4().hex, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK)
    async def handle(message: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == CONFIRMED:
            done.set_result(None)

    cpu = time.process_time()
    await broker.start()
    await done
    theirs = (time.process_time() - cpu) / CONFIRMED
    await broker.stop()
    return theirs, await consumed(bus, topic, CONFIRMED, f"g-{uuid4().hex[:8]}")


async def latency(bus: EventBus) -> list[float]:
    topic = f"bench.{uuid4().hex[:8]}"
    took: list[float] = []
    arrived = asyncio.Event()
    began = 0.0

    async def handle(event: Event) -> None:
        took.append(time.perf_counter() - began)
        arrived.set()

    await bus.subscribe(topic, handle)
    for event in events(SINGLES):
        arrived.clear()
        began = time.perf_counter()
        await bus.publish(topic, event)
        await arrived.wait()
    return sorted(took)


async def measure(servers: str) -> list[dict[str, Any]]:
    sample = events(COUNT)
    floor = Floor(servers, sample)
    gc.freeze()  # the messages themselves are not measured
    found: dict[str, list[tuple[float, float]]] = {
        "awaited": [],
        "many": [],
        "alone": [],
        "group": [],
        "silent": [],
    }
    async with EventBusFactory.create("kafka", bootstrap_servers=servers) as bus:
        await floor.open()
        for number in range(ROUNDS + 1):
            topics = [f"bench.{uuid4().hex[:8]}" for _ in range(3)]
            for topic in topics:
                await bus.door.create_topic(topic, TopicConfig(partitions=4))
            raw, own, stored = topics
            pairs = {
                "awaited": (await floor.awaited(raw), await awaited(bus, own, sample)),
                "many": (await floor.many(raw), await many(bus, own, sample)),
            }
            for _ in range(2):
                await many(
                    bus, stored, events(COUNT)
                )  # new ids: a repeat would be dropped before the handler
            base = await floor.consumed(stored, 2 * COUNT)
            pairs["alone"] = (base, await consumed(bus, stored, 2 * COUNT, None))
            pairs["group"] = (base, await consumed(bus, stored, 2 * COUNT, f"g-{number}"))
            backend = bus.door._backend
            usual = backend.commit_interval, backend.commit_every
            backend.commit_interval, backend.commit_every = 3_600.0, 0
            pairs["silent"] = (pairs["group"][1], await consumed(bus, stored, 2 * COUNT, f"s-{number}"))
            backend.commit_interval, backend.commit_every = usual
            if number:
                for name, pair in pairs.items():
                    found[name].append(pair)
            for topic in topics:
                await bus.door.delete_topic(topic)
        rival = await confirmed(bus, servers)
        took = await latency(bus)
        await floor.producer.stop()

    def row(name: str, title: str, most: float) -> dict[str, Any]:
        pairs = found[name]
        ratio = statistics.median(own / base for base, own in pairs)
        return {
            "name": title,
            "value": statistics.median(own for _, own in pairs) * 1e6,
            "unit": "µs CPU/event",
            "floor": statistics.median(base for base, _ in pairs) * 1e6,
            "ratio": ratio,
            "target": f"≤ {most} × floor",
            "ok": ratio <= most,
        }

    commits = statistics.median((usual - silent) / usual for usual, silent in found["silent"])
    rows = [
        row("awaited", f"kafka bus, awaited publish, {IN_FLIGHT} in flight", 0.9),
        row("many", "kafka bus, publish_many of 500", 0.8),
        row("alone", "kafka bus, consume to handler, a lone reader", 1.5),
        row("group", "kafka bus, consume to handler, a group", 1.5),
        {
            "name": "kafka bus, commits (a group that commits against one that does not)",
            "value": commits * 100,
            "unit": "% of CPU",
            "target": "≤ 5 %",
            "ok": commits <= 0.05,
        },
    ]
    if rival is not None:
        theirs, ours = rival
        rows.append(
            {
                "name": "FastStream against the kafka bus, both confirming",
                "value": theirs * 1e6,
                "unit": "µs CPU/event",
                "floor": ours * 1e6,
                "ratio": theirs / ours,
                "target": "≥ 10 × ours",
                "ok": theirs / ours >= 10,
            }
        )
    rows += [
        {
            "name": f"kafka bus, publish to handler, p{share}",
            "value": took[min(len(took) * share // 100, len(took) - 1)] * 1e3,
            "unit": "ms",
        }
        for share in (50, 99)
    ]
    return rows


def run() -> list[dict[str, Any]]:
    """Measure publishing, consuming, committing, FastStream and latency."""
    with kafka_cluster() as cluster:
        return asyncio.run(measure(cluster.servers()))


if __name__ == "__main__":
    for figure in run():
        print(figure)  # noqa: T201
