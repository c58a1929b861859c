"""The stream, where NetSuite's times, pages and tables are traps."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dimesh.errors import SourceObjectError, SourcePositionLostError, SourceUnavailableError
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_netsuite.sandbox import Account, NetSuiteSandbox
from dimesh_netsuite.source import NetSuiteSource

from .helpers import following, listed, shown

INSERT, UPDATE, DELETE, SNAPSHOT = Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.SNAPSHOT
NewSource = Callable[..., NetSuiteSource]


def stop_the_clock(account: Account) -> None:
    now = account.now()
    account._now = lambda: now


async def test_a_transaction_that_commits_late(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    async with following(source, "customer") as tape:
        with account.held() as late:
            late.create("customer", {"companyname": "late"})
            account.skew += 120
            account.create("customer", {"companyname": "early"})
            assert shown(await tape.changes()) == [(INSERT, "early")]
            account.skew += 60
            assert await tape.changes() == []
        found: list[Change] = []
        while not found:
            found = await tape.changes()
        assert shown(found) == [(INSERT, "late")]
        for _ in range(8):
            assert await tape.changes() == [], "a row was returned twice"


@pytest.mark.parametrize("without_offset", [False, True])
async def test_the_hour_that_autumn_repeats(
    sandbox: NetSuiteSandbox, new_source: NewSource, without_offset: bool
) -> None:
    """Los Angeles, 1 November 2026: 08:30 UTC is 01:30 in summer, 09:10 is 01:10 in winter."""
    account = sandbox.account
    account.stamps_without_offset = without_offset
    account._now = lambda: datetime(2026, 11, 1, 8, 0, tzinfo=UTC).timestamp()
    source = new_source(reread=0.01, overlap=60.0)
    await source.open()
    async with following(source, "customer") as tape:
        names: list[str] = []
        for hour, minute in ((8, 30), (9, 10), (9, 50), (10, 30), (11, 0)):
            at = datetime(2026, 11, 1, hour, minute, tzinfo=UTC).timestamp()
            account.skew = at - account._now()
            account.create("customer", {"companyname": f"{hour}:{minute}"})
            for _ in range(3):
                names += [str(c.after["companyname"]) for c in await tape.changes() if c.after]
        assert names == ["8:30", "9:10", "9:50", "10:30", "11:0"]


async def test_a_position_of_before_the_hour_that_autumn_repeats(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    """The source is off while the clocks are set back."""
    account = sandbox.account
    account.stamps_without_offset = True
    account._now = lambda: datetime(2026, 11, 1, 8, 50, tzinfo=UTC).timestamp()
    source = new_source(overlap=60.0)
    await source.open()
    position = await source.position("customer")
    account.skew = 20 * 60
    account.create("customer", {"companyname": "winter"})
    account.skew = 25 * 60
    again = new_source(overlap=60.0)
    await again.open()
    async with following(again, "customer", position) as tape:
        assert [c.after["companyname"] for c in await tape.changes() if c.after] == ["winter"]


async def test_more_rows_in_one_second_than_a_page(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    account = sandbox.account
    source = new_source(page=100)
    await source.open()
    position = await source.position("customer")
    stop_the_clock(account)
    ids = [account.create("customer", {"companyname": f"c{n}"}) for n in range(1_250)]
    async with following(source, "customer", position) as tape:
        found = await tape.changes()
        assert [c.primary_key["id"] for c in found] == [str(id) for id in ids]
        assert await tape.changes() == []
        account.update("customer", ids[3], {"companyname": "again"})  # in the same second
        assert shown(await tape.changes()) == [(UPDATE, "again")]


async def test_a_restart_in_the_middle_of_a_long_poll(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    source = new_source(page=100)
    await source.open()
    position = await source.position("customer")
    for n in range(500):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    stream = source.stream("customer", position)
    first = [await anext(stream) for _ in range(2)]
    await stream.aclose()  # type: ignore[attr-defined]
    other = new_source(page=100)
    await other.open()
    async with following(other, "customer", first[-1].position) as tape:
        rest = await tape.changes()
    names = [c.after["companyname"] for b in first for c in b.items if isinstance(c, Change) and c.after]
    assert names + [c.after["companyname"] for c in rest if c.after] == [f"c{n}" for n in range(500)]


async def test_more_rows_than_a_position_remembers(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    """After a restart it is not known whether the oldest of them were returned: they are rows that were read again."""
    account = sandbox.account
    source = new_source()
    await source.open()
    position = await source.position("customer")
    stop_the_clock(account)
    for n in range(2_500):
        account.create("customer", {"companyname": f"c{n}"})
    async with following(source, "customer", position) as tape:
        assert len(await tape.changes()) == 2_500
        position = tape.position
    assert len(position) < 200_000
    account.skew += 2
    account.create("customer", {"companyname": "new"})
    async with following(source, "customer", position) as tape:
        found = await tape.changes()
    assert shown(found)[-1] == (INSERT, "new")
    assert {c.operation for c in found[:-1]} == {SNAPSHOT}
    assert len(found) < 700


async def test_a_table_of_more_than_a_hundred_columns(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    account = sandbox.account
    for n in range(150):
        account.add_field("customer", f"custentity_f{n}")
    for n in range(25):
        account.create("customer", {"companyname": f"c{n}", "custentity_f0": "a", "custentity_f149": f"z{n}"})
    source = new_source(page=10)
    await source.open()
    assert [c.after["custentity_f149"] for c in await listed(source, "customer") if c.after] == [
        f"z{n}" for n in range(25)
    ]
    async with following(source, "customer") as tape:
        account.update("customer", 7, {"custentity_f149": "changed"})
        (change,) = await tape.changes()
        assert change.after is not None
        assert (change.after["custentity_f149"], change.after["custentity_f0"], len(change.after)) == (
            "changed",
            "a",
            167,
        )
    assert not [q for q in sandbox.queries if q.count(" AS ") + q.count("t.custentity") > 200]


async def test_a_table_that_answers_without_rows(
    sandbox: NetSuiteSandbox, source: NetSuiteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role may count rows and not read them, say."""
    sandbox.account.create("customer", {})
    run = sandbox.engine.run
    monkeypatch.setattr(
        sandbox.engine,
        "run",
        lambda q, *more: run(q, *more) if "COUNT" in q else run(q, *more)._replace(rows=[], total=0),
    )
    with pytest.raises(SourceObjectError, match="has 1 rows, and NetSuite answered without any"):
        await listed(source, "customer")


async def test_columns_that_suiteql_does_not_know(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    sandbox.account.create("customer", {"companyname": "c"})
    (row,) = await listed(source, "customer")
    assert row.after is not None
    assert "balance" not in row.after
    schema = await source.schema("customer")
    assert schema is not None
    assert row.after.keys() == schema["properties"].keys()


async def test_a_column_that_goes_and_one_that_comes(
    sandbox: NetSuiteSandbox, source: NetSuiteSource
) -> None:
    account = sandbox.account
    account.add_field("customer", "custentity_old")
    account.create("customer", {"companyname": "a", "custentity_old": "1"})
    async with following(source, "customer") as tape:
        await tape.poll()
        account.remove_field("customer", "custentity_old")
        account.add_field("customer", "custentity_new")
        account.create("customer", {"companyname": "b", "custentity_new": "2"})
        found = [c for c in await tape.changes() if c.after and c.after["companyname"] == "b"]
        assert [c.after["custentity_new"] for c in found if c.after] == ["2"]


async def test_a_field_that_is_added(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """The description, which the runner asks for every hour, finds it, and rows have it from then on."""
    account = sandbox.account
    first = account.create("customer", {"companyname": "a"})
    async with following(source, "customer") as tape:
        account.add_field("customer", "custentity_region")
        schema = await source.schema("customer")
        assert schema is not None
        assert "custentity_region" in schema["properties"]
        assert await tape.changes() == [], "an empty field that is new changed a row"
        account.update("customer", first, {"custentity_region": "north"})
        assert shown(await tape.changes(), "custentity_region") == [(UPDATE, "north")]


async def test_dates_nulls_and_numbers(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """Dates never come in the display format, whatever the user prefers, and nothing is rounded."""
    account = sandbox.account
    account.date_format = "%-d/%-m/%Y"
    account.create(
        "transaction",
        {"trandate": "2026-03-02", "foreigntotal": 1234567.1, "type": "SalesOrd", "memo": None},
        at=1_772_445_600,
    )
    (row,) = await listed(source, "transaction")
    assert row.after is not None
    assert row.after["trandate"] == "2026-03-02"
    assert row.after["createddate"] == "2026-03-02T10:00:00Z"
    assert (row.after["foreigntotal"], row.after["memo"]) == ("1234567.1", None)


async def test_an_answer_that_is_cut_off(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    for n in range(40):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    source = new_source(retry_for=0.0)
    await source.open()
    await source.schema("customer")
    position = await source.position("customer")
    sandbox.account.skew += 1_000
    for n in range(40):
        sandbox.account.create("customer", {"companyname": f"d{n}"})
    sandbox.faults.plan("cut_off", path="/services/rest/query", times=-1)
    async with following(source, "customer", position) as tape:
        with pytest.raises(SourceUnavailableError, match="8 of 80 rows and said that there are no more"):
            await tape.poll()
        sandbox.faults.clear()
    async with following(source, "customer", tape.position) as tape:
        assert len(await tape.changes()) == 40


@pytest.mark.parametrize("kind", ["empty_page", "rubbish"])
async def test_a_page_without_rows(sandbox: NetSuiteSandbox, source: NetSuiteSource, kind: str) -> None:
    for n in range(40):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    await source.schema("customer")
    sandbox.faults.plan(kind, path="/services/rest/query", times=2)
    assert len(await listed(source, "customer")) == 40


async def test_pages_that_are_too_large_for_a_gateway(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    """Each attempt asks for half as many rows, and later ones for more again."""
    source = new_source(retry_for=0.0, notes=False, deletes=False)
    await source.open()
    position = await source.position("customer")
    for n in range(300):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    sandbox.slow_above = 100
    names: list[str] = []
    attempts = 0
    while len(names) < 300:
        attempts += 1
        assert attempts < 60
        try:
            async with following(source, "customer", position) as tape:
                stream = tape._stream
                while len(names) < 300:
                    batch = await anext(stream)
                    position = batch.position
                    names += [
                        c.after["companyname"] for c in batch.items if isinstance(c, Change) and c.after
                    ]
        except SourceUnavailableError:
            continue
    assert names == [f"c{n}" for n in range(300)]


async def test_a_page_that_stays_the_same(
    sandbox: NetSuiteSandbox, new_source: NewSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    source = new_source(page=10)
    await source.open()
    run = sandbox.engine.run
    monkeypatch.setattr(
        sandbox.engine, "run", lambda q, *more: run(re.sub(r"WHERE .*(?= ORDER)", "", q), *more)
    )
    with pytest.raises(SourceUnavailableError, match="the same page of customer again and again"):
        await listed(source, "customer")


async def test_a_role_that_loses_a_table(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    account = sandbox.account
    ids = [account.create("customer", {"companyname": f"c{n}"}) for n in range(20)]
    async with following(source, "customer") as tape:
        await tape.poll()
        account.role.without.add("customer")
        account.update("customer", ids[0], {"companyname": "meanwhile"})
        with pytest.raises(SourceObjectError, match="there is no such table, or the role may not see it"):
            await tape.poll()
    account.role.without.clear()
    async with following(source, "customer", tape.position) as tape:
        assert shown(await tape.changes()) == [(UPDATE, "meanwhile")]
        assert not [item for item in tape.items if isinstance(item, Gap)]


async def test_a_role_that_loses_a_subsidiary(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    """Rows disappear without a hint: that is a gap, and never a delete."""
    account = sandbox.account
    for n in range(20):
        account.create("customer", {"companyname": f"c{n}", "subsidiary": n % 2 + 1})
    source = new_source(refresh=0.01)
    await source.open()
    async with following(source, "customer") as tape:
        await tape.poll()
        account.role.subsidiaries = {1}
        (gap,) = await tape.poll()
        assert isinstance(gap, Gap)
        assert "sees 10 rows of customer, and saw 20 before" in gap.cause
        assert await tape.poll() == []
    answers = await source.read_rows("customer", [{"id": "1"}, {"id": "2"}])
    assert [a and a.operation for a in answers] == [SNAPSHOT, None]


async def test_many_deletes_are_no_gap(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    account = sandbox.account
    ids = [account.create("customer", {"companyname": f"c{n}"}) for n in range(1_200)]
    source = new_source(refresh=0.01)
    await source.open()
    async with following(source, "customer") as tape:
        await tape.poll()
        for id in ids[:1_100]:
            account.delete("customer", id)
        found = await tape.poll()
        assert [c.operation for c in found if isinstance(c, Change)] == [DELETE] * 1_100
        for _ in range(6):
            assert await tape.poll() == []


async def test_a_refreshed_account(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    for n in range(10):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    position = await source.position("customer")
    sandbox.account.refresh()
    async with following(source, "customer", position) as tape:
        with pytest.raises(SourcePositionLostError, match="the account was probably refreshed"):
            await tape.poll()


async def test_inactive_rows_remain(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    id = sandbox.account.create("customer", {})
    async with following(source, "customer") as tape:
        sandbox.account.update("customer", id, {"isinactive": "T"})
        assert shown(await tape.changes(), "isinactive") == [(UPDATE, "T")]
        assert len(await listed(source, "customer")) == 1


async def test_a_request_that_is_refused_once(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """The object fails, and no position goes past what was not read."""
    async with following(source, "customer") as tape:
        await tape.poll()
        sandbox.account.create("customer", {"companyname": "c"})
        sandbox.faults.plan("bad_request", path="/services/rest/query")
        with pytest.raises(SourceObjectError, match="the role may not read"):
            await tape.poll()
    async with following(source, "customer", tape.position) as tape:
        assert shown(await tape.changes()) == [(INSERT, "c")]


async def test_custom_records(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """Their time has another name, and their deletes are recorded under a number."""
    account = sandbox.account
    account.add_record_type("customrecord_site", {"custrecord_city": "text"})
    first = account.create("customrecord_site", {"name": "a", "custrecord_city": "Graz"})
    assert shown(await listed(source, "customrecord_site"), "custrecord_city") == [(SNAPSHOT, "Graz")]
    async with following(source, "customrecord_site") as tape:
        account.update("customrecord_site", first, {"custrecord_city": "Wien"})
        assert shown(await tape.changes(), "custrecord_city") == [(UPDATE, "Wien")]
        account.delete("customrecord_site", first)
        (change,) = await tape.changes()
        assert (change.operation, change.primary_key) == (DELETE, {"id": str(first)})


async def test_a_merge_of_customers(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    """The source is deleted, and all of its transactions change at once."""
    account = sandbox.account
    loser, winner = (account.create("customer", {"companyname": name}) for name in "lw")
    for n in range(300):
        account.create("transaction", {"type": "CustInvc", "entity": loser, "tranid": f"T{n}"})
    async with following(source, "customer") as customers, following(source, "transaction") as transactions:
        await transactions.poll()
        account.merge(loser, winner)
        assert [(c.operation, c.primary_key["id"]) for c in await customers.changes()] == [
            (DELETE, str(loser))
        ]
        flood = await transactions.changes()
        assert shown(flood, "entity") == [(UPDATE, str(winner))] * 300
        assert await transactions.changes() == []
