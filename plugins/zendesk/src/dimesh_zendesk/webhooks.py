"""Receives webhooks, and uses them as wake-ups only.

Zendesk sends webhooks in any order, sometimes twice and sometimes never; the exports have all changes. So a webhook only wakes
the source, which reads an export as soon as that shows the change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dimesh.sourcekit.webhooks import MAX_BODY, SignedWebhooks, webhook_log
from dimesh_zendesk.signatures import verify

__all__ = ["MAX_BODY", "TRIGGERED", "WebhookReceiver"]

TRIGGERED: Final = "conditional_ticket_events"
"""The kind of a webhook that a trigger sent: its body is whatever the trigger's author wrote."""


class WebhookReceiver(SignedWebhooks):
    """Receives webhooks: the hint gets the kind of what happened, such as ``zen:event-type:ticket.created``, or :data:`TRIGGERED`
    for a webhook of a trigger.
    """

    default_path = "/webhooks/zendesk"
    log = webhook_log("dimesh.cdc.zendesk.webhooks")

    def checked(self, body: bytes, headers: Mapping[str, str], now: float) -> tuple[str, str]:
        """Return the kind of what happened, and the event's id; of a trigger's webhook, the signature."""
        signature = headers.get("x-zendesk-webhook-signature", "")
        timestamp = headers.get("x-zendesk-webhook-signature-timestamp", "")
        verify(body, signature, timestamp, self.secrets, now, self.tolerance)
        try:
            found: Any = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        # The signature does not cover the header with the invocation's id, so a replay is recognised by the signature itself; a
        # repeated delivery of an event has a signature of its own, and the same id in its body.
        if isinstance(found, dict) and str(found.get("type", "")).startswith("zen:event-type:"):
            return str(found["type"]), str(found.get("id", "")) or signature
        return TRIGGERED, signature

    def take(self, body: bytes, signature: str, timestamp: str) -> str:
        """Accept a webhook with the two headers of its signature, and return its kind.

        Raises:
            SignatureError: the webhook was not signed by Zendesk, or is too old.
        """
        headers = {
            "x-zendesk-webhook-signature": signature,
            "x-zendesk-webhook-signature-timestamp": timestamp,
        }
        return self.accept(body, headers)[0]
