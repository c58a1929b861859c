"""Options of the Stripe source."""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.secrets import Secret
from dimesh.sourcekit.options import SourceOptions, check_origin

API_VERSION: Final = "2026-06-24.dahlia"
RETENTION: Final = 30 * 86_400.0
"""The number of seconds for which Stripe keeps events."""

MAX_ACCOUNTS: Final = 200
"""The largest number of connected accounts in one source: each has a feed of its own."""


class StripeOptions(SourceOptions, frozen=True, kw_only=True):
    """Options of the Stripe source. Times are seconds."""

    api_key: Secret
    """``sk_…``, or better ``rk_…``: a restricted key that may read events and the objects to capture."""
    account: str | None = None
    """``acct_…``: a connected account; None: the key's own account."""
    accounts: list[str] = []
    """``acct_…``: several connected accounts, which are read as one source: ``account`` is then part of each primary key. They
    share the budget of requests, and each has a feed of its own that is polled."""
    url: str = "https://api.stripe.com"
    """The address of the API; in tests the address of the sandbox."""
    api_version: str = API_VERSION
    """The API version of snapshots. Events are in the version that the account had at the time; each change names its version."""
    webhook_secrets: list[Secret] = []
    """``whsec_…``: the signing secrets of the endpoint whose webhooks `dimesh webhooks serve` receives; both secrets while you
    rotate them."""
    webhook_endpoint: str | None = None
    """``we_…``: the endpoint that wakes this source. If Stripe has disabled it, a gap event reports that. The key needs the
    permission Webhook Endpoints: Read."""
    webhook_look: Annotated[float, Meta(ge=0.01, le=86_400)] = 600.0
    """The interval at which the source checks that this endpoint is enabled."""
    own_writes: str | None = None
    """The prefix of the idempotency keys of your own requests: changes that they caused are marked as own writes."""
    read_rows: bool = False
    """Whether the row of each event is read again, in ``api_version`` and with the fields that events leave out. That costs a
    request for each change, and the row is that of the moment of reading (``as_of``)."""
    refresh: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 3_600.0
    """The interval at which rows are listed again that change without events; 0: never, and rows that are not final are marked.
    Listing takes at most a tenth of the time."""
    refresh_days: Annotated[int, Meta(ge=1, le=3_650)] = 30
    """The greatest age in days of rows that are listed again because they are not final; objects without events are listed
    whole."""
    poll: Annotated[float, Meta(ge=0.01, le=3_600)] = 5.0
    """The interval at which the feed is polled while no webhook wakes the source."""
    overlap: Annotated[float, Meta(ge=0, le=86_400)] = 120.0
    """How far back the feed is read again: events become visible late and out of order."""
    reread: Annotated[float, Meta(ge=0.01, le=3_600)] = 30.0
    """The interval at which the overlap is read again."""
    guard: Annotated[float, Meta(ge=0, le=29 * 86_400)] = 12 * 3_600.0
    """A position this close to the end of Stripe's 30 days counts as lost, so that nothing ages out while it is read."""
    rate: Annotated[float, Meta(ge=0.1, le=1_000)] = 20.0
    """The highest number of requests per second to this account; Stripe allows 100 in live mode and 25 in a sandbox."""
    page: Annotated[int, Meta(ge=1, le=100)] = 100

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]{8,255}", self.api_key.reveal()):
            raise ConfigurationError("api_key does not look like a Stripe key: use sk_… or rk_…")
        check_origin("url", self.url)
        if self.account is not None and not re.fullmatch(r"acct_\w+", self.account):
            raise ConfigurationError("account must be acct_…")
        if len(self.accounts) > MAX_ACCOUNTS or not all(
            re.fullmatch(r"acct_\w+", id) for id in self.accounts
        ):
            raise ConfigurationError(f"accounts must be a list of acct_…, {MAX_ACCOUNTS} at most")
        if self.account is not None and self.accounts:
            raise ConfigurationError(
                "account cannot be given with accounts: name account or accounts, not both"
            )
        if self.webhook_endpoint is not None and not re.fullmatch(r"we_\w+", self.webhook_endpoint):
            raise ConfigurationError("webhook_endpoint must be we_…")
