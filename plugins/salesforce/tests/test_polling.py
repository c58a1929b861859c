"""Objects without change events: histories, shares and feeds of other objects, and links of documents."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.errors import ConfigurationError, SourceObjectError
from dimesh.spi.cdc import Change, Operation, Relists
from dimesh_contracts.waiting import deadline, until
from dimesh_salesforce.polling import POLL_POSITIONS
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.sandbox.table import moment
from dimesh_salesforce.source import SalesforceSource

from .test_stream import Tape

NewSource = Callable[..., SalesforceSource]
MINUTE = 60
DELETED, PRESENT = Operation.DELETE, Operation.SNAPSHOT


@pytest.fixture
async def source(new_source: NewSource) -> AsyncIterator[SalesforceSource]:
    made = new_source(poll=0.01, read_lag=0.0)
    await made.open()
    yield made
    await made.close()


async def read(source: SalesforceSource, object: str, resume: bytes | None = None) -> dict[str, Change]:
    found: dict[str, Change] = {}
    async with deadline():
        async for batch in source.snapshot(object, resume):
            found |= {c.primary_key["Id"]: c for c in batch.items if isinstance(c, Change)}
    return found


class Capture:
    """Runs a connector with a store of rows, and collects its changes."""

    def __init__(self, bus: EventBus, store: SqliteCDCStore, new_source: NewSource) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self._bus, self._store, self._new_source = bus, store, new_source

    async def __call__(self, event: Any) -> None:
        payload = event.payload
        if "operation" in payload:
            self.events.append((payload["operation"], payload["primary_key"]["Id"], payload["after"]))
        else:
            self.events.append((event.event_type.value, "", payload.get("primary_keys")))

    def of(self, id: str) -> list[str]:
        return [kind for kind, key, _ in self.events if key == id]

    def connector(self) -> SourceConnector:
        source = self._new_source(poll=0.02, refresh=0.1, read_lag=0.0)
        return SourceConnector("crm", source, self._bus, store=self._store, clock_skew=0.0)

    async def start(self, *objects: str) -> SourceConnector:
        made = self.connector()
        await made.start(list(objects))
        await until(lambda: {made.get_status()["objects"][name]["phase"] for name in objects} == {"stream"})
        return made


@pytest.fixture
async def capture(new_source: NewSource, tmp_path: Path) -> AsyncIterator[Capture]:
    store = SqliteCDCStore(tmp_path / "cdc.db", last_state=True)
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        made = Capture(bus, store, new_source)
        await bus.subscribe("cdc.salesforce", made, "notes", start=StartAt.EARLIEST)
        yield made
    await store.close()


@pytest.mark.parametrize("object", ["AccountHistory", "Invoice__History", "AccountFeed", "Invoice__Feed"])
async def test_new_rows_are_found_once(
    sandbox: SalesforceSandbox, source: SalesforceSource, new_source: NewSource, object: str
) -> None:
    """A row of before the position is in the snapshot, and is not returned by the stream although the overlap has it."""
    org = sandbox.org
    before = org.create(object, {})
    position = await source.position(object)
    tape = Tape(source, position, object)
    ids = [org.create(object, {}) for _ in range(3)]
    found = [await tape.next() for _ in range(3)]
    assert [change.primary_key for change in found] == [{"Id": id} for id in ids]
    for _ in range(3):
        await tape.step()
    late = org.create(object, {"CreatedDate": moment(org.now() - 5 * MINUTE)})
    if object.endswith("Feed"):
        org.tables[object].get(org.tables[object].number(late))["SystemModstamp"] = moment(
            org.now() - 5 * MINUTE
        )  # type: ignore[index]
    change = await tape.next()
    assert change.primary_key == {"Id": late}
    assert change.timestamp.timestamp() < org.now() - 4 * MINUTE
    await tape.close()
    again = new_source(poll=0.01)
    await again.open()
    tape = Tape(again, tape.position, object)
    last = org.create(object, {})
    assert (await tape.next()).primary_key == {"Id": last}, "a row was returned again after a restart"
    await tape.close()
    await again.close()
    assert (await read(source, object)).keys() == {before, *ids, late, last}


async def test_a_row_whose_transaction_commits_late(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """It was saved before the position, and appears some polls later."""
    org = sandbox.org
    hidden = org.create("AccountHistory", {"Field": "Name"})
    org.unseen[hidden] = float("inf")
    tape = Tape(source, await source.position("AccountHistory"), "AccountHistory")
    for _ in range(2):
        await tape.step()
    org.skew += 9 * MINUTE
    await tape.step()
    del org.unseen[hidden]
    assert (await tape.next()).primary_key == {"Id": hidden}
    await tape.close()


@pytest.mark.parametrize("skew", [-7_200.0, 7_200.0], ids=["our clock ahead", "our clock behind"])
async def test_positions_are_of_the_clock_of_salesforce(
    sandbox: SalesforceSandbox, source: SalesforceSource, skew: float
) -> None:
    sandbox.org.skew = skew
    tape = Tape(source, await source.position("AccountHistory"), "AccountHistory")
    await tape.step()
    assert POLL_POSITIONS.decode(tape.position, "AccountHistory").since <= sandbox.org.now()
    id = sandbox.org.create("AccountHistory", {})
    assert (await tape.next()).primary_key == {"Id": id}
    await tape.close()


async def test_a_burst_is_returned_in_pages_and_resumes_in_the_middle(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    source = new_source(poll=0.01, page=10)
    await source.open()
    tape = Tape(source, await source.position("AccountHistory"), "AccountHistory")
    ids = [sandbox.org.create("AccountHistory", {}) for _ in range(35)]
    found = [(await tape.next()).primary_key["Id"] for _ in range(20)]
    await tape.close()
    tape = Tape(source, tape.position, "AccountHistory")
    found += [(await tape.next()).primary_key["Id"] for _ in range(15)]
    assert found == ids
    await tape.close()
    await source.close()


async def test_a_query_that_takes_too_long_is_divided(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    tape = Tape(source, await source.position("AccountHistory"), "AccountHistory")
    sandbox.faults.plan("query_timeout", path="/services/data/v66.0/query", times=2)
    id = sandbox.org.create("AccountHistory", {})
    assert (await tape.next()).primary_key == {"Id": id}
    await tape.close()


@pytest.mark.slow
async def test_what_happens_to_shares(sandbox: SalesforceSandbox, capture: Capture) -> None:
    """Inserts and updates by polling, deletes by listing again; nothing is lost over a restart, and nothing comes twice."""
    org = sandbox.org
    account = org.create("Account", {"Name": "Ada"})
    (owner,) = (row["Id"] for row in org.rows("AccountShare"))
    connector = await capture.start("AccountShare")
    share = org.create("AccountShare", {"AccountId": account, "AccountAccessLevel": "Read"})
    await until(lambda: capture.of(share) == ["insert"])
    org.update("AccountShare", share, {"AccountAccessLevel": "Edit"})
    await until(lambda: capture.of(share) == ["insert", "update"])
    await connector.disconnect()
    org.delete("AccountShare", share)
    other = org.create("AccountShare", {"AccountId": account, "AccountAccessLevel": "All"})
    connector = await capture.start("AccountShare")
    await until(lambda: capture.of(share)[2:] == ["delete"] and capture.of(other) == ["insert"])
    org.delete("Account", account)
    await until(lambda: (capture.of(other)[1:], capture.of(owner)[1:]) == (["delete"], ["delete"]))
    await connector.disconnect()
    assert capture.of(owner) == ["snapshot", "delete"]
    assert len(capture.events) == 7


async def test_shares_that_the_user_may_not_see_any_more_are_not_deleted(
    sandbox: SalesforceSandbox, source: SalesforceSource, capture: Capture
) -> None:
    org = sandbox.org
    account = org.create("Account", {"Name": "Ada"})
    share = org.create("AccountShare", {"AccountId": account})
    keys = [change.primary_key for change in (await read(source, "AccountShare")).values()]
    assert all(key["AccountId"] == account for key in keys)
    connector = await capture.start("AccountShare")
    await until(lambda: capture.of(share) == ["snapshot"])
    org.unseen |= {row["Id"]: float("inf") for row in org.rows("AccountShare")}
    await until(lambda: any(kind == "cdc.missing" for kind, _, _ in capture.events))
    await connector.disconnect()
    assert capture.of(share) == ["snapshot"]

    async def verdicts() -> list[Operation | None]:
        return [found and found.operation for found in await source.read_rows("AccountShare", keys)]

    assert await verdicts() == [None, None]
    org.unseen.clear()
    org.delete("AccountShare", share)
    assert await verdicts() == [PRESENT, DELETED]
    org.delete("Account", account)
    assert await verdicts() == [DELETED, DELETED]


async def test_posts_are_edited_and_deleted(sandbox: SalesforceSandbox, capture: Capture) -> None:
    org = sandbox.org
    connector = await capture.start("AccountFeed")
    post, other = (org.create("AccountFeed", {"Body": text, "CommentCount": 0}) for text in ("one", "two"))
    await until(lambda: (capture.of(post), capture.of(other)) == (["insert"], ["insert"]))
    org.update("AccountFeed", post, {"CommentCount": 1})
    org.delete("AccountFeed", other)
    await until(lambda: (capture.of(post)[1:], capture.of(other)[1:]) == (["update"], ["delete"]))
    await connector.disconnect()
    assert len(capture.events) == 4


@pytest.mark.slow
async def test_links_are_listed_by_their_documents(
    sandbox: SalesforceSandbox, source: SalesforceSource, capture: Capture
) -> None:
    """Salesforce refuses a query for all of them."""
    org = sandbox.org
    documents = [org.create("ContentDocument", {"Title": f"{n}"}) for n in range(205)]
    first = org.create("ContentDocumentLink", {"ContentDocumentId": documents[0], "ShareType": "V"})
    org.create("ContentDocument", {"Title": "archived", "IsArchived": True})
    found = await read(source, "ContentDocumentLink")
    assert len(found) == 207
    assert found[first].primary_key == {"Id": first, "ContentDocumentId": documents[0]}
    places = [batch.position async for batch in source.snapshot("ContentDocumentLink", None)]
    assert len(await read(source, "ContentDocumentLink", places[0])) == 6
    connector = await capture.start("ContentDocumentLink")
    org.delete("ContentDocumentLink", first)
    link = org.create("ContentDocumentLink", {"ContentDocumentId": documents[-1], "ShareType": "V"})
    await until(lambda: (capture.of(first), capture.of(link)) == (["snapshot", "delete"], ["insert"]))
    org.delete("ContentDocument", documents[-1])
    await until(lambda: capture.of(link) == ["insert", "delete"])
    await connector.disconnect()


@pytest.mark.parametrize("object", ["AccountShare", "AccountHistory", "ContentDocumentLink"])
async def test_what_was_published_is_what_a_verification_reads(
    sandbox: SalesforceSandbox, capture: Capture, object: str
) -> None:
    org = sandbox.org
    for _ in range(3):
        account = org.create("Account", {"Name": "Ada"})
        org.create("AccountHistory", {"AccountId": account})
        org.create("ContentDocument", {"Title": "Contract"})
    connector = await capture.start(object)
    await until(lambda: len(capture.events) == 3)
    verifier = connector.verifier(object)
    async for _ in verifier.check_all():
        pass
    assert (verifier.pending, verifier.tally.rows, verifier.tally.skipped) == (0, 3, {})
    await connector.disconnect()


async def test_deletes_of_histories_are_found_on_request(
    sandbox: SalesforceSandbox, capture: Capture
) -> None:
    org = sandbox.org
    account = org.create("Account", {"Name": "Ada"})
    row = org.create("AccountHistory", {"AccountId": account, "Field": "Name"})
    connector = await capture.start("AccountHistory")
    await until(lambda: capture.of(row) == ["snapshot"])
    await connector.disconnect()
    org.delete("Account", account)
    connector = capture.connector()
    await connector.resnapshot("AccountHistory")
    await connector.start(["AccountHistory"])
    await until(lambda: capture.of(row) == ["snapshot", "delete"])
    await connector.disconnect()


async def test_objects_beside_others_are_not_read_by_the_bulk_api(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    source = new_source(bulk_above=0, page=10)
    await source.open()
    ids = {sandbox.org.create("AccountHistory", {"Field": "Name"}) for _ in range(25)}
    assert (await read(source, "AccountHistory")).keys() == ids
    await source.close()


async def test_histories_are_not_listed_again(new_source: NewSource) -> None:
    source = new_source(refresh=60.0)
    assert isinstance(source, Relists)
    names = ("AccountHistory", "Account", "AccountShare", "Invoice__Feed", "ContentDocumentLink")
    assert [source.relist_interval(name) for name in names] == [None, None, 60.0, 60.0, 60.0]
    assert new_source(refresh=0.0).relist_interval("AccountShare") is None


async def test_a_history_without_a_time_is_refused(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.org.kinds["AccountHistory"].lacks += ("CreatedDate",)
    with pytest.raises(SourceObjectError, match="AccountHistory cannot be captured: its rows have none"):
        await source.position("AccountHistory")


def test_a_channel_does_not_carry_them(new_source: NewSource) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("'AccountShare' has no change events")):
        new_source(channels={"/data/Sales__chn": ["Account", "AccountShare"]})


async def test_a_sample_is_not_taken_where_rows_cannot_be_listed(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    org = sandbox.org
    org.create("ContentDocument", {})
    account = org.create("Account", {"Name": "Ada"})
    assert await source.rows_after("ContentDocumentLink", None, 10) is None
    (row,) = await source.rows_after("AccountShare", None, 10) or ()
    assert row.primary_key["AccountId"] == account
    assert await source.not_current("AccountShare") == {}
