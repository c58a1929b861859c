"""Options of the Zendesk source."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.secrets import Secret
from dimesh.sourcekit.options import SourceOptions, check_origin

TOKENS_END: Final = "2027-04-30"
"""The day on which Zendesk ends API tokens (announcement of the migration to OAuth)."""
MOST: Final = 1_000
"""The largest page of an incremental export (reference, *Incremental Exports*)."""

Flow = Literal["api_token", "client_credentials", "refresh", "given"]


class ZendeskOptions(SourceOptions, frozen=True, kw_only=True):
    """Options of the Zendesk source. Times are seconds."""

    subdomain: str | None = None
    """The account's subdomain of zendesk.com: `acme` for https://acme.zendesk.com."""
    url: str | None = None
    """The address of the API; None: that of ``subdomain``. In tests the address of the sandbox."""
    client_id: str | None = None
    """The identifier of an OAuth client (Admin Center → Apps and integrations → APIs → OAuth clients)."""
    client_secret: Secret | None = None
    """The secret of the OAuth client."""
    refresh_token: Secret | None = None
    """A refresh token of that client, where you do not use client credentials. Each refresh replaces it: the new one is kept in
    ``token_file``."""
    access_token: Secret | None = None
    """An OAuth access token that something else renews."""
    scope: str = "read"
    """The scopes to ask for. Ticket audits need `read`: `tickets:read` does not cover them."""
    token_file: str | None = None
    """The file in which all processes of this machine share the OAuth tokens; None: a file in the user's data folder."""
    email: str | None = None
    """The address of the administrator whom ``api_token`` acts for."""
    api_token: Secret | None = None
    """An API token. Zendesk creates no new ones, and ends all of them on 2027-04-30: use OAuth."""
    webhook_secrets: list[Secret] = []
    """The signing secrets of the webhooks that `dimesh webhooks serve` receives."""
    webhook_id: str | None = None
    """The id of the webhook that wakes this source. Invocations that Zendesk did not deliver are reported in a gap event."""
    webhook_look: Annotated[float, Meta(ge=0.01, le=86_400)] = 300.0
    """The interval at which the source reads the invocations of that webhook."""
    history: bool = True
    """Whether changes of tickets are read from the export of ticket events, too: each change is then published by itself, with
    the row before it. That costs a second export request for each poll that finds changes."""
    poll: Annotated[float, Meta(ge=0.01, le=3_600)] = 60.0
    """The interval at which each export is polled while no webhook wakes the source."""
    hold_back: Annotated[float, Meta(ge=0, le=3_600)] = 60.0
    """The time for which Zendesk holds changes back from the exports; in tests that of the sandbox."""
    overlap: Annotated[float, Meta(ge=0, le=86_400)] = 600.0
    """How far back lists are read again whose rows appear minutes after their time, such as ticket metric events."""
    refresh: Annotated[float, Meta(ge=0.1, le=30 * 86_400)] = 3_600.0
    """The interval at which objects without an export are listed again. Listing takes at most a tenth of the time."""
    read_lag: Annotated[float, Meta(ge=0.0, le=600)] = 2.0
    """The time by which lists may lag behind changes: the pause before a list is read again, and before a row that is missing is
    asked for again."""
    options_look: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 3_600.0
    """The interval at which the options of ticket fields are compared: when one is gone, old tickets have lost that value without
    any sign of it, so a gap is reported and tickets are read again. 0: never."""
    rate: Annotated[float, Meta(ge=0.1, le=100_000)] = 3.0
    """The highest number of requests per second, exports aside. Plans allow from 200 to 2,500 a minute."""
    exports: Annotated[int, Meta(ge=1, le=1_000_000)] = 8
    """The highest number of export requests per minute. Zendesk allows 10 (30 with the High Volume add-on) to all integrations of
    the account together, and does not show how many are left."""
    page: Annotated[int, Meta(ge=1, le=MOST)] = MOST

    def __post_init__(self) -> None:
        if self.subdomain is not None and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,62}", self.subdomain):
            raise ConfigurationError("subdomain must be the name before .zendesk.com, such as acme")
        if self.subdomain is None and self.url is None:
            raise ConfigurationError("subdomain is missing: give the name before .zendesk.com")
        check_origin("url", self.address)
        for name in ("client_secret", "refresh_token", "access_token", "api_token"):
            given: Secret | None = getattr(self, name)
            if given is not None and not re.fullmatch(r"[!-~]{4,4096}", given.reveal()):
                raise ConfigurationError(f"{name} must consist of printable ASCII characters without spaces")
        self.flow()

    @property
    def address(self) -> str:
        """The address of the API."""
        return self.url or f"https://{self.subdomain}.zendesk.com"

    def flow(self) -> Flow:
        """Return how the source authenticates.

        Raises:
            ConfigurationError: the credentials are incomplete, or there are two kinds of them.
        """
        found: list[Flow] = []
        if self.api_token is not None:
            found.append("api_token")
        if self.access_token is not None:
            found.append("given")
        if self.client_id is not None or self.client_secret is not None or self.refresh_token is not None:
            found.append("refresh" if self.refresh_token is not None else "client_credentials")
        if len(found) > 1:
            raise ConfigurationError(
                "client_id, access_token and api_token are different credentials: give one of them"
            )
        if not found:
            raise ConfigurationError(
                "client_id and client_secret are missing: create an OAuth client in Zendesk's Admin Center"
            )
        if found[0] == "api_token" and not self.email:
            raise ConfigurationError("email is missing: an API token acts for the user with this address")
        if found[0] in ("refresh", "client_credentials") and not self.client_id:
            raise ConfigurationError("client_id is missing: give the identifier of the OAuth client")
        if found[0] == "client_credentials" and self.client_secret is None:
            raise ConfigurationError("client_secret is missing: give the secret of the OAuth client")
        return found[0]
