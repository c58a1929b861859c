"""The Pub/Sub bus against Google's own client, on Google's fake in another process; a payload is 500 bytes, and messages have
16 ordering keys on both sides. The sides take turns, and a ratio is the median of neighbours' ratios; above 1 the bus is faster.
Costs are CPU time of this process per message.

Publishing. Floor: ``PublisherClient`` with ordering, 1,000 messages and 1 MB a request, and the same attributes that the
bus writes, prepared beforehand; all futures are awaited. dimesh: ``publish_many`` in calls of 500, eight calls at once, and
``publish`` with 500 in flight.

Consuming. Floor: ``SubscriberClient.subscribe`` with a callback that counts and acknowledges, on a subscription without
order, which is faster for it. dimesh, with order: an empty handler of a group. Both from the first message to the last,
so that connecting is not counted.

Latency: one publisher that awaits each publish, one handler; from before the publish to the handler. The fake polls for
messages to deliver every 10 ms.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1

from dimesh import Event, EventBus, EventBusFactory, EventMetadata
from dimesh.spi.bus import Record
from dimesh_pubsub.messages import to_message

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from servers.pubsub.fake import pubsub_fake

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
COUNT = 1_000 if SHORT else 5_000
ROUNDS = 2 if SHORT else 7
IN_FLIGHT = 500
SINGLES = 50 if SHORT else 300
PROJECT = "bench"

Figures = tuple[float, float]
"""Messages per second, and CPU seconds per message."""


def events(count: int) -> list[Event]:
    return [
        Event(
            f"bench.type{n % 10}",
            EventMetadata(source_pillar="Growth Engine", source_agent=f"agent-{n % 16}"),
            {"n": n, "text": "x" * (500 - 16 - len(str(n)))},
        )
        for n in range(count)
    ]


class Watch:
    """A stopwatch for wall and CPU time that starts when it is created."""

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def figures(self, count: int) -> Figures:
        return count / (time.perf_counter() - self.wall), (time.process_time() - self.cpu) / count


class Floor:
    """Google's client, with the messages that the bus would write."""

    def __init__(self, sample: list[Event]) -> None:
        self.publisher = pubsub_v1.PublisherClient(
            batch_settings=pubsub_v1.types.BatchSettings(
                max_messages=1_000, max_bytes=1_000_000, max_latency=0.01
            ),
            publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
            credentials=AnonymousCredentials(),
        )
        self.messages = []
        for event in sample:
            key = event.metadata.ordering_key
            message = to_message(Record.of(event, key), key)
            self.messages.append((key, message.data, dict(message.attributes)))

    def published(self, topic: str) -> Figures:
        path = self.publisher.topic_path(PROJECT, topic)
        watch = Watch()
        waiting = [
            self.publisher.publish(path, data, key, **attributes) for key, data, attributes in self.messages
        ]
        for one in waiting:
            one.result(60)
        return watch.figures(len(waiting))

    def subscribe(self, topic: str) -> None:
        """Consume without order: with it, this client delivers only one message of a key at a time."""
        with pubsub_v1.SubscriberClient(credentials=AnonymousCredentials()) as client:
            path = client.subscription_path(PROJECT, f"raw~{topic}")
            client.create_subscription(
                request={
                    "name": path,
                    "topic": self.publisher.topic_path(PROJECT, topic),
                    "ack_deadline_seconds": 60,
                }
            )

    def consumed(self, topic: str, count: int) -> Figures:
        with pubsub_v1.SubscriberClient(credentials=AnonymousCredentials()) as client:
            done = threading.Event()
            seen = 0
            watch: Watch | None = None
            found: list[Figures] = []

            def take(message: Any) -> None:
                nonlocal seen, watch
                watch = watch or Watch()
                seen += 1
                message.ack()
                if seen == count:
                    found.append(watch.figures(count))
                    done.set()

            future = client.subscribe(client.subscription_path(PROJECT, f"raw~{topic}"), take)
            done.wait(120)
            future.cancel()
            future.result()
            return found[0]


async def awaited(bus: EventBus, topic: str, sample: list[Event]) -> Figures:
    waiting = iter(sample)

    async def one() -> None:
        for event in waiting:
            await bus.publish(topic, event)

    watch = Watch()
    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    return watch.figures(len(sample))


async def many(bus: EventBus, topic: str, sample: list[Event]) -> Figures:
    calls = iter([sample[first : first + 500] for first in range(0, len(sample), 500)])

    async def one() -> None:
        for some in calls:
            await bus.publish_many(topic, some)

    watch = Watch()
    await asyncio.gather(*(one() for _ in range(8)))
    return watch.figures(len(sample))


async def consumed(bus: EventBus, topic: str, count: int, group: str) -> Figures:
    seen = 0
    watch: Watch | None = None
    done = asyncio.get_running_loop().create_future()

    async def handle(event: Event) -> None:
        nonlocal seen, watch
        watch = watch or Watch()
        seen += 1
        if seen == count:
            done.set_result(watch.figures(count))

    name = await bus.subscribe(topic, handle, group=group)
    took: Figures = await done
    await bus.unsubscribe(name)
    return took


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


async def measure(address: str) -> list[dict[str, Any]]:
    os.environ["PUBSUB_EMULATOR_HOST"] = address
    sample = events(COUNT)
    floor = Floor(sample)
    found: dict[str, list[tuple[Figures, Figures]]] = {"awaited": [], "many": [], "consumed": []}
    async with EventBusFactory.create("pubsub", project_id=PROJECT) as bus:
        for number in range(ROUNDS + 1):
            raw, own = (f"bench.{uuid4().hex[:8]}" for _ in range(2))
            for topic in (raw, own):
                # Create the topics, which have no subscription while publishing is measured.
                await bus.publish(topic, events(1)[0])
            base = await asyncio.to_thread(floor.published, raw)
            pairs = {
                "awaited": (base, await awaited(bus, own, sample)),
                "many": (base, await many(bus, own, sample)),
            }
            for topic in (raw, own):
                await bus.door.delete_topic(topic)
            stored = f"bench.{uuid4().hex[:8]}"
            await bus.unsubscribe(await bus.subscribe(stored, lambda _: None, "own"))
            await asyncio.to_thread(floor.subscribe, stored)
            await many(bus, stored, events(COUNT))
            pairs["consumed"] = (
                await asyncio.to_thread(floor.consumed, stored, COUNT),
                await consumed(bus, stored, COUNT, "own"),
            )
            await bus.door.delete_topic(stored)
            if number:
                for name, pair in pairs.items():
                    found[name].append(pair)
        took = await latency(bus)
    floor.publisher.stop()

    def rows(name: str, title: str) -> list[dict[str, Any]]:
        pairs = found[name]
        ratio = statistics.median(own[0] / base[0] for base, own in pairs)
        return [
            {
                "name": f"pubsub bus, {title}",
                "value": statistics.median(own[0] for _, own in pairs),
                "unit": "events/s",
                "floor": statistics.median(base[0] for base, _ in pairs),
                "ratio": ratio,
                "target": "≥ 0.9 × the raw client",
                "ok": ratio >= 0.9,
            },
            {
                "name": f"pubsub bus, {title}, CPU",
                "value": statistics.median(own[1] for _, own in pairs) * 1e6,
                "unit": "µs CPU/event",
                "floor": statistics.median(base[1] for base, _ in pairs) * 1e6,
                "ratio": statistics.median(own[1] / base[1] for base, own in pairs),
            },
        ]

    return [
        *rows("awaited", f"awaited publish, {IN_FLIGHT} in flight"),
        *rows("many", "publish_many of 500"),
        *rows("consumed", "consume to handler, a group"),
        *(
            {
                "name": f"pubsub bus, publish to handler, p{share}",
                "value": took[min(len(took) * share // 100, len(took) - 1)] * 1e3,
                "unit": "ms",
            }
            for share in (50, 99)
        ),
    ]


def run() -> list[dict[str, Any]]:
    """Measure publishing, consuming and latency."""
    with pubsub_fake() as server:
        return asyncio.run(measure(server.address))


if __name__ == "__main__":
    for figure in run():
        print(figure)  # noqa: T201
