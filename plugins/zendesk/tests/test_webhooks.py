"""Webhooks: signatures, replays, duplicates, wake-ups, and the audit of what never arrived."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from dimesh.clock import ManualClock
from dimesh.errors import ConfigurationError
from dimesh.spi.cdc import Change, Gap
from dimesh_contracts.waiting import deadline, until
from dimesh_zendesk import SignatureError, WebhookReceiver
from dimesh_zendesk.sandbox import ZendeskSandbox
from dimesh_zendesk.sandbox.account import iso
from dimesh_zendesk.signatures import sign
from dimesh_zendesk.source import ZendeskSource
from dimesh_zendesk.webhooks import MAX_BODY, TRIGGERED

New = Callable[..., ZendeskSource]
SECRET = "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3RpbmdfcHVycG9zZXM="
NOW = 1_790_000_000.0


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/webhooks/zendesk"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def hints() -> list[str]:
    return []


@pytest.fixture
def receiver(hints: list[str]) -> WebhookReceiver:
    return WebhookReceiver(hints.append, [SECRET, "older"], clock=ManualClock(NOW))


def event(kind: str = "zen:event-type:ticket.created", id: str = "e1") -> bytes:
    return json.dumps({"type": kind, "id": id, "detail": {"id": "1"}}).encode()


def test_the_signature_is_that_of_timestamp_and_body() -> None:
    """Worked out with another implementation: printf '2021-03-25T05:09:27Z{}' | openssl dgst -sha256 -hmac SECRET -binary."""
    assert len(sign(b"{}", "2021-03-25T05:09:27Z", SECRET)) == 44
    assert sign(b"{}", "2021-03-25T05:09:27Z", SECRET) != sign(b"", "2021-03-25T05:09:27Z{", SECRET)
    assert sign(b"{}", "2021-03-25T05:09:27Z", SECRET) == sign(
        b"Z{}", "2021-03-25T05:09:27", SECRET
    )  # no separator


def test_a_webhook_hints_at_its_kind(receiver: WebhookReceiver, hints: list[str]) -> None:
    when = iso(NOW)
    assert receiver.take(event(), sign(event(), when, SECRET), when) == "zen:event-type:ticket.created"
    assert receiver.take(b"status=open", sign(b"status=open", when, "older"), when) == TRIGGERED
    assert hints == ["zen:event-type:ticket.created", TRIGGERED]


def test_duplicates_and_replays_hint_once(receiver: WebhookReceiver, hints: list[str]) -> None:
    for seconds in (0, 0, 5):  # a replay, and a delivery with a signature of its own
        when = iso(NOW + seconds)
        receiver.take(event(), sign(event(), when, SECRET), when)
        receiver.take(b"{}", sign(b"{}", when, SECRET), when)
    assert hints == ["zen:event-type:ticket.created", TRIGGERED, TRIGGERED]
    assert receiver.repeated == 3


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_a_signature_of_another_time_is_refused(receiver: WebhookReceiver, age: float) -> None:
    when = iso(NOW - age)
    with pytest.raises(SignatureError, match="replay"):
        receiver.take(event(), sign(event(), when, SECRET), when)


@given(st.binary(max_size=60), st.text(max_size=60), st.text(max_size=40))
def test_what_nobody_signed_is_refused(body: bytes, signature: str, timestamp: str) -> None:
    receiver = WebhookReceiver(lambda kind: pytest.fail("a hint"), [SECRET], clock=ManualClock(NOW))
    with pytest.raises(SignatureError):
        receiver.take(body, signature, timestamp)


@given(st.text(max_size=30))
def test_a_signed_time_that_is_none_is_refused(timestamp: str) -> None:
    receiver = WebhookReceiver(lambda kind: pytest.fail("a hint"), [SECRET], clock=ManualClock(NOW))
    try:
        signature = sign(b"{}", timestamp, SECRET)
    except UnicodeEncodeError:
        return
    with pytest.raises(SignatureError):
        receiver.take(b"{}", signature, timestamp)


async def test_the_application_refuses_large_and_forged_ones(
    receiver: WebhookReceiver, hints: list[str]
) -> None:
    async with served(receiver.app()) as url, httpx.AsyncClient() as http:
        assert (await http.post(url, content=b"x" * (MAX_BODY + 1))).status_code == 413
        assert (await http.post(url, content=event())).status_code == 400
        headers = {
            "x-zendesk-webhook-signature": "é".encode("latin-1"),
            "x-zendesk-webhook-signature-timestamp": b"x",
        }
        assert (await http.post(url, content=event(), headers=headers)).status_code == 400
    assert not hints
    assert receiver.refused == 3


def test_webhooks_need_a_secret(new_source: New) -> None:
    with pytest.raises(ConfigurationError, match="webhook_secrets"):
        new_source().webhooks(lambda kind: None, "/")


async def hooked(sandbox: ZendeskSandbox, url: str, *subscriptions: str) -> tuple[str, str]:
    """Create a webhook at the sandbox; return its id and its secret."""
    hook = {
        "name": "n",
        "endpoint": url,
        "status": "active",
        "subscriptions": list(subscriptions),
        "http_method": "POST",
    }
    _, found = sandbox.webhooks.answer("POST", [], {"webhook": hook})
    id = found["webhook"]["id"]
    _, secret = sandbox.webhooks.answer("GET", [id, "signing_secret"], {})
    return id, secret["signing_secret"]["secret"]


async def test_a_webhook_wakes_the_stream_when_its_minute_is_over(new_source: New) -> None:
    """The poll is an hour away; the change is read as soon as the export shows it, and not asked for before."""
    async with ZendeskSandbox(exports_a_minute=1_000, hold_back=1.0) as sandbox:
        source = new_source(url=sandbox.url, poll=3_600.0, hold_back=1.0)
        await source.open()
        receiver = WebhookReceiver(source.hint, ["not yet"])
        async with served(receiver.app()) as url:
            _, secret = await hooked(
                sandbox, url, "zen:event-type:ticket.created", "zen:event-type:ticket.updated"
            )
            receiver.secrets = [secret]
            sandbox.webhooks.copies = 3
            position = await source.position("tickets")
            stream = source.stream("tickets", position)
            waiting = asyncio.ensure_future(anext(stream))
            await until(lambda: sum("cursor" in path for _, path in sandbox.requests) >= 2)
            before = sum("cursor" in path for _, path in sandbox.requests)
            began = time.monotonic()
            sandbox.account.create("tickets", {"subject": "a"})
            async with deadline():
                batch = await waiting
            took = time.monotonic() - began
            assert [c.after["subject"] for c in batch.items] == ["a"]
            assert 0.0 < took < 3.0
            assert sum("cursor" in path for _, path in sandbox.requests) - before <= 2
            assert receiver.repeated == 2
        await stream.aclose()
        await source.close()


async def test_hints_concern_their_objects(sandbox: ZendeskSandbox, new_source: New) -> None:
    source = new_source(poll=3_600.0, hold_back=0.0)
    bells = {
        name: source._bells.of(name)
        for name in ("tickets", "users", "ticket_comments", "organizations", "groups")
    }
    for kind, concerned in (
        ("zen:event-type:ticket.comment_added", {"tickets", "ticket_comments"}),
        (TRIGGERED, {"tickets", "ticket_comments"}),
        ("zen:event-type:user.created", {"users"}),
        ("zen:event-type:organization.deleted", {"organizations"}),
        ("zen:event-type:article.published", set()),
        ("nonsense", set()),
        ("", set()),
    ):
        for bell in bells.values():
            bell._due.clear()
        source.hint(kind)
        assert {name for name, bell in bells.items() if bell._due} == concerned, kind


@pytest.mark.parametrize("state", ["throttled", "circuit broken", "terminated"])
async def test_webhooks_that_did_not_arrive_are_reported_once(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], state: str
) -> None:
    """Throttled and circuit-broken ones were never sent; the export has what they would have told."""
    account = sandbox.account
    id, _ = await hooked(sandbox, "http://127.0.0.1:1/", "zen:event-type:ticket.created")
    hook = sandbox.webhooks.webhooks[id]
    source = new_source(webhook_id=id, webhook_look=0.05)
    await source.open()
    account.create("tickets", {"subject": "before"})
    await until(lambda: sandbox.webhooks.pending == 0)
    account.advance(61)
    position = await source.position("tickets")  # what is older does not matter
    sandbox.webhooks.throttled = state == "throttled"
    hook.broken_until = account.now() + 1_000 if state == "circuit broken" else 0.0
    tickets = [account.create("tickets", {"subject": f"lost {n}"})["id"] for n in range(3)]
    await until(lambda: sandbox.webhooks.pending == 0)
    account.advance(61)

    def both(item: Any) -> bool:
        found.append(item)
        changes = [i for i in found if isinstance(i, Change) and i.primary_key["id"] == tickets[-1]]
        return bool(changes) and any(isinstance(i, Gap) for i in found)

    found: list[Any] = []
    _, position = await read(source, "tickets", position, both)
    (gap,) = [item for item in found if isinstance(item, Gap)]
    assert f"3 {state}" in gap.cause
    assert not gap.resnapshot
    assert [c.primary_key["id"] for c in found if isinstance(c, Change)] == tickets
    # A restart does not report them again.
    again = new_source(webhook_id=id, webhook_look=0.05)
    await again.open()
    sandbox.webhooks.throttled, hook.broken_until, hook.given["status"] = False, 0.0, "inactive"
    last = account.create("tickets", {})["id"]
    account.advance(61)
    items, _ = await read(
        again, "tickets", position, lambda i: isinstance(i, Change) and i.primary_key["id"] == last
    )
    assert not any(isinstance(item, Gap) for item in items)
    assert any("inactive" in problem for problem in (await again.check()).problems)


async def test_a_webhook_that_is_gone_or_refused_stops_nothing(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    source = new_source(webhook_id="01NOBODY", webhook_look=0.05)
    await source.open()
    position = await source.position("tickets")
    sandbox.faults.plan("error", path="/api/v2/webhooks", times=2, status=503)
    id = sandbox.account.create("tickets", {})["id"]
    sandbox.account.advance(61)
    found, _ = await read(source, "tickets", position, lambda i: isinstance(i, Change))
    assert [c.primary_key["id"] for c in found] == [id]
    sandbox.faults.clear()
    result = await source.check()
    assert any("does not exist" in problem for problem in result.problems)
