"""What the settings say is what the mesh does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, LineageNodeType, LineageQuery
from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.clock import SystemClock
from dimesh.errors import ConfigurationError, EventError
from dimesh.mesh import Mesh
from dimesh.plugins import PluginManager
from dimesh.plugins.discovery import Kind
from dimesh.settings import MeshSettings
from dimesh.spi import hookimpl
from dimesh.spi.bus import PartitionListener, Subscribe


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with a handler that returns an event."""
    (tmp_path / "shop_of_the_test.py").write_text(
        "from dimesh import Event\n"
        "def invoice(event):\n"
        "    return Event('invoice.created', None, event.payload * 100)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "shop_of_the_test:invoice"
    sys.modules.pop("shop_of_the_test", None)


async def test_a_handler_produces_to_the_topic_that_the_settings_name(shop: str) -> None:
    handler = {"topic": "orders", "call": shop, "produce_to": "invoices"}
    settings = MeshSettings(bus={"driver": "memory"}, handlers=[handler])
    produced: list[Any] = []
    async with asyncio.timeout(10), Mesh(settings) as mesh:
        await mesh.bus.subscribe("invoices", lambda e: produced.append(e.payload))
        await mesh.start()
        await mesh.bus.publish_many("orders", [Event("order.created", None, n) for n in range(3)])
        while len(produced) < 3:
            await asyncio.sleep(0.005)
    assert produced == [0, 100, 200]


async def test_a_handler_of_batches_cannot_produce(shop: str) -> None:
    handler = {"topic": "orders", "call": shop, "produce_to": "invoices", "batch_size": 10}
    async with Mesh(MeshSettings(bus={"driver": "memory"}, handlers=[handler])) as mesh:
        with pytest.raises(ConfigurationError, match="produce_to needs"):
            await mesh.start()


class _MeetingBackend(MemoryBackend):
    """Opens no stream before ``parties`` streams are asked for, and notes the topics in the order of the requests."""

    def __init__(self, parties: int) -> None:
        super().__init__(MemoryOptions(), SystemClock())
        self.together = asyncio.Barrier(parties)
        self.asked: list[str] = []

    @hookimpl
    def dimesh_bus_backend(self, options: object, context: object) -> MemoryBackend:
        return self

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        self.asked.append(request.topic)
        await self.together.wait()
        return await super().subscribe(request, listener)


async def _start(backend: _MeetingBackend, handlers: list[dict[str, Any]]) -> list[str]:
    plugins = PluginManager()
    plugins.register(backend, kind=Kind.BUS, name="meeting")
    settings = MeshSettings(bus={"driver": "meeting"}, handlers=handlers)
    async with asyncio.timeout(10), Mesh(settings, manager=plugins) as mesh:
        return await mesh.start()


async def test_handlers_wait_for_the_bus_at_the_same_time(shop: str) -> None:
    handlers = [{"topic": f"orders.{n}", "call": shop} for n in range(5)]
    started = await _start(_MeetingBackend(5), handlers)
    assert started == [f"handler {shop}: orders.{n} as group {shop}" for n in range(5)]


async def test_the_handlers_of_a_group_keep_their_order_where_it_matters(shop: str) -> None:
    same = [{"topic": "orders", "call": shop, "group": "same"}] * 2
    several = [
        {"topic": ["a.1", "a.2"], "call": shop, "group": "several"},
        {"topic": "a.3", "call": shop, "group": "several"},
    ]
    backend = _MeetingBackend(2)
    await _start(backend, [*same, several[0]])
    assert backend.asked[:2] == ["orders", "a.1"]
    assert sorted(backend.asked) == ["a.1", "a.2", "orders", "orders"]
    alone = _MeetingBackend(1)
    await _start(alone, several)
    assert alone.asked == ["a.1", "a.2", "a.3"]


async def test_one_handler_that_cannot_be_subscribed_does_not_hide_behind_another(shop: str) -> None:
    handlers = [
        {"topic": "orders", "call": shop},
        {"topic": "dimesh.inside", "call": shop},
        {"topic": "payments", "call": shop, "produce_to": "x", "batch_size": 2},
    ]
    with pytest.raises(EventError, match="internal topic"):
        await _start(_MeetingBackend(1), handlers)


async def test_lineage_records_handlers_of_batches_and_those_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "batches_of_the_test.py").write_text("async def many(events):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    handler = {"topic": "orders", "call": "batches_of_the_test:many", "batch_size": 10}
    settings = MeshSettings(
        mesh={"data_dir": tmp_path},
        bus={"driver": "memory"},
        lineage={"enabled": True, "driver": "memory"},
        handlers=[handler],
    )
    async with asyncio.timeout(10), Mesh(settings) as mesh:

        async def answer(event: Event) -> int:
            return event.payload * 2

        await mesh.bus.subscribe("questions", answer)
        await mesh.start()
        orders = [Event("order.created", None, n) for n in range(3)]
        await mesh.bus.publish_many("orders", orders)
        asked = Event("question.asked", None, 21)
        assert (await mesh.bus.request("questions", asked)).payload == 42
        await mesh.bus.idle()
        await mesh.lineage.flush()
        for event in [*orders, asked]:
            found = await mesh.lineage.query_lineage(
                LineageQuery(node_id=f"event:{event.event_id}", direction="both")
            )
            assert found["nodes"], event
        everything = await mesh.lineage.query_lineage(LineageQuery(node_type=LineageNodeType.EVENT))
        assert (
            len(everything["nodes"]) == 4
        )  # and not the reply, which only the requester's own listener handles
    sys.modules.pop("batches_of_the_test", None)
