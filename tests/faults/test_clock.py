"""A clock that is set back or forward: order, positions and leases do not depend on it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, StartAt
from dimesh.clock import SystemClock


class Adjusted(SystemClock):
    """A system clock that is set during the test."""

    offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset


@pytest.fixture
def clock() -> Adjusted:
    return Adjusted()


def make(path: Path, clock: Adjusted) -> EventBus:
    return EventBusFactory.create("sqlite", path=str(path), clock=clock)


async def numbers(bus: EventBus, start: Any = StartAt.EARLIEST) -> list[int]:
    return [d.record.event.payload for d in await bus.door.read("t", start, 1_000)]


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
async def test_order_and_start_by_time_hold(tmp_path: Path, clock: Adjusted, hours: int) -> None:
    async with make(tmp_path / "mesh.db", clock) as bus:
        for n in range(10):
            if n == 5:
                clock.offset = hours * 3_600
            await bus.publish("t", Event("x.y", None, n), key="k")
        assert await numbers(bus) == list(range(10))
        page = await bus.door.read("t", StartAt.EARLIEST, 100)
        times = [d.timestamp for d in page]
        assert times == sorted(times), "time went back within the log"
        # A start by time never skips an event published after it, whatever the clock showed.
        moment = datetime.fromtimestamp(times[5] - 0.001, UTC)
        assert set(await numbers(bus, moment)) >= {5, 6, 7, 8, 9}
    async with make(tmp_path / "mesh.db", clock) as again:
        await again.publish("t", Event("x.y", None, 10), key="k")
        assert await numbers(again) == list(range(11))


@pytest.mark.parametrize("hours", [-30, 30])
@pytest.mark.slow
async def test_live_members_do_not_count_as_dead(tmp_path: Path, clock: Adjusted, hours: int) -> None:
    """Leases use the monotonic clock, which cannot be set."""
    other = Adjusted()
    async with make(tmp_path / "mesh.db", clock) as one, make(tmp_path / "mesh.db", other) as two:
        handled: list[int] = []
        for bus, name in ((one, "one"), (two, "two")):
            await bus.subscribe("t", lambda e: handled.append(e.payload), name, group="g")

        async def owners() -> set[str | None]:
            return {g.member for g in await two.door.groups() if g.topic == "t"}

        async with asyncio.timeout(20):
            while await owners() != {"one", "two"}:
                await asyncio.sleep(0.01)
        clock.offset = hours * 3_600
        for n in range(40):
            await one.publish("t", Event("x.y", None, n), key=f"k{n}")
        async with asyncio.timeout(20):
            while len(handled) < 40:
                await asyncio.sleep(0.01)
        assert await owners() == {"one", "two"}
        assert sorted(handled) == list(range(40))


async def test_delayed_events_follow_the_wall_clock(tmp_path: Path, clock: Adjusted) -> None:
    """An event that is due at nine is delivered at nine of the wall clock; if the clock is set forward, at once."""
    async with make(tmp_path / "mesh.db", clock) as bus:
        handled: list[int] = []
        await bus.subscribe("t", lambda e: handled.append(e.payload), "g")
        await bus.publish("t", Event("x.y", None, 1), delay=3_600)
        await bus.publish("t", Event("x.y", None, 2))
        await bus.idle()
        assert handled == [2]
        clock.offset = 7_200
        async with asyncio.timeout(20):
            while len(handled) < 2:
                await asyncio.sleep(0.01)
        assert handled == [2, 1]
