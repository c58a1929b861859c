"""The sandbox's answers, field by field, against recorded answers of Stripe."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY


@pytest.fixture
async def http(sandbox: StripeSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


async def test_an_event(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    made = (await http.post("/v1/customers", data={"name": "Ada", "metadata[tier]": "gold"})).json()
    await http.post(f"/v1/customers/{made['id']}", data={"name": "Ada L.", "metadata[new]": "x"})
    answer = await http.get("/v1/events", params={"limit": 1})
    assert set(answer.json()) == {"object", "url", "has_more", "data"}
    assert (answer.json()["object"], answer.json()["url"], answer.json()["has_more"]) == (
        "list",
        "/v1/events",
        True,
    )
    (event,) = answer.json()["data"]
    assert set(event) == {
        "id", "object", "api_version", "created", "data", "livemode", "pending_webhooks", "request", "type",
    }  # fmt: skip
    assert event["id"].startswith("evt_")
    assert (event["object"], event["type"], event["livemode"]) == ("event", "customer.updated", False)
    assert set(event["request"]) == {"id", "idempotency_key"}
    assert event["data"]["previous_attributes"] == {"name": "Ada", "metadata": {"new": None}}
    assert event["data"]["object"]["name"] == "Ada L."
    assert answer.headers["request-id"].startswith("req_")
    assert (await http.get(f"/v1/events/{event['id']}")).json() == event


async def test_newest_first_and_both_cursors(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    for n in range(7):
        sandbox.account.create("product", {"name": str(n)})

    async def names(**params: str) -> tuple[list[str], bool]:
        found = (await http.get("/v1/events", params=params)).json()
        return [e["data"]["object"]["name"] for e in found["data"]], found["has_more"]

    ids = [e["id"] for e in (await http.get("/v1/events")).json()["data"]]
    assert await names(limit="3") == (["6", "5", "4"], True)
    assert await names(limit="3", starting_after=ids[2]) == (["3", "2", "1"], True)  # older than it
    assert await names(limit="3", ending_before=ids[6]) == (["3", "2", "1"], True)  # newer, and next to it
    assert await names(limit="3", ending_before=ids[1]) == (["6"], False)
    assert await names(type="customer.*") == ([], False)
    both = await http.get("/v1/events", params={"starting_after": ids[0], "ending_before": ids[1]})
    assert both.status_code == 400


async def test_errors(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    wrong = await http.get("/v1/customers", headers={"authorization": "Bearer sk_test_wrong"})
    assert wrong.status_code == 401
    assert set(wrong.json()["error"]) == {"message", "type"}
    assert wrong.json()["error"]["message"].startswith("Invalid API Key provided: sk_test_****")
    sandbox.faults.plan("rate_limit", reason="endpoint-rate")
    limited = await http.get("/v1/customers")
    assert (limited.status_code, limited.headers["stripe-rate-limited-reason"]) == (429, "endpoint-rate")
    assert "retry-after" not in limited.headers
    assert limited.json()["error"]["code"] == "rate_limit"
    assert limited.json()["error"]["type"] == "invalid_request_error"
    sandbox.faults.plan("lock_timeout")
    locked = await http.get("/v1/customers")
    assert "stripe-rate-limited-reason" not in locked.headers
    assert locked.json()["error"]["code"] == "lock_timeout"
    missing = await http.get("/v1/customers", params={"starting_after": "cus_nobody"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "resource_missing")
    assert missing.json()["error"]["param"] == "starting_after"
    event = sandbox.account.log("customer.created", {"object": {"id": "cus_1", "object": "customer"}})
    sandbox.account.skew = 31 * 86_400
    aged = await http.get("/v1/events", params={"ending_before": event["id"]})
    assert aged.status_code == 400
    assert (
        "no longer available because it's aged out of our retention policy" in aged.json()["error"]["message"]
    )
    assert (await http.get("/v1/events")).json()["data"] == []


async def test_deleted_objects_and_subscriptions(http: httpx.AsyncClient) -> None:
    made = (await http.post("/v1/customers", data={"name": "Ada"})).json()
    assert (await http.delete(f"/v1/customers/{made['id']}")).json() == {
        "id": made["id"],
        "object": "customer",
        "deleted": True,
    }
    again = await http.get(f"/v1/customers/{made['id']}")
    assert (again.status_code, again.json()["deleted"]) == (200, True)
    assert (await http.get("/v1/customers")).json()["data"] == []
    sub = (await http.post("/v1/subscriptions", data={"customer": "cus_1"})).json()
    await http.delete(f"/v1/subscriptions/{sub['id']}")
    assert (await http.get("/v1/subscriptions")).json()["data"] == []
    (cancelled,) = (await http.get("/v1/subscriptions", params={"status": "all"})).json()["data"]
    assert cancelled["status"] == "canceled"


async def test_the_page_and_its_controls(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    assert "Stripe sandbox" in (await http.get("/")).text
    await http.post("/_sandbox/seed", json={"object": "product", "count": 3})
    objects = (await http.get("/_sandbox/objects")).json()
    assert len(objects["product"]) == 3
    await http.post("/_sandbox/faults", json={"kind": "error", "status": 503, "times": 2})
    assert (await http.get("/v1/products")).status_code == 503
    await http.delete("/_sandbox/faults")
    assert (await http.get("/v1/products")).status_code == 200
    assert (await http.post("/_sandbox/faults", json={"knd": "error"})).status_code == 400
    before = sandbox.account.now()
    await http.post("/_sandbox/clock", json={"advance": 3_600})
    assert sandbox.account.now() >= before + 3_600
