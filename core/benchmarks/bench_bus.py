"""The memory bus: the cost of an event from publish to the end of its handler, with all features on.

Floor: a bare ``asyncio.Queue`` hand-off of the same events between two tasks, with an empty coroutine called for
each, in the same process and run. Costs are CPU seconds, since the machine may be busy with other work.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
import tracemalloc
from typing import Any

from dimesh import Event, EventBus, EventBusFactory, EventHandler, EventMetadata

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
EVENTS = 10_000 if SHORT else 50_000
ROUNDS = 2 if SHORT else 7
SINGLES = 1_000 if SHORT else 5_000
"""The number of events that are published one at a time to measure the latency."""
HELD = 10_000 if SHORT else 40_000
"""The number of events that are handled while the memory of the bus is measured."""
TYPES = [f"bench.type{i}" for i in range(10)]


def events(count: int) -> list[Event]:
    """Return events with 320-byte payloads, of ten types from 16 agents, all with distinct ids."""
    return [
        Event(
            TYPES[n % 10],
            EventMetadata(source_pillar="Growth Engine", source_agent=f"agent-{n % 16}"),
            {"n": n, "text": "x" * 300},
        )
        for n in range(count)
    ]


async def queue_hand_off(sample: list[Event]) -> float:
    """Return the CPU seconds per event through a queue of the bus's size."""
    queue: asyncio.Queue[Event] = asyncio.Queue(10_000)

    async def handle(event: Event) -> None:
        pass

    async def consume() -> None:
        for _ in sample:
            await handle(await queue.get())

    consumer = asyncio.create_task(consume())
    began = time.process_time()
    for event in sample:
        await queue.put(event)
    await consumer
    return (time.process_time() - began) / len(sample)


async def through_the_bus(sample: list[Event], handlers: int, many: int = 1) -> float:
    """Return the CPU seconds per event through a bus with ``handlers`` filtered groups, published ``many`` at a time."""
    bus = EventBusFactory.create("memory")
    done = 0

    async def handle(event: Event) -> None:
        nonlocal done
        done += 1

    for n in range(handlers):
        wanted = [TYPES[n]] if handlers > 1 else TYPES
        await bus.subscribe("bench", EventHandler(handle, event_types=wanted), f"group-{n}")
    began = time.process_time()
    # In rounds, so that one group with one buffer and ten with ten have the same backlog.
    for first in range(0, len(sample), 5_000):
        part = sample[first : first + 5_000]
        if many == 1:
            for event in part:
                await bus.publish("bench", event)
        else:
            for start in range(0, len(part), many):
                await bus.publish_many("bench", part[start : start + many])
        await bus.idle()
    spent = time.process_time() - began
    assert done == len(sample), (done, len(sample))
    await bus.close()
    return spent / len(sample)


async def latency(count: int = SINGLES) -> tuple[float, float]:
    """Return p50 and p99 of the seconds from publish to the handler, one event at a time."""
    bus: EventBus = EventBusFactory.create("memory")
    arrived: asyncio.Future[float] | None = None

    async def handle(event: Event) -> None:
        assert arrived is not None
        arrived.set_result(time.perf_counter())

    await bus.subscribe("bench", handle, "g")
    times = []
    for event in events(count):
        arrived = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        await bus.publish("bench", event)
        times.append(await arrived - began)
    await bus.close()
    times.sort()
    return times[count // 2], times[count * 99 // 100]


async def kept_after_handling(count: int) -> float:
    """Return the bytes that the bus still holds per handled event."""
    bus = EventBusFactory.create("memory")

    async def handle(event: Event) -> None:
        pass

    await bus.subscribe("bench", handle, "g")
    tracemalloc.start()
    await bus.publish_many("bench", events(40_000))  # fill the windows of remembered ids
    await bus.idle()
    await asyncio.sleep(bus.door.commit_interval * 2)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(0, count, 1_000):
        await bus.publish_many("bench", events(1_000))
        await bus.idle()
    await asyncio.sleep(bus.door.commit_interval * 2)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await bus.close()
    return (after - before) / count


def run() -> list[dict[str, Any]]:
    """Measure floor, one handler, ten handlers and batches in turn; return the medians of several rounds."""
    sample = events(EVENTS)
    gc.collect()
    gc.freeze()  # the sample itself is not measured
    floors, ones, tens, batches = [], [], [], []
    for _ in range(ROUNDS):
        floors.append(asyncio.run(queue_hand_off(sample)))
        ones.append(asyncio.run(through_the_bus(sample, 1)))
        tens.append(asyncio.run(through_the_bus(sample, 10)))
        batches.append(asyncio.run(through_the_bus(sample, 1, 100)))
    gc.unfreeze()
    p50, p99 = asyncio.run(latency())
    kept = asyncio.run(kept_after_handling(HELD))

    def micro(values: list[float]) -> float:
        return statistics.median(values) * 1e6

    ratio = statistics.median(f / o for f, o in zip(floors, ones, strict=True))
    spread = statistics.median(t / o for t, o in zip(tens, ones, strict=True))
    many = statistics.median(f / b for f, b in zip(floors, batches, strict=True))
    return [
        {"name": "bare asyncio.Queue hand-off", "value": micro(floors), "unit": "µs CPU/event"},
        {
            "name": "memory bus, one handler, publish one by one",
            "value": micro(ones),
            "unit": "µs CPU/event",
            "target": "≤ 4",
            "ok": micro(ones) <= 4,
        },
        {
            "name": "memory bus against the hand-off (rate)",
            "value": ratio,
            "unit": "× floor",
            "floor": micro(floors),
            "ratio": ratio,
            "target": "≥ 0.5",
            "ok": ratio >= 0.5,
        },
        {
            "name": "memory bus, publish_many of 100",
            "value": micro(batches),
            "unit": "µs CPU/event",
            "floor": micro(floors),
            "ratio": many,
        },
        {
            "name": "ten filtered handlers against one (cost)",
            "value": spread,
            "unit": "×",
            "ratio": spread,
            "target": "≤ 1.15",
            "ok": spread <= 1.15,
        },
        {"name": "memory bus, publish to handler, p50", "value": p50 * 1e6, "unit": "µs"},
        {"name": "memory bus, publish to handler, p99", "value": p99 * 1e6, "unit": "µs"},
        {
            "name": "memory bus, held after handling",
            "value": kept,
            "unit": "bytes/event",
            "target": "0 (± 5)",
            "ok": abs(kept) <= 5,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
