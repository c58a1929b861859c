"""Receives webhooks, and uses them as wake-ups only.

Stripe sends webhooks at least once and in any order, and gives up after three days; the feed of events has all events in one
place. So a webhook only wakes the source, which then reads the feed. A forged or replayed one could at most cause a
request, and is refused before that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dimesh.sourcekit.webhooks import MAX_BODY, SignatureError, SignedWebhooks, webhook_log
from dimesh_stripe.signatures import verify

__all__ = ["MAX_BODY", "WebhookReceiver"]


class WebhookReceiver(SignedWebhooks):
    """Receives the webhooks of one endpoint: the hint gets the event's type, and ``secrets`` are ``whsec_…``."""

    default_path = "/webhooks/stripe"
    log = webhook_log("dimesh.cdc.stripe.webhooks")

    def checked(self, body: bytes, headers: Mapping[str, str], now: float) -> tuple[str, str]:
        """Return the event's type and id."""
        verify(body, headers.get("stripe-signature", ""), self.secrets, now, self.tolerance)
        try:
            found: Any = json.loads(body)
            return str(found["type"]), str(found["id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SignatureError("the webhook is signed, but it is not an event") from error

    def take(self, body: bytes, header: str) -> tuple[str, str]:
        """Accept a webhook with the header ``Stripe-Signature``, and return the event's type and id.

        Raises:
            SignatureError: the webhook was not signed by Stripe, is too old, or is not an event.
        """
        return self.accept(body, {"stripe-signature": header})
