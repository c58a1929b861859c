"""Signatures of webhooks: ``Stripe-Signature: t=<unix>,v1=<hex>[,v1=<hex>]``.

v1 is the HMAC-SHA256 of ``<t>.<raw body>`` with the whole ``whsec_…`` text as key
(https://docs.stripe.com/webhooks#verify-manually). Several v1 stand there while a secret is rotated; v0 is ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from dimesh.errors import CDCError

TOLERANCE: Final = 300.0
"""Seconds that a signature may be old."""


class SignatureError(CDCError):
    """A webhook that Stripe did not sign, or long ago."""


def sign(body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """The header for a body."""
    signatures = ",".join(f"v1={_digest(body, secret, timestamp)}" for secret in secrets)
    return f"t={timestamp},{signatures}"


def verify(body: bytes, header: str, secrets: Sequence[str], now: float, tolerance: float = TOLERANCE) -> int:
    """Look whether Stripe signed the body; returns when.

    Args:
        body: as it came, byte for byte.
        header: ``Stripe-Signature``.
        secrets: of the endpoint; more than one while it is rotated.
        now: epoch seconds.
        tolerance: seconds that it may be old; one from the future is Stripe's clock, and accepted.

    Raises:
        SignatureError: it did not, or too long ago.
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
        raise SignatureError("the header Stripe-Signature is missing or not of its form")
    expected = [_digest(body, secret, timestamp) for secret in secrets]
    # All are compared, so that time says nothing about which one it was.
    matches = [
        hmac.compare_digest(own.encode(), other.encode("utf-8", "replace"))
        for own in expected
        for other in given[:8]
    ]
    if not any(matches):
        raise SignatureError("no signature is right: is it the endpoint's secret, and the body as it came?")
    if timestamp < now - tolerance:
        raise SignatureError(
            f"signed {now - timestamp:.0f} s ago, more than the tolerance of {tolerance:g} s"
        )
    return timestamp


def _digest(body: bytes, secret: str, timestamp: int) -> str:
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
