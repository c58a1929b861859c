"""Forty days in a few seconds: positions stay valid while a stream runs, also for an object without changes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCManager, EventBusFactory, SqliteCDCStore, StartAt, StripeCDCConnector
from dimesh.clock import SystemClock
from dimesh_contracts.waiting import be_patient, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

HOUR = 3_600


class FastClock(SystemClock):
    """The machine's clock, ahead by some time."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.time: Callable[[], float] = lambda: time.time() + self.ahead  # type: ignore[misc,assignment]


@pytest.mark.slow
async def test_forty_days(tmp_path: Path) -> None:
    be_patient(30.0)
    clock, rng = FastClock(), random.Random(40)
    store = SqliteCDCStore(tmp_path / "cdc.db", last_state=True)
    rows: dict[str, Any] = {}
    seen: list[str] = []

    async def mirror(event: Any) -> None:
        payload = event.payload
        seen.append(event.event_type.value)
        if "operation" in payload:
            key = payload["primary_key"]["id"]
            if payload["operation"] == "delete":
                rows.pop(key, None)
            else:
                rows[key] = payload["after"]["name"]

    async with (
        StripeSandbox() as sandbox,
        EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus,
    ):
        account = sandbox.account
        ids = [account.create("customer", {"name": f"c{n}"})["id"] for n in range(20)]
        quiet = account.create("coupon", {"name": "quiet"})["id"]
        await bus.subscribe("cdc.stripe", mirror, "mirror", start=StartAt.EARLIEST)
        connector = StripeCDCConnector(
            "billing",
            bus,
            "",
            KEY,
            url=sandbox.url,
            poll=0.01,
            reread=0.02,
            rate=1_000,
            store=store,
            clock=clock,
        )
        manager = CDCManager(bus)
        manager.register_connector(connector)
        await manager.start_connector("billing", ["customer", "coupon"])

        def equal() -> bool:
            return rows == {
                **{row["id"]: row["name"] for row in account.rows("customer")},
                **{row["id"]: row["name"] for row in account.rows("coupon")},
            }

        await until(equal)
        for day in range(40):
            for _ in range(5):
                ids.append(account.create("customer", {"name": f"new {day}"})["id"])
                account.update("customer", rng.choice(ids), {"name": f"changed {day} {rng.random()}"})
                account.delete("customer", ids.pop(rng.randrange(len(ids))))
            await until(equal)
            for _ in range(4):  # in steps, since the source checks every few seconds
                clock.ahead += 6 * HOUR
                account.skew += 6 * HOUR
        assert "cdc.gap" not in seen
        account.update("coupon", quiet, {"name": "not quiet any more"})
        await until(equal)
        assert "cdc.gap" not in seen
        await manager.stop_all()
    await store.close()
