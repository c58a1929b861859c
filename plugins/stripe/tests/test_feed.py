"""The traps of the feed: late events, several events in one second, positions that age."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError, SourceUnavailableError
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_contracts.waiting import deadline, eventually
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
    """An event older than those already returned is returned as well."""
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
        ("snapshot", "late"),  # the current row, since a newer event for it may have arrived earlier
    ]
    account.create("customer", {"name": "next"})
    changes, _ = await read(source, "customer", position, 1)
    assert [c.after["name"] for c in changes if c.after] == ["next"]


async def test_a_late_event_does_not_bring_an_old_state_back(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    """The older update of a row becomes visible after the newer one: the last change has the current row."""
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


@pytest.mark.slow
async def test_events_that_stripe_held_back_are_distinguished_from_events_that_waited_for_us(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """An event that existed and was not listed in our last poll was held back; a newer one waited for the next poll."""
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
    source._clock = _Fixed(1_800_000_001.0)
    position = await source.position("product")
    for n in range(350):
        sandbox.account.create("product", {"name": str(n)})
    changes, position = await read(source, "product", position, 350)
    assert [c.after["name"] for c in changes if c.after] == [str(n) for n in range(350)]
    for n in range(350, 400):
        sandbox.account.create("product", {"name": str(n)})
    changes, _ = await read(source, "product", position, 50)
    assert [c.after["name"] for c in changes if c.after] == [str(n) for n in range(350, 400)]


class _Fixed(SystemClock):
    """The machine's clock with a wall time that stands still."""

    def __init__(self, now: float) -> None:
        self.time: Callable[[], float] = lambda: now  # type: ignore[misc,assignment]


async def test_a_position_that_has_aged_out(sandbox: StripeSandbox, new_source: Make) -> None:
    """Thirty days and an hour later the position is lost, with an error: the stream never starts silently elsewhere."""
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
@pytest.mark.slow
async def test_temporary_failures_are_retried(
    sandbox: StripeSandbox, source: StripeSource, kind: Any, more: dict[str, Any]
) -> None:
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "a"})
    sandbox.faults.plan(kind, times=3, **more)
    changes, _ = await read(source, "customer", position, 1)
    assert changes[0].after is not None
    assert changes[0].after["name"] == "a"


@pytest.mark.slow
async def test_a_page_that_was_cut_off_does_not_end_a_snapshot(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """A page without rows that claims that there are more is requested again; if that does not help, it is an error."""
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


@pytest.mark.slow
async def test_too_many_requests_slow_the_account_down(sandbox: StripeSandbox, source: StripeSource) -> None:
    budget = source._client.budget
    sandbox.faults.plan("rate_limit", times=3)
    await source.position("customer")
    assert budget.refused == 3
    assert budget.rate < budget.max_rate / 4
    for _ in range(30):
        await source.position("customer")
    assert budget.rate > budget.max_rate / 4


@pytest.mark.slow
async def test_too_many_requests_at_once(sandbox: StripeSandbox, source: StripeSource) -> None:
    """The concurrency goes down, and the rate stays."""
    budget = source._client.budget
    sandbox.faults.plan("rate_limit", reason="endpoint-concurrency", times=3)
    await source.position("customer")
    assert budget.refused == 3
    assert budget.concurrency < budget.max_concurrency / 2
    assert budget.rate == budget.max_rate


@pytest.mark.slow
async def test_a_request_that_hangs(sandbox: StripeSandbox, new_source: Make) -> None:
    source = new_source(timeout=0.3, retry_for=5.0)
    await source.open()
    sandbox.faults.plan("hang", times=2)
    assert await source.position("customer")
    await source.close()


async def test_retries_end(sandbox: StripeSandbox, new_source: Make) -> None:
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


async def test_the_cause_of_a_change_and_own_writes(
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
@pytest.mark.slow
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


@pytest.mark.parametrize("ahead", [7_200.0, -7_200.0, 90 * DAY])
async def test_a_first_start_with_a_wrong_clock(
    sandbox: StripeSandbox, source: StripeSource, ahead: float
) -> None:
    """No event yet, and our clock differs from Stripe's: what happens then is read all the same, and nothing from before."""
    sandbox.account.skew = -ahead
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "first"})
    ((change, *_), _) = await read(source, "customer", position, 1)
    assert change.after is not None
    assert change.after["name"] == "first"


async def test_an_old_newest_event_brings_no_older_ones_along(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """Events that are older than the position are no changes, however long ago the newest of them is."""
    source = new_source(poll=0.02, reread=0.02)
    await source.open()
    for n in range(3):
        sandbox.account.create("customer", {"name": f"old {n}"})
    sandbox.account.skew = 3_600
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "new"})
    changes, _ = await read(source, "customer", position, 1)
    assert [change.after["name"] for change in changes if change.after] == ["new"]
    await source.close()


async def test_an_upcoming_invoice_is_no_row(sandbox: StripeSandbox, source: StripeSource) -> None:
    position = await source.position("invoice")
    upcoming = {"object": {"object": "invoice", "total": 5}}
    sandbox.account.log("invoice.upcoming", upcoming)
    sandbox.account.log("invoice.upcoming", {"object": {"id": "upcoming_in_123", "object": "invoice"}})
    real = sandbox.account.create("invoice", {"total": 6})
    changes, position = await read(source, "invoice", position, 1)
    assert [change.primary_key for change in changes] == [{"id": real["id"]}]
    # Nor is it the newest entry of a position.
    sandbox.account.log("invoice.upcoming", upcoming)
    position = await source.position("invoice")

    async def unchanged() -> bool:  # it contains the second of the source's clock
        return (await source.position("invoice")) == (await source.position("invoice"))

    await eventually(unchanged)
    sandbox.account.update("invoice", real["id"], {"total": 7})
    changes, _ = await read(source, "invoice", position, 1)
    assert [change.after["total"] for change in changes if change.after] == [7]


async def test_every_list_of_an_object_is_read(sandbox: StripeSandbox, new_source: Make) -> None:
    """Prices are listed in two lists; a snapshot that is interrupted anywhere has both, and a repair deletes no price."""
    source = new_source(page=2)
    await source.open()
    made = [sandbox.account.create("price", {"nickname": str(n), "active": n % 2 == 0}) for n in range(9)]
    wanted = {row["id"] for row in made}
    batches = [batch async for batch in source.snapshot("price", None)]

    def ids(found: list[ChangeBatch]) -> set[str]:
        return {item.primary_key["id"] for batch in found for item in batch.items if isinstance(item, Change)}

    assert ids(batches) == wanted
    for n, batch in enumerate(batches):
        rest = [b async for b in source.snapshot("price", batch.position)]
        assert ids(batches[: n + 1]) | ids(rest) == wanted
        assert sum(len(b.items) for b in rest) == 9 - sum(len(b.items) for b in batches[: n + 1])
    inline = sandbox.account.create("price", {"nickname": "inline"})
    sandbox.account.unlisted.add(inline["id"])
    (answer,) = await source.read_rows("price", [{"id": inline["id"]}])
    assert answer is not None
    assert answer.operation is Operation.SNAPSHOT
    await source.close()


async def test_a_row_whose_lists_are_cut_is_read_again(sandbox: StripeSandbox, source: StripeSource) -> None:
    """An event has ten lines of an invoice at most: the row is read again, whole, and says when."""
    position = await source.position("invoice")
    lines = [{"id": f"il_{n}", "object": "line_item", "amount": n} for n in range(25)]
    made = sandbox.account.create("invoice", {"total": 5, "lines": lines})
    sandbox.account.update("invoice", made["id"], {"total": 6})
    short = sandbox.account.create("invoice", {"total": 7, "lines": lines[:3]})
    (created, updated, small), position = await read(source, "invoice", position, 3)
    for change in (created, updated):
        assert change.after is not None
        assert [line["id"] for line in change.after["lines"]["data"]] == [f"il_{n}" for n in range(25)]
        assert change.after["lines"]["has_more"] is False
        assert change.as_of is not None
    assert created.operation is Operation.INSERT
    assert (updated.changed_fields, updated.before and updated.before["total"]) == (["total"], 5)
    assert updated.before is not None
    assert "lines" not in updated.before
    assert (small.primary_key, small.as_of) == ({"id": short["id"]}, None)
    # A row that cannot be read says which of its lists are cut.
    for fault in ("forbidden", None):
        if fault is not None:
            sandbox.faults.plan(fault, times=1, path=f"/v1/invoices/{made['id']}")
        sandbox.account.update("invoice", made["id"], {"total": 8 if fault else 9})
        if fault is None:
            sandbox.account.delete("invoice", made["id"])
        (change, *_), position = await read(source, "invoice", position, 1 if fault else 2)
        assert change.metadata["cut"] == ["lines"]
        assert change.as_of is None


async def test_first_events_are_inserts_of_new_rows(sandbox: StripeSandbox, source: StripeSource) -> None:
    """There is no charge.created: charge.succeeded is the insert of a new charge, and a change of one that was pending before."""
    position = await source.position("charge")
    new = sandbox.account.create("charge", {"amount": 5, "status": "succeeded"})
    old = {**new, "id": "ch_old", "created": new["created"] - 86_400}
    sandbox.account.log("charge.succeeded", {"object": old, "previous_attributes": {"status": "pending"}})
    sandbox.account.log("charge.dispute.created", {"object": {"id": "dp_1", "object": "dispute"}})
    sandbox.account.log("charge.refunded", {"object": {**new, "amount_refunded": 5}})
    changes, _ = await read(source, "charge", position, 3)
    assert [(c.primary_key["id"], c.operation) for c in changes] == [
        (new["id"], Operation.INSERT), ("ch_old", Operation.UPDATE), (new["id"], Operation.UPDATE),
    ]  # fmt: skip


async def test_what_has_no_event_is_silent(sandbox: StripeSandbox, source: StripeSource) -> None:
    """A payment intent tells of its states, and not of its metadata (stripe-node #937)."""
    position = await source.position("payment_intent")
    made = sandbox.account.create("payment_intent", {"status": "requires_action", "amount": 5})
    sandbox.account.update("payment_intent", made["id"], {"metadata": {"order": "1"}})
    sandbox.account.update("payment_intent", made["id"], {"status": "succeeded"})
    (created, succeeded), _ = await read(source, "payment_intent", position, 2)
    assert (created.operation, succeeded.operation) == (Operation.INSERT, Operation.UPDATE)
    assert succeeded.after is not None
    assert succeeded.after["metadata"] == {"order": "1"}
