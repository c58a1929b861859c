"""What the settings say is what the mesh does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event
from dimesh.errors import ConfigurationError
from dimesh.mesh import Mesh
from dimesh.settings import MeshSettings


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
