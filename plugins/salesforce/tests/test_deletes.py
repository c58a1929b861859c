"""Deleted rows: what Salesforce still knows of them, and what is published where it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.errors import SourcePositionLostError
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_contracts.waiting import deadline, until
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource

NewSource = Callable[..., SalesforceSource]
HOUR = 3_600


@pytest.fixture
async def source(new_source: NewSource) -> AsyncIterator[SalesforceSource]:
    made = new_source(read_lag=0.0)
    await made.open()
    yield made
    await made.close()


def created(sandbox: SalesforceSandbox, count: int) -> list[str]:
    return [sandbox.org.create("Account", {"Name": f"{n}"}) for n in range(count)]


async def listed(source: SalesforceSource, since: datetime | None = None) -> set[str]:
    return {
        str(c.primary_key["Id"])
        async for batch in source.deleted("Account", since)
        for c in batch.items
        if isinstance(c, Change)
    }


async def test_deleted_rows_are_known_for_a_while(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    ids = created(sandbox, 3)
    sandbox.org.delete("Account", ids[0])
    sandbox.org.delete_silently("Account", ids[1])
    assert await listed(source) == set(ids[:2])


async def test_deleted_rows_are_known_when_the_bin_is_emptied(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """Deleted rows come from the log of deletes, in parts if there are too many for one response."""
    ids = created(sandbox, 4)
    sandbox.org.delete("Account", ids[0])
    sandbox.org.empty_bin("Account")
    sandbox.org.delete("Account", ids[1])
    sandbox.faults.plan(kind="too_many_ids", path="/services/data/v66.0/sobjects/Account/deleted", times=2)
    assert await listed(source) == set(ids[:2])
    assert sum(path.endswith("/deleted/") for _, path in sandbox.requests) == 5


async def test_a_clock_of_ours_that_is_behind_asks_for_no_more_than_15_days(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """By our clock, the start would be too early, and the refusal would look like a log that was purged."""
    ids = created(sandbox, 2)
    sandbox.org.skew += 5 * HOUR
    sandbox.org.delete("Account", ids[0])
    assert await listed(source, datetime.now(UTC)) == {ids[0]}
    assert sum(path.endswith("/deleted/") for _, path in sandbox.requests) == 1


async def test_what_a_purged_log_still_has_is_known(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """The start is narrowed until Salesforce accepts it, and then put at the end that the answer names."""
    ids = created(sandbox, 3)
    sandbox.org.delete("Account", ids[0])
    sandbox.org.purge_deletes("Account")
    sandbox.org.skew += 2 * 24 * HOUR
    since = datetime.fromtimestamp(sandbox.org.now(), UTC) - timedelta(hours=40)
    sandbox.org.delete("Account", ids[1])
    sandbox.org.empty_bin("Account")
    assert await listed(source, since) == {ids[1]}
    found = await source.read_rows("Account", [{"Id": id} for id in ids])
    assert [row and row.operation for row in found] == [None, Operation.DELETE, Operation.SNAPSHOT]
    with pytest.raises(SourcePositionLostError, match="log of the deletes of Account begins at"):
        await listed(source, since - timedelta(days=1))


async def test_a_changed_row_that_nobody_knows_of_makes_a_repair_by_all_rows(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    position = await source.position("Account")
    ids = created(sandbox, 1)
    sandbox.org.delete_silently("Account", ids[0])
    sandbox.org.purge_deletes("Account")
    sandbox.org.gap("Account", ids)
    stream = source.stream("Account", position)
    found: list[Any] = []
    async with deadline():
        while len(found) < 3:
            found += (await anext(stream)).items
    assert [type(item) for item in found] == [Change, Gap, Gap]
    assert (found[1].resnapshot, found[1].repair, found[2].resnapshot) == (False, [], True)
    assert "its log of deletes was purged" in found[2].cause
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("stored", [True, False], ids=["rows stored", "no rows"])
async def test_a_purged_log_loses_no_delete_in_silence(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Path, stored: bool
) -> None:
    """With the keys of the rows, those that nobody knows of are named; without them, the deletes are reported as unknown."""
    ids = created(sandbox, 3)
    store = SqliteCDCStore(tmp_path / "cdc.db")
    async with EventBusFactory.create("memory") as bus:
        events: list[Any] = []

        async def note(event: Any) -> None:
            events.append(event)

        await bus.subscribe("cdc.salesforce", note, "notes", start=StartAt.EARLIEST)
        more = {"store": store} if stored else {}
        connector = SourceConnector("crm", new_source(read_lag=0.0), bus, **more)
        await connector.start(["Account"])
        await until(lambda: connector.get_status()["objects"]["Account"]["phase"] == "stream")
        await connector.stop()
        sandbox.org.delete("Account", ids[0])
        sandbox.org.purge_deletes("Account")
        sandbox.org.skew += 4 * 24 * HOUR  # the position is too old, too
        await connector.start(["Account"])
        await until(lambda: any(event.event_type.value == "cdc.repaired" for event in events))
        kinds = [event.event_type.value for event in events]
        assert "cdc.delete" not in kinds
        if stored:
            (missing,) = (event.payload for event in events if event.event_type.value == "cdc.missing")
            assert missing["primary_keys"] == [{"Id": ids[0]}]
        else:
            lost, unknown = (event.payload for event in events if event.event_type.value == "cdc.gap")
            assert "does not know the position" in lost["cause"]
            assert "earlier deletes are not known" in unknown["cause"]
            assert unknown["since"] == lost["since"]
            assert events[-1].payload["deleted"] is None
        await connector.disconnect()
    await store.close()
