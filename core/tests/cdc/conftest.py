from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCConnector, Event, EventBus, EventBusFactory, StartAt


@pytest.fixture(params=["memory", "sqlite"])
async def any_bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBus]:
    options = {"history": 10_000} if request.param == "memory" else {"path": str(tmp_path / "mesh.db")}
    async with EventBusFactory.create(request.param, **options) as made:
        yield made


async def published(bus: EventBus, count: int, topic: str = "cdc.crm", *types: str) -> list[Event]:
    """Wait until a topic has that many events (of these types) and return them."""
    async with asyncio.timeout(10):
        while True:
            try:
                page = [d.record.event for d in await bus.door.read(topic, StartAt.EARLIEST, 10_000)]
            except LookupError:
                page = []
            found = [e for e in page if not types or e.event_type.value in types]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)


async def eventually(true: Callable[[], Any], timeout: float = 10.0) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)


async def streaming(connector: CDCConnector, *objects: str) -> None:
    """Wait until the snapshots are over."""
    wanted = objects or ("contact",)
    await eventually(
        lambda: {connector.get_status()["objects"][name]["phase"] for name in wanted} == {"stream"}
    )


@pytest.fixture
def few_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connector store reports for other processes every few minutes only: days of a simulation have many seconds."""
    monkeypatch.setattr("dimesh.cdc.store_link.STORE_INTERVAL", 300.0)
