"""Webhook endpoints of the sandbox, and the delivery of events to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import Mapping
from typing import Any

import httpx

from dimesh.sourcekit.sandbox import Row
from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.sandbox.timeline import StripeRefused
from dimesh_stripe.signatures import sign


class Endpoint:
    """A webhook endpoint."""

    def __init__(self, id: str, url: str, enabled: list[str], secret: str) -> None:
        self.id = id
        self.url = url
        self.enabled = enabled
        self.secrets = [secret]
        """The signing secrets: more than one while the secret is rotated (reference, *Webhooks*)."""
        self.disabled = False
        """Whether Stripe sends nothing to the endpoint."""

    def accepts(self, kind: str) -> bool:
        """Return whether events of a type are sent to the endpoint."""
        return not self.disabled and ("*" in self.enabled or kind in self.enabled)

    def rendered(self) -> Row:
        """Return the endpoint as the API shows it, without its secret."""
        return {
            "id": self.id,
            "object": "webhook_endpoint",
            "url": self.url,
            "enabled_events": self.enabled,
            "status": "disabled" if self.disabled else "enabled",
        }


class Webhooks:
    """The webhook endpoints of an account. Delivery is at least once and in any order (stripe/stripe-cli #418, #1191), and a
    redirect is a failure (reference, *Webhooks*); what a receiver does not take is not sent again.

    Args:
        account: gives clock and ids.
        seed: makes the order of shuffled webhooks repeatable.
    """

    def __init__(self, account: Account, seed: int) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.copies = 1
        """The number of times that each webhook is sent."""
        self.shuffle = False
        """Whether pending webhooks are sent in random order."""
        self.off = False
        """Whether events are sent to no endpoint, without any sign of it."""
        self._account = account
        self._rng = random.Random(seed)  # noqa: S311 - the order of a sandbox
        self._outbox: asyncio.Queue[tuple[Endpoint, Row]] = asyncio.Queue()

    def answer(self, method: str, parts: list[str], params: Row) -> Row:
        """Answer a request below ``/v1/webhook_endpoints``. Only the answer to the creation holds the secret (reference,
        *Create a webhook endpoint*).

        Raises:
            StripeRefused: as Stripe would refuse the request.
        """
        if method == "POST" and not parts:
            return self._create(params)
        if method == "GET" and not parts:
            found = [endpoint.rendered() for endpoint in self.endpoints.values()]
            return {"object": "list", "has_more": False, "data": found}
        endpoint = self.endpoints.get(parts[0]) if parts else None
        if endpoint is None:
            message = f"No such webhook endpoint: '{'/'.join(parts)}'"
            raise StripeRefused(404, message, "resource_missing", "id")
        if method == "DELETE":
            del self.endpoints[endpoint.id]
            return {"id": endpoint.id, "object": "webhook_endpoint", "deleted": True}
        if method == "POST" and "disabled" in params:
            endpoint.disabled = params["disabled"] == "true"
        return endpoint.rendered()

    def _create(self, params: Row) -> Row:
        if not re.match(r"https?://", str(params.get("url", ""))):
            raise StripeRefused(400, "Not a valid URL", "url_invalid", "url")
        enabled = params.get("enabled_events") or []
        enabled = list(enabled.values()) if isinstance(enabled, Mapping) else list(enabled)
        id, secret = self._account.new_id("we"), f"whsec_{self._account.new_id('k')[2:]}"
        made = self.endpoints[id] = Endpoint(id, params["url"], enabled, secret)
        return {**made.rendered(), "secret": secret}

    def queue(self, event: Row) -> None:
        """Queue an event for every endpoint that accepts its type."""
        if self.off:
            return
        for endpoint in self.endpoints.values():
            if endpoint.accepts(event["type"]):
                for _ in range(self.copies):
                    self._outbox.put_nowait((endpoint, event))

    async def deliver(self) -> None:
        """Send what is queued, until the task is cancelled."""
        async with httpx.AsyncClient(timeout=5.0, follow_redirects=False) as client:
            while True:
                pending = [await self._outbox.get()]
                while not self._outbox.empty():
                    pending.append(self._outbox.get_nowait())
                if self.shuffle:
                    self._rng.shuffle(pending)
                for endpoint, event in pending:
                    if not endpoint.disabled:
                        await self._send(client, endpoint, event)

    async def _send(self, client: httpx.AsyncClient, endpoint: Endpoint, event: Row) -> None:
        body = json.dumps(event).encode()
        headers: dict[str, Any] = {
            "stripe-signature": sign(body, endpoint.secrets, int(self._account.now())),
            "content-type": "application/json; charset=utf-8",
        }
        with contextlib.suppress(httpx.HTTPError):
            await client.post(endpoint.url, content=body, headers=headers)
