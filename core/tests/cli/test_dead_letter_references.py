"""Dead letters that refer to their event, on the command line. What is too large for a broker is written here by the engine's
own functions, since sqlite takes everything.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dimesh import Event, EventBus, EventBusFactory, EventMetadata
from dimesh.bus.deadletter import Failure, Form, dead_letter
from dimesh.bus.door import Operation
from dimesh.cli.exit_codes import ExitCode
from dimesh.spi.bus import Record, StartAt, TopicConfig

from .conftest import Run


async def write(path: Path, *, keep: bool) -> str:
    bus: EventBus
    async with EventBusFactory.create("sqlite", path=str(path), partitions=1) as bus:
        metadata = EventMetadata(source_pillar="P", source_agent="a", tags={"tenant": "acme"})
        await bus.publish("orders", Event("order.created", metadata, {"order": 7}, headers={"x-shop": "s"}))
        (delivery,) = await bus.door.read("orders", StartAt.EARLIEST, 1)
        failure = Failure(ValueError("no stock"), 3, 1.0, 2.0, "orders", "shipping", "shop:ship")
        letter = dead_letter(delivery, failure, Form.BARE_REFERENCE)
        await bus.door.append("orders.dlq", (Record.of(letter, "k"),), operation=Operation.DEAD_LETTER)
        if not keep:
            await bus.door.delete_topic("orders")
            await bus.door.create_topic("orders", TopicConfig(partitions=1))
        return letter.event_id


@pytest.mark.slow
def test_a_reference_is_shown_and_redriven_as_the_event(dimesh: Run, tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    event_id = asyncio.run(write(path, keep=True))
    mesh = ("--bus-path", str(path), "--output", "json")
    (listed,) = dimesh(*mesh, "dlq", "list", "orders").json
    assert (listed["form"], listed["reason"]) == ("bare-reference", "ValueError: no stock")
    (shown,) = dimesh(*mesh, "dlq", "show", "orders", event_id).lines
    assert shown["event"]["payload"] == {"order": 7}
    assert shown["event"]["headers"] == {"x-shop": "s"}
    assert len(dimesh(*mesh, "dlq", "redrive", "orders").json["done"]) == 1
    first, again = dimesh(*mesh, "tail", "orders").lines
    assert again["payload"] == first["payload"]
    assert again["metadata"] == first["metadata"]


@pytest.mark.slow
def test_a_reference_to_an_event_that_is_gone_says_so(dimesh: Run, tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    event_id = asyncio.run(write(path, keep=False))
    mesh = ("--bus-path", str(path))
    shown = dimesh(*mesh, "dlq", "show", "orders", event_id).out
    assert "bare-reference" in shown
    assert '"offset": ' in shown  # where the event was
    skipped = dimesh(*mesh, "dlq", "redrive", "orders", code=ExitCode.PARTIAL)
    assert "redriven: 0, skipped: 1" in skipped.out
    assert "which is no longer there (orders, partition 0, offset" in skipped.err
    assert "discard the entry" in skipped.err
