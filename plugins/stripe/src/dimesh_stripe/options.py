"""Options of the Stripe source."""

from __future__ import annotations

import re
from typing import Final

from dimesh.errors import ConfigurationError
from dimesh.spi.options import Options

API_VERSION: Final = "2026-06-24.dahlia"
RETENTION: Final = 30 * 86_400.0
"""Seconds that Stripe keeps events."""


class StripeOptions(Options, frozen=True):
    """Options of the Stripe source. Times are seconds."""

    api_key: str
    """``sk_…``, or better ``rk_…``: a restricted key that may read events and the objects to capture."""
    account: str | None = None
    """``acct_…`` of a connected account; None: the key's own."""
    url: str = "https://api.stripe.com"
    """Of the API; the sandbox's in tests."""
    api_version: str = API_VERSION
    """The shape of snapshots. Events have that of the account when they happened; each change says which."""
    webhook_secrets: list[str] = []
    """``whsec_…`` of the endpoint that `dimesh webhooks serve` takes webhooks for; both, while one is rotated."""
    webhook_endpoint: str | None = None
    """``we_…`` of the endpoint that wakes this source: when Stripe has disabled it, there is a gap event that says so. The key
    needs the permission Webhook Endpoints: Read."""
    webhook_look: float = 600.0
    """How often it is asked whether that endpoint is enabled."""
    own_writes: str | None = None
    """How the idempotency keys of our own requests begin: what they changed is marked as our own write."""
    poll: float = 5.0
    """Between two looks at the feed, while no webhook hints at something."""
    overlap: float = 120.0
    """Events become visible late, and not in order: the feed is read again this far back."""
    reread: float = 30.0
    """How often it is read again that far."""
    guard: float = 12 * 3_600.0
    """A position that is within this time of Stripe's 30 days counts as lost, so that nothing ages out while it is read."""
    rate: float = 20.0
    """Requests a second of this account, at most; Stripe lets 100 pass in live mode and 25 in a sandbox."""
    concurrency: int = 8
    """Requests on their way at once, at most; a snapshot leaves one place to streams."""
    ledger: str | None = None
    """A file through which the processes of this machine share ``rate``; None: one in the user's cache folder; empty: each
    process counts by itself."""
    page: int = 100
    timeout: float = 30.0
    """Of one request."""
    retry_for: float = 60.0
    """How long a request that fails for a passing reason is tried again."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]{8,255}", self.api_key):
            raise _wrong("api_key does not look like a key of Stripe's")
        if not re.match(r"https?://[^/\s]+$", self.url):
            raise _wrong("url must be http(s)://host, without a path")
        if self.account is not None and not self.account.startswith("acct_"):
            raise _wrong("account must be acct_…")
        if self.webhook_endpoint is not None and not re.fullmatch(r"we_\w+", self.webhook_endpoint):
            raise _wrong("webhook_endpoint must be we_…")
        for name, lowest, highest in (
            ("webhook_look", 0.01, 86_400.0),
            ("poll", 0.01, 3_600.0),
            ("overlap", 0.0, 86_400.0),
            ("reread", 0.01, 3_600.0),
            ("guard", 0.0, 29 * 86_400.0),
            ("rate", 0.1, 1_000.0),
            ("concurrency", 1, 100),
            ("page", 1, 100),
            ("timeout", 0.1, 600.0),
            ("retry_for", 0.0, 3_600.0),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise _wrong(f"{name} must be {lowest:g} to {highest:g}, not {value:g}")


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"source 'stripe': {text}")
