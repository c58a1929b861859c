"""Change capture on Kafka: machines that share only the broker notice each other, and state is moved on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dimesh.mesh import Mesh
from dimesh.settings import load_settings
from dimesh_contracts.waiting import until
from servers.kafka import LEAKS, KafkaCluster

pytestmark = [pytest.mark.servers, LEAKS]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database of an application, with one order."""
    from dimesh.backends.cdc.outbox import watch

    with closing(sqlite3.connect(tmp_path / "shop.db")) as app:
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
            app.execute("INSERT INTO orders VALUES (1)")
            watch(app, "orders")
        yield app


def machine(kafka: KafkaCluster, namespace: str, folder: Path, name: str, source: str = "shop") -> Mesh:
    """Return a mesh with a state file of its own."""
    options = {"bootstrap_servers": kafka.servers(), "internal": namespace}
    outbox = {"path": str(folder / "shop.db"), "poll": 0.05}
    return Mesh(
        load_settings(
            bus={"driver": "kafka", "options": options},
            cdc={"state": str(folder / f"{name}.db")},
            mesh={"data_dir": str(folder / name)},
            sources=[
                {
                    "driver": "outbox",
                    "name": source,
                    "objects": ["orders"],
                    "options": outbox,
                    "topic": f"orders-{namespace}",
                }
            ],
        ).settings
    )


def phase(mesh: Mesh, source: str = "shop") -> str:
    return str(mesh.source_reports()[source].objects["orders"].phase)


@pytest.mark.slow
async def test_machines_that_share_only_the_broker(
    kafka: KafkaCluster, shop: sqlite3.Connection, tmp_path: Path, leaky_client: None
) -> None:
    from dimesh.ops.capture import capture_progress
    from dimesh.ops.capture_state import move_state

    namespace = f"t{uuid4().hex[:12]}"
    found: list[Any] = []
    async with AsyncExitStack() as stack:
        first = machine(kafka, namespace, tmp_path, "first")
        async with first:
            await first.start()
            await until(lambda: phase(first) == "stream")
            second = await stack.enter_async_context(machine(kafka, namespace, tmp_path, "second"))
            await second.start()
            await until(lambda: phase(second) == "standby")
            await second.bus.subscribe(f"orders-{namespace}", found.append, alone=True)
            with shop:
                shop.execute("INSERT INTO orders VALUES (2)")
            await until(lambda: len(found) == 1)
        await until(lambda: phase(second) == "stream")
        with shop:
            shop.execute("INSERT INTO orders VALUES (3)")
        await until(lambda: len(found) == 2)
        # The position is on the broker: nothing is read again.
        assert [event.payload["primary_key"]["id"] for event in found] == [2, 3]
    async with machine(kafka, namespace, tmp_path, "second", "store") as renamed:
        await move_state(renamed, "shop", "store")
        (progress,) = await capture_progress(renamed)
        assert (progress.source, progress.phase) == ("store", "stream")
