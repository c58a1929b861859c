"""Rows that change with others: merges, deletes of parents, conversions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.spi.cdc import Gap, Operation
from dimesh_contracts.waiting import until
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource

from .test_stream import Tape

NewSource = Callable[..., SalesforceSource]


class Mirror:
    """The rows that consumers have, and everything else that was published."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.deletes: list[str] = []
        self.causes: list[str] = []

    async def __call__(self, event: Any) -> None:
        payload = event.payload
        if "operation" not in payload:
            if event.event_type.value == "cdc.gap":
                self.causes.append(payload["cause"])
            return
        id = payload["primary_key"]["Id"]
        if payload["operation"] == "delete":
            self.deletes.append(id)
            self.rows.pop(id, None)
        else:
            self.rows[id] = payload["after"]


@asynccontextmanager
async def captured(
    source: SalesforceSource, folder: Path, *objects: str
) -> AsyncIterator[tuple[Mirror, SourceConnector]]:
    mirror = Mirror()
    store = SqliteCDCStore(folder / "cdc.db", last_state=True)
    try:
        async with EventBusFactory.create("memory") as bus:
            await bus.subscribe("cdc.salesforce", mirror, "mirror", start=StartAt.EARLIEST)
            connector = SourceConnector("crm", source, bus, store=store)

            def phases() -> set[str]:
                return {one["phase"] for one in connector.get_status()["objects"].values()}

            try:
                await connector.start(list(objects))
                await until(lambda: phases() == {"stream"})
                yield mirror, connector
            finally:
                await connector.disconnect()
    finally:
        await store.close()


@pytest.mark.parametrize("channel", [False, True], ids=["objects", "channel"])
async def test_children_of_a_merged_account_get_its_winner(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path, channel: bool
) -> None:
    """Here they have no change events (whether they have some is unconfirmed), and reads lag behind."""
    org = sandbox.org
    winner, loser = (org.create("Account", {"Name": name}) for name in ("winner", "loser"))
    child = org.create("Contact", {"LastName": "child", "AccountId": loser})
    source = new_source(read_lag=0.2, channels={"/data/Sales__chn": ["Account", "Contact"]})
    objects = ["/data/Sales__chn"] if channel else ["Account", "Contact"]
    async with captured(source, tmp_path, *objects) as (mirror, connector):
        await until(lambda: len(mirror.rows) == 3)
        org.lag = 0.1
        org.merge("Account", winner, [loser])
        await until(lambda: mirror.rows[child]["AccountId"] == winner)
        assert mirror.deletes == [loser]
        assert any("their children in Contact" in cause for cause in mirror.causes)
        # The position of the parents stayed before the delete until then, and moves on now.
        before = connector.offsets()[objects[0]].offset_value
        await until(lambda: connector.offsets()[objects[0]].offset_value != before)


async def test_children_are_deleted_with_their_parent(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org = sandbox.org
    account = org.create("Account", {"Name": "parent"})
    children = [org.create("Contact", {"LastName": f"{n}", "AccountId": account}) for n in range(3)]
    other = org.create("Contact", {"LastName": "other"})
    async with captured(new_source(read_lag=0.0), tmp_path, "Account", "Contact") as (mirror, _):
        await until(lambda: len(mirror.rows) == 5)
        org.delete("Account", account)
        await until(lambda: mirror.rows.keys() == {other})
        assert sorted(mirror.deletes) == sorted([account, *children])


async def test_a_mass_delete_makes_few_requests(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org = sandbox.org
    accounts = [org.create("Account", {"Name": f"{n}"}) for n in range(60)]
    children = [org.create("Contact", {"LastName": "c", "AccountId": id}) for id in accounts[::20]]
    async with captured(new_source(read_lag=0.3), tmp_path, "Account", "Contact") as (mirror, _):
        await until(lambda: len(mirror.rows) == 63)
        before = len(sandbox.requests)
        for id in accounts:
            org.delete("Account", id)
        await until(lambda: not mirror.rows)
        assert sorted(mirror.deletes) == sorted([*accounts, *children])
        assert len(sandbox.requests) - before < 20


async def test_a_crash_before_the_children_are_compared_repeats_the_delete(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    org = sandbox.org
    account = org.create("Account", {"Name": "parent"})
    child = org.create("Contact", {"LastName": "child", "AccountId": account})
    source = new_source(read_lag=0.0)
    await source.open()
    start = {name: await source.position(name) for name in ("Account", "Contact")}
    children = Tape(source, start["Contact"], "Contact")
    await children.step()
    parents = Tape(source, start["Account"], "Account")
    org.delete("Account", account)
    assert (await parents.next()).operation is Operation.DELETE
    held = parents.position
    await parents.step()
    assert parents.position == held
    await children.close()
    await parents.close()
    await source.close()
    again = new_source(read_lag=0.0)
    await again.open()
    children = Tape(again, start["Contact"], "Contact")
    await children.step()
    parents = Tape(again, held, "Account")
    assert (await parents.next()).operation is Operation.DELETE
    gap = await children.next()
    assert isinstance(gap, Gap)
    assert [(c.operation, c.primary_key["Id"]) for c in gap.repair] == [(Operation.DELETE, child)]
    await again.acknowledge("Contact", children.position)
    while parents.position == held:
        await parents.step()
    await children.close()
    await parents.close()
    await again.close()


async def test_a_converted_lead_has_no_date_of_its_change(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org = sandbox.org
    lead = org.create("Lead", {"LastName": "Ada", "Company": "Ada Ltd", "Status": "Open"})
    objects = ("Lead", "Account", "Contact", "Opportunity")
    async with captured(new_source(read_derived=True, read_lag=0.0), tmp_path, *objects) as (mirror, _):
        await until(lambda: lead in mirror.rows)
        account, contact, opportunity = org.convert_lead(lead)
        await until(lambda: len(mirror.rows) == 4 and mirror.rows[lead]["Status"] == "Converted")
        assert mirror.rows[contact]["AccountId"] == mirror.rows[opportunity]["AccountId"] == account


async def test_the_contact_half_of_a_person_account_is_named_or_read(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    """An update of an account leaves its contact's fields out; a new record type may turn it into a person."""
    org = sandbox.org
    org.enable_person_accounts()
    source = new_source(read_lag=0.0)
    await source.open()
    tape = Tape(source, await source.position("Account"))
    given = {"Name": "Ada", "IsPersonAccount": True, "PersonEmail": "a@x.example", "Tier__pc": "gold"}
    id = org.create("Account", given)
    created = await tape.next()
    assert given.items() <= created.after.items()
    assert not {"PersonEmail", "Tier__pc"} & {*created.not_current}
    org.update("Account", id, {"Phone": "1", "PersonEmail": "b@x.example"})
    changed = await tape.next()
    assert "PersonEmail" not in changed.after
    assert {"PersonEmail", "Tier__pc"} <= {*changed.not_current}
    org.update("Account", id, {"RecordTypeId": "012000000000001AAA", "Tier__pc": "lead"})
    converted = await tape.next()
    assert converted.as_of is not None
    assert (converted.after["PersonEmail"], converted.after["Tier__pc"]) == ("b@x.example", "lead")
    await tape.close()
    await source.close()


# -- fields whose type is converted ----------------------------------------------------------------


@pytest.mark.parametrize("told", ["", "wildcard", "gap"])
async def test_a_converted_type_makes_a_new_reading(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path, told: str
) -> None:
    org = sandbox.org
    id = org.create("Invoice__c", {"Name": "i", "Amount__c": 12.5})
    source = new_source(read_lag=0.0)
    async with captured(source, tmp_path, "Invoice__c") as (mirror, _):
        await until(lambda: mirror.rows.get(id, {}).get("Amount__c") == 12.5)
        org.convert_field("Invoice__c", "Amount__c", "int", told)
        if not told:
            await source.schema("Invoice__c")  # as the runner does every hour
        await until(lambda: mirror.rows[id]["Amount__c"] == 12)
        assert isinstance(mirror.rows[id]["Amount__c"], int)
        if not told:
            later = org.create("Invoice__c", {"Name": "streamed after the reading"})
            await until(lambda: later in mirror.rows)
            assert mirror.causes == ["the type of fields of Invoice__c changed: Amount__c (currency to int)"]


async def test_a_type_that_is_converted_in_a_channel(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org, channel = sandbox.org, "/data/Sales__chn"
    id = org.create("Account", {"Name": "a", "AnnualRevenue": 2.5})
    source = new_source(read_lag=0.0, channels={channel: ["Account", "Contact"]})
    async with captured(source, tmp_path, channel) as (mirror, _):
        await until(lambda: id in mirror.rows)
        org.convert_field("Account", "AnnualRevenue", "int")
        assert await source.schema(channel) is None
        await until(lambda: mirror.rows[id]["AnnualRevenue"] == 2)
        later = org.create("Account", {"Name": "streamed after the reading"})
        await until(lambda: later in mirror.rows)
        assert mirror.causes == ["the type of fields of Account changed: AnnualRevenue (currency to int)"]


async def test_a_type_that_is_converted_while_nothing_runs(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    source = new_source()
    await source.open()
    position = await source.position("Invoice__c")
    await source.close()
    sandbox.org.convert_field("Invoice__c", "Amount__c", "string")
    source = new_source()
    await source.open()
    tape = Tape(source, position, "Invoice__c")
    gap = await tape.next()
    assert isinstance(gap, Gap)
    assert (gap.resnapshot, gap.cause) == (True, "the fields of the object changed while it was not captured")
    await tape.close()
    tape = Tape(source, tape.position, "Invoice__c")
    sandbox.org.create("Invoice__c", {"Name": "later", "Amount__c": "7"})
    assert (await tape.next()).after["Amount__c"] == "7"
    await tape.close()
    await source.close()


@pytest.mark.parametrize("when", ["streamed", "between streams", "read"])
async def test_a_conversion_is_reported_once(
    sandbox: SalesforceSandbox, new_source: NewSource, when: str
) -> None:
    """The runner closes the stream at the gap and reads the rows. The stream after them begins at the position of the gap."""
    org = sandbox.org
    source = new_source()
    await source.open()
    position = await source.position("Invoice__c")
    if when == "streamed":
        tape = Tape(source, position, "Invoice__c")
        org.create("Invoice__c", {"Name": "i", "Amount__c": 12.5})
        await tape.next()
        await tape.step()  # a keep-alive answer: the stream waits with a position of its own
        org.convert_field("Invoice__c", "Amount__c", "int")
        await source.schema("Invoice__c")
    else:
        org.convert_field("Invoice__c", "Amount__c", "int")
        if when == "between streams":
            await source.schema("Invoice__c")
        else:
            async for _ in source.snapshot("Invoice__c", None):
                pass
        tape = Tape(source, position, "Invoice__c")
    if when != "read":
        gap = await tape.next()
        assert gap.cause == "the type of fields of Invoice__c changed: Amount__c (currency to int)"
        position = tape.position
        await tape.close()
        tape = Tape(source, position, "Invoice__c")
    org.create("Invoice__c", {"Name": "later", "Amount__c": 7})
    assert (await tape.next()).after["Amount__c"] == 7
    await tape.close()
    # The new types are in the position, for a later run.
    again = new_source()
    await again.open()
    later = Tape(again, tape.position, "Invoice__c")
    org.create("Invoice__c", {"Name": "last", "Amount__c": 8})
    assert (await later.next()).after["Amount__c"] == 8
    await later.close()


async def test_a_conversion_is_reported_once_while_children_are_compared(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    """The position stays before the delete until then, with the types of the gap."""
    org = sandbox.org
    account = org.create("Account", {"Name": "parent", "AnnualRevenue": 2.5})
    source = new_source(read_lag=600.0)
    await source.open()
    start = {name: await source.position(name) for name in ("Account", "Contact")}
    children = Tape(source, start["Contact"], "Contact")
    await children.step()
    parents = Tape(source, start["Account"], "Account")
    org.delete("Account", account)
    assert (await parents.next()).operation is Operation.DELETE
    org.convert_field("Account", "AnnualRevenue", "int")
    await source.schema("Account")
    gap = await parents.next()
    assert gap.cause == "the type of fields of Account changed: AnnualRevenue (currency to int)"
    await parents.close()
    parents = Tape(source, parents.position, "Account")
    assert (await parents.next()).operation is Operation.DELETE
    await parents.close()
    await children.close()
