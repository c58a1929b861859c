"""Object by object: the table against what Stripe declares, and rows that are found in the sandbox."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import Change, Operation
from dimesh_contracts.waiting import deadline
from dimesh_stripe.descriptions import api
from dimesh_stripe.feed import POSITIONS
from dimesh_stripe.resource import Resource
from dimesh_stripe.resources import MOST_TYPES, REFUSED, RESOURCES
from dimesh_stripe.sandbox import StripeSandbox, facts
from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.source import StripeSource

MIXED = ("external_account", "customer_source")
"""Lists with rows of several types."""
Make = Callable[..., StripeSource]


@pytest.fixture
async def source(new_source: Make) -> AsyncIterator[StripeSource]:
    made = new_source()
    await made.open()
    yield made
    await made.close()


def plain(path: str) -> str:
    return re.sub(r"{\w*}", "{}", path)


# -- the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=lambda found: found.name)
def test_the_table_names_only_what_stripe_declares(resource: Resource) -> None:
    lists = {plain(path): entry for path, entry in api()["lists"].items()}
    reads = {plain(path) for path in api()["reads"]}
    for way in resource.ways:
        if resource.single:
            assert plain(way.path) in reads
            continue
        declared = lists[plain(way.path)]
        assert set(way.params) <= set(declared["params"])
        assert set(declared["required"]) <= set(way.params)
        if resource.name not in MIXED:
            assert resource.name in declared["objects"]
        if way.under:
            assert RESOURCES[way.under].ways[0].under == ""
    assert set(resource.types) <= set(api()["events"])
    if resource.item:
        assert plain(resource.item) in reads
        assert set(re.findall(r"{(\w+)}", resource.item)) == (set(resource.key) - {"object"})
    reported = bool(resource.types or resource.follows)
    assert reported or resource.relist, "nothing would ever report a change"
    assert set(resource.expand) <= set(facts.HIDDEN.get(resource.name, ()))


def test_types_are_asked_for_by_name() -> None:
    """Stripe takes twenty exact names; a pattern finds nothing."""
    for resource in RESOURCES.values():
        assert len(resource.types) <= MOST_TYPES
        assert not any("*" in kind for kind in resource.types)
        assert "invoice.upcoming" not in resource.types


async def test_what_cannot_be_captured_is_refused_with_the_reason(source: StripeSource) -> None:
    assert not REFUSED.keys() & RESOURCES.keys()
    with pytest.raises(SourceObjectError, match=r"discount.*no list and no address.*capture what has them"):
        await source.position("discount")
    with pytest.raises(SourceObjectError, match="can capture: account, "):
        await source.position("nonsense")


# -- rows ----------------------------------------------------------------------------------------------


def populate(sandbox: StripeSandbox, resource: Resource, count: int = 1) -> None:
    """Create rows of an object, below parents where it has some."""
    account, name = sandbox.account, resource.name
    way = resource.ways[-1]
    if resource.single and not way.under:
        account.set_single(way.path, {})
        return
    parent = account.create(way.under, {}) if way.under else None
    if resource.single:
        assert parent is not None
        account.set_single(way.path.format(parent["id"]), {"customer": parent["id"], "livemode": False})
    elif name in facts.ENTRIES:
        assert parent is not None
        place = facts.ENTRIES[name]
        fields = {name: parent["id"] for name in resource.key if name != "id"}
        parent[place.field] += [{"id": f"x_{n}", "object": name, **fields} for n in range(count)]
    else:
        kinds = {"external_account": "bank_account", "customer_source": "card"}
        for _ in range(count):
            given = {way.under: parent["id"]} if parent is not None else {}
            if way.params.values() and "{}" in way.params.values():
                given = {key: parent["id"] for key in way.params if parent is not None}
            account.create(kinds.get(name, name), given)


@pytest.mark.slow
async def test_rows_of_every_object_are_listed_and_read(sandbox: StripeSandbox, source: StripeSource) -> None:
    for resource in RESOURCES.values():
        sandbox.account = Account()
        populate(sandbox, resource)
        rows = await snapshot(source, resource.name)
        assert rows, f"no list has the row of {resource.name}"
        change = rows[-1]
        assert None not in change.primary_key.values()
        assert tuple(change.primary_key) == resource.key
        assert change.after is not None
        assert set(resource.expand) <= change.after.keys(), resource.name
        described = await source.schema(resource.name)
        if resource.name not in MIXED:
            assert described is not None
            assert change.after.keys() <= described["properties"].keys()
            problems = [error.message for error in Draft202012Validator(described).iter_errors(change.after)]
            assert problems == [], resource.name
        (found,) = await source.read_rows(resource.name, [change.primary_key])
        if resource.item:
            assert found is not None, resource.name
            assert found.operation is Operation.SNAPSHOT, resource.name
            assert (found.primary_key, found.after) == (change.primary_key, change.after)
        else:
            assert found is None


async def snapshot(source: StripeSource, name: str, resume: bytes | None = None) -> list[Change]:
    async with deadline():
        return [c async for b in source.snapshot(name, resume) for c in b.items if isinstance(c, Change)]


@pytest.mark.slow
async def test_rows_of_many_parents_from_anywhere(sandbox: StripeSandbox, new_source: Make) -> None:
    """A snapshot of rows that are listed by parent resumes after any group of parents; some parents have more than a page."""
    source = new_source(page=30)
    await source.open()
    account = sandbox.account
    for n in range(55):
        customer = account.create("customer", {"name": str(n)})
        for m in range(75 if n == 20 else n % 3):
            account.create("customer_balance_transaction", {"customer": customer["id"], "amount": m})
    wanted = {row["id"] for row in account.rows("customer_balance_transaction")}
    name = "customer_balance_transaction"
    positions: list[bytes] = []
    before: list[set[str]] = []
    seen: set[str] = set()
    async for batch in source.snapshot(name, None):
        seen |= {str(c.primary_key["id"]) for c in batch.items if isinstance(c, Change)}
        positions.append(batch.position)
        before.append(set(seen))
    assert seen == wanted
    assert len(positions) >= 3
    for position, read in zip(positions, before, strict=True):
        rest = {str(c.primary_key["id"]) for c in await snapshot(source, name, position)}
        assert rest | read == wanted
    await source.close()


async def test_payment_methods_are_found_by_every_way(sandbox: StripeSandbox, source: StripeSource) -> None:
    account = sandbox.account
    customer = account.create("customer", {})
    attached = account.create("payment_method", {"type": "card", "customer": customer["id"]})
    own = account.create("payment_method", {"type": "card"})
    custom = account.create("payment_method", {"type": "custom"})
    for plain in (True, False):  # as the reference says today, and as it said before
        account.plain_payment_methods = plain
        found = {str(c.primary_key["id"]) for c in await snapshot(source, "payment_method")}
        assert found == {attached["id"], own["id"], custom["id"]}


async def test_chosen_ids(sandbox: StripeSandbox, source: StripeSource) -> None:
    ids = ["X#Y", "WHAT?", "a/b", "50%", "ü & ö"]
    for id in ids:
        sandbox.account.create("coupon", {"id": id, "name": id})
    assert await source.read_rows("coupon", [{"id": ".."}]) == [None]  # it would be a step of the path
    found = await source.read_rows("coupon", [{"id": id} for id in ids])
    assert [change.after["id"] for change in found if change and change.after] == ids
    for id in ids:
        sandbox.account.delete("coupon", id)
    gone = await source.read_rows("coupon", [{"id": id} for id in ids])
    assert {change.operation for change in gone if change} == {Operation.DELETE}


async def test_ids_that_repeat_in_every_account(sandbox: StripeSandbox, source: StripeSource) -> None:
    for n in range(2):
        owner = sandbox.account.create("account", {})
        sandbox.account.create(
            "capability", {"id": "card_payments", "account": owner["id"], "status": str(n)}
        )
    rows = await snapshot(source, "capability")
    assert len({tuple(change.primary_key.values()) for change in rows}) == 2
    found = await source.read_rows("capability", [change.primary_key for change in rows])
    assert [c.after for c in found if c] == [c.after for c in rows]


async def test_a_closed_review_is_read_by_its_id(sandbox: StripeSandbox, source: StripeSource) -> None:
    review = sandbox.account.create("review", {"open": True})
    sandbox.account.update("review", review["id"], {"open": False})
    assert await snapshot(source, "review") == []
    (found,) = await source.read_rows("review", [{"id": review["id"]}])
    assert found is not None
    assert found.after is not None
    assert found.after["open"] is False


# -- events --------------------------------------------------------------------------------------------


async def read(source: StripeSource, object: str, position: bytes, count: int) -> list[Change]:
    found: list[Change] = []
    stream = source.stream(object, position)
    async with deadline():
        while len(found) < count:
            found += [item for item in (await anext(stream)).items if isinstance(item, Change)]
    await stream.aclose()  # type: ignore[attr-defined]
    return found


async def test_an_object_without_an_id(sandbox: StripeSandbox, source: StripeSource) -> None:
    position = await source.position("balance")
    sandbox.account.set_single("balance", {"available": [{"amount": 5}]}, "balance.available")
    (change,) = await read(source, "balance", position, 1)
    assert change.primary_key == {"object": "balance"}
    assert change.after is not None
    assert change.after["available"] == [{"amount": 5}]


async def test_fields_that_events_leave_out_are_named_or_read(
    sandbox: StripeSandbox, source: StripeSource, new_source: Make
) -> None:
    position = await source.position("price")
    tiers = [{"up_to": 5, "unit_amount": 1}]
    row = sandbox.account.create("price", {"tiers": tiers, "unit_amount": 1})
    (change,) = await read(source, "price", position, 1)
    assert change.after is not None
    assert "tiers" not in change.after
    assert change.not_current == ["tiers", "currency_options"]
    (listed,) = await snapshot(source, "price")
    assert listed.after is not None
    assert listed.after["tiers"] == tiers
    whole = new_source(read_rows=True)
    await whole.open()
    (change,) = await read(whole, "price", position, 1)
    assert change.after is not None
    assert (change.operation, change.after["tiers"], change.after["id"]) == (
        Operation.INSERT,
        tiers,
        row["id"],
    )
    assert change.as_of is not None
    assert not change.not_current
    await whole.close()


async def test_every_row_in_the_pinned_version(sandbox: StripeSandbox, new_source: Make) -> None:
    """The account's version is older: with ``read_rows`` each row is in the pinned one, and a before image of the other one is none."""
    sandbox.account.api_version = "2019-12-03"
    source = new_source(read_rows=True)
    await source.open()
    row = sandbox.account.create("customer", {"name": "Ada"})
    position = await source.position("customer")
    sandbox.account.update("customer", row["id"], {"name": "Ada L."})
    (change,) = await read(source, "customer", position, 1)
    assert (change.api_version, change.before) == (source.options.api_version, None)
    assert change.after is not None
    assert change.after["name"] == "Ada L."
    await source.close()


def refund(id: str, created: float, status: str = "succeeded") -> dict[str, Any]:
    return {"id": id, "object": "refund", "created": int(created), "status": status}


async def test_refunds_of_old_versions_come_with_their_charge(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    account = sandbox.account
    position = await source.position("refund")
    now = account.now()
    listed: Mapping[str, Any] = {"object": "list", "has_more": False, "data": [refund("re_1", now)]}
    charge = {"id": "ch_1", "object": "charge", "created": int(now) - 500}
    account.log("charge.refunded", {"object": {**charge, "refunds": listed}})
    account.log("charge.refunded", {"object": charge})  # of a newer version
    both = {**listed, "data": [refund("re_2", now), refund("re_1", now, "failed")]}
    account.log(
        "charge.refunded", {"object": {**charge, "refunds": both}, "previous_attributes": {"refunds": listed}}
    )
    first, second, changed = await read(source, "refund", position, 3)
    assert [(c.operation, c.primary_key["id"]) for c in (first, second, changed)] == [
        (Operation.INSERT, "re_1"),
        (Operation.INSERT, "re_2"),
        (Operation.UPDATE, "re_1"),
    ]
    assert changed.changed_fields == ["status"]
    assert len({first.identity, second.identity, changed.identity}) == 3


async def test_items_of_a_subscription_come_with_its_events(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    account = sandbox.account
    position = await source.position("subscription_item")

    def items(*numbers: int, quantity: int = 1) -> list[dict[str, Any]]:
        return [{"id": f"si_{n}", "object": "subscription_item", "quantity": quantity} for n in numbers]

    row = account.create("subscription", {"items": items(1, 2)})
    account.log(
        "customer.subscription.updated",
        {
            "object": {
                **row,
                "items": {"object": "list", "has_more": False, "data": items(2, 3, quantity=2)},
            },
            "previous_attributes": {"items": {"object": "list", "has_more": False, "data": items(1, 2)}},
        },
    )
    found = await read(source, "subscription_item", position, 5)
    assert [(c.operation.value, c.primary_key["id"]) for c in found] == [
        ("insert", "si_1"), ("insert", "si_2"), ("update", "si_2"), ("insert", "si_3"), ("delete", "si_1"),
    ]  # fmt: skip


async def test_lines_beyond_the_tenth_are_read_and_dated(
    sandbox: StripeSandbox, source: StripeSource
) -> None:
    """The event of an invoice has ten lines; the others are as they are now, and so are all of them."""
    position = await source.position("line_item")
    lines = [{"id": f"il_{n}", "object": "line_item", "amount": n} for n in range(14)]
    row = sandbox.account.create("invoice", {"lines": lines})
    found = await read(source, "line_item", position, 14)
    assert [c.primary_key["id"] for c in found] == [line["id"] for line in lines]
    assert {c.operation for c in found} == {Operation.INSERT}
    assert all(c.as_of is not None and c.api_version == source.options.api_version for c in found)
    sandbox.account.delete("invoice", row["id"])
    found = await read(source, "line_item", position, 20)
    assert [c.operation for c in found] == [Operation.INSERT] * 10 + [Operation.DELETE] * 10


async def test_a_card_that_is_detached_is_gone(sandbox: StripeSandbox, source: StripeSource) -> None:
    position = await source.position("payment_method")
    for id in ("card_1", "pm_1"):
        sandbox.account.log("payment_method.detached", {"object": {"id": id, "object": "payment_method"}})
    card, method = await read(source, "payment_method", position, 2)
    assert (card.operation, method.operation) == (Operation.DELETE, Operation.UPDATE)


# -- changes without events ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "open", "later"),
    [
        ("payment_intent", {"status": "requires_capture"}, {"metadata": {"order": "7"}}),
        ("balance_transaction", {"status": "pending"}, {"status": "available"}),
        ("quote", {"status": "draft"}, {"description": "changed"}),
        ("invoice_payment", {"status": "open"}, {"status": "canceled"}),
        ("checkout.session", {"status": "open"}, {"metadata": {"order": "7"}}),
    ],
)
async def test_rows_that_are_not_final_are_read_again(
    sandbox: StripeSandbox, new_source: Make, name: str, open: dict[str, Any], later: dict[str, Any]
) -> None:
    source = new_source(refresh=0.05)
    await source.open()
    row = sandbox.account.create(name, open, event=False)
    position = await source.position(name)
    (seen,) = await read(source, name, position, 1)
    sandbox.account.update(name, row["id"], later, event=False)
    changed = (await read(source, name, position, 1))[0]
    assert (seen.operation, changed.operation) == (Operation.SNAPSHOT, Operation.SNAPSHOT)
    assert seen.after is not None
    assert changed.after is not None
    field = next(iter(later))
    assert (seen.after.get(field), changed.after[field]) != (later[field], seen.after.get(field))
    assert changed.after[field] == later[field]
    await source.close()


async def test_a_sweep_ends_at_the_oldest_row_that_is_not_final(
    sandbox: StripeSandbox, new_source: Make
) -> None:
    """The lists are read down to it only: how long the whole list is costs nothing."""
    source = new_source(refresh=0.05, page=10)
    await source.open()
    account, now = sandbox.account, sandbox.account.now()
    for n in range(100):
        account.create("topup", {"status": "succeeded", "created": now - 86_400 + n}, event=False)
    account.create("topup", {"status": "pending", "created": now - 3_000}, event=False)
    begin = replace(POSITIONS.decode(await source.position("topup"), "topup"), swept=1)
    for oldest, pages in ((0, 11), (int(now) - 3_000, 1)):  # the first sweep does not know it yet
        position = POSITIONS.encode(replace(begin, open=oldest))
        del sandbox.requests[:]
        stream = source.stream("topup", position)
        async with deadline():
            while POSITIONS.decode(position, "topup").swept == begin.swept:
                position = (await anext(stream)).position
        await stream.aclose()  # type: ignore[attr-defined]
        assert abs(POSITIONS.decode(position, "topup").open - (now - 3_000)) < 2
        assert len([path for _, path in sandbox.requests if path.startswith("/v1/topups")]) == pages
    await source.close()


async def test_a_row_that_is_not_listed_again_says_so(sandbox: StripeSandbox, new_source: Make) -> None:
    account, marks = sandbox.account, []
    for options in ({"refresh": 0}, {"refresh_days": 1}):
        source = new_source(**options)
        await source.open()
        position = await source.position("payment_intent")
        row = account.create("payment_intent", {"status": "processing"})
        account.update("payment_intent", row["id"], {"status": "succeeded"})
        account.create("payment_intent", {"status": "processing", "created": account.now() - 2 * 86_400})
        marks += [c.metadata.get("updates") for c in await read(source, "payment_intent", position, 3)]
        await source.close()
    assert marks == ["incomplete", None, "incomplete", None, None, "incomplete"]


async def test_objects_without_events_are_listed_again(source: StripeSource, new_source: Make) -> None:
    assert source.relist_interval("shipping_rate") == source.options.refresh
    assert source.relist_interval("customer") is None
    assert new_source(refresh=0).relist_interval("shipping_rate") is None
