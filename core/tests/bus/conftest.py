from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, EventMetadata


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def make_bus(kind: str, tmp_path: Path) -> AsyncIterator[Callable[..., EventBus]]:
    """Makes buses that share one store; all are closed at the end."""
    made: list[EventBus] = []

    def make(**options: Any) -> EventBus:
        if kind == "memory":
            options.setdefault("history", 10_000)
        else:
            options.pop("history", None)
            options.setdefault("path", str(tmp_path / "mesh.db"))
        bus = EventBusFactory.create(kind, **options)
        made.append(bus)
        return bus

    yield make
    for bus in made:
        await bus.close(timeout=1)


@pytest.fixture
async def bus(make_bus: Callable[..., EventBus]) -> EventBus:
    return make_bus()


async def eventually(true: Callable[[], Any], timeout: float = 10.0) -> None:
    """Wait until ``true()`` is; fails after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)


async def eventually_async(true: Callable[[], Awaitable[Any]], timeout: float = 10.0) -> Any:
    async with asyncio.timeout(timeout):
        while not (found := await true()):
            await asyncio.sleep(0.005)
        return found


def event(n: Any = 0, type: str = "custom", agent: str = "a", **metadata: Any) -> Event:
    metadata.setdefault("source_pillar", "Growth Engine")
    return Event(type, EventMetadata(source_agent=agent, **metadata), {"n": n})


class Recorder:
    """A handler that remembers what it got; fails as told."""

    def __init__(self, fail: Callable[[Event], BaseException | None] = lambda _: None) -> None:
        self.events: list[Event] = []
        self.attempts: list[Event] = []
        self.fail = fail

    async def __call__(self, event: Event) -> None:
        self.attempts.append(event)
        error = self.fail(event)
        if error is not None:
            raise error
        self.events.append(event)

    @property
    def numbers(self) -> list[Any]:
        return [e.payload["n"] for e in self.events]
