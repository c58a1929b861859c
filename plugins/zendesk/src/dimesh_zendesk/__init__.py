"""Change data capture from Zendesk for dimesh."""

from __future__ import annotations

from dimesh_zendesk.connector import ZendeskCDCConnector
from dimesh_zendesk.signatures import SignatureError
from dimesh_zendesk.source import ZendeskSource
from dimesh_zendesk.webhooks import WebhookReceiver

__all__ = ["SignatureError", "WebhookReceiver", "ZendeskCDCConnector", "ZendeskSource"]
