"""A redrive to a version of a schema is killed at random moments: no event is lost, none is sent half mended, each is handled once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from mending import bus_in, registry_in, run

from dimesh import Event, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh_contracts.waiting import be_patient, eventually

SUBJECT = "event.order.created"
OLD: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "currency": {"type": "string"}},
    "required": ["id", "currency"],
}
NEW: dict[str, Any] = {
    **OLD,
    "properties": {"id": {"type": "integer"}, "currency": {"type": "string", "default": "EUR"}},
}
GOOD = 300
BAD = 20


@pytest.mark.slow
async def test_killed_while_redriving_to_a_schema(tmp_path: Path) -> None:
    be_patient(60.0)
    rng = random.Random(5)
    folder = str(tmp_path)
    async with registry_in(folder) as registry:
        await registry.register(SUBJECT, OLD)
        async with bus_in(folder, registry) as bus:
            events = [Event("order.created", None, {"id": n}) for n in range(GOOD)]
            events += [Event("order.created", None, {"id": f"x{n}"}) for n in range(BAD)]
            rng.shuffle(events)
            receipts = await bus.publish_many("orders", events)
            assert {receipt.topic for receipt in receipts} == {"orders.dlq"}
        await registry.register(SUBJECT, NEW)

    halfway = 0
    for _ in range(40):
        process = Forked(run, folder)
        await asyncio.sleep(rng.uniform(0.1, 0.5))  # the random moment is the subject of the test
        process.kill()
        await process.wait()
        async with registry_in(folder) as registry, bus_in(folder, registry) as bus:
            left = await DeadLetters(bus).entries("orders")
        halfway += BAD < len(left) < BAD + GOOD
        if len(left) == BAD:
            break
    assert halfway, "no process was killed in the middle"

    run_to_the_end = Forked(run, folder)
    assert await run_to_the_end.wait() == 0
    async with registry_in(folder) as registry, bus_in(folder, registry) as bus:
        assert len(await DeadLetters(bus).entries("orders")) == BAD
        handled: Counter[int] = Counter()
        wrong: list[Any] = []

        def take(event: Event) -> None:
            handled[event.payload["id"]] += 1
            if event.payload["currency"] != "EUR" or event.headers["writer-schema"] != f"{SUBJECT}/2":
                wrong.append(event.payload)

        await bus.subscribe("orders", take, "shop", start=StartAt.EARLIEST)

        async def everything() -> bool:
            return len(handled) == GOOD

        await eventually(everything)
        await bus.idle()
        assert wrong == []
        assert set(handled) == set(range(GOOD))
        assert max(handled.values()) == 1, "a repeat is recognised by its id and its number of redrives"
        assert len(await DeadLetters(bus).entries("orders")) == BAD
