"""The sqlite bus: appends and replays against SQLite itself, with the same rows on the same disk.

Appends. Floor: one connection in one thread, WAL and ``synchronous=FULL`` as the bus has them, the same table, and the
same rows in the same batches, one transaction for each batch by ``executemany``. The rows are prepared, with encoded
headers and checksums, so the floor is SQLite, the disk and a loop. dimesh: ``publish`` (batches of 1) and
``publish_many`` on the public bus, each awaited before the next, with all their work: checks, headers, checksums,
positions, receipts. Payloads of 500 bytes. Wall clock, since waiting for the disk counts; the slices of both alternate,
and the result is the median of the ratios of neighbours, so that a busy machine affects both alike.
The ratio depends on the disk: next to a flush of 0.1 ms, two changes of thread count. So the time of a call over the
floor is shown as well, in µs.

Concurrency: 64 tasks that publish one event at a time, against one such task.

Idle: the processor time of subscriptions to which nothing happens.

Replay: from ``subscribe(start=earliest)`` until an empty handler has received every stored event. It has a target and no floor.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from dimesh import Event, EventBus, EventBusFactory, EventMetadata
from dimesh.events.codec import encode_header
from dimesh.spi.bus import StartAt

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROUNDS = 3 if SHORT else 15
SLICES = {1: 60, 10: 400, 100: 2_000, 1000: 6_000} if SHORT else {1: 300, 10: 2_000, 100: 8_000, 1000: 16_000}
"""The number of events in a slice, by the size of its batches."""
PUBLISHERS = 64
SINGLES = 60 if SHORT else 300
"""The number of events of the single publisher, and of each of the 64."""
IDLE = 200 if SHORT else 1_000
STORED = 20_000 if SHORT else 200_000
REPLAYS = 1 if SHORT else 5
TOPIC = "bench"
INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

Row = tuple[int, float, int, str, str, str, str, bytes, bytes, int]


class Cost(NamedTuple):
    """The cost of an event, in seconds."""

    wall: float
    cpu: float


def events(count: int) -> list[Event]:
    """Return events with 500-byte payloads, of ten types from 16 agents, all with distinct ids."""
    made = [
        Event(
            f"bench.type{n % 10}",
            EventMetadata(source_pillar="Growth Engine", source_agent=f"agent-{n % 16}"),
            {"n": n, "text": "x" * (500 - 16 - len(str(n)))},
        )
        for n in range(count)
    ]
    assert all(len(event.data) == 500 for event in made), len(made[0].data)
    return made


class Bare:
    """The floor: a database with the bus's table, without any code of dimesh."""

    def __init__(self, path: Path, sample: list[Event]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(
            "PRAGMA cache_size=-16000"
        )  # as on the bus; the checkpoint comes at 4 MB, SQLite's default
        self._connection.execute(
            "CREATE TABLE records (id INTEGER PRIMARY KEY, time REAL NOT NULL, slot INTEGER NOT NULL,"
            " key TEXT NOT NULL, type TEXT NOT NULL, pillar TEXT NOT NULL, priority TEXT NOT NULL,"
            " header BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL)"
        )
        self._contents = [_content(event) for event in sample]
        self._next = 1 << 40

    def slice(self, batch: int) -> Cost:
        """Append the whole sample, ``batch`` rows in a transaction."""
        execute, executemany = self._connection.execute, self._connection.executemany
        now = time.time()
        rows: list[Row] = [(at, now, *content) for at, content in enumerate(self._contents, self._next)]
        self._next += len(rows)
        batches = [rows[first : first + batch] for first in range(0, len(rows), batch)]
        wall, cpu = time.perf_counter(), time.process_time()
        for some in batches:
            execute("BEGIN IMMEDIATE")
            executemany(INSERT, some)
            execute("COMMIT")
        return Cost((time.perf_counter() - wall) / len(rows), (time.process_time() - cpu) / len(rows))

    def close(self) -> None:
        self._connection.close()


def _content(event: Event) -> tuple[int, str, str, str, str, bytes, bytes, int]:
    metadata = event.metadata
    header = encode_header(event)
    key = f"{metadata.source_pillar}:{metadata.source_agent}"
    return (
        crc32(key.encode()) & 0xFFFF,
        key,
        str(event.event_type),
        metadata.source_pillar,
        metadata.priority.value,
        header,
        event.data,
        crc32(event.data, crc32(header)),
    )


async def published(bus: EventBus, sample: list[Event], batch: int) -> Cost:
    """Publish the whole sample, ``batch`` events in a call, each call awaited."""
    batches = [sample[first : first + batch] for first in range(0, len(sample), batch)]
    wall, cpu = time.perf_counter(), time.process_time()
    if batch == 1:
        for event in sample:
            await bus.publish(TOPIC, event)
    else:
        for some in batches:
            await bus.publish_many(TOPIC, some)
    return Cost((time.perf_counter() - wall) / len(sample), (time.process_time() - cpu) / len(sample))


async def appends(folder: Path, batch: int) -> tuple[list[Cost], list[Cost]]:
    """Measure slices of the floor and of the bus in turn; the first of each is not counted."""
    sample = events(SLICES[batch])
    bare = Bare(folder / f"bare-{batch}.db", sample)
    floors: list[Cost] = []
    ours: list[Cost] = []
    gc.collect()
    gc.freeze()  # neither the events nor the floor's rows are measured
    async with EventBusFactory.create("sqlite", path=str(folder / f"ours-{batch}.db")) as bus:
        for number in range(ROUNDS + 1):
            floor = bare.slice(batch)
            own = await published(bus, sample, batch)
            if number:
                floors.append(floor)
                ours.append(own)
    gc.unfreeze()
    bare.close()
    return floors, ours


async def concurrent(folder: Path) -> tuple[list[Cost], list[Cost]]:
    """Measure one publisher of single events and 64 at once, in turn."""
    sample = events(SINGLES)
    alone: list[Cost] = []
    together: list[Cost] = []
    async with EventBusFactory.create("sqlite", path=str(folder / "concurrent.db")) as bus:
        for number in range(ROUNDS // 2 + 2):
            one = await published(bus, sample, 1)
            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(published(bus, sample, 1) for _ in range(PUBLISHERS)))
            count = len(sample) * PUBLISHERS
            many = Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
            if number:
                alone.append(one)
                together.append(many)
    return alone, together


async def replays(folder: Path, count: int) -> tuple[list[Cost], list[Cost]]:
    """Measure from subscribing at the earliest event to the last handled event, for new groups and for readers without one."""
    async with EventBusFactory.create("sqlite", path=str(folder / "replay.db")) as bus:
        sample = events(10_000)
        for _ in range(0, count, len(sample)):
            # New ids each time: a repeat would be dropped before the handler.
            await bus.publish_many(TOPIC, [_renewed(event) for event in sample])
        grouped = [await _replay(bus, count, f"group-{n}") for n in range(REPLAYS)]
        alone = [await _replay(bus, count, None) for _ in range(REPLAYS)]
    return grouped, alone


def _renewed(event: Event) -> Event:
    metadata = event.metadata
    return Event(
        event.event_type,
        EventMetadata(source_pillar=metadata.source_pillar, source_agent=metadata.source_agent),
        event.payload,
    )


async def _replay(bus: EventBus, count: int, group: str | None) -> Cost:
    handled = 0

    async def handle(event: Event) -> None:
        nonlocal handled
        handled += 1

    wall, cpu = time.perf_counter(), time.process_time()
    subscription = await bus.subscribe(TOPIC, handle, group=group, start=StartAt.EARLIEST)
    await bus.idle()
    cost = Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
    assert handled == count, (handled, count)
    await bus.unsubscribe(subscription)
    return cost


async def idle(folder: Path) -> float:
    """Measure the share of a core that idle subscriptions cost, each a group on a topic of its own."""

    async def handle(event: Event) -> None: ...

    async with EventBusFactory.create("sqlite", path=str(folder / "idle.db")) as bus:
        for number in range(IDLE):
            await bus.subscribe(f"idle.{number}", handle, f"idle-{number}")
        await asyncio.sleep(1.0)  # until the file's changes have been noticed
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(3.0 if SHORT else 15.0)
        return (time.process_time() - cpu) / (time.perf_counter() - wall)


def _middle(costs: list[Cost], part: Callable[[Cost], float] = lambda cost: cost.wall) -> float:
    return statistics.median(part(cost) for cost in costs)


def _cpu(name: str, costs: list[Cost], floors: list[Cost] | None = None) -> dict[str, Any]:
    value = _middle(costs, lambda cost: cost.cpu) * 1e6
    row = {"name": name, "value": value, "unit": "µs CPU/event"}
    if floors is not None:
        floor = _middle(floors, lambda cost: cost.cpu) * 1e6
        row |= {"floor": floor, "ratio": value / floor}
    return row


def run() -> list[dict[str, Any]]:
    """Measure appends by batch size, 64 publishers against one, and replay."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        folder = Path(name)
        for batch in SLICES:
            floors, ours = asyncio.run(appends(folder, batch))
            ratio = statistics.median(f.wall / o.wall for f, o in zip(floors, ours, strict=True))
            rows += [
                {
                    "name": f"sqlite bus, append, batches of {batch}",
                    "value": 1 / _middle(ours),
                    "unit": "events/s",
                    "floor": 1 / _middle(floors),
                    "ratio": ratio,
                    "target": "≥ 0.8 × floor",
                    "ok": ratio >= 0.8,
                },
                _cpu(f"sqlite bus, append, batches of {batch}, CPU", ours, floors),
                {
                    "name": f"sqlite bus, append, batches of {batch}, over the floor",
                    "value": statistics.median(o.wall - f.wall for f, o in zip(floors, ours, strict=True))
                    * batch
                    * 1e6,
                    "unit": "µs/call",
                },
            ]
        alone, together = asyncio.run(concurrent(folder))
        gain = statistics.median(a.wall / t.wall for a, t in zip(alone, together, strict=True))
        rows += [
            {
                "name": f"sqlite bus, {PUBLISHERS} publishers of single events against one",
                "value": 1 / _middle(together),
                "unit": "events/s",
                "floor": 1 / _middle(alone),
                "ratio": gain,
                "target": "≥ 10 × one",
                "ok": gain >= 10,
            },
            _cpu(f"sqlite bus, {PUBLISHERS} publishers, CPU", together, alone),
        ]
        share = asyncio.run(idle(folder)) * 100
        rows.append(
            {
                "name": f"sqlite bus, {IDLE:,} idle subscriptions",
                "value": share,
                "unit": "% of a core",
                "target": "≤ 3",
                "ok": share <= 3,
            }
        )
        grouped, lone = asyncio.run(replays(folder, STORED))
        for kind, costs in (("a new group", grouped), ("a lone reader", lone)):
            rate = 1 / _middle(costs)
            rows += [
                {
                    "name": f"sqlite bus, replay of {STORED:,} events, {kind}",
                    "value": rate,
                    "unit": "events/s",
                    "target": "≥ 100,000",
                    "ok": rate >= 100_000,
                },
                _cpu(f"sqlite bus, replay, {kind}, CPU", costs),
            ]
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
