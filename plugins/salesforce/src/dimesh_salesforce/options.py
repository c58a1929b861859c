"""Options of the Salesforce source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.secrets import Secret
from dimesh.sourcekit.addresses import is_loopback
from dimesh.sourcekit.options import SourceOptions, check_origin
from dimesh_salesforce.objects import is_polled

RETENTION: Final = 72 * 3_600.0
"""The number of seconds for which Salesforce promises to keep events."""


class SalesforceOptions(SourceOptions, frozen=True, kw_only=True):
    """Options of the Salesforce source. Times are seconds.

    The credentials are one of: ``access_token`` (works until it expires); ``client_id`` and ``client_secret`` (client
    credentials); ``client_id``, ``username`` and ``private_key`` or ``private_key_file`` (JWT bearer); ``client_id`` and
    ``refresh_token``.
    """

    instance_url: str
    """``https://company.my.salesforce.com``: My Domain of the org."""
    access_token: Secret | None = None
    client_id: str | None = None
    """The consumer key of the connected app."""
    client_secret: Secret | None = None
    username: str | None = None
    private_key: Secret | None = None
    """The RSA key whose certificate the connected app has, as PEM text."""
    private_key_file: str | None = None
    refresh_token: Secret | None = None
    login_url: str | None = None
    """The address that issues tokens; by default My Domain, which also serves Salesforce's own sandboxes."""
    audience: str | None = None
    """The audience of the JWT; by default ``https://test.salesforce.com`` for a sandbox's My Domain, else
    ``https://login.salesforce.com``."""
    organization_id: str | None = None
    """The id of the org, 18 characters; by default Salesforce is asked for it."""
    api_version: str = "66.0"
    pubsub: str = "api.pubsub.salesforce.com:7443"
    """The address of the Pub/Sub API. Port 443 works as well, where a firewall allows no other."""
    plaintext: bool = False
    """Whether to connect to the Pub/Sub API without TLS: for a sandbox on this machine only."""
    channels: dict[str, list[str]] = {}
    """Channels that carry several objects, such as ``{"/data/Sales__chn" = ["Account", "Lead"]}``: list the channel among the
    objects to capture, and here the objects that its snapshot reads."""
    own_users: list[str] = []
    """The ids of users whose changes count as own writes; the user of the credentials is always one of them."""
    own_origins: list[str] = []
    """Texts that mark a change as an own write if its origin contains one of them, such as ``client=OurApp``."""
    read_lag: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """The number of seconds by which reading a row may lag behind its change events: so long after a row was not found, it is
    looked for once more."""
    read_derived: bool = False
    """Whether the row of a change is read again if its event leaves out fields, such as formulas, so that they are current (one
    query for up to 200 rows); else ``metadata.not_current`` names these fields."""
    feed_lag: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """The number of seconds after which a change event has arrived at the latest: a verification calls no difference an error
    before."""
    poll: Annotated[float, Meta(ge=0.01, le=3_600)] = 60.0
    """The interval at which objects without change events (``…History``, ``…Share``, ``…Feed``) are asked for new and changed
    rows: one query."""
    refresh: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 3_600.0
    """The interval at which all rows of objects without change events are listed again, since that alone shows their deletes, and
    all changes of ``ContentDocumentLink``; 0: never. Histories are not listed again."""
    silence: Annotated[float, Meta(ge=0.1, le=3_600)] = 300.0
    """How long a stream may be silent before it is opened again: some streams hang without an error."""
    bulk_above: Annotated[int, Meta(ge=0, le=10**9)] = 200_000
    """The number of rows above which an object is read by a Bulk API 2.0 job."""
    page: Annotated[int, Meta(ge=1, le=2_000)] = 2_000
    allocation: Annotated[int, Meta(ge=1, le=10**9)] = 25_000
    """The number of events that Salesforce delivers to the org in 24 hours, for the status: 50,000 on Performance and Unlimited
    Edition, 25,000 on Enterprise, 10,000 on Developer, more with the add-on."""
    api_reserve: Annotated[float, Meta(ge=0, le=0.99)] = 0.1
    """The fraction of the org's daily API requests that snapshots leave to others."""
    timeout: Annotated[float, Meta(ge=0.1, le=600)] = 60.0

    def __post_init__(self) -> None:
        for name in ("instance_url", "login_url", "audience"):
            value = getattr(self, name)
            if value is not None:
                check_origin(name, value)
        if self.plaintext and not is_loopback(self.pubsub):
            raise ConfigurationError(
                "plaintext is for a sandbox on this machine only: the access token is sent with every stream"
            )
        if not re.fullmatch(r"\d{2,3}\.0", self.api_version):
            raise ConfigurationError("api_version must look like 66.0")
        for channel, objects in self.channels.items():
            if not channel.startswith("/data/") or not objects:
                raise ConfigurationError(
                    f"channels: {channel!r:.80} must begin with /data/ and list the objects of the channel"
                )
            if without := [name for name in objects if is_polled(name)]:
                raise ConfigurationError(
                    f"channels: {without[0]!r:.80} has no change events: list it in objects, not in a channel"
                )
        self.flow()

    def flow(self) -> str:
        """Return how tokens are obtained: ``given``, ``client_credentials``, ``jwt`` or ``refresh``.

        Raises:
            ConfigurationError: credentials are missing, or of more than one kind.
        """
        if self.private_key is not None and self.private_key_file is not None:
            raise ConfigurationError("private_key and private_key_file: give one of them, not both")
        flows = [
            flow
            for flow, given in (
                ("refresh", self.refresh_token is not None),
                ("jwt", self.private_key is not None or self.private_key_file is not None),
                ("client_credentials", self.client_secret is not None and self.refresh_token is None),
            )
            if given
        ]
        if len(flows) > 1:
            raise ConfigurationError(
                f"these credentials are of different kinds: {' and '.join(flows)}; give one of them"
            )
        if not flows:
            if self.access_token is None:
                raise ConfigurationError(
                    "credentials are missing: access_token; or client_id and client_secret; or client_id, username and "
                    "private_key_file; or client_id and refresh_token"
                )
            return "given"
        if self.client_id is None:
            raise ConfigurationError(f"{flows[0]} needs client_id, the consumer key of the connected app")
        if flows[0] == "jwt" and self.username is None:
            raise ConfigurationError("a private key needs username: the user that the connected app acts for")
        return flows[0]

    def key(self) -> str:
        """Return the private key as PEM text.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        if self.private_key is not None:
            return self.private_key.reveal()
        assert self.private_key_file is not None
        try:
            return Path(self.private_key_file).read_text("ascii")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"private_key_file cannot be read: {error}") from error
