"""The sandbox leaves out, hides and refuses what Stripe does; each rule names its source in ``sandbox/facts.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dimesh_stripe.descriptions import api
from dimesh_stripe.sandbox import StripeSandbox, facts
from dimesh_stripe.sandbox.server import KEY


@pytest.fixture
async def http(sandbox: StripeSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{sandbox.url}/v1", headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        yield client


async def ids(http: httpx.AsyncClient, path: str, **params: Any) -> set[str]:
    answer = await http.get(path, params={"limit": 100, **params})
    assert answer.status_code == 200, answer.text
    return {row["id"] for row in answer.json()["data"]}


async def test_plain_lists_leave_rows_out(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    account = sandbox.account
    customer = account.create("customer", {})["id"]
    on_clock = account.create("customer", {"test_clock": "clock_1"})["id"]
    assert await ids(http, "/customers") == {customer}
    assert await ids(http, "/customers", test_clock="clock_1") == {on_clock}
    active, inactive = (account.create("price", {"active": active})["id"] for active in (True, False))
    assert await ids(http, "/prices") == await ids(http, "/prices", active="true") == {active}
    assert await ids(http, "/prices", active="false") == {inactive}
    live, ended = account.create("subscription", {})["id"], account.create("subscription", {})["id"]
    account.delete("subscription", ended)
    assert await ids(http, "/subscriptions") == {live}
    assert await ids(http, "/subscriptions", status="all") == {live, ended}
    review = account.create("review", {})["id"]
    account.update("review", review, {"open": False})
    assert await ids(http, "/reviews") == set()
    own, theirs = account.create("tax_id", {})["id"], account.create("tax_id", {"customer": customer})["id"]
    assert await ids(http, "/tax_ids") == {own}
    assert await ids(http, f"/customers/{customer}/tax_ids") == {theirs}
    card, custom = (account.create("payment_method", {"type": kind})["id"] for kind in ("card", "custom"))
    assert await ids(http, "/payment_methods") == {card}
    assert await ids(http, "/payment_methods", type="custom") == {custom}


async def test_parameters_that_are_not_declared_or_missing(http: httpx.AsyncClient) -> None:
    for path, params, code in (
        ("/quotes", {"created[gte]": 1}, "parameter_unknown"),
        ("/payment_methods", {"created[gte]": 1}, "parameter_unknown"),
        ("/prices", {"active": "all", "nonsense": 1}, "parameter_unknown"),
        ("/subscription_items", {}, "parameter_missing"),
        ("/setup_attempts", {}, "parameter_missing"),
    ):
        answer = await http.get(path, params=params)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), path
    assert (await http.get("/discounts")).status_code == 404
    assert (await http.get("/mandates")).status_code == 404  # there is no list
    with_pages = await http.get("/accounts/acct_1/capabilities", params={"limit": 3})
    assert with_pages.json()["error"]["param"] == "limit"


async def test_fields_that_must_be_asked_for(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    account = sandbox.account
    quote = account.create("quote", {"line_items": [{"id": f"li_{n}"} for n in range(12)]})["id"]
    (event,) = account.events()
    plain = (await http.get(f"/quotes/{quote}")).json()
    assert "line_items" not in plain
    assert "line_items" not in event["data"]["object"]
    whole = (await http.get(f"/quotes/{quote}", params={"expand[]": "line_items"})).json()
    (listed,) = (await http.get("/quotes", params={"expand[]": "data.line_items"})).json()["data"]
    assert whole == listed
    assert (len(whole["line_items"]["data"]), whole["line_items"]["has_more"]) == (10, True)
    rest = await http.get(f"/quotes/{quote}/line_items", params={"starting_after": "li_9"})
    assert [row["id"] for row in rest.json()["data"]] == ["li_10", "li_11"]


@pytest.mark.parametrize(("version", "present"), [("2020-08-27", True), ("2024-06-20", False)])
async def test_refunds_of_a_charge_depend_on_the_version(
    sandbox: StripeSandbox, version: str, present: bool
) -> None:
    sandbox.account.api_version = version
    sandbox.account.create("charge", {"refunds": [{"id": "re_1"}]})
    (event,) = sandbox.account.events()
    assert ("refunds" in event["data"]["object"]) is present
    assert event["api_version"] == version


async def test_deleted_objects_are_stumps_or_not_there(
    http: httpx.AsyncClient, sandbox: StripeSandbox
) -> None:
    """Only customers and three objects of terminals declare ``deleted`` on GET."""
    answers = {}
    for name, path in (
        ("customer", "customers"),
        ("coupon", "coupons"),
        ("terminal.reader", "terminal/readers"),
    ):
        row = sandbox.account.create(name, {})
        sandbox.account.delete(name, row["id"])
        answer = await http.get(f"/{path}/{row['id']}")
        answers[name] = (answer.status_code, answer.json().get("deleted"))
    assert answers == {"customer": (200, True), "coupon": (404, None), "terminal.reader": (200, True)}


async def test_changes_that_have_no_event(sandbox: StripeSandbox) -> None:
    account = sandbox.account
    row = account.create("payment_intent", {"status": "requires_action"})
    account.update("payment_intent", row["id"], {"metadata": {"order": "1"}})
    account.update("payment_intent", row["id"], {"status": "succeeded"})
    account.update(
        "balance_transaction",
        account.create("balance_transaction", {"status": "pending"})["id"],
        {"status": "available"},
    )
    account.create("shipping_rate", {})
    assert [event["type"] for event in account.events()] == [
        "payment_intent.succeeded",
        "payment_intent.created",
    ]


def test_every_rule_is_about_something_that_stripe_declares() -> None:
    lists = api()["lists"]
    assert set(facts.IN_ROWS) <= set(lists)
    assert {
        name for names in (facts.HIDDEN, facts.NESTED, facts.STUMPS, facts.ON_CLOCKS) for name in names
    } <= {*facts.OBJECTS}
    assert set(facts.FIRST.values()) <= facts.EVENTS
    for family in facts.FAMILIES.values():
        assert any(kind.startswith(f"{family}.") for kind in facts.EVENTS)
