"""Several connected accounts in one source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBusFactory, SqliteCDCStore, StartAt, StripeCDCConnector
from dimesh.clock import SystemClock
from dimesh.errors import ConfigurationError, CredentialsError, SourceObjectError
from dimesh.options import parse_options
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.connected import ConnectedAccounts, Delivered
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

ONE, TWO = "acct_one", "acct_two"
DAY = 86_400


def make(sandbox: StripeSandbox, *accounts: str, **options: Any) -> ConnectedAccounts:
    given = {
        "api_key": KEY, "url": sandbox.url, "poll": 0.05, "reread": 0.2, "rate": 1_000, "accounts": list(accounts), **options
    }  # fmt: skip
    return ConnectedAccounts(parse_options(StripeOptions, given, "source 'stripe'"), SystemClock())


async def read(
    source: ConnectedAccounts, object: str, position: bytes, count: int
) -> tuple[list[Any], bytes]:
    found: list[Any] = []
    stream = source.stream(object, position)
    async with deadline():
        while len(found) < count:
            batch = await anext(stream)
            found += batch.items
            position = batch.position
    await stream.aclose()  # type: ignore[attr-defined]
    return found, position


@pytest.fixture
async def source(sandbox: StripeSandbox) -> AsyncIterator[ConnectedAccounts]:
    for id in (ONE, TWO):
        sandbox.connect(id)
    made = make(sandbox, ONE, TWO)
    await made.open()
    yield made
    await made.close()


async def test_the_account_is_part_of_the_key(sandbox: StripeSandbox, source: ConnectedAccounts) -> None:
    """Both accounts have a coupon of the same id."""
    position = await source.position("coupon")
    for id, account in sandbox.connected.items():
        account.create("coupon", {"id": "SUMMER", "name": id})
    changes, position = await read(source, "coupon", position, 2)
    assert {(c.primary_key["account"], c.primary_key["id"], c.after["name"]) for c in changes} == {
        (ONE, "SUMMER", ONE),
        (TWO, "SUMMER", TWO),
    }
    assert len({change.identity for change in changes}) == 2
    rows = [c async for b in source.snapshot("coupon", None) for c in b.items if isinstance(c, Change)]
    assert {(c.primary_key["account"], c.after["name"]) for c in rows if c.after} == {(ONE, ONE), (TWO, TWO)}
    assert len({change.identity for change in rows}) == 2
    sandbox.connected[ONE].delete("coupon", "SUMMER")
    ((gone,), _) = await read(source, "coupon", position, 1)
    assert (gone.operation, gone.primary_key["account"]) == (Operation.DELETE, ONE)
    keys = [{"account": id, "id": "SUMMER"} for id in (TWO, ONE, "acct_other")]
    found = await source.read_rows("coupon", keys)
    assert [change and change.operation for change in found] == [Operation.SNAPSHOT, Operation.DELETE, None]


async def test_streams_and_snapshots_resume_anywhere(sandbox: StripeSandbox) -> None:
    for id in (ONE, TWO):
        sandbox.connect(id)
    source = make(sandbox, ONE, TWO, page=10)
    await source.open()
    start = position = await source.position("customer")
    wanted: list[str] = []
    for n in range(6):
        wanted += [a.create("customer", {"name": str(n)})["id"] for a in sandbox.connected.values()]
    seen: list[str] = []
    while len(seen) < len(wanted):
        changes, position = await read(source, "customer", position, 1)
        seen += [change.primary_key["id"] for change in changes]
    assert sorted(seen) == sorted(wanted)
    again, _ = await read(source, "customer", start, len(wanted))
    assert sorted(change.primary_key["id"] for change in again) == sorted(wanted)
    for account in sandbox.connected.values():
        wanted += [account.create("customer", {"name": str(n)}, event=False)["id"] for n in range(20)]
    read_so_far: set[str] = set()
    async for batch in source.snapshot("customer", None):
        read_so_far |= {c.primary_key["id"] for c in batch.items if isinstance(c, Change)}
        rest = [c async for b in source.snapshot("customer", batch.position) for c in b.items]
        assert read_so_far | {c.primary_key["id"] for c in rest if isinstance(c, Change)} == set(wanted)
    await source.close()


async def test_an_account_that_is_disconnected_does_not_stop_the_others(
    sandbox: StripeSandbox, source: ConnectedAccounts, caplog: pytest.LogCaptureFixture
) -> None:
    position = await source.position("customer")
    del sandbox.connected[ONE]
    sandbox.connected[TWO].create("customer", {"name": "still"})
    ((change,), _) = await read(source, "customer", position, 1)
    assert change.primary_key["account"] == TWO
    assert f"customer of account {ONE} is tried again every minute" in caplog.text


async def test_a_new_account_and_a_lost_position_are_gaps(
    sandbox: StripeSandbox, source: ConnectedAccounts
) -> None:
    position = await source.position("customer")
    sandbox.connect("acct_new")
    wider = make(sandbox, ONE, TWO, "acct_new")
    await wider.open()
    ((gap,), position) = await read(wider, "customer", position, 1)
    assert isinstance(gap, Gap)
    assert (gap.resnapshot, "acct_new is new" in gap.cause) == (True, True)
    sandbox.account.skew += 31 * DAY  # the clock of the server
    gaps, _ = await read(wider, "customer", position, 3)
    assert {gap.cause.partition(":")[0] for gap in gaps} == {f"account {id}" for id in (ONE, TWO, "acct_new")}
    assert all(isinstance(gap, Gap) and gap.resnapshot for gap in gaps)
    await wider.close()


async def test_the_settings(sandbox: StripeSandbox, source: ConnectedAccounts) -> None:
    with pytest.raises(ConfigurationError, match=r"accounts must be a list of acct_…"):
        make(sandbox, "nobody")
    with pytest.raises(ConfigurationError, match="account or accounts, not both"):
        make(sandbox, ONE, account=TWO)
    with pytest.raises(SourceObjectError, match="without the option accounts"):
        await source.position("capability")
    found = await source.check()
    assert (found.ok, found.objects["customer"], "capability" in found.objects) == (True, "", False)
    with pytest.raises(CredentialsError):
        await make(sandbox, "acct_nobody").open()


async def test_the_connector(sandbox: StripeSandbox, tmp_path: Path) -> None:
    for id in (ONE, TWO):
        sandbox.connect(id).create("coupon", {"id": "SUMMER", "name": id})
    payloads: list[Any] = []

    async def note(event: Event) -> None:
        payloads.append((event.payload, event.metadata.event_id))

    store = SqliteCDCStore(tmp_path / "cdc.db")
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        options: dict[str, Any] = {"url": sandbox.url, "poll": 0.05, "reread": 0.2, "accounts": [ONE, TWO]}
        connector = StripeCDCConnector("platform", bus, "", KEY, store=store, **options)
        await bus.subscribe("cdc.stripe", note, "noted", start=StartAt.EARLIEST)
        await connector.start(["coupon"])
        await until(lambda: len(payloads) == 2)
        await until(lambda: connector.get_status()["objects"]["coupon"]["phase"] == "stream")
        sandbox.connected[ONE].update("coupon", "SUMMER", {"name": "changed"})
        await until(lambda: len(payloads) == 3)
        await connector.disconnect()
    change = payloads[2][0]
    assert change["primary_key"] == {"account": ONE, "id": "SUMMER"}
    assert (change["before"]["name"], change["after"]["name"]) == (ONE, "changed")
    assert len({id for _, id in payloads}) == 3
    await store.close()


async def test_rows_from_the_middle_of_two_accounts(
    sandbox: StripeSandbox, source: ConnectedAccounts
) -> None:
    for account in sandbox.connected.values():
        for n in range(4):
            account.create("customer", {"name": str(n)})
    rows = await source.rows_after("customer", None, 100)
    assert rows is not None
    assert [row.primary_key["account"] for row in rows] == [ONE] * 4 + [TWO] * 4
    for n in range(8):
        following = await source.rows_after("customer", rows[n].primary_key, 3)
        assert following is not None
        assert [row.primary_key for row in following] == [row.primary_key for row in rows[n + 1 : n + 4]]
    assert await source.rows_after("customer", {"account": ONE, "id": "cus_gone"}, 3) is None


async def test_accounts_are_complete_when_the_slowest_is() -> None:
    """What one feed says counts when its batches are taken over, and when the other one says so, too."""
    said: list[float] = []

    class Listener:
        def requested(self) -> None: ...

        def reached(self) -> None: ...

        def missed(self, reason: str) -> None: ...

        def delivered(self, until: float) -> None:
            said.append(until)

    everyone: list[Delivered] = []
    one, two = Delivered(Listener(), everyone), Delivered(Listener(), everyone)
    one.delivered(10.0)
    assert said == []
    two.handed = 1
    two.delivered(12.0)
    assert said == []  # its batch waits to be taken over
    two.taken = 1
    two.announce()
    assert said == [10.0]
    one.delivered(20.0)
    assert said == [10.0, 12.0]
