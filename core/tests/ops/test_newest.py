"""The newest records of a topic: the same ones as after reading everything."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, StartAt
from dimesh.bus.reading import PAGE
from dimesh.ops.newest import newest_records
from dimesh.ops.records import read_records
from dimesh.ops.search import FieldCondition, Search
from dimesh.ops.topics import create_topic, topic_info
from dimesh_contracts.waiting import deadline


async def filled(driver: str, tmp_path: Path, events: int, keys: int) -> EventBus:
    bus = EventBusFactory.create(
        driver, **({"path": str(tmp_path / "x.db")} if driver == "sqlite" else {"history": 5_000})
    )
    await bus.open()
    await create_topic(bus, "t", 4)
    chosen = random.Random(events)
    for start in range(0, events, 20):
        some = [Event("a.b", None, {"n": n}) for n in range(start, start + 20)]
        await bus.publish_many("t", some, key=str(chosen.randrange(keys)))
    return bus


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
@pytest.mark.parametrize("keys", [1, 30])
@pytest.mark.slow
async def test_reading_backwards_finds_what_reading_everything_finds(
    driver: str, keys: int, tmp_path: Path
) -> None:
    bus = await filled(driver, tmp_path, 1_500, keys)
    every = [d async for d in read_records(bus, "t")]
    every.sort(key=lambda d: (d.timestamp, d.partition, d.offset))
    rare = Search(conditions=(FieldCondition.parse("payload.n=3"),))
    most = Search(conditions=(FieldCondition.parse("payload.n!=3"),))
    middle = datetime.fromtimestamp(every[700].timestamp, UTC)
    for search in (Search(), rare, most):
        for since in (None, middle):
            wanted = [
                d for d in every if search.wants(d) and (since is None or d.timestamp >= since.timestamp())
            ]
            for count in (0, 1, 10, 2_000):
                found = await newest_records(bus, "t", count, search, since)
                expected = wanted[max(len(wanted) - count, 0) :]
                assert [(d.partition, d.offset) for d in found.records] == [
                    (d.partition, d.offset) for d in expected
                ]
                if since is None and len(expected) < len(wanted):
                    assert found.older
    assert not (await newest_records(bus, "t", 2_000)).older
    await bus.close()


async def test_reading_continues_without_a_gap(tmp_path: Path) -> None:
    bus = await filled("sqlite", tmp_path, 100, 30)
    found = await newest_records(bus, "t", 1)
    await bus.publish("t", Event("a.b", None, {"n": "new"}))
    assert [d.record.event.payload async for d in read_records(bus, "t", found.following)] == [{"n": "new"}]
    await bus.close()


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
async def test_partitions_without_records_are_looked_through_once(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a topic with one busy key takes a time that grows with the square of its records."""
    bus = await filled(driver, tmp_path, PAGE * 4, 1)
    starts: list[Any] = []
    read = bus.door.read

    async def spy(topic: str, start: Any, limit: int, **options: Any) -> Any:
        starts.append(start)
        return await read(topic, start, limit, **options)

    monkeypatch.setattr(bus.door, "read", spy)
    reading = read_records(bus, "t", follow=True)
    found = [(await anext(reading)).record.event.payload["n"] for _ in range(PAGE * 4)]
    assert found == list(range(PAGE * 4))
    assert starts[0] is StartAt.EARLIEST
    assert all(len(start) == 1 for start in starts[1:])
    ends = (await topic_info(bus, "t")).latest
    for key in range(8):
        await bus.publish("t", Event("a.b", None, {"n": key}), key=f"other-{key}")
    async with deadline():
        assert sorted([(await anext(reading)).record.event.payload["n"] for _ in range(8)]) == list(range(8))
    again = next(start for start in starts[1:] if len(start) > 1)
    assert again.keys() == ends.keys()
    assert all(again[partition] >= ends[partition] for partition in ends)
    await reading.aclose()
    await bus.close()
