"""``dimesh dlq list``: the dead letters by cause."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from dimesh import Event, EventBusFactory
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.retry import RetryPolicy

from .conftest import Run, Terminal


async def fail(path: Path) -> None:
    """Dead-letter three orders and a payment for one reason each, and one order for another reason."""

    async def ship(event: Event) -> None:
        if event.payload == "paper":
            raise ValueError("x" * 300)
        raise LookupError(f"no product {event.payload}\nin the catalogue")

    options = SubscriptionOptions(retry=RetryPolicy(attempts=1))
    async with EventBusFactory.create("sqlite", path=str(path)) as bus:
        for topic in ("orders", "payments"):
            await bus.subscribe(topic, ship, f"shipping-{topic}", group="shipping", options=options)
        for number in range(3):
            await bus.publish("orders", Event("a.b", None, f"p-{number}"))
        await bus.publish("payments", Event("a.b", None, "p-9"))
        await bus.publish("orders", Event("a.b", None, "paper"))
        await bus.idle()


@pytest.mark.slow
def test_dead_letters_are_grouped_by_cause(dimesh: Run, terminal: Terminal, tmp_path: Path) -> None:
    asyncio.run(fail(tmp_path / "mesh.db"))
    code, lines = terminal("--bus-path", "mesh.db", "dlq", "list")
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert re.match(
        r"     4  LookupError: no product p-.*in the catalogue.* \(and 3 other messages\)$", lines[0]
    )
    assert lines[1] == "        orders, payments -> shipping"
    assert re.match(
        r"        first \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, last \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", lines[2]
    )
    assert re.match(r"     1  ValueError: x+…$", lines[3])
    assert len(lines) == 7
    listed = dimesh("--bus-path", "mesh.db", "--output", "json", "dlq", "list").json
    assert len(listed) == 5
    shown = dimesh("--bus-path", "mesh.db", "dlq", "list", "--ids").out
    assert all(entry["event_id"] in shown for entry in listed)
    assert "x" * 300 in shown  # not cut in a pipe
