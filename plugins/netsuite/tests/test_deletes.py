"""Deletes, lines, and system notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import Operation
from dimesh_contracts.waiting import until
from dimesh_netsuite.sandbox import NetSuiteSandbox
from dimesh_netsuite.source import NetSuiteSource

from .helpers import following, listed, shown

INSERT, UPDATE, DELETE, SNAPSHOT = Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.SNAPSHOT
NewSource = Callable[..., NetSuiteSource]


class Capture:
    """Runs a connector with a store of rows, and collects its changes."""

    def __init__(self, folder: Path, source: NetSuiteSource) -> None:
        self.events: list[tuple[str, Any, Any, Any]] = []
        self.store = SqliteCDCStore(folder / "cdc.db", last_state=True)
        self._source = source

    async def __aenter__(self) -> Capture:
        self.bus = EventBusFactory.create("memory")
        await self.bus.open()
        await self.bus.subscribe("cdc.netsuite", self._note, "notes", start=StartAt.EARLIEST)
        self.connector = SourceConnector("erp", self._source, self.bus, store=self.store, clock_skew=0.0)
        return self

    async def start(self, *objects: str) -> None:
        await self.connector.start(list(objects))
        status = self.connector.get_status
        await until(lambda: {status()["objects"][name]["phase"] for name in objects} == {"stream"})

    async def __aexit__(self, *_: object) -> None:
        await self.connector.disconnect()
        await self.bus.close()
        await self.store.close()

    async def _note(self, event: Any) -> None:
        payload = event.payload
        if "operation" in payload:
            self.events.append(
                (payload["operation"], payload["primary_key"], payload["before"], payload["after"])
            )
        else:
            self.events.append((event.event_type.value, None, None, payload))

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.events]


async def test_a_delete_with_its_author(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    id = sandbox.account.create("customer", {})
    async with following(source, "customer") as tape:
        sandbox.account.delete("customer", id, by="42")
        (change,) = await tape.changes()
    assert (change.operation, change.actor, change.metadata["deleted_type"]) == (DELETE, "42", "Customer")


async def test_an_id_that_several_types_share(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    customer = account.create("customer", {"companyname": "stays"})
    item = account.create("item", {"id": customer})
    async with following(source, "customer") as tape:
        account.delete("item", item)
        assert await tape.changes() == []
        account.record_delete("Customer", customer)  # a record of a row that is still there
        assert await tape.changes() == []
    answers = await source.read_rows("customer", [{"id": str(customer)}])
    assert [a and a.operation for a in answers] == [SNAPSHOT]


async def test_a_record_of_a_delete_that_is_early(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """The record appears before the row is gone, for a query that lags behind."""
    account = sandbox.account
    id = account.create("customer", {})
    async with following(source, "customer") as tape:
        account.record_delete("Customer", id)
        assert await tape.changes() == []
        account.database.execute("DELETE FROM customer WHERE id = ?", (id,))
        assert [c.operation for c in await tape.changes()] == [DELETE]
        for _ in range(6):
            assert await tape.changes() == []


async def test_every_kind_of_transaction(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    kinds = ("SalesOrd", "CustInvc", "Journal", "PurchOrd", "VendBill")
    ids = [account.create("transaction", {"type": kind}) for kind in kinds]
    async with following(source, "transaction") as tape:
        for id in ids:
            account.delete("transaction", id)
        found = await tape.changes()
    assert [(c.operation, c.primary_key["id"]) for c in found] == [(DELETE, str(id)) for id in ids]


async def test_a_role_without_the_permission(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    sandbox.account.role.without.add("deletedrecord")
    source = new_source()
    await source.open()
    with pytest.raises(SourceObjectError, match=r"add the permission Deleted Records \(Setup\)"):
        await source.position("customer")
    without = new_source(deletes=False)
    await without.open()
    assert await without.position("customer")


async def test_a_type_whose_deletes_are_not_recorded(
    sandbox: NetSuiteSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    """Absence is not a delete: the row is reported as missing."""
    account = sandbox.account
    account.untracked.add("department")
    ids = [account.create("department", {"name": name}) for name in "abc"]
    async with Capture(tmp_path, new_source(refresh=0.05)) as capture:
        await capture.start("department")
        await until(lambda: len(capture.events) == 3)
        account.delete("department", ids[0])
        account.untracked.clear()
        account.delete("department", ids[1])
        await until(lambda: "cdc.missing" in capture.kinds() and "delete" in capture.kinds())
        assert [key for kind, key, *_ in capture.events if kind == "delete"] == [{"id": str(ids[1])}]
        (missing,) = [found for kind, _, _, found in capture.events if kind == "cdc.missing"]
        assert missing["primary_keys"] == [{"id": str(ids[0])}]
        account.update("department", ids[2], {"name": "new"})
        await until(lambda: "update" in capture.kinds())


async def test_changes_that_move_no_time(
    sandbox: NetSuiteSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    """They are found when all rows are compared with what was published; a row without a time is, too."""
    account = sandbox.account
    id = account.create("customer", {"companyname": "a"}, at=account.now() - 86_400)
    timeless = account.create("customer", {"companyname": "t", "lastmodifieddate": None})
    async with Capture(tmp_path, new_source(refresh=0.05)) as capture:
        await capture.start("customer")
        account.update("customer", id, {"companyname": "b"}, silent=True)
        await until(lambda: capture.kinds().count("update") == 1)
        account.update("customer", timeless, {"companyname": "u"}, silent=True)
        await until(lambda: capture.kinds().count("update") == 2)
        changed = [
            (b["companyname"], a["companyname"]) for kind, _, b, a in capture.events if kind == "update"
        ]
    assert changed == [("a", "b"), ("t", "u")]


# -- lines ---------------------------------------------------------------------------------------------


async def test_a_transaction_has_its_lines(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    id = account.create("transaction", {"type": "SalesOrd"})
    account.set_lines(id, [{"memo": "a"}, {"memo": "b"}])
    (row,) = await listed(source, "transaction")
    assert row.after is not None
    assert [line["memo"] for line in row.after["lines"]] == ["a", "b"]
    async with following(source, "transaction") as tape:
        assert await tape.changes() == []
        account.change_line(id, 1, {"memo": "c"})  # the time of the header stays
        (change,) = await tape.changes()
        assert change.after is not None
        assert [line["memo"] for line in change.after["lines"]] == ["a", "c"]
        assert await tape.changes() == []
        account.set_lines(id, [{"memo": "d"}])  # all ids are new
        (change,) = await tape.changes()
        assert change.after is not None
        assert [(line["id"], line["memo"]) for line in change.after["lines"]] == [("2", "d")]
    schema = await source.schema("transaction")
    assert schema is not None
    assert "memo" in schema["properties"]["lines"]["items"]["properties"]


async def test_many_lines(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    for n in range(3):
        id = account.create("transaction", {"type": "Journal"})
        account.set_lines(id, [{"memo": f"{n}-{m}"} for m in range(1_100)])
    rows = await listed(source, "transaction")
    assert [len(row.after["lines"]) for row in rows if row.after] == [1_100] * 3


async def test_lines_as_an_object(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """An update of a sublist without keys rewrites all lines, and leaves no record of those that go."""
    account = sandbox.account
    id = account.create("transaction", {"type": "Journal"})
    account.set_lines(id, [{"memo": "a"}, {"memo": "b"}])
    async with following(source, "transactionline") as tape:
        assert await tape.changes() == []
        account.change_line(id, 0, {"memo": "c"})
        assert shown(await tape.changes(), "memo") == [(UPDATE, "c")]
        account.set_lines(id, [{"memo": "d"}])
        found = await tape.changes()
    kinds = [(c.operation, c.primary_key["id"]) for c in found]
    assert sorted(kinds, key=str) == sorted([(DELETE, "0"), (DELETE, "1"), (INSERT, "2")], key=str)


async def test_lines_that_went_while_nobody_looked(
    sandbox: NetSuiteSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    """A line is deleted if its transaction is visible without it; a transaction that is hidden proves nothing."""
    account = sandbox.account
    ids = [account.create("transaction", {"type": "Journal"}) for _ in range(3)]
    for id in ids:
        account.set_lines(id, [{"memo": f"{id}a"}, {"memo": f"{id}b"}])
    source = new_source()
    await source.open()
    account.set_lines(ids[0], [{"memo": "new"}], header=False)
    account.delete("transaction", ids[1])
    account.hidden.add(("transaction", ids[2]))
    account.database.execute('DELETE FROM transactionline WHERE "transaction" = ?', (ids[2],))
    keys = [{"transaction": str(id), "id": "0"} for id in ids]
    answers = await source.read_rows("transactionline", keys)
    assert [a and a.operation for a in answers] == [DELETE, DELETE, None]


async def test_accounting_lines_without_a_time(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """Before release 2023.1 they have none: the transaction's time finds them."""
    account = sandbox.account
    id = account.create("transaction", {"type": "Journal"})
    line = {
        "transaction": id,
        "transactionline": 0,
        "accountingbook": 1,
        "amount": 1.5,
        "lastmodifieddate": None,
    }
    account.create("transactionaccountingline", line)
    async with following(source, "transactionaccountingline") as tape:
        account.database.execute("UPDATE transactionaccountingline SET amount = 2.5")
        account.update("transaction", id, {"memo": "posted"})
        (change,) = await tape.changes()
    assert change.after is not None
    assert change.after["amount"] == "2.5"
    assert change.primary_key == {"transaction": str(id), "transactionline": "0", "accountingbook": "1"}


# -- notes ---------------------------------------------------------------------------------------------


async def test_system_notes_accompany_a_change(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    id = account.create("customer", {"companyname": "a", "phone": "1"})
    async with following(source, "customer") as tape:
        account.update("customer", id, {"companyname": "b", "phone": "2"}, by="7")
        account.update("customer", id, {"companyname": "c"}, by="8")
        (change,) = await tape.changes()
    assert change.before is None, "display text of audited fields is not the row"
    assert change.actor == "8"
    assert change.metadata["before_display"] == {"NAME.SCOMPANYNAME": "a"}
    assert "audited fields only" in change.metadata["before_display_from"]
    notes = change.metadata["system_notes"]
    assert [(note["old"], note["new"], note["by"]) for note in notes] == [("a", "b", "7"), ("b", "c", "8")]


@pytest.mark.parametrize("hidden", [{"systemnote"}, {"systemnote", "systemnote2"}])
async def test_changes_without_notes(
    sandbox: NetSuiteSandbox, source: NetSuiteSource, hidden: set[str]
) -> None:
    account = sandbox.account
    account.role.without |= hidden
    id = account.create("customer", {"companyname": "a"})
    async with following(source, "customer") as tape:
        account.update("customer", id, {"companyname": "b"})
        (change,) = await tape.changes()
    assert (change.actor, dict(change.metadata)) == (None, {})


async def test_newer_notes(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """Ids are shared by types: the name of the element tells whose note it is."""
    account = sandbox.account
    id = account.create("account", {"fullname": "Bank"})
    async with following(source, "account") as tape:
        for n, name in enumerate(("account.fullname", "item.displayname")):
            account._insert(
                "systemnote2",
                {
                    "id": n,
                    "actor": str(n + 1),
                    "datefrom": int(account.now()),
                    "objectid": id,
                    "elementfullname": name,
                },
            )
        account.update("account", id, {"fullname": "Bank 2"})
        (change,) = await tape.changes()
    assert change.actor == "1"
    assert [note["field"] for note in change.metadata["system_notes"]] == ["account.fullname"]
