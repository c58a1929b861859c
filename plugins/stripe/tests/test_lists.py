"""The sandbox's lists: every way of paging gives the same rows, and a page costs as much as it has rows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.sandbox.timeline import Timeline, page

DAY = 86_400


@pytest.fixture
async def http(sandbox: StripeSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


async def walk(http: httpx.AsyncClient, path: str, down: bool, first: str, **params: Any) -> list[str]:
    """Return the ids of all pages, newest first."""
    found: list[str] = []
    cursor = first
    while True:
        at = {"starting_after" if down else "ending_before": cursor} if cursor else {}
        answer = (await http.get(path, params={"limit": 7, **params, **at})).raise_for_status().json()
        ids = [row["id"] for row in answer["data"]]
        found = found + ids if down else ids + found
        if not answer["has_more"]:
            return found
        cursor = ids[-1] if down else ids[0]


@pytest.mark.slow
async def test_both_directions_filters_and_a_clock_that_is_set_back(
    http: httpx.AsyncClient, sandbox: StripeSandbox
) -> None:
    account, rng = sandbox.account, random.Random(3)
    account._now = lambda: 1_800_000_000.0
    for n in range(120):
        account.skew = rng.choice([0, 0, 0, 1, 2, -5, 40])
        account.create(rng.choice(["customer", "product"]), {"name": str(n)})
    account.skew = 40
    events = list(account.events())
    assert [e["created"] for e in events] == sorted((e["created"] for e in events), reverse=True)
    ids = [event["id"] for event in events]
    assert await walk(http, "/v1/events", True, "") == ids
    assert await walk(http, "/v1/events", True, ids[11]) == ids[12:]
    assert await walk(http, "/v1/events", False, ids[-1]) == ids[:-1]
    # The cursor is not an event of the requested type, but its place in the list is used.
    products = [e["id"] for e in events if e["type"] == "product.created"]
    customer = next(n for n, e in enumerate(events) if n > 40 and e["type"] == "customer.created")
    older = [id for id in ids[customer:] if id in products]
    newer = [id for id in ids[:customer] if id in products]
    assert await walk(http, "/v1/events", True, ids[customer], type="product.*") == older
    assert await walk(http, "/v1/events", False, ids[customer], type="product.*") == newer
    for name, test in {
        "created": lambda n: n == 1_800_000_001,
        "created[gt]": lambda n: n > 1_800_000_001,
        "created[gte]": lambda n: n >= 1_800_000_001,
        "created[lt]": lambda n: n < 1_800_000_001,
        "created[lte]": lambda n: n <= 1_800_000_001,
    }.items():
        expected = [e["id"] for e in events if test(e["created"])]
        assert await walk(http, "/v1/events", True, "", **{name: 1_800_000_001}) == expected
        assert await walk(http, "/v1/events", False, ids[-1], **{name: 1_800_000_001}) == [
            id for id in expected if id != ids[-1]
        ]


async def test_rows_that_are_deleted_and_dated_by_the_caller(
    http: httpx.AsyncClient, sandbox: StripeSandbox
) -> None:
    account = sandbox.account
    for n in range(30):
        account.create("customer", {"name": str(n), "created": 1_700_000_000 + n * 7 % 13})
    for row in account.rows("customer")[3::4]:
        account.delete("customer", row["id"])
    rows = account.rows("customer")
    assert [row["created"] for row in rows] == sorted((row["created"] for row in rows), reverse=True)
    assert await walk(http, "/v1/customers", True, "") == [row["id"] for row in rows]
    gone = await http.get("/v1/customers", params={"ending_before": "cus_nobody"})
    assert (gone.status_code, gone.json()["error"]["param"]) == (400, "ending_before")


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"starting_after": "e10000"},
        {"ending_before": "e10000"},
        {"ending_before": "e19999"},
        {"created": {"gte": "19500", "lte": "19600"}},
        {"starting_after": "e19400", "created": {"gte": "19300"}},
    ],
)
def test_a_page_of_a_long_list_reads_few_rows(params: dict[str, Any]) -> None:
    looked = 0

    def keep(row: Any) -> bool:
        nonlocal looked
        looked += 1
        return True

    rows = {f"e{n}": {"id": f"e{n}", "created": n} for n in range(20_000)}
    page(Timeline(rows.values()), {"limit": "100", **params}, lambda id, _: rows[id], "/v1/x", keep=keep)
    assert looked <= 101


async def test_a_seeded_account_is_an_old_one(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    """Its objects are older than the events that Stripe keeps, and not all of the same age."""
    await http.post("/_sandbox/seed", json={"object": "customer", "count": 50})
    assert (await http.get("/v1/events")).json()["data"] == []
    rows = (await http.get("/v1/customers", params={"limit": 100})).json()["data"]
    assert len({row["created"] // DAY for row in rows}) > 30
    assert max(row["created"] for row in rows) < sandbox.account.now() - 30 * DAY
