"""The feed's traps: late events, seconds that are shared, positions that age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError, SourceUnavailableError
from dimesh.spi.cdc import Change, Operation
from dimesh_contracts.waiting import deadline
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.source import StripeSource

Make = Callable[..., StripeSource]
DAY = 86_400


async def read(source: StripeSource, object: str, position: bytes, count: int) -> tuple[list[Change], bytes]:
    found: list[Change] = []
    stream = source.stream(object, position)
    async with deadline():
        while len(found) < count:
            batch = await anext(stream)
            found += [item for item in batch.items if isinstance(item, Change)]
            position = batch.position
    await stream.aclose()
    return found, position


@pytest.fixture
async def source(new_source: Make) -> Any:
    made = new_source()
    await made.open()
    yield made
    await made.close()


async def test_an_event_that_can_be_listed_only_later(sandbox: StripeSandbox, source: StripeSource) -> None:
    """It is older than what was handed out already, and comes all the same."""
    account = sandbox.account
    position = await source.position("customer")
    account.late = 0.6
    account.create("customer", {"name": "late"})
    account.late = 0.0
    account.create("customer", {"name": "prompt"})
    changes, position = await read(source, "customer", position, 3)
    assert [(c.operation.value, c.after["name"]) for c in changes if c.after] == [
        ("insert", "prompt"),
        ("insert", "late"),
        ("snapshot", "late"),  # as it is now: a newer event of it may have come before
    ]
    account.create("customer", {"name": "next"})
    changes, _ = await read(source, "customer", position, 1)
    assert [c.after["name"] for c in changes if c.after] == ["next"]


async def test_a_late_event_does_not_bring_an_old_state_back(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    """The older update of a row becomes visible after the newer one: in the end the row is as it is."""
    account = sandbox.account
    row, gone = account.create("customer", {"name": "0"}), account.create("customer", {"name": "0"})
    position = await source.position("customer")
    account.late = 0.5
    account.update("customer", row["id"], {"name": "old"})
    account.update("customer", gone["id"], {"name": "old"})
    account.late = 0.0
    account.update("customer", row["id"], {"name": "new"})
    account.delete("customer", gone["id"])
    changes, _ = await read(source, "customer", position, 6)
    state: dict[str, str | None] = {}
    for change in changes:
        state[change.primary_key["id"]] = change.after["name"] if change.after else None
    assert state == {row["id"]: "new", gone["id"]: None}


async def test_what_stripe_held_back_is_told_apart_from_what_waited_for_us(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """What was there and could not be listed at our last look was held back; what came since waited for the next one."""
    source = new_source(poll=0.02, reread=0.02)
    await source.open()
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "while we were away"})
    stream = source.stream("customer", position)
    (waited,) = (await anext(stream)).items
    assert isinstance(waited, Change)
    assert waited.visible == waited.timestamp
    sandbox.account.late = 1.5
    sandbox.account.create("customer", {"name": "late"})
    sandbox.account.late = 0.0
    (late, *_) = (await anext(stream)).items
    assert isinstance(late, Change)
    assert late.visible is not None
    assert 1.0 < (late.visible - late.timestamp).total_seconds() < 10.0
    await stream.aclose()  # type: ignore[attr-defined]
    await source.close()


async def test_many_events_of_one_second(sandbox: StripeSandbox, source: StripeSource) -> None:
    sandbox.account._now = lambda: 1_800_000_000.4
    source._clock = _Fixed(1_800_000_001.0)  # type: ignore[assignment]
    source._client._clock = source._clock
    position = await source.position("product")
    for n in range(350):
        sandbox.account.create("product", {"name": str(n)})
    changes, position = await read(source, "product", position, 350)
    assert [c.after["name"] for c in changes if c.after] == [str(n) for n in range(350)]
    for n in range(350, 400):
        sandbox.account.create("product", {"name": str(n)})
    changes, _ = await read(source, "product", position, 50)
    assert [c.after["name"] for c in changes if c.after] == [str(n) for n in range(350, 400)]


class _Fixed:
    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


async def test_a_position_that_has_aged_out(sandbox: StripeSandbox, new_source: Make) -> None:
    """Thirty days and an hour later the position is gone, and that is said: never a silent start somewhere else."""
    source = new_source()
    await source.open()
    sandbox.account.create("customer", {"name": "old"})
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "lost"})
    sandbox.account.skew = 30 * DAY + 3_600
    sandbox.account.create("customer", {"name": "new"})
    stream = source.stream("customer", position)
    with pytest.raises(SourcePositionLostError, match=r"aged out|30 days"):
        async with deadline():
            await anext(stream)
    await source.close()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("rate_limit", {"reason": "global-rate", "retry_after": 0.2}),
        ("rate_limit", {"reason": "endpoint-concurrency"}),
        ("rate_limit_400", {}),
        ("lock_timeout", {}),
        ("conflict", {}),
        ("error", {"status": 500}),
        ("error", {"status": 503, "should_retry": True}),
        ("truncated", {}),
        ("malformed", {}),
        ("empty_page", {}),
        ("reset", {}),
    ],
)
async def test_what_passes_is_tried_again(
    sandbox: StripeSandbox, source: StripeSource, kind: Any, more: dict[str, Any]
) -> None:
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "a"})
    sandbox.faults.plan(kind, times=3, **more)
    changes, _ = await read(source, "customer", position, 1)
    assert changes[0].after is not None
    assert changes[0].after["name"] == "a"


async def test_a_page_that_was_cut_off_does_not_end_a_snapshot(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """No rows, and there are said to be more: it is asked for again, and what stays so is an error."""
    source = new_source(page=10, retry_for=2.0)
    await source.open()
    rows = [sandbox.account.create("customer", {"name": str(n)}) for n in range(35)]
    found: set[str] = set()
    async for batch in source.snapshot("customer", None):
        found.update(c.primary_key["id"] for c in batch.items if isinstance(c, Change))
        if len(found) == 20:
            sandbox.faults.plan("empty_page", path="/v1/customers", times=2)
    assert found == {row["id"] for row in rows}
    assert not sandbox.faults.planned
    snapshot = source.snapshot("customer", None)
    assert len((await anext(snapshot)).items) == 10
    sandbox.faults.plan("empty_page", path="/v1/customers", times=-1)
    with pytest.raises(SourceUnavailableError, match=r"customer: a page without rows"):
        await anext(snapshot)
    await source.close()


async def test_too_many_requests_slow_the_account_down(sandbox: StripeSandbox, source: StripeSource) -> None:
    budget = source._client.budget
    sandbox.faults.plan("rate_limit", times=3)
    await source.position("customer")
    assert budget.refused == 3
    assert budget.rate < budget.limit / 4
    for _ in range(30):
        await source.position("customer")
    assert budget.rate > budget.limit / 4


async def test_too_many_requests_at_once(sandbox: StripeSandbox, source: StripeSource) -> None:
    """Fewer are on their way at once, and as many a second as before."""
    budget = source._client.budget
    sandbox.faults.plan("rate_limit", reason="endpoint-concurrency", times=3)
    await source.position("customer")
    assert budget.refused == 3
    assert budget.concurrency < budget.most_at_once / 2
    assert budget.rate == budget.limit


async def test_a_request_that_hangs(sandbox: StripeSandbox, new_source: Make) -> None:
    source = new_source(timeout=0.3, retry_for=5.0)
    await source.open()
    sandbox.faults.plan("hang", times=2)
    assert await source.position("customer")
    await source.close()


async def test_it_does_not_go_on_for_ever(sandbox: StripeSandbox, new_source: Make) -> None:
    source = new_source(retry_for=0.5)
    await source.open()
    sandbox.faults.plan("error", times=-1)
    with pytest.raises(SourceUnavailableError, match=r"customer.*HTTP 500"):
        await source.position("customer")
    sandbox.faults.clear()
    sandbox.faults.plan("error", times=-1, should_retry=False)
    requests = len(sandbox.requests)
    with pytest.raises(SourceUnavailableError):
        await source.position("customer")
    assert len(sandbox.requests) == requests + 1
    await source.close()


async def test_keys(sandbox: StripeSandbox, new_source: Make) -> None:
    with pytest.raises(CredentialsError, match="Invalid API Key"):
        await new_source(api_key="sk_test_wrong_key").open()
    sandbox.keys["rk_test_some"] = frozenset({"product"})
    source = new_source(api_key="rk_test_some")
    await source.open()
    with pytest.raises(SourceObjectError, match="rak_customer_read"):
        async for _ in source.snapshot("customer", None):
            pass
    assert [batch async for batch in source.snapshot("product", None)] == []
    result = await source.check()
    assert result.ok
    assert result.objects["product"] == ""
    assert "rak_customer_read" in result.objects["customer"]
    await source.close()


async def test_who_caused_a_change_and_whether_we_did(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    source = new_source(own_writes="agent-")
    await source.open()
    row = sandbox.account.create("customer", {"name": "Ada"})
    position = await source.position("customer")
    sandbox.account.update("customer", row["id"], {"name": "ours"}, key="agent-7")
    sandbox.account.update("customer", row["id"], {"name": "theirs"}, key="other")
    (ours, theirs), _ = await read(source, "customer", position, 2)
    assert (ours.own, theirs.own) == (True, False)
    assert ours.transaction is not None
    assert ours.transaction != theirs.transaction
    assert ours.api_version is not None
    (listed,) = [c async for b in source.snapshot("customer", None) for c in b.items if isinstance(c, Change)]
    assert listed.api_version == source.options.api_version
    await source.close()


async def test_before_and_after(sandbox: StripeSandbox, source: StripeSource) -> None:
    account = sandbox.account
    row = account.create(
        "customer",
        {
            "name": "Ada",
            "address": {"city": "London", "line1": "1"},
            "metadata": {"tier": "gold"},
            "tags": [1, 2],
        },
    )
    position = await source.position("customer")
    account.update(
        "customer",
        row["id"],
        {"name": "Ada L.", "address": {"city": "Paris"}, "metadata": {"new": "x"}, "tags": [3]},
        key="agent-7",
    )
    account.delete("customer", row["id"])
    (update, delete), _ = await read(source, "customer", position, 2)
    assert update.before is not None
    assert {n: update.before[n] for n in ("name", "address", "metadata", "tags")} == {
        "name": "Ada",
        "address": {"city": "London", "line1": "1"},
        "metadata": {"tier": "gold"},
        "tags": [1, 2],
    }
    assert set(update.changed_fields) == {"name", "address", "metadata", "tags"}
    assert update.metadata["idempotency_key"] == "agent-7"
    assert delete.operation is Operation.DELETE
    assert delete.before is not None
    assert delete.before["name"] == "Ada L."


async def test_snapshots_walk_nested_lists_and_cancelled_subscriptions(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    account = sandbox.account
    lines = [{"id": f"il_{n}", "amount": n} for n in range(37)]
    account.create("invoice", {"lines": lines})
    rows = [c async for b in source.snapshot("invoice", None) for c in b.items if isinstance(c, Change)]
    assert rows[0].after is not None
    assert [line["id"] for line in rows[0].after["lines"]["data"]] == [line["id"] for line in lines]
    live, dead = account.create("subscription", {}), account.create("subscription", {})
    position = await source.position("subscription")
    account.delete("subscription", dead["id"])
    found = [c async for b in source.snapshot("subscription", None) for c in b.items if isinstance(c, Change)]
    assert {c.primary_key["id"] for c in found} == {live["id"], dead["id"]}
    (cancelled,), _ = await read(source, "subscription", position, 1)
    assert cancelled.operation is Operation.UPDATE
    assert cancelled.after is not None
    assert cancelled.after["status"] == "canceled"


@pytest.mark.parametrize(
    "name", ["customer", "invoiceitem"]
)  # an invoice item has a date in place of ``created``
async def test_a_snapshot_whose_cursor_is_deleted(
    sandbox: StripeSandbox, new_source: Make, name: str
) -> None:
    source = new_source(page=10)
    await source.open()
    rows = [sandbox.account.create(name, {"description": str(n)}) for n in range(35)]
    found: set[str] = set()
    deleted: set[str] = set()
    async for batch in source.snapshot(name, None):
        ids = [c.primary_key["id"] for c in batch.items if isinstance(c, Change)]
        found.update(ids)
        if len(deleted) < 2:
            sandbox.account.delete(name, ids[-1])
            deleted.add(ids[-1])
    assert found == {row["id"] for row in rows}
    await source.close()


async def test_a_connected_account(sandbox: StripeSandbox, new_source: Make) -> None:
    theirs = sandbox.connect("acct_theirs")
    theirs.create("customer", {"name": "theirs"})
    sandbox.account.create("customer", {"name": "ours"})
    source = new_source(account="acct_theirs")
    await source.open()
    rows = [c async for b in source.snapshot("customer", None) for c in b.items if isinstance(c, Change)]
    assert [c.after["name"] for c in rows if c.after] == ["theirs"]
    await source.close()
    with pytest.raises(CredentialsError, match="does not have access"):
        await new_source(account="acct_nobody").open()
