"""Webhooks: validation, and the effects of accepted ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from dimesh.clock import ManualClock
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.signatures import SignatureError, sign, verify
from dimesh_stripe.source import StripeSource
from dimesh_stripe.webhooks import MAX_BODY, WebhookReceiver

SECRETS = ["whsec_one", "whsec_two"]
bodies = st.binary(max_size=300)


@given(bodies, st.lists(st.sampled_from([*SECRETS, "whsec_three"]), min_size=1, max_size=3))
def test_a_signature_is_valid_or_not(body: bytes, signers: list[str]) -> None:
    header = sign(body, signers, 1_700_000_000)
    if set(signers) & set(SECRETS):
        assert verify(body, header, SECRETS, 1_700_000_010) == 1_700_000_000
    else:
        with pytest.raises(SignatureError):
            verify(body, header, SECRETS, 1_700_000_010)
    with pytest.raises(SignatureError):
        verify(body + b"x", header, SECRETS, 1_700_000_010)
    with pytest.raises(SignatureError, match="301 s ago"):
        verify(body, sign(body, SECRETS, 1_700_000_000), SECRETS, 1_700_000_301)


@given(bodies, st.text(max_size=200))
def test_a_hostile_header_is_refused(body: bytes, header: str) -> None:
    with pytest.raises(SignatureError):
        verify(body, header, SECRETS, 1_700_000_000)


@given(bodies.filter(lambda b: b.decode("utf-8", "ignore").encode() == b))
def test_we_agree_with_the_official_sdk(body: bytes) -> None:
    """The SDK verifies our signatures, and we verify the SDK's."""
    header = sign(body, ["whsec_one"], 1_700_000_000)
    assert stripe.WebhookSignature.verify_header(body.decode(), header, "whsec_one", None)
    theirs = stripe.WebhookSignature._compute_signature(f"1700000000.{body.decode()}", "whsec_one")
    assert verify(body, f"t=1700000000,v0=bad,v1={theirs}", SECRETS, 1_700_000_000)


def test_each_event_wakes_once() -> None:
    clock = ManualClock()
    hints: list[str] = []
    receiver = WebhookReceiver(hints.append, SECRETS, clock=clock)
    body = json.dumps({"id": "evt_1", "type": "customer.updated"}).encode()
    for _ in range(3):
        receiver.take(body, sign(body, ["whsec_two"], int(clock.time())))
    assert (hints, receiver.received, receiver.repeated) == (["customer.updated"], 3, 2)
    for wrong in (b"[]", b"{}", b"\xff", b"[" * 100_000):
        with pytest.raises(SignatureError, match="it is not an event"):
            receiver.take(wrong, sign(wrong, SECRETS, int(clock.time())))
    with pytest.raises(ValueError, match="secrets"):
        WebhookReceiver(hints.append, "whsec_one")


@pytest.fixture
async def served() -> AsyncIterator[Callable[[WebhookReceiver], Any]]:
    """Serve a receiver, and return its URL."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def serve(receiver: WebhookReceiver) -> str:
        server = uvicorn.Server(
            uvicorn.Config(receiver.app(), port=0, log_config=None, lifespan="off", ws="none")
        )
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.005)
        running.append((server, task))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/webhooks/stripe"

    yield serve
    for server, task in running:
        server.should_exit = True
        server.force_exit = True
        await task


async def test_a_webhook_saves_the_wait(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource], served: Callable[[WebhookReceiver], Any]
) -> None:
    """The feed is polled every hour; a webhook makes the source read it at once. Repeated and reordered webhooks do no harm."""
    source = new_source(poll=3_600.0, reread=3_600.0)
    await source.open()
    secrets = [""]
    receiver = WebhookReceiver(source.hint, ["whsec_not_yet"])
    url = await served(receiver)
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        made = await client.post("/v1/webhook_endpoints", data={"url": url, "enabled_events[]": "*"})
    secrets = [made.json()["secret"]]
    receiver.secrets = secrets
    sandbox.webhooks.copies, sandbox.webhooks.shuffle = 2, True
    sandbox.account.create("customer", {"name": "first"})
    position = await source.position("customer")
    stream = source.stream("customer", position)
    names: list[str] = []
    for n in range(5):
        following = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)  # the source waits for the next poll, in an hour
        sandbox.account.create("customer", {"name": str(n)})
        async with deadline():
            batch = await following
        names += [c.after["name"] for c in batch.items]  # type: ignore[union-attr,index]
    assert names == ["0", "1", "2", "3", "4"]
    await stream.aclose()
    await source.close()


async def test_a_disabled_endpoint_is_sent_nothing(
    sandbox: StripeSandbox, served: Callable[[WebhookReceiver], Any]
) -> None:
    """It receives nothing until it is enabled again; the others receive everything."""
    receivers = [WebhookReceiver(lambda kind: None, SECRETS) for _ in range(2)]
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        ids = []
        for receiver in receivers:
            data = {"url": await served(receiver), "enabled_events[]": "*"}
            made = (await client.post("/v1/webhook_endpoints", data=data)).json()
            assert made["status"] == "enabled"
            receiver.secrets = [made["secret"]]
            ids.append(made["id"])
        path = f"/v1/webhook_endpoints/{ids[0]}"
        assert (await client.post(path, data={"disabled": "true"})).json()["status"] == "disabled"
        sandbox.account.create("customer", {})
        await until(lambda: receivers[1].received == 1)
        assert receivers[0].received == 0
        assert (await client.post(path, data={"disabled": "false"})).json()["status"] == "enabled"
        sandbox.account.create("customer", {})
        await until(lambda: [receiver.received for receiver in receivers] == [1, 2])


async def test_what_is_refused(served: Callable[[WebhookReceiver], Any]) -> None:
    hints: list[str] = []
    receiver = WebhookReceiver(hints.append, SECRETS)
    url = await served(receiver)
    body = json.dumps({"id": "evt_1", "type": "a.b"}).encode()
    async with httpx.AsyncClient() as client:
        for headers, content, status in (
            ({}, body, 400),
            ({"stripe-signature": "t=1,v1=00"}, body, 400),
            ({"stripe-signature": sign(body, ["whsec_other"], 1_900_000_000)}, body, 400),
            ({"stripe-signature": sign(body, SECRETS, 1)}, body, 400),
            ({"stripe-signature": sign(body, SECRETS, 1_900_000_000)}, body + b" ", 400),
            ({}, b"x" * (MAX_BODY + 1), 413),
        ):
            answer = await client.post(url, content=content, headers=headers)
            assert answer.status_code == status, answer.text
    assert hints == []
    assert receiver.refused == 6
