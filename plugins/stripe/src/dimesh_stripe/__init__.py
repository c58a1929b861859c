"""Change data capture from Stripe for dimesh."""

from __future__ import annotations

from dimesh_stripe.connector import StripeCDCConnector
from dimesh_stripe.signatures import SignatureError
from dimesh_stripe.source import StripeSource
from dimesh_stripe.webhooks import WebhookReceiver

__all__ = ["SignatureError", "StripeCDCConnector", "StripeSource", "WebhookReceiver"]
