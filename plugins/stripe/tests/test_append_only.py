"""Balance transactions: Stripe sends no events for them, so the source follows their list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from dimesh import Event, EventBusFactory, SqliteCDCStore, StartAt, StripeCDCConnector
from dimesh.errors import SourcePositionLostError
from dimesh.spi.cdc import Change, Operation
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.source import StripeSource

NAME = "balance_transaction"
DAY = 86_400


@pytest.fixture
async def source(new_source: Callable[..., StripeSource]) -> AsyncIterator[StripeSource]:
    made = new_source(page=10)
    await made.open()
    yield made
    await made.close()


async def read(source: StripeSource, position: bytes, count: int) -> tuple[list[Change], bytes]:
    found: list[Change] = []
    async with deadline(), aclosing(cast(Any, source.stream(NAME, position))) as stream:
        while len(found) < count:
            batch = await anext(stream)
            found += [item for item in batch.items if isinstance(item, Change)]
            position = batch.position
    return found, position


def amounts(changes: list[Change]) -> list[int]:
    return [change.after["amount"] for change in changes if change.after is not None]


async def test_nothing_is_lost_between_snapshot_and_stream(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    account = sandbox.account
    account.seed(NAME, 25, lambda n: {"amount": n})
    for n in range(25, 35):
        account.create(NAME, {"amount": n})
    position = await source.position(NAME)
    seen: set[int] = set()
    made = 35
    async for batch in source.snapshot(NAME, None):
        seen.update(amounts([c for c in batch.items if isinstance(c, Change)]))
        account.create(NAME, {"amount": made})
        made += 1
    assert seen >= set(range(35))
    changes, _ = await read(source, position, made - 35)
    assert seen | set(amounts(changes)) == set(range(made))
    assert amounts(changes) == list(range(35, made))
    assert {change.operation for change in changes} == {Operation.INSERT}
    assert all(change.before is None and change.identity == change.primary_key["id"] for change in changes)
    assert not list(account.events())


async def test_a_row_that_can_be_listed_only_later(sandbox: StripeSandbox, source: StripeSource) -> None:
    account = sandbox.account
    account.create(NAME, {"amount": 0})
    position = await source.position(NAME)
    account.late = 0.6
    account.create(NAME, {"amount": 1})
    account.late = 0.0
    account.create(NAME, {"amount": 2})
    changes, position = await read(source, position, 2)
    assert amounts(changes) == [2, 1]
    account.create(NAME, {"amount": 3})
    changes, _ = await read(source, position, 1)
    assert amounts(changes) == [3]


async def test_many_rows_of_one_second_and_a_restart_anywhere(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    """A stream from any position returns exactly the rows after it, also in the middle of a second."""
    sandbox.account._now = lambda: 1_800_000_000.4
    position = await source.position(NAME)  # there is no row yet
    sandbox.account.create(NAME, {"amount": 0})
    for n in range(1, 45):
        sandbox.account.create(NAME, {"amount": n})
    done = 0
    while done < 45:
        changes, position = await read(source, position, 1)
        assert amounts(changes) == list(range(done, done + len(changes)))
        done += len(changes)


async def test_a_pause_of_months_loses_nothing(sandbox: StripeSandbox, source: StripeSource) -> None:
    """Stripe keeps rows for ever: they are not forgotten after 30 days, as events are."""
    account = sandbox.account
    account.create(NAME, {"amount": 0})
    position = await source.position(NAME)
    for n in range(1, 31):
        account.skew += 10 * DAY
        account.create(NAME, {"amount": n})
    changes, _ = await read(source, position, 30)
    assert amounts(changes) == list(range(1, 31))


async def test_a_position_whose_row_does_not_exist(sandbox: StripeSandbox, source: StripeSource) -> None:
    sandbox.account.create(NAME, {"amount": 0})
    with pytest.raises(SourcePositionLostError, match="does not know the position of balance_transaction"):
        await read(source, b'["txn_of_another_account",1800000000,{}]', 1)


async def test_the_sandbox_never_changes_a_row(sandbox: StripeSandbox) -> None:
    row = sandbox.account.create(NAME, {"amount": 0})
    assert row["id"].startswith("txn_")
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"{sandbox.url}/v1/{row['object']}s", headers=headers) as client:
        assert (await client.get(f"/{row['id']}")).json() == row
        for refused in (
            await client.post("", data={"amount": "1"}),
            await client.post(f"/{row['id']}", data={"amount": "1"}),
            await client.delete(f"/{row['id']}"),
        ):
            assert refused.status_code == 404
    assert sandbox.account.rows(NAME) == [row]


async def test_each_row_is_published_once(sandbox: StripeSandbox, tmp_path: Path) -> None:
    """The connector is stopped and started again, and captures an object with events as well."""
    account = sandbox.account
    for n in range(25):
        account.create(NAME, {"amount": n})
    store = SqliteCDCStore(tmp_path / "cdc.db")
    seen: list[int] = []

    async def watch(event: Event) -> None:
        if event.payload["object"] == NAME:
            seen.append(event.payload["after"]["amount"])

    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        await bus.subscribe("cdc.stripe", watch, "watch", start=StartAt.EARLIEST)
        options: dict[str, Any] = {"url": sandbox.url, "poll": 0.05, "reread": 0.2, "rate": 1_000}
        connector = StripeCDCConnector("stripe_test", bus, "", KEY, store=store, **options)
        await connector.start([NAME, "customer"])
        await until(lambda: len(seen) == 25)
        account.create(NAME, {"amount": 25})
        await until(lambda: 25 in seen)
        await connector.stop()
        account.create(NAME, {"amount": 26})
        await connector.start([NAME, "customer"])
        await until(lambda: 26 in seen)
        await connector.disconnect()
    assert sorted(seen) == list(range(27))
    await store.close()
