"""Webhooks of the sandbox: delivery, the circuit breaker, and the log of invocations."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

import httpx

from dimesh.sourcekit.sandbox import Row
from dimesh_zendesk.sandbox.account import Account, ZendeskRefused, iso, not_found
from dimesh_zendesk.signatures import sign

TRIGGERED: Final = "conditional_ticket_events"
_WINDOW: Final = 300.0
_ERRORS: Final = 1_000
"""The number of errors within five minutes that opens the circuit breaker (article of a connector's author; so does a share of
70 %)."""


class Webhook:
    """A webhook."""

    def __init__(self, id: str, given: Row, secret: str, now: float) -> None:
        self.id = id
        self.given = given
        self.secret = secret
        self.created = now
        self.invocations: list[Row] = []
        """What became of each event, oldest first."""
        self.broken_until = 0.0
        self.errors: list[float] = []

    def accepts(self, kind: str) -> bool:
        """Return whether events of a type are sent."""
        subscribed = self.given.get("subscriptions") or []
        if self.given.get("status", "active") != "active":
            return False
        return kind in subscribed or (TRIGGERED in subscribed and kind.startswith("zen:event-type:ticket."))

    def rendered(self) -> Row:
        """Return the webhook as the API shows it."""
        return {"id": self.id, **self.given, "created_at": iso(self.created)}


class Webhooks:
    """The webhooks of an account. They arrive in any order, sometimes twice, and are not sent while the circuit breaker is open
    (recorded: such invocations have no status code).
    """

    def __init__(self, account: Account) -> None:
        self.webhooks: dict[str, Webhook] = {}
        self.copies = 1
        """The number of times that each event is sent."""
        self.throttled = False
        """Whether Zendesk throttles: events are logged, and not sent."""
        self.pending = 0
        self._account = account
        self._outbox: asyncio.Queue[tuple[Webhook, bytes, Row]] = asyncio.Queue()

    def answer(self, method: str, parts: list[str], given: Row) -> tuple[int, Row]:
        """Answer a request below ``/api/v2/webhooks``.

        Raises:
            ZendeskRefused: as Zendesk would refuse it.
        """
        if not parts:
            if method == "GET":
                rows = [hook.rendered() for hook in self.webhooks.values()]
                return 200, {"webhooks": rows, "meta": {"has_more": False, "after_cursor": None}, "links": {}}
            return self._create(given.get("webhook") or {})
        hook = self.webhooks.get(parts[0])
        if hook is None:
            raise not_found()
        match parts[1:]:
            case []:
                if method == "DELETE":
                    del self.webhooks[hook.id]
                    return 204, {}
                return 200, {"webhook": hook.rendered()}
            case ["signing_secret"]:
                return 200, {"signing_secret": {"secret": hook.secret, "algorithm": "SHA256"}}
            case ["invocations"]:
                rows = list(reversed(hook.invocations))[:1_000]
                return 200, {
                    "invocations": rows,
                    "meta": {"has_more": False, "after_cursor": None},
                    "links": {},
                }
        raise not_found()

    def _create(self, given: Row) -> tuple[int, Row]:
        subscriptions = given.get("subscriptions") or []
        if TRIGGERED in subscriptions and len(subscriptions) > 1:
            text = "a webhook is for conditional ticket events or for event types"
            raise ZendeskRefused(400, "InvalidSubscriptions", text)
        id = "01" + self._account.random_text(24).upper()
        made = self.webhooks[id] = Webhook(
            id, dict(given), self._account.random_text(40), self._account.now()
        )
        return 201, {"webhook": made.rendered()}

    def tell(self, kind: str, row: Row, old: Mapping[str, Any]) -> None:
        """Queue an event for every webhook that accepts its type."""
        for hook in self.webhooks.values():
            if hook.accepts(kind):
                body = self._body(kind, row, old)
                for _ in range(self.copies):
                    self.pending += 1
                    self._outbox.put_nowait((hook, body, self._log(hook)))

    def _log(self, hook: Webhook) -> Row:
        now = self._account.now()
        entry: Row = {
            "id": self._account.random_text(26),
            "created_at": iso(now),
            "latest_completed_at": iso(now),
            "status": "",
        }
        hook.invocations.append(entry)
        return entry

    def _body(self, kind: str, row: Row, old: Mapping[str, Any]) -> bytes:
        """Return the body of an event: ids are texts, and fields of the account's own are left out (reference)."""
        name = kind.removeprefix("zen:event-type:").partition(".")[0]
        detail = {
            field: str(value or 0) if field == "id" or field.endswith("_id") else value
            for field, value in row.items()
            if field
            not in ("custom_fields", "fields", "user_fields", "organization_fields", "generated_timestamp")
        }
        event = {"previous": dict(old), "current": {field: row.get(field) for field in old}} if old else {}
        return json.dumps(
            {
                "account_id": 1, "detail": detail, "event": event, "id": str(uuid.uuid4()),
                "subject": f"zen:{name}:{row.get('id')}", "time": iso(self._account.now()),
                "type": kind, "zendesk_event_version": "2022-11-06",
            }
        ).encode()  # fmt: skip

    async def deliver(self) -> None:
        """Send what is queued, until the task is cancelled."""
        async with httpx.AsyncClient(timeout=10.0, follow_redirects=False) as client:
            while True:
                hook, body, entry = await self._outbox.get()
                await self._send(client, hook, body, entry)
                self.pending -= 1

    async def _send(self, client: httpx.AsyncClient, hook: Webhook, body: bytes, entry: Row) -> None:
        now = self._account.now()
        if self.throttled:
            entry["status"] = "throttled"
            return
        if hook.broken_until > now:
            entry["status"] = "circuit broken"
            return
        when = iso(now)
        headers = {
            "x-zendesk-webhook-signature": sign(body, when, hook.secret),
            "x-zendesk-webhook-signature-timestamp": when,
            "x-zendesk-account-id": "1", "x-zendesk-webhook-id": hook.id, "x-zendesk-webhook-invocation-id": entry["id"],
            "user-agent": "Zendesk Webhook", "content-type": "application/json; charset=utf-8",
        }  # fmt: skip
        status = 0
        with contextlib.suppress(httpx.HTTPError):
            status = (
                await client.post(str(hook.given["endpoint"]), content=body, headers=headers)
            ).status_code
        entry["status_code"] = status or None
        entry["status"] = "success" if 200 <= status < 300 else "terminated"
        if entry["status"] != "success":
            hook.errors = [at for at in hook.errors if at > now - _WINDOW] + [now]
            if len(hook.errors) >= _ERRORS or len(hook.errors) > 0.7 * min(len(hook.invocations), 20) >= 14:
                hook.broken_until = now + _WINDOW
