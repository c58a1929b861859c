"""Thirty days in a few seconds: tokens expire, streams break, and positions must not expire."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCManager, EventBusFactory, SalesforceCDCConnector, SqliteCDCStore, StartAt
from dimesh_contracts.waiting import be_patient, until
from dimesh_salesforce.sandbox import SalesforceSandbox

HOUR = 3_600
UNTOLD = ("SystemModstamp", "IsDeleted", "Score__c", "LastActivityDate")
"""Fields that events leave out."""


@pytest.mark.slow
async def test_thirty_days(sandbox: SalesforceSandbox, options: dict[str, Any], tmp_path: Path) -> None:
    be_patient(30.0)
    org, rng = sandbox.org, random.Random(30)
    store = SqliteCDCStore(tmp_path / "cdc.db", last_state=True)
    rows: dict[str, Any] = {}
    kinds: list[str] = []

    async def mirror(event: Any) -> None:
        payload = event.payload
        kinds.append(event.event_type.value)
        if "operation" in payload:
            key = payload["primary_key"]["Id"]
            if payload["operation"] == "delete":
                rows.pop(key, None)
            else:
                assert not payload.get("partial")
                rows[key] = {k: v for k, v in payload["after"].items() if k not in UNTOLD}

    def equal() -> bool:
        return rows == {
            row["Id"]: {k: v for k, v in row.items() if k not in untold}
            for name, untold in (("Account", UNTOLD), ("Lead", (*UNTOLD, "Name")))
            for row in org.rows(name)
        }

    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        await bus.subscribe("cdc.salesforce", mirror, "mirror", start=StartAt.EARLIEST)
        org.seed("Account", 20)
        quiet = org.create("Lead", {"LastName": "quiet"})
        connector = SalesforceCDCConnector("crm", bus, "", store=store, **options)
        manager = CDCManager(bus)
        manager.register_connector(connector)
        await manager.start_connector("crm", ["Account", "Lead"])
        await until(equal)
        for day in range(30):
            with org.transaction():
                for _ in range(5):
                    made = org.create("Account", {"Name": f"new {day}"})
                    org.update("Account", made, {"Name": f"changed {day}", "BillingCity": f"{rng.random()}"})
            victim = rng.choice(org.rows("Account"))["Id"]
            org.delete("Account", victim)
            if day % 3 == 0:
                org.undelete("Account", victim)
            sandbox.expire_tokens()
            if day % 4 == 0:
                sandbox.pubsub.kick()
            await until(equal)
            # Keep-alive messages of a quiet day contain newer positions.
            before = connector.offsets()["Lead"].offset_value
            org.skew += 24 * HOUR
            await until(lambda before=before: connector.offsets()["Lead"].offset_value != before)
        org.update("Lead", quiet, {"LastName": "not quiet any more"})
        await until(equal)
        assert "cdc.gap" not in kinds
        await manager.stop_all()
    await store.close()
