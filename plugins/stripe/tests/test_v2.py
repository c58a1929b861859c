"""Objects of the v2 API, whose events are thin: the contract kit, and their special cases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh.errors import SourceObjectError, SourcePositionLostError
from dimesh.spi.cdc import Change, Operation
from dimesh_contracts.waiting import deadline
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.source import StripeSource

ACCOUNT = "v2.core.account"


async def following(source: StripeSource, position: bytes, count: int) -> list[Change]:
    found: list[Change] = []
    stream = source.stream(ACCOUNT, position)
    async with deadline():
        while len(found) < count:
            found += [item for item in (await anext(stream)).items if isinstance(item, Change)]
    await stream.aclose()  # type: ignore[attr-defined]
    return found


async def test_a_thin_event_has_the_current_object(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    source = new_source()
    await source.open()
    position = await source.position(ACCOUNT)
    made = sandbox.v2.create(ACCOUNT, {"display_name": "a"})
    sandbox.v2.update(ACCOUNT, made["id"], {"display_name": "b"})
    other = sandbox.v2.create(ACCOUNT, {"display_name": "gone"})
    sandbox.v2.delete(ACCOUNT, other["id"])
    sandbox.v2.create("v2.core.event_destination", {"name": "not this object"})
    found = await following(source, position, 4)
    assert [
        (c.operation, (c.after or {}).get("display_name")) for c in found if c.primary_key["id"] == made["id"]
    ] == [
        (Operation.INSERT, "b"),  # its intermediate state is not available
        (Operation.UPDATE, "b"),
    ]
    assert [c.operation for c in found if c.primary_key["id"] == other["id"]] == [Operation.DELETE] * 2
    assert all(c.transaction for c in found)
    asked = [path for _, path in sandbox.requests if path.startswith("/v2/core/accounts/")]
    assert len(asked) == 3  # not for the delete
    await source.close()


async def test_thin_webhooks_are_wake_ups(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    source = new_source(poll=3_600.0)
    await source.open()
    stream = source.stream(ACCOUNT, await source.position(ACCOUNT))
    waiting = asyncio.ensure_future(anext(stream))
    while ACCOUNT not in source._wake_ups:
        await asyncio.sleep(0.01)
    sandbox.v2.create(ACCOUNT, {"display_name": "a"})
    source.hint(f"{ACCOUNT}.created")
    async with deadline():
        assert (await waiting).items
    await stream.aclose()  # type: ignore[attr-defined]
    await source.close()


async def test_a_position_that_is_too_old(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    source = new_source()
    await source.open()
    with pytest.raises(SourcePositionLostError, match="30 days"):
        await following(source, b'["2020-01-01T00:00:00Z",[]]', 1)
    with pytest.raises(
        SourcePositionLostError,
        match=r"this position of v2\.core\.account does not come from the Stripe source",
    ):
        await following(source, b"nonsense", 1)
    await source.close()


@pytest.mark.slow
async def test_rows_and_events_together_are_the_account(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    """Pages of rows, resumed in the middle, with changes meanwhile."""
    source = new_source(page=20)
    await source.open()
    ids = [sandbox.v2.create(ACCOUNT, {"display_name": f"{n}"})["id"] for n in range(90)]
    position = await source.position(ACCOUNT)
    rows: dict[str, Any] = {}
    resume: bytes | None = None
    for n in range(3):  # it is interrupted after each page
        async for batch in source.snapshot(ACCOUNT, resume):
            rows |= {c.primary_key["id"]: c.after for c in batch.items if isinstance(c, Change)}
            resume = batch.position
            sandbox.v2.update(ACCOUNT, ids[n], {"display_name": "changed"})
            if n < 2:
                break
    assert len(rows) == 90
    assert [batch async for batch in source.snapshot(ACCOUNT, resume)] == []
    sandbox.v2.delete(ACCOUNT, ids[50])
    count = len(sandbox.v2.answer("core/events", {"limit": 1_000})["data"]) - 90
    for change in await following(source, position, count):
        if change.operation is Operation.DELETE:
            rows.pop(change.primary_key["id"], None)
        else:
            rows[change.primary_key["id"]] = change.after
    assert rows == {row["id"]: row for row in sandbox.v2.rows(ACCOUNT)}
    assert (await source.check()).objects[ACCOUNT] == ""
    await source.close()


async def test_a_row_that_may_not_be_read_is_not_deleted(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    """A thin event names an object that must be fetched: a refusal of that says nothing about it."""
    source = new_source()
    await source.open()
    position = await source.position(ACCOUNT)
    made = sandbox.v2.create(ACCOUNT, {"display_name": "a"})
    sandbox.faults.plan("forbidden", times=1, path=f"/v2/core/accounts/{made['id']}")
    with pytest.raises(SourceObjectError, match="may not read"):
        await following(source, position, 1)
    sandbox.faults.plan("forbidden", times=1, path=f"/v2/core/accounts/{made['id']}")
    assert await source.read_rows(ACCOUNT, [{"id": made["id"]}]) == [None]
    (change,) = await following(source, position, 1)
    assert change.operation is Operation.INSERT
    sandbox.v2.delete(ACCOUNT, made["id"])
    (gone,) = await source.read_rows(ACCOUNT, [{"id": made["id"]}])
    assert gone is not None
    assert gone.operation is Operation.DELETE
    await source.close()
