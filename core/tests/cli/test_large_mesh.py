"""A mesh of many handlers and sources."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dimesh import Event, EventBusFactory
from dimesh.backends.cdc.outbox import watch

from .processes import eventually, free_port, get, running

HANDLERS, TOPICS, SOURCES, ROWS = 100, 20, 10, 3


@pytest.mark.slow
async def test_all_of_100_handlers_and_10_sources_are_ready(tmp_path: Path) -> None:
    port = free_port()
    settings = [f"[http]\nlisten = '127.0.0.1:{port}'\n"]
    code = ["def note(name):\n    with open('handled', 'a') as file:\n        file.write(name + '\\n')\n"]
    for n in range(HANDLERS):
        settings.append(f"[[handlers]]\ntopic = 'orders.{n % TOPICS}'\ncall = 'many_handlers:handle_{n}'\n")
        code.append(f"def handle_{n}(event):\n    note('handle_{n}')\n")
    for n in range(SOURCES):
        with sqlite3.connect(tmp_path / f"shop{n}.db") as connection:
            connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
            watch(connection, "customers")
            connection.executemany("INSERT INTO customers VALUES (?)", [(row,) for row in range(ROWS)])
        connection.close()
        settings.append(
            f"[[sources]]\nname = 'shop{n}'\ndriver = 'outbox'\nobjects = ['customers']\n"
            f"options = {{ path = 'shop{n}.db' }}\n"
        )
    (tmp_path / "dimesh.toml").write_text("".join(settings))
    (tmp_path / "many_handlers.py").write_text("".join(code))
    with running(tmp_path, "run"):
        eventually(lambda: get(port, "/readyz")[0] == 200)
        metrics = get(port, "/metrics")[1]
        states = [line for line in metrics.splitlines() if line.startswith("dimesh_subscription_state{")]
        assert sum('state="running"' in line and line.endswith(" 1") for line in states) == HANDLERS
        # Ready means that nothing is missed: every handler gets the first event after it.
        async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh-data" / "mesh.db")) as bus:
            for n in range(TOPICS):
                await bus.publish(f"orders.{n}", Event("order.created", None, 1))
        names = {f"handle_{n}" for n in range(HANDLERS)}
        handled = tmp_path / "handled"
        eventually(lambda: handled.exists() and set(handled.read_text().splitlines()) == names)
        rows = {
            f'dimesh_source_rows_total{{source="shop{n}",object="customers"}} {ROWS}' for n in range(SOURCES)
        }
        eventually(lambda: rows <= set(get(port, "/metrics")[1].splitlines()))
