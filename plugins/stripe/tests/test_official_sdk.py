"""Stripe's own SDK works against the sandbox: proof that the sandbox behaves as the real API does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import stripe

from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of the SDK's use of httpx


@pytest.fixture
async def client(sandbox: StripeSandbox) -> AsyncIterator[stripe.StripeClient]:
    http = stripe.HTTPXClient(allow_sync_methods=True)
    yield stripe.StripeClient(KEY, base_addresses={"api": sandbox.url}, http_client=http)
    http.close()
    await http.close_async()


def work(client: stripe.StripeClient) -> list[str]:
    customers = [client.v1.customers.create({"name": f"c{n}", "metadata": {"n": str(n)}}) for n in range(25)]
    changed = client.v1.customers.update(customers[3].id, {"name": "changed", "metadata": {"n": ""}})
    assert changed.name == "changed"
    assert "n" not in (changed.metadata or {})
    deleted = client.v1.customers.delete(customers[4].id)
    assert deleted.deleted
    again = client.v1.customers.retrieve(customers[4].id)
    assert again.deleted
    listed = list(client.v1.customers.list({"limit": 10}).auto_paging_iter())
    assert [c.name for c in listed] == [f"c{n}" if n != 3 else "changed" for n in range(24, -1, -1) if n != 4]
    events = client.v1.events.list({"limit": 5, "type": "customer.updated"})
    assert [e.type for e in events.data] == ["customer.updated"]
    previous = events.data[0].data.to_dict()["previous_attributes"]
    assert previous == {"name": "c3", "metadata": {"n": "3"}}
    newer = client.v1.events.list(
        {"ending_before": client.v1.events.list({"limit": 25}).data[-1].id, "limit": 10}
    )
    kinds = [e.type for e in newer.auto_paging_iter()]
    assert len(kinds) == 24
    return kinds


@pytest.mark.slow
async def test_sync(client: stripe.StripeClient) -> None:
    kinds = await asyncio.to_thread(work, client)
    assert kinds[-1] == "customer.deleted"


async def test_async(client: stripe.StripeClient) -> None:
    made = await asyncio.gather(*(client.v1.products.create_async({"name": f"p{n}"}) for n in range(12)))
    found = [p.id async for p in (await client.v1.products.list_async({"limit": 5})).auto_paging_iter()]
    assert set(found) == {p.id for p in made}


async def test_errors(client: stripe.StripeClient, sandbox: StripeSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="No such customer") as missing:
        await client.v1.customers.retrieve_async("cus_nobody")
    assert (missing.value.code, missing.value.http_status) == ("resource_missing", 404)
    sandbox.faults.plan("rate_limit")
    with pytest.raises(stripe.RateLimitError):
        await client.v1.customers.list_async({})
    with pytest.raises(stripe.AuthenticationError):
        await client.v1.customers.list_async({}, {"api_key": "sk_test_wrong"})
    first = await client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "k1"})
    second = await client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "k1"})
    assert first.id == second.id
    with pytest.raises(stripe.IdempotencyError):
        await client.v1.customers.create_async({"name": "other"}, {"idempotency_key": "k1"})
