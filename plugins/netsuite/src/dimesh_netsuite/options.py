"""Options of the NetSuite source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.secrets import Secret
from dimesh.sourcekit.options import SourceOptions, check_origin

Flow = Literal["oauth2", "tba"]
Algorithm = Literal["PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]

OAUTH2: Final = ("client_id", "certificate_id", "private_key")
TBA: Final = ("consumer_key", "consumer_secret", "token_id", "token_secret")


class NetSuiteOptions(SourceOptions, frozen=True, kw_only=True):
    """Options of the NetSuite source. Times are seconds.

    Credentials are either ``client_id``, ``certificate_id`` and a private key (OAuth 2.0 client credentials), or the four keys of
    token-based authentication.
    """

    account_id: str
    """The id of the account, such as ``1234567``; ``1234567_SB1`` for a sandbox account."""
    client_id: str | None = None
    """The client id of the integration record (OAuth 2.0)."""
    certificate_id: str | None = None
    """The id that NetSuite gave to the uploaded certificate."""
    private_key: Secret | None = None
    """The private key of that certificate in PEM form."""
    private_key_file: str | None = None
    """The file with the private key, in place of ``private_key``."""
    algorithm: Algorithm | None = None
    """The algorithm that signs the request for a token; None: PS256 for an RSA key, ES256, ES384 or ES512 for an elliptic
    curve.
    """
    consumer_key: Secret | None = None
    """The consumer key of token-based authentication (legacy)."""
    consumer_secret: Secret | None = None
    """The consumer secret."""
    token_id: Secret | None = None
    """The id of the token."""
    token_secret: Secret | None = None
    """The secret of the token."""
    url: str | None = None
    """The address of the account; None: ``https://<account>.suitetalk.api.netsuite.com``. In tests, the address of the
    sandbox.
    """
    poll: Annotated[float, Meta(ge=0.01, le=86_400)] = 15.0
    """The interval at which each object is polled."""
    overlap: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """How far back rows are read again: a transaction may commit later than the time in its rows. In the hours around the end of
    daylight-saving time it is two hours more."""
    reread: Annotated[float, Meta(ge=0.01, le=86_400)] = 60.0
    """The interval at which the overlap is read again."""
    refresh: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 86_400.0
    """The interval at which all rows are listed again, to find changes that move no time, and deletes that leave no record; 0:
    never. Listing takes at most a tenth of the time."""
    read_lag: Annotated[float, Meta(ge=0, le=600)] = 2.0
    """The time by which a query may lag behind a change; the pause before a missing row is asked about again."""
    deletes: bool = True
    """Whether deletes are read from the table of deleted records. It needs the permission Deleted Records."""
    delete_retention: Annotated[float, Meta(ge=1, le=3_650)] = 30.0
    """The number of days for which the table of deleted records is trusted to be complete. A position that is older is a gap."""
    notes: bool = True
    """Whether the system notes of changed rows are read: who changed which audited field, from which value."""
    lines: bool = True
    """Whether a row of ``transaction`` has its lines, as the list ``lines``."""
    rate: Annotated[float, Meta(ge=0.1, le=1_000)] = 10.0
    """The highest number of requests per second to this account."""
    concurrency: Annotated[int, Meta(ge=1, le=50)] = 2
    """The highest number of requests in flight. All integrations of an account share its limit, which is 5 at the smallest
    tier.
    """
    page: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    timeout: Annotated[float, Meta(ge=0.1, le=1_000)] = 300.0
    """The time limit of one attempt at a request. NetSuite ends a query after 15 minutes."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*", self.account_id) or len(self.account_id) > 40:
            raise ConfigurationError("account_id must be an account id, such as 1234567 or 1234567_SB1")
        if self.url is not None:
            check_origin("url", self.url)
        if self.private_key is not None and self.private_key_file is not None:
            raise ConfigurationError("private_key cannot be given with private_key_file: name one of the two")
        self.flow()

    def flow(self) -> Flow:
        """Return the kind of the credentials.

        Raises:
            ConfigurationError: the credentials are incomplete, or of both kinds.
        """
        modern = {
            "client_id": self.client_id,
            "certificate_id": self.certificate_id,
            "private_key": self.private_key or self.private_key_file,
        }
        legacy = {name: getattr(self, name) for name in TBA}
        if any(modern.values()) and any(legacy.values()):
            raise ConfigurationError(
                f"client_id (OAuth 2.0) cannot be given with the keys of token-based authentication ({', '.join(TBA)}): name one "
                "kind of credentials"
            )
        given = legacy if any(legacy.values()) else modern
        missing = [name for name, value in given.items() if not value]
        if missing:
            needed = TBA if given is legacy else OAUTH2
            raise ConfigurationError(f"{missing[0]} is missing: the credentials are {', '.join(needed)}")
        return "tba" if given is legacy else "oauth2"

    @property
    def realm(self) -> str:
        """The id of the account as OAuth 1.0 names it: ``1234567_SB1``."""
        return self.account_id.upper().replace("-", "_")

    @property
    def host_label(self) -> str:
        """The id of the account as host names have it: ``1234567-sb1``."""
        return self.account_id.lower().replace("_", "-")

    @property
    def origin_url(self) -> str:
        """The address of the account."""
        return self.url or f"https://{self.host_label}.suitetalk.api.netsuite.com"

    def key(self) -> str:
        """Return the private key.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        if self.private_key is not None:
            return self.private_key.reveal()
        assert self.private_key_file is not None
        try:
            return Path(self.private_key_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"private_key_file cannot be read: {error}") from error
