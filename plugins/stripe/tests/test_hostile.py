"""The key goes to the configured address only, whatever addresses a response contains."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.errors import SourceUnavailableError
from dimesh.options import parse_options
from dimesh.sourcekit.addresses import ForeignAddressError
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.source import StripeSource
from rawserver import RawServer, http

ACCOUNT = "v2.core.account"
EVENT = {
    "id": "evt_1",
    "type": f"{ACCOUNT}.created",
    "created": "2026-01-01T00:00:00Z",
}


def answer(**content: Any) -> bytes:
    return http(json.dumps({"has_more": False, "data": [], **content}).encode())


@asynccontextmanager
async def reading(home: RawServer, **options: Any) -> AsyncIterator[StripeSource]:
    given = {"api_key": KEY, "url": str(home.origin), "ledger": "", "retry_for": 0.0, **options}
    source = StripeSource(parse_options(StripeOptions, given, "source 'stripe'"), SystemClock())
    await source.open()
    try:
        yield source
    finally:
        await source.close()


def foreign(evil: RawServer) -> list[str]:
    port = evil.origin.port
    return [
        f"http://127.0.0.1:{port}/v2/core/accounts",
        f"http://localhost:{port}/v2/core/accounts",
        f"//127.0.0.1:{port}/v2/core/accounts",
        f"@127.0.0.1:{port}/v2/core/accounts",
        f"http://user:pw@127.0.0.1:{port}/",
    ]


async def test_the_next_page_of_a_snapshot() -> None:
    async with RawServer(answer()).run() as evil:
        for address in foreign(evil):
            async with (
                RawServer(answer(), answer(data=[{"id": "acct_1"}], next_page_url=address)).run() as home,
                reading(home) as source,
            ):
                with pytest.raises(ForeignAddressError):
                    await anext(source.snapshot(ACCOUNT, None))
        assert evil.requests == []


async def test_the_next_page_of_events() -> None:
    async with RawServer(answer()).run() as evil:
        for address in foreign(evil):
            async with (
                RawServer(answer(), answer(next_page_url=address)).run() as home,
                reading(home) as source,
            ):
                with pytest.raises(ForeignAddressError):
                    await source.position(ACCOUNT)
        assert evil.requests == []


async def test_the_object_of_an_event() -> None:
    async with RawServer(answer()).run() as evil:
        for address in foreign(evil):
            event = {**EVENT, "related_object": {"id": "acct_1", "type": ACCOUNT, "url": address}}
            async with (
                RawServer(answer(), answer(), answer(data=[event])).run() as home,
                reading(home) as source,
            ):
                with pytest.raises(ForeignAddressError):
                    await anext(source.stream(ACCOUNT, await source.position(ACCOUNT)))
        assert evil.requests == []


async def test_the_rest_of_a_nested_list() -> None:
    async with RawServer(answer()).run() as evil:
        for address in foreign(evil):
            refunds = {"url": address, "has_more": True, "data": [{"id": "re_1"}]}
            async with (
                RawServer(answer(), answer(data=[{"id": "ch_1", "refunds": refunds}])).run() as home,
                reading(home) as source,
            ):
                with pytest.raises(ForeignAddressError):
                    await anext(source.snapshot("charge", None))
        assert evil.requests == []


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect(status: str) -> None:
    async with RawServer(answer()).run() as evil:
        moved = http(status=status, location=f"{evil.origin}/v1/customers")
        async with RawServer(answer(), moved).run() as home, reading(home) as source:
            with pytest.raises(SourceUnavailableError, match=f"for customer: HTTP {status[:3]}"):
                await anext(source.snapshot("customer", None))
        assert evil.requests == []


async def test_the_key_goes_to_its_own_address_in_full() -> None:
    """The complete address of the configured host is as good as a path."""
    pages = [answer(), answer(data=[{"id": "acct_1"}]), answer(data=[{"id": "acct_2"}])]
    async with RawServer(*pages).run() as home, reading(home) as source:
        following = json.loads(pages[1].partition(b"\r\n\r\n")[2])
        home._answers[0] = answer(**following | {"next_page_url": f"{home.origin}/v2/core/accounts?page=2"})
        assert len([batch async for batch in source.snapshot(ACCOUNT, None)]) == 2
        assert home.requests[-1].startswith("GET /v2/core/accounts?page=2 ")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://api.stripe.com", "url must be https"),
        ("https://sk_live@api.stripe.com", "url must not contain a login"),
        ("https://api.stripe.com/v1", "without a path"),
    ],
)
def test_addresses_that_the_key_is_not_sent_to(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as failed:
        parse_options(StripeOptions, {"api_key": KEY, "url": url}, "source 'stripe'")
    assert str(failed.value).count("stripe'") == 1


async def test_an_answer_of_an_unreasonable_size() -> None:
    async def endless(writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n")
        while True:
            writer.write(b" " * 1_000_000)
            await writer.drain()

    async with RawServer(answer(), endless).run() as home, reading(home) as source:
        with pytest.raises(SourceUnavailableError, match="more than 67,108,864 bytes"):
            await anext(source.snapshot("customer", None))
