"""Signatures of webhooks: ``Stripe-Signature: t=<unix>,v1=<hex>[,v1=<hex>]``.

v1 is the HMAC-SHA256 of ``<t>.<raw body>`` with the complete ``whsec_…`` text as key
(https://docs.stripe.com/webhooks#verify-manually). There are several v1 while a secret is rotated; v0 is ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from dimesh.sourcekit.webhooks import TOLERANCE, SignatureError

__all__ = ["SignatureError", "sign", "verify"]


def sign(body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """Return the header for a body."""
    signatures = ",".join(f"v1={_digest(body, secret, timestamp)}" for secret in secrets)
    return f"t={timestamp},{signatures}"


def verify(body: bytes, header: str, secrets: Sequence[str], now: float, tolerance: float = TOLERANCE) -> int:
    """Check that Stripe signed the body, and return when.

    Args:
        body: the body as it arrived, byte for byte.
        header: the header ``Stripe-Signature``.
        secrets: the signing secrets of the endpoint; more than one while they are rotated.
        now: the current time in epoch seconds.
        tolerance: the greatest age of a signature in seconds. One from the future is accepted: Stripe's clock may be ahead.

    Raises:
        SignatureError: there is no valid signature, or it is too old.
    """
    timestamp: int | None = None
    given: list[str] = []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdecimal() and len(value) < 16:
            timestamp = int(value)
        elif name == "v1":
            given.append(value)
    if timestamp is None or not given:
        raise SignatureError("the header Stripe-Signature is missing or malformed")
    expected = [_digest(body, secret, timestamp) for secret in secrets]
    # All are compared, so that the time it takes does not reveal which one matched.
    matches = [
        hmac.compare_digest(own.encode(), other.encode("utf-8", "replace"))
        for own in expected
        for other in given[:8]
    ]
    if not any(matches):
        raise SignatureError(
            "no signature is valid: check the endpoint's secret, and that the body is passed on unchanged"
        )
    if timestamp < now - tolerance:
        raise SignatureError(
            f"the webhook was signed {now - timestamp:.0f} s ago, which is more than the tolerance of {tolerance:g} s"
        )
    return timestamp


def _digest(body: bytes, secret: str, timestamp: int) -> str:
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
