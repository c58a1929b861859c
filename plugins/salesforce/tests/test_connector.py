"""From the sandbox to the bus: snapshot, live changes, gaps that are reported and repaired. A consumer's copy equals the org."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    CDCManager,
    Event,
    EventBus,
    EventBusFactory,
    LocalSchemaRegistry,
    SalesforceCDCConnector,
    SqliteCDCStore,
    StartAt,
)
from dimesh.errors import ConfigurationError
from dimesh_contracts.waiting import be_patient, until
from dimesh_salesforce.sandbox import SalesforceSandbox

HOUR = 3_600
UNTOLD = ("SystemModstamp", "IsDeleted", "Score__c", "LastActivityDate")
"""Fields that events leave out."""


@pytest.fixture(params=["sqlite", pytest.param("memory", marks=pytest.mark.slow)])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBus]:
    options = {"path": str(tmp_path / "mesh.db")} if request.param == "sqlite" else {"history": 100_000}
    async with EventBusFactory.create(request.param, **options) as made:
        yield made


@pytest.fixture(autouse=True)
def patience() -> None:
    be_patient(90.0)


@pytest.fixture
async def connect(
    options: dict[str, Any], bus: EventBus, tmp_path: Path
) -> AsyncIterator[Callable[..., SalesforceCDCConnector]]:
    """Return a factory of connectors with one store."""
    store = SqliteCDCStore(tmp_path / "cdc.db", last_state=True)

    def make(**more: Any) -> SalesforceCDCConnector:
        given = {"store": store, **options, **more}
        return SalesforceCDCConnector("crm", bus, "Customer Success", **given)

    yield make
    await store.close()


class Mirror:
    """A consumer's copy of the org."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.events: list[Event] = []
        self.notices: list[Event] = []
        self.schemas: list[Event] = []

    async def __call__(self, event: Event) -> None:
        kind, payload = event.event_type.value, event.payload
        if kind in ("cdc.gap", "cdc.repaired"):
            self.notices.append(event)
            return
        if kind == "cdc.schema_changed":
            self.schemas.append(event)
            return
        self.events.append(event)
        key = payload["primary_key"]["Id"]
        if kind == "cdc.delete":
            self.rows.pop(key, None)
        elif payload.get("partial"):
            self.rows[key] = {**self.rows.get(key, {}), **payload["after"]}
        else:
            self.rows[key] = payload["after"]

    def equals(self, sandbox: SalesforceSandbox, *objects: str) -> bool:
        rows = [row for name in objects or ("Account",) for row in sandbox.org.rows(name)]
        return {id: told(row) for id, row in self.rows.items()} == {r["Id"]: told(r) for r in rows}


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in UNTOLD}


@pytest.fixture
async def mirror(bus: EventBus) -> Mirror:
    made = Mirror()
    await bus.subscribe("cdc.salesforce", made, "mirror", start=StartAt.EARLIEST)
    return made


async def started(connector: SalesforceCDCConnector, *objects: str) -> CDCManager:
    manager = CDCManager(connector.event_bus)
    manager.register_connector(connector)
    await manager.start_connector("crm", objects or ("Account",))
    await until(lambda: connector.status.value == "connected" and bool(connector.offsets()))
    return manager


@pytest.mark.slow
async def test_snapshot_and_changes(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    org = sandbox.org
    org.seed("Account", 3_000)
    manager = await started(connect())
    await until(lambda: mirror.equals(sandbox))
    ids = [row["Id"] for row in org.rows("Account")[:3]]
    org.skew += 10  # a row may already contain changes made at the time when it was read
    org.update("Account", ids[0], {"Name": "Ada", "BillingCity": "Berlin"}, user="005000000000002AAA")
    org.update("Account", ids[0], {"BillingCity": None})
    org.delete("Account", ids[1])
    new = org.create("Account", {"Name": "new"})
    org.undelete("Account", ids[1])
    await until(lambda: mirror.equals(sandbox))
    changes = [e for e in mirror.events if e.payload["operation"] != "snapshot"]
    first, second = [e.payload for e in changes if e.payload["primary_key"]["Id"] == ids[0]]
    assert (first["operation"], first["own_write"], first["actor"]) == ("update", False, "005000000000002AAA")
    assert (second["before"]["BillingCity"], second["before_from"]) == ("Berlin", "cache")
    assert (second["after"]["BillingCity"], second["after"]["Name"], second["own_write"]) == (
        None,
        "Ada",
        True,
    )
    assert second["transaction"]
    assert [e.payload["operation"] for e in changes if e.payload["primary_key"]["Id"] == ids[1]] == [
        "delete",
        "undelete",
    ]
    assert [e.payload["operation"] for e in changes if e.payload["primary_key"]["Id"] == new] == ["insert"]
    assert mirror.notices == []
    await manager.stop_all()


@pytest.mark.slow
async def test_changes_during_the_snapshot(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    org, rng = sandbox.org, random.Random(1)
    org.seed("Account", 1_000)
    connector = connect(page=50)
    manager = CDCManager(connector.event_bus)
    manager.register_connector(connector)
    await manager.start_connector("crm", ["Account"])
    while connector.status.value != "connected":
        table = org.tables["Account"]
        number = rng.randint(1, table.last)
        row = table.get(number)
        if row is None:
            org.undelete("Account", table.id(number))
        elif rng.random() < 0.3:
            org.delete("Account", row["Id"])
        else:
            org.update(
                "Account", row["Id"], {"Name": f"n{rng.random()}", "NumberOfEmployees": rng.randint(1, 9)}
            )
        await settle()
    await until(lambda: mirror.equals(sandbox))
    assert mirror.notices == []
    await manager.stop_all()


async def settle() -> None:
    await asyncio.sleep(0.002)  # the number of rounds of changes


@pytest.mark.parametrize("how", ["overflow", "expired", "moved", "garbage", "silent"])
@pytest.mark.slow
async def test_a_gap_is_reported_and_repaired_with_its_deletes(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror, how: str
) -> None:
    org = sandbox.org
    ids = [org.create("Account", {"Name": f"{n}"}) for n in range(10)]
    manager = await started(connector := connect())
    await until(lambda: mirror.equals(sandbox))
    if how in ("expired", "moved"):
        await manager.stop_all()
    org.change_silently("Account", ids[0], {"Name": "changed"})
    org.delete_silently("Account", ids[1])
    if how == "overflow":
        org.overflow("Account")
    elif how == "garbage":
        org.raw("Account", b"\xff\xff")
    elif how == "silent":
        org.gap("Account", [ids[0], ids[1]], "GAP_UPDATE")
    elif how == "moved":
        org.migrate()
    else:
        org.skew += 73 * HOUR
    if how in ("expired", "moved"):
        manager = await started(connector := connect())
    later = org.create("Account", {"Name": "after"})
    await until(lambda: mirror.equals(sandbox))
    assert later in mirror.rows
    await until(lambda: len(mirror.notices) == 2)
    gap, repaired = mirror.notices
    assert (gap.event_type.value, repaired.event_type.value) == ("cdc.gap", "cdc.repaired")
    assert gap.payload["cause"] == repaired.payload["cause"]
    assert repaired.payload["deleted"] == 1
    assert connector.get_status()["objects"]["Account"]["gaps"] == 1
    await manager.stop_all()


@pytest.mark.slow
async def test_without_a_store_deletes_come_from_salesforces_log(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    ids = [sandbox.org.create("Account", {"Name": f"{n}"}) for n in range(5)]
    manager = await started(connect(store=None))
    await until(lambda: mirror.equals(sandbox))
    sandbox.org.delete_silently("Account", ids[1])
    sandbox.org.overflow("Account")
    await until(lambda: mirror.equals(sandbox))
    await manager.stop_all()


@pytest.mark.slow
async def test_a_channel_is_mirrored_as_well(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    org, channel = sandbox.org, "/data/Sales__chn"
    account = org.create("Account", {"Name": "a"})
    contact = org.create("Contact", {"LastName": "c"})
    manager = await started(connect(channels={channel: ["Account", "Contact"]}), channel)
    await until(lambda: len(mirror.rows) == 2)
    org.update("Account", account, {"Name": "b"})
    org.delete_silently("Contact", contact)
    org.raw("Contact", b"\xff")
    await until(lambda: len(mirror.notices) == 2)
    assert mirror.rows[account]["Name"] == "b"
    assert contact not in mirror.rows
    (gone,) = [e for e in mirror.events if e.payload["operation"] == "delete"]
    assert (gone.payload["object"], gone.payload["primary_key"]) == ("Contact", {"Id": contact})
    await manager.stop_all()


async def test_one_object_that_fails_does_not_stop_the_others(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    sandbox.org.forbidden.add("Lead")
    sandbox.org.create("Account", {"Name": "a"})
    connector = connect()
    manager = CDCManager(connector.event_bus)
    manager.register_connector(connector)
    await manager.start_connector("crm", ["Lead", "Account"])
    await until(lambda: mirror.equals(sandbox))
    status = connector.get_status()
    assert (status["status"], status["objects"]["Lead"]["phase"]) == ("error", "failed")
    assert "View All Records on Lead" in status["objects"]["Lead"]["last_error"]
    sandbox.org.create("Account", {"Name": "b"})
    await until(lambda: mirror.equals(sandbox))
    await manager.stop_all()


@pytest.mark.slow
async def test_everything_breaks_and_nothing_is_lost(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    """Streams break, tokens expire, requests fail and events are repeated while rows change."""
    org, rng = sandbox.org, random.Random(2)
    org.seed("Account", 200)
    connector = connect(silence=1.0, page=100)
    manager = await started(connector)
    sandbox.pubsub.faults.again = 2
    for round_ in range(300):
        table = org.tables["Account"]
        row = table.get(rng.randint(1, table.last))
        if row is None or rng.random() < 0.1:
            org.create("Account", {"Name": f"new {round_}"})
        elif rng.random() < 0.1:
            org.delete("Account", row["Id"])
        else:
            org.update("Account", row["Id"], {"Name": f"n{round_}"})
        if round_ % 40 == 10:
            sandbox.pubsub.kick()
        if round_ % 60 == 20:
            sandbox.expire_tokens()
        if round_ == 155:
            sandbox.faults.plan(kind="error", status=503, times=2)
        if round_ % 90 == 50:
            sandbox.pubsub.faults.unavailable = 1
            sandbox.pubsub.kick()
        if round_ == 150:
            org.overflow("Account")
        await settle()
    await until(lambda: mirror.equals(sandbox))
    # Each change arrived, and repeated events have the same id.
    await until(lambda: len({e.event_id for e in mirror.events if e.payload["sequence"]}) == 300)
    assert len({e.payload["sequence"] for e in mirror.events if e.payload["sequence"]}) == 300
    await until(lambda: mirror.equals(sandbox))
    await manager.stop_all()


async def test_options_of_the_connector(bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="credentials are missing"):
        SalesforceCDCConnector("crm", bus, "", "https://company.my.salesforce.com")
    with pytest.raises(ConfigurationError, match="nobody"):
        SalesforceCDCConnector("crm", bus, "", "https://x.my.salesforce.com", "token", nobody=1)


async def test_schemas_are_registered_and_changes_of_them_are_published(
    sandbox: SalesforceSandbox, connect: Callable[..., SalesforceCDCConnector], mirror: Mirror
) -> None:
    """Schemas come from the org's own description; a new field is registered before the change that has it."""
    id = sandbox.org.create("Account", {"Name": "Ada"})
    async with LocalSchemaRegistry() as registry:
        manager = await started(connect(registry=registry))
        schema = (await registry.get_schema("cdc.salesforce.Account")).schema
        assert schema["properties"]["AnnualRevenue"]["type"] == ["number", "null"]
        sandbox.org.add_field("Account", "Shoe__c")
        sandbox.org.update("Account", id, {"Shoe__c": "42"})
        await until(lambda: len(mirror.schemas) == 1)
        assert mirror.schemas[0].payload["added"] == ["Shoe__c"]
        assert mirror.schemas[0].payload["version"] == 2
        assert "Shoe__c" in (await registry.get_schema("cdc.salesforce.Account")).schema["properties"]
        await until(lambda: mirror.rows[id].get("Shoe__c") == "42")
        await manager.stop_all()
