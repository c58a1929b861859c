"""Fields that events leave out: formulas, and other values that are derived."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.spi.cdc import Operation
from dimesh_contracts.waiting import until
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource

from .test_stream import Tape

NewSource = Callable[..., SalesforceSource]
DERIVED = ["Score__c", "LastActivityDate"]


@asynccontextmanager
async def captured(source: SalesforceSource, folder: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the payloads of the changes of accounts, from the snapshot of one row on."""
    payloads: list[dict[str, Any]] = []

    async def note(event: Any) -> None:
        if "operation" in event.payload:
            payloads.append(event.payload)

    store = SqliteCDCStore(folder / "cdc.db", last_state=True)
    async with EventBusFactory.create("memory") as bus:
        await bus.subscribe("cdc.salesforce", note, "notes", start=StartAt.EARLIEST)
        connector = SourceConnector("crm", source, bus, store=store)
        await connector.start(["Account"])
        await until(lambda: connector.get_status()["objects"]["Account"]["phase"] == "stream")
        yield payloads
        await connector.disconnect()
    await store.close()


async def test_a_formula_in_a_completed_row_is_named(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org = sandbox.org
    id = org.create("Account", {"Name": "Ada"})
    org.derive("Account", id, {"Score__c": 1.0})
    async with captured(new_source(), tmp_path) as changes:
        await until(lambda: len(changes) == 1)
        assert changes[0]["after"]["Score__c"] == 1.0
        assert "not_current" not in changes[0]["metadata"]
        org.derive("Account", id, {"Score__c": 2.0})
        org.skew += 60  # later than the reading, so that the stored row is its state before
        org.update("Account", id, {"Name": "Eve"})
        org.delete("Account", id)
        await until(lambda: len(changes) == 3)
    _, changed, deleted = changes
    assert (changed["partial"], changed["after"]["Name"]) == (False, "Eve")
    assert changed["metadata"]["not_current"] == deleted["metadata"]["not_current"] == DERIVED
    assert (changed["before"]["Name"], deleted["before"]["Name"]) == ("Ada", "Eve")
    assert not {*changed["before"], *deleted["before"]} & {*DERIVED}
    assert "Score__c" not in changed["changed_fields"]


async def test_a_formula_is_read_again_where_the_settings_ask_for_it(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    org = sandbox.org
    id = org.create("Account", {"Name": "Ada"})
    async with captured(new_source(read_derived=True, read_lag=0.05), tmp_path) as changes:
        await until(lambda: len(changes) == 1)
        org.derive("Account", id, {"Score__c": 2.0})
        org.update("Account", id, {"Name": "Eve"})
        await until(lambda: len(changes) == 2)
    assert (changes[1]["after"]["Score__c"], changes[1]["after"]["Name"]) == (2.0, "Eve")
    assert changes[1]["as_of"] is not None
    assert "not_current" not in changes[1]["metadata"]


async def test_a_read_that_lags_does_not_undo_the_change(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    """What a query shows may be older than the event (estuary/connectors #2678)."""
    source = new_source(read_derived=True, read_lag=0.05)
    await source.open()
    id = sandbox.org.create("Account", {"Name": "Ada"})
    tape = Tape(source, await source.position("Account"))
    sandbox.org.lag = 30.0
    sandbox.org.skew += 60
    sandbox.org.update("Account", id, {"Name": "Eve"})
    change = await tape.next()
    assert (change.after["Name"], change.as_of, list(change.not_current)) == ("Eve", None, DERIVED)
    assert sum(path.endswith("/query") for _, path in sandbox.requests) == 2
    sandbox.org.lag = 0.0
    sandbox.org.update("Account", id, {"Name": "Mallory"})
    change = await tape.next()
    assert (change.after["Name"], change.as_of is not None) == ("Mallory", True)
    await tape.close()
    await source.close()


async def test_the_schema_of_the_event_decides(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    """Newer releases carry custom formulas (documentation): the next schema has them."""
    source = new_source()
    await source.open()
    tape = Tape(source, await source.position("Account"))
    id = sandbox.org.create("Account", {"Name": "Ada"})
    assert list((await tape.next()).not_current) == DERIVED
    sandbox.org.carry("Account", "Score__c")
    sandbox.org.update("Account", id, {"Name": "Eve"})
    change = await tape.next()
    assert (change.operation, list(change.not_current)) == (Operation.UPDATE, ["LastActivityDate"])
    await tape.close()
    await source.close()


async def test_fields_that_the_user_may_not_see_are_named_once(
    sandbox: SalesforceSandbox, new_source: NewSource, caplog: pytest.LogCaptureFixture
) -> None:
    """The schema has them, the description does not (Change Data Capture Developer Guide, *Field-Level Security*)."""
    sandbox.org.hidden.add(("Account", "AnnualRevenue"))
    source = new_source()
    await source.open()
    tape = Tape(source, await source.position("Account"))
    id = sandbox.org.create("Account", {"Name": "Ada", "AnnualRevenue": 5.0})
    sandbox.org.update("Account", id, {"AnnualRevenue": 6.0, "Phone": "1"})
    first, second = await tape.next(), await tape.next()
    assert "AnnualRevenue" not in {*first.after, *second.after, *second.changed_fields}
    named = [r.message for r in caplog.records if "may not see the fields" in r.message]
    assert named == [
        "Account: the user may not see the fields AnnualRevenue: changes do not have them. Field-level security decides that"
    ]
    await tape.close()
    await source.close()
