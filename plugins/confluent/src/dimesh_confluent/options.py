"""Options of the registry."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import Options
from dimesh.secrets import Secret
from dimesh_confluent.addresses import Address

WHERE: Final = "registry 'confluent'"
"""The name of the driver in error messages."""
DEFAULT_URL: Final = "http://localhost:8081"


class ConfluentOptions(Options, frozen=True):
    """Options of a registry with Confluent's REST API. Times are in seconds."""

    url: str = DEFAULT_URL
    """The address of the registry, or several addresses of one registry, separated by commas: the next one is used when one does
    not answer. ``https``; ``http`` also works, as registries inside a network often have it, but everybody on the way can read
    and change schemas then, and credentials are refused except on the loopback interface."""

    # -- authentication --
    username: str = ""
    """The user, or the API key, for basic authentication."""
    password: Secret = Secret("")
    """The password, or the secret of the API key."""
    token: Secret = Secret("")
    """A fixed token for bearer authentication."""
    oauth_url: str = ""
    """The token endpoint of an OAuth 2 server, for the client credentials grant: ``https``, or ``http`` on the loopback
    interface."""
    oauth_client_id: str = ""
    """The name of the client at the OAuth server."""
    oauth_client_secret: Secret = Secret("")
    """The secret of the client at the OAuth server."""
    oauth_scope: str = ""
    """The scope to ask for; empty: the server's default."""
    logical_cluster: str = ""
    """The id of the registry in Confluent Cloud (``lsrc-…``), which bearer tokens need there."""
    identity_pool: str = ""
    """The id of the identity pool in Confluent Cloud (``pool-…``)."""
    ca_file: str | None = None
    """A PEM file with the certificate authorities to trust, in place of the usual ones."""
    certificate_file: str | None = None
    """A PEM file with the certificate of this client, for mutual TLS, and with its key unless ``certificate_key_file`` has it."""
    certificate_key_file: str | None = None
    """A PEM file with the private key of the certificate."""

    # -- requests --
    timeout: Annotated[float, Meta(ge=0.1, le=600)] = 5.0
    """The time limit of one attempt at a request, from connecting to the last byte of the answer."""
    retry_for: Annotated[float, Meta(ge=0, le=3_600)] = 15.0
    """How long a request that fails for a temporary reason is retried, at all addresses together."""
    normalize: bool = False
    """Whether the registry compares schemas in its normalized form when it registers or looks up one."""

    # -- what is kept --
    latest_ttl: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long the newest version of a subject is used without asking again. While the registry is down, the last one known is
    used."""
    max_cached: Annotated[int, Meta(ge=1, le=1_000_000)] = 5_000
    """The number of schemas that are kept in memory. The schema of an id never changes, so it is asked for once."""

    def __post_init__(self) -> None:
        """Check what the types do not express.

        Raises:
            ConfigurationError: an address is unsafe, or ways to authenticate contradict each other.
        """
        addresses = self.addresses()
        if self.oauth_url:
            _address("oauth_url", self.oauth_url, anywhere=False)
        ways = {
            "username": bool(self.username or self.password),
            "token": bool(self.token),
            "oauth_url": bool(self.oauth_url or self.oauth_client_id or self.oauth_client_secret),
        }
        given = [name for name, used in ways.items() if used]
        if len(given) > 1:
            raise ConfigurationError(f"{given[0]}: give one way to authenticate, not also {given[1]}")
        if ways["username"] and (not self.username or ":" in self.username):
            raise ConfigurationError("username: must not be empty or contain a colon")
        if ways["oauth_url"] and not (self.oauth_url and self.oauth_client_id and self.oauth_client_secret):
            raise ConfigurationError(
                "oauth_url: needs oauth_url, oauth_client_id and oauth_client_secret together"
            )
        if self.certificate_key_file is not None and self.certificate_file is None:
            raise ConfigurationError("certificate_key_file: needs certificate_file, too")
        if (given or self.certificate_file) and any(not address.safe for address in addresses):
            raise ConfigurationError("url: must be https: credentials are sent to it")

    def addresses(self) -> list[Address]:
        """Return the addresses of the registry."""
        texts = [text.strip() for text in self.url.split(",")]
        return [_address("url", text, anywhere=True) for text in texts]


def _address(option: str, text: str, *, anywhere: bool) -> Address:
    try:
        return Address.parse(text, anywhere=anywhere)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from None
