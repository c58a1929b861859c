"""Signatures of webhooks (reference, *Webhook security and authentication*)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from dimesh.sourcekit.webhooks import TOLERANCE, SignatureError

__all__ = ["SignatureError", "sign", "verify"]

_WHEN: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def sign(body: bytes, timestamp: str, secret: str) -> str:
    """Return the signature of a body: the base64 of the HMAC-SHA256 of the timestamp and the body, without anything between."""
    digest = hmac.new(secret.encode(), timestamp.encode() + body, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def verify(
    body: bytes,
    signature: str,
    timestamp: str,
    secrets: Sequence[str],
    now: float,
    tolerance: float = TOLERANCE,
) -> None:
    """Check a webhook.

    Args:
        body: the body as it was received.
        signature: the header ``X-Zendesk-Webhook-Signature``.
        timestamp: the header ``X-Zendesk-Webhook-Signature-Timestamp``.
        secrets: the signing secrets that are accepted.
        now: the time in seconds since the epoch.
        tolerance: the greatest age, and the greatest lead, of the timestamp in seconds.

    Raises:
        SignatureError: no secret signed it, or its time is too far from now.
    """
    given = signature.encode("utf-8", "replace")
    if not any(hmac.compare_digest(sign(body, timestamp, secret).encode(), given) for secret in secrets):
        raise SignatureError("the webhook is not signed with a secret of this source")
    if not _WHEN.fullmatch(timestamp):
        raise SignatureError("the time of the webhook's signature is not a time")
    try:
        signed = datetime.fromisoformat(timestamp).astimezone(UTC).timestamp()
    except ValueError as error:
        raise SignatureError("the time of the webhook's signature is not a time") from error
    if abs(now - signed) > tolerance:
        raise SignatureError(f"the webhook was signed {now - signed:,.0f} s ago: it may be a replay")
