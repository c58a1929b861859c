"""The demo of change capture: changes in an application's SQLite database, through the outbox source."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from dimesh.demo.stage import Stage
from dimesh.events import Event


async def play(stage: Stage) -> None:
    """Write orders as an application and receive the changes: snapshot, insert, update and delete, with before and after."""
    from dimesh.backends.cdc.outbox import OutboxOptions, OutboxSource
    from dimesh.bus.factory import EventBusFactory
    from dimesh.cdc import CDCManager, SourceConnector
    from dimesh.clock import SystemClock
    from dimesh.spi.bus import StartAt

    database = stage.folder / "shop.db"
    await asyncio.to_thread(_make_shop, database)
    seen: list[tuple[str, str, str, str]] = []

    async def on_change(event: Event) -> None:
        p = event.payload
        seen.append((p["operation"], str(p["primary_key"]["id"]), _short(p["before"]), _short(p["after"])))

    async with EventBusFactory.create("sqlite", path=stage.database) as bus:
        await bus.subscribe("cdc.outbox", on_change, "order-watcher", start=StartAt.EARLIEST)
        manager = CDCManager(bus)
        source = OutboxSource(OutboxOptions(path=str(database), poll=0.02), SystemClock())
        manager.register_connector(SourceConnector("shop", source, bus, "Resource & Supply"))
        await manager.start_connector("shop", ["orders"])
        await _until(lambda: len(seen) == 2)
        stage.step("the two existing orders arrived as a snapshot", [s[0] for s in seen] == ["snapshot"] * 2)
        await asyncio.to_thread(_work, database)
        await _until(lambda: len(seen) == 5)
        stage.step(
            "then an insert, an update and a delete arrived, from one transaction of the application",
            sorted(s[0] for s in seen[2:]) == ["delete", "insert", "update"],
            "the order is kept for each row, not between rows",
        )
        stage.table(("operation", "order", "before", "after"), seen)
        status = manager.get_status()["shop"]
        stage.step(
            "the position is stored with the changes, in one transaction",
            status["error_count"] == 0,
            f"status {status['status']}, errors {status['error_count']}",
        )
        await manager.stop_all()
    stage.try_next(f"dimesh --bus-path {stage.database} tail cdc.outbox", "the change feed")


def _make_shop(path: Path) -> None:
    from dimesh.backends.cdc.outbox import watch

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT, quantity INTEGER)")
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(1, "lamp", 2), (2, "desk", 1)])
        watch(connection, "orders")


def _work(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO orders VALUES (3, 'chair', 4)")
        connection.execute("UPDATE orders SET quantity = 3 WHERE id = 1")
        connection.execute("DELETE FROM orders WHERE id = 2")


def _short(row: dict[str, object] | None) -> str:
    return "–" if row is None else f"{row['quantity']} × {row['product']}"


async def _until(true: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until a condition is true or the time is over; the next step shows which."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not true() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a demo may poll
        await asyncio.sleep(0.01)
