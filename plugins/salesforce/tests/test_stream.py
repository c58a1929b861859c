"""The changes and gaps of a stream, for everything that Salesforce does with streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dimesh.errors import (
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_contracts.waiting import deadline, until
from dimesh_salesforce.sandbox import ACCESS_TOKEN, SalesforceSandbox
from dimesh_salesforce.sandbox.table import USER
from dimesh_salesforce.source import SalesforceSource

NewSource = Callable[..., SalesforceSource]
HOUR = 3_600


@pytest.fixture
async def source(new_source: NewSource) -> AsyncIterator[SalesforceSource]:
    made = new_source()
    await made.open()
    yield made
    await made.close()


class Tape:
    """Reads a stream on demand."""

    def __init__(self, source: SalesforceSource, position: bytes, object: str = "Account") -> None:
        self.position = position
        self._stream = source.stream(object, position)
        self._items: list[Change | Gap] = []

    async def next(self) -> Any:
        async with deadline():
            while not self._items:
                await self.step()
        return self._items.pop(0)

    async def step(self) -> None:
        """Read one batch."""
        async with deadline():
            batch = await anext(self._stream)
        self.position = batch.position
        self._items += batch.items

    async def close(self) -> None:
        await self._stream.aclose()  # type: ignore[attr-defined]


@pytest.fixture
async def tape(source: SalesforceSource, sandbox: SalesforceSandbox) -> AsyncIterator[Tape]:
    made = Tape(source, await source.position("Account"))
    await until(lambda: sandbox.pubsub.streams == 0)  # the one that asked for the position
    yield made
    await made.close()


async def test_the_content_of_a_change(sandbox: SalesforceSandbox, tape: Tape) -> None:
    org = sandbox.org
    id = org.create(
        "Account",
        {
            "Name": "Ada",
            "AnnualRevenue": 12.0,
            "Founded__c": "1999-12-31",
            "BillingStreet": "1 Way",
            "Site__Latitude__s": 1.5,
        },
    )
    made = await tape.next()
    assert (made.operation, made.primary_key, made.partial) == (Operation.INSERT, {"Id": id}, False)
    row = org.find("Account", id)
    derived = ("Score__c", "LastActivityDate")
    assert {k: v for k, v in row.items() if k not in ("IsDeleted", "SystemModstamp", *derived)} == made.after
    assert made.not_current == derived
    assert (made.actor, made.own, made.api_version) == (USER, True, "66.0")
    assert made.timestamp <= datetime.now(UTC)

    org.update(
        "Account",
        id,
        {"BillingCity": "Berlin", "BillingStreet": None, "AnnualRevenue": 13.0},
        user="005000000000002AAA",
    )
    changed = await tape.next()
    assert (changed.operation, changed.partial, changed.own) == (Operation.UPDATE, True, False)
    assert set(changed.changed_fields) >= {"BillingCity", "BillingStreet", "AnnualRevenue"}
    assert "BillingCountry" not in changed.changed_fields
    assert changed.after["BillingCity"] == "Berlin"
    assert changed.after["BillingStreet"] is None
    assert changed.after["AnnualRevenue"] == 13.0
    assert "Name" not in changed.after

    org.delete("Account", id)
    deleted = await tape.next()
    assert (deleted.operation, deleted.after) == (Operation.DELETE, None)
    org.undelete("Account", id)
    back = await tape.next()
    assert (back.operation, back.after["Name"]) == (Operation.UNDELETE, "Ada")
    assert len({c.identity for c in (made, changed, deleted, back)}) == 4
    numbers = [c.sequence for c in (made, changed, deleted, back)]
    assert numbers == sorted(numbers)


async def test_people_have_names_of_parts(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    tape = Tape(source, await source.position("Contact"), "Contact")
    id = sandbox.org.create("Contact", {"FirstName": "Ada", "LastName": "King", "MailingCity": "London"})
    made = await tape.next()
    assert (made.after["FirstName"], made.after["LastName"], made.after["MailingCity"]) == (
        "Ada",
        "King",
        "London",
    )
    sandbox.org.update("Contact", id, {"LastName": "Lovelace"})
    changed = await tape.next()
    assert set(changed.changed_fields) == {"LastName", "LastModifiedDate"} - (
        set() if "LastModifiedDate" in changed.changed_fields else {"LastModifiedDate"}
    )
    await tape.close()


async def test_one_event_of_many_records_is_many_changes(sandbox: SalesforceSandbox, tape: Tape) -> None:
    ids = [sandbox.org.create("Account", {"Name": f"A{n}"}) for n in range(20)]
    for _ in ids:
        await tape.next()
    sandbox.org.update_many("Account", ids, {"Industry": "Energy"})
    found = [await tape.next() for _ in ids]
    assert [c.primary_key["Id"] for c in found] == ids
    assert len({c.identity for c in found}) == 20
    assert len({c.transaction for c in found}) == 1


async def test_a_record_has_one_event_in_a_transaction(sandbox: SalesforceSandbox, tape: Tape) -> None:
    """It has the kind of the first change and the final values: an insert may have values that an update set."""
    org = sandbox.org
    old = org.create("Account", {"Name": "old", "Industry": "Energy"})
    with org.transaction():
        new = org.create("Account", {"Name": "new"})
        org.update("Account", new, {"Name": "newer", "Phone": "1"})
        org.update("Account", old, {"Industry": "Media"})
        org.update("Account", old, {"Industry": None, "Phone": "2"})
    _, made, changed = [await tape.next() for _ in range(3)]
    assert (made.operation, made.after["Name"], made.after["Phone"]) == (Operation.INSERT, "newer", "1")
    assert (changed.operation, changed.after["Industry"], changed.after["Phone"]) == (
        Operation.UPDATE,
        None,
        "2",
    )
    assert {"Industry", "Phone"} <= {*changed.changed_fields}


async def test_changes_of_a_transaction_share_its_key(sandbox: SalesforceSandbox, tape: Tape) -> None:
    with sandbox.org.transaction(merged=False):
        a = sandbox.org.create("Account", {"Name": "a"})
        sandbox.org.create("Contact", {"LastName": "not this object"})
        sandbox.org.update("Account", a, {"Name": "b"})
    sandbox.org.update("Account", a, {"Name": "c"})
    one, two, three = [await tape.next() for _ in range(3)]
    assert one.transaction == two.transaction != three.transaction
    assert one.sequence < two.sequence < three.sequence


async def test_a_new_field_in_the_middle_of_a_batch(sandbox: SalesforceSandbox, tape: Tape) -> None:
    with sandbox.org.transaction():
        id = sandbox.org.create("Account", {"Name": "a"})
    sandbox.org.add_field("Account", "Segment__c")
    sandbox.org.update("Account", id, {"Segment__c": "big"})
    assert (await tape.next()).operation is Operation.INSERT
    changed = await tape.next()
    assert changed.after["Segment__c"] == "big"
    assert "Segment__c" in changed.changed_fields


@pytest.mark.parametrize("gone", [False, True])
async def test_a_gap_event_is_repaired_by_fetching(
    sandbox: SalesforceSandbox, tape: Tape, gone: bool
) -> None:
    id = sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    if gone:
        sandbox.org.delete_silently("Account", id)
    else:
        sandbox.org.change_silently("Account", id, {"Name": "b"})
    sandbox.org.gap("Account", [id], "GAP_UPDATE")
    gap = await tape.next()
    assert isinstance(gap, Gap)
    assert not gap.resnapshot
    assert "GAP_UPDATE" in gap.cause
    (repair,) = gap.repair
    if gone:
        assert (repair.operation, repair.after) == (Operation.DELETE, None)
    else:
        assert (repair.operation, repair.after["Name"]) == (Operation.UPDATE, "b")


@pytest.mark.slow
async def test_a_row_that_is_found_late_is_not_deleted(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    """Reading lags behind the stream: what is not found at once is looked for again, and what is never found is not deleted."""
    source = new_source(read_lag=2.5)
    await source.open()
    tape = Tape(source, await source.position("Account"))
    late = sandbox.org.create("Account", {"Name": "late"})
    hidden = sandbox.org.create("Account", {"Name": "hidden"})
    for _ in range(2):
        await tape.next()
    sandbox.org.unseen = {late: sandbox.org.now() + 2.0, hidden: float("inf")}
    sandbox.org.gap("Account", [late, hidden], "GAP_UPDATE")
    gap = await tape.next()
    (repair,) = gap.repair
    assert (repair.operation, repair.primary_key["Id"]) == (Operation.UPDATE, late)
    lost = await tape.next()
    assert isinstance(lost, Gap)
    assert hidden in lost.cause
    assert "does not say that it was deleted" in lost.cause
    answers = await source.read_rows("Account", [{"Id": late}, {"Id": hidden}])
    assert [answer and answer.operation for answer in answers] == [Operation.SNAPSHOT, None]
    await tape.close()
    await source.close()


async def test_a_deleted_row_is_known_from_the_bin_and_from_the_log(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    id = sandbox.org.create("Account", {"Name": "a"})
    other = sandbox.org.create("Account", {"Name": "b"})
    sandbox.org.delete("Account", id)
    for _ in range(2):
        answers = await source.read_rows("Account", [{"Id": id}, {"Id": other}])
        assert [answer and answer.operation for answer in answers] == [Operation.DELETE, Operation.SNAPSHOT]
        sandbox.org.empty_bin("Account")


async def test_changes_without_ids_are_a_gap(sandbox: SalesforceSandbox, tape: Tape) -> None:
    id = sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    sandbox.org.overflow("Account")
    sandbox.org.update_many("Account", [id], {"Name": "b"}, wildcard=True)
    sandbox.org.raw("Account", b"\xff" * 30)
    sandbox.org.raw("Account", b"\x00", schema_id="")
    sandbox.org.update("Account", id, {"Name": "c"})
    for cause in ("GAP_OVERFLOW", "001*", "schema", "does not name its schema"):
        gap = await tape.next()
        assert isinstance(gap, Gap)
        assert gap.resnapshot
        assert cause in gap.cause
    assert (await tape.next()).after["Name"] == "c"


async def test_a_token_that_expires_is_renewed_without_a_hole(sandbox: SalesforceSandbox, tape: Tape) -> None:
    sandbox.org.create("Account", {"Name": "a"})
    assert (await tape.next()).after["Name"] == "a"
    for name in ("b", "c"):
        sandbox.expire_tokens()
        sandbox.org.create("Account", {"Name": name})
        assert (await tape.next()).after["Name"] == name


async def test_a_given_token_that_expires_is_reported(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    source = new_source(client_id=None, client_secret=None, access_token=ACCESS_TOKEN)
    await source.open()
    tape = Tape(source, await source.position("Account"))
    sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    sandbox.expire_tokens()
    with pytest.raises(CredentialsError, match="expired") as failed:
        await tape.next()
    assert ACCESS_TOKEN not in str(failed.value)
    await source.close()


async def test_a_silent_stream_is_opened_again(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(silence=0.5)
    await source.open()
    tape = Tape(source, await source.position("Account"))
    sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    sandbox.pubsub.faults.silent = True
    sandbox.pubsub.wake()
    waiting = asyncio.create_task(tape.next())
    sandbox.org.create("Account", {"Name": "b"})
    await until(lambda: source.streaming.reopened > 0)
    sandbox.pubsub.faults.silent = False
    assert (await waiting).after["Name"] == "b"
    await tape.close()
    await source.close()


async def test_a_broken_stream_resumes_where_it_was(
    sandbox: SalesforceSandbox, source: SalesforceSource, tape: Tape
) -> None:
    sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    sandbox.pubsub.kick()
    with pytest.raises(SourceUnavailableError, match="RST_STREAM"):
        await tape.next()
    sandbox.org.create("Account", {"Name": "b"})
    again = Tape(source, tape.position)
    assert (await again.next()).after["Name"] == "b"
    await again.close()


async def test_events_that_come_twice_have_the_same_identity(
    sandbox: SalesforceSandbox, source: SalesforceSource, tape: Tape
) -> None:
    for n in range(5):
        sandbox.org.create("Account", {"Name": f"{n}"})
    first = [await tape.next() for _ in range(5)]
    sandbox.pubsub.faults.again = 3
    again = Tape(source, tape.position)
    repeated = [await again.next() for _ in range(3)]
    assert [c.identity for c in repeated] == [c.identity for c in first[2:]]
    await again.close()


@pytest.mark.parametrize("how", ["old", "moved", "refused"])
async def test_a_position_that_salesforce_does_not_know(
    sandbox: SalesforceSandbox, source: SalesforceSource, tape: Tape, how: str
) -> None:
    sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    if how == "old":
        sandbox.org.skew += 73 * HOUR
    elif how == "moved":
        sandbox.org.migrate()
    else:
        sandbox.pubsub.faults.corrupted = True
    with pytest.raises(SourcePositionLostError, match="72 hours"):
        await Tape(source, tape.position).next()


async def test_a_quiet_topic_does_not_lose_its_position(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """Empty answers bring newer positions; without them the position would be too old after 72 hours."""
    position = await source.position("Account")
    for _ in range(5):
        stream = source.stream("Account", position)
        async with deadline():
            batch = await anext(stream)
        assert not batch.items
        position = batch.position
        await stream.aclose()  # type: ignore[attr-defined]
        sandbox.org.skew += 40 * HOUR
    sandbox.org.create("Account", {"Name": "a"})
    tape = Tape(source, position)
    assert (await tape.next()).after["Name"] == "a"
    await tape.close()


async def test_events_in_the_first_answer_are_not_lost(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.pubsub.keep_alive = 60.0
    taking = asyncio.create_task(source.position("Account"))
    await until(lambda: sandbox.pubsub.streams == 1)
    sandbox.org.create("Account", {"Name": "a"})
    sandbox.org.create("Account", {"Name": "b"})
    tape = Tape(source, await taking)
    assert [(await tape.next()).after["Name"] for _ in range(2)] == ["a", "b"]
    await tape.close()


async def test_an_exhausted_allocation_is_not_hammered(
    sandbox: SalesforceSandbox, source: SalesforceSource, tape: Tape
) -> None:
    sandbox.org.allocation = 1
    sandbox.org.create("Account", {"Name": "a"})
    assert (await tape.next()).after["Name"] == "a"
    sandbox.org.create("Account", {"Name": "b"})
    with pytest.raises(SourceUnavailableError, match="24 hours") as failed:
        await tape.next()
    assert failed.value.retry_after >= 600
    assert source.account()["events_delivered_to_us"] == 1


async def test_no_more_events_than_requested_are_in_flight(sandbox: SalesforceSandbox, tape: Tape) -> None:
    """A consumer that does not read is sent 100 events at most."""
    for n in range(500):
        sandbox.org.create("Account", {"Name": f"{n}"})
    first = await tape.next()
    assert first.after["Name"] == "0"
    assert sandbox.pubsub.delivered <= 100
    assert [(await tape.next()).after["Name"] for _ in range(499)] == [f"{n}" for n in range(1, 500)]


async def test_a_channel_of_several_objects(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(channels={"/data/Sales__chn": ["Account", "Contact"]})
    await source.open()
    channel = "/data/Sales__chn"
    sandbox.org.create("Account", {"Name": "old"})
    sandbox.org.create("Contact", {"LastName": "old"})
    tape = Tape(source, await source.position(channel), channel)
    sandbox.org.create("Account", {"Name": "a"})
    sandbox.org.create("Contact", {"LastName": "c"})
    sandbox.org.create("Case", {"Subject": "not of this channel"})
    sandbox.org.create("Account", {"Name": "b"})
    assert [(await tape.next()).object for _ in range(3)] == ["Account", "Contact", "Account"]
    rows = [c async for batch in source.snapshot(channel, None) for c in batch.items]
    assert sorted(c.object for c in rows if isinstance(c, Change)) == ["Account"] * 3 + ["Contact"] * 2
    assert sandbox.pubsub.streams == 1
    await tape.close()
    await source.close()
    other = new_source()
    await other.open()
    with pytest.raises(SourceObjectError, match="channels"):
        await other.position(channel)
    await other.close()


@pytest.mark.parametrize(
    ("code", "retry_after"),
    [
        ("service.protection.triggered", 30),
        ("concurrent.client.limit.exceeded", 30),
        ("subscription.internal.error", 0),
    ],
)
async def test_overload_is_waited_out(
    sandbox: SalesforceSandbox, source: SalesforceSource, tape: Tape, code: str, retry_after: float
) -> None:
    sandbox.org.create("Account", {"Name": "a"})
    await tape.next()
    sandbox.pubsub.faults.code = code
    with pytest.raises(SourceUnavailableError) as failed:
        await Tape(source, tape.position).next()
    assert failed.value.retry_after == retry_after


async def test_an_object_that_may_not_be_read(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.forbidden.add("Lead")
    sandbox.org.disabled.add("Case")
    with pytest.raises(SourceObjectError, match="View All Records on Lead"):
        await source.position("Lead")
    result = await source.check()
    assert result.ok
    assert result.objects["Account"] == ""
    assert "Lead" not in result.objects
    assert result.objects["Case"]
    for name in ("Nobody__c", "Acc'ount", "../x", "/data/x", ""):
        with pytest.raises(SourceObjectError):
            await source.position(name)


async def test_events_that_salesforce_held_back_are_distinguished_from_events_that_waited_for_us(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    position = await source.position("Account")
    sandbox.org.create("Account", {"Name": "before we listened"})
    tape = Tape(source, position)
    waited = await tape.next()
    assert waited.visible is None
    sandbox.org.create("Account", {"Name": "while we listened"})
    held = await tape.next()
    assert held.visible is not None
    assert held.visible >= held.timestamp
    await tape.close()


async def test_salesforce_reports_how_many_events_were_delivered(
    sandbox: SalesforceSandbox, source: SalesforceSource, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts all subscribers, so the number is higher than our own."""
    sandbox.org.allocation = 4_000
    tape = Tape(source, await source.position("Account"))
    sandbox.org.create("Account", {"Name": "Ada"})
    await tape.next()
    await until(lambda: source.account()["events_delivered"] > 20_000)
    account = source.account()
    assert (account["events_of_a_day"], account["events_delivered_to_us"]) == (25_000, 1)
    assert "event deliveries of 24 hours are used" in caplog.text
    await tape.close()


async def test_without_permission_deliveries_are_counted(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.faults.plan(kind="forbidden", path="/services/data/v66.0/limits", times=-1)
    tape = Tape(source, await source.position("Account"))
    for n in range(3):
        sandbox.org.create("Account", {"Name": f"{n}"})
        await tape.next()
    await until(lambda: any(path.endswith("/limits") for _, path in sandbox.requests))
    account = source.account()
    assert (account["events_delivered"], account["events_of_a_day"]) == (3, source.options.allocation)
    await tape.close()
