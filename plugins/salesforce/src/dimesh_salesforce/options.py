"""Options of the Salesforce source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dimesh.errors import ConfigurationError
from dimesh.spi.options import Options

RETENTION: Final = 72 * 3_600.0
"""Seconds that Salesforce keeps events; beyond that it is luck."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class SalesforceOptions(Options, frozen=True):
    """Options of the Salesforce source. Times are seconds.

    Credentials are one of: ``access_token`` (works until it expires); ``client_id`` and ``client_secret`` (client
    credentials); ``client_id``, ``username`` and ``private_key`` or ``private_key_file`` (JWT bearer); ``client_id`` and
    ``refresh_token``.
    """

    instance_url: str
    """``https://company.my.salesforce.com``: My Domain of the org."""
    access_token: str | None = None
    client_id: str | None = None
    """Of the connected app."""
    client_secret: str | None = None
    username: str | None = None
    private_key: str | None = None
    """PEM text of the RSA key whose certificate the connected app has."""
    private_key_file: str | None = None
    refresh_token: str | None = None
    login_url: str | None = None
    """Where tokens are asked for; by default My Domain, which also serves sandboxes of Salesforce's own."""
    audience: str | None = None
    """Of the JWT: by default ``https://test.salesforce.com`` for a sandbox's My Domain, else
    ``https://login.salesforce.com``."""
    organization_id: str | None = None
    """18 characters; by default asked for."""
    api_version: str = "66.0"
    pubsub: str = "api.pubsub.salesforce.com:7443"
    """Of the Pub/Sub API. Port 443 works too, where a firewall lets nothing else pass."""
    plaintext: bool = False
    """No TLS to the Pub/Sub API: for a sandbox on this machine only."""
    channels: dict[str, list[str]] = {}
    """Channels that carry several objects, such as ``{"/data/Sales__chn" = ["Account", "Lead"]}``: name the channel as the
    object to capture, and here what is read for its snapshot."""
    own_users: list[str] = []
    """Ids of users whose changes are our own writes; ours by its credentials is known."""
    own_origins: list[str] = []
    """Texts that the origin of a change has when we wrote it, such as ``client=OurApp``."""
    silence: float = 300.0
    """After this long without a sign of life a stream is opened anew: some hang without an error."""
    bulk_above: int = 200_000
    """Objects with more rows are read by a Bulk API 2.0 job."""
    page: int = 2_000
    allocation: int = 25_000
    """Events that the org may have delivered in 24 hours, for the status: 50,000 on Performance and Unlimited Edition, 25,000
    on Enterprise, 10,000 on Developer, more with the add-on."""
    api_reserve: float = 0.1
    """The part of the org's daily requests that snapshots leave to others."""
    rate: float = 20.0
    """Requests a second, at most."""
    concurrency: int = 8
    """Requests on their way at once, at most; a snapshot leaves one place to streams."""
    ledger: str | None = None
    """A file through which the processes of this machine share ``rate``; None: one in the user's cache folder; empty: each
    process counts by itself."""
    timeout: float = 60.0
    """Of one request."""
    retry_for: float = 60.0
    """How long a request that fails for a passing reason is tried again."""

    def __post_init__(self) -> None:
        for name in ("instance_url", "login_url", "audience"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"https?://[^/\s]+", value):
                raise _wrong(f"{name} must be https://host, without a path")
            if value is not None and value.startswith("http://") and not _local(value[7:]):
                raise _wrong(f"{name} must be https: what is sent there is secret")
        if self.plaintext and not _local(self.pubsub):
            raise _wrong(
                "plaintext is for a sandbox on this machine: the access token is sent with every stream"
            )
        if not re.fullmatch(r"\d{2,3}\.0", self.api_version):
            raise _wrong("api_version must look like 66.0")
        for channel, objects in self.channels.items():
            if not channel.startswith("/data/") or not objects:
                raise _wrong(f"channels: {channel!r:.80} must begin with /data/ and list its objects")
        for name, lowest, highest in (
            ("silence", 0.1, 3_600.0),
            ("bulk_above", 0, 10**9),
            ("page", 1, 2_000),
            ("allocation", 1, 10**9),
            ("api_reserve", 0.0, 0.99),
            ("rate", 0.1, 100_000.0),
            ("concurrency", 1, 100),
            ("timeout", 0.1, 600.0),
            ("retry_for", 0.0, 3_600.0),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise _wrong(f"{name} must be {lowest:g} to {highest:g}, not {value:g}")
        self.flow()

    def flow(self) -> str:
        """How tokens are got: ``given``, ``client_credentials``, ``jwt`` or ``refresh``.

        Raises:
            ConfigurationError: something is missing, or there is more than one way.
        """
        if self.private_key is not None and self.private_key_file is not None:
            raise _wrong("give private_key or private_key_file, not both")
        ways = [
            way
            for way, has in (
                ("refresh", self.refresh_token is not None),
                ("jwt", self.private_key is not None or self.private_key_file is not None),
                ("client_credentials", self.client_secret is not None and self.refresh_token is None),
            )
            if has
        ]
        if len(ways) > 1:
            raise _wrong(f"these credentials are of different kinds: {' and '.join(ways)}; give one of them")
        if not ways:
            if self.access_token is None:
                raise _wrong(
                    "credentials are missing: access_token; or client_id and client_secret; or client_id, username and "
                    "private_key_file; or client_id and refresh_token"
                )
            return "given"
        if self.client_id is None:
            raise _wrong(f"{ways[0]} needs client_id, of the connected app")
        if ways[0] == "jwt" and self.username is None:
            raise _wrong("a private key needs username: who the connected app acts for")
        return ways[0]

    def key(self) -> str:
        """The private key as PEM text.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        if self.private_key is not None:
            return self.private_key
        assert self.private_key_file is not None
        try:
            return Path(self.private_key_file).read_text("ascii")
        except (OSError, ValueError) as error:
            raise _wrong(f"private_key_file cannot be read: {error}") from error


def _local(address: str) -> bool:
    return address.rpartition(":")[0] in _LOOPBACK or address in _LOOPBACK


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"source 'salesforce': {text}")
