"""Options of the Kafka bus."""

from __future__ import annotations

import re
from typing import Final, Literal

from dimesh.errors import ConfigurationError
from dimesh.spi.options import Options

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:,\[\]]+):(\d{1,5})")
_INTERNAL: Final = re.compile(r"[a-zA-Z0-9-]{1,60}")


class KafkaOptions(Options, frozen=True):
    """Options of the Kafka bus. Times are seconds."""

    bootstrap_servers: str
    """``host:port`` of one broker or more, with commas between."""
    client_id: str = "dimesh"
    """Names this program in the broker's logs and quotas; a member of a group goes by its subscription's id."""

    # -- topics --
    partitions: int | None = None
    """Of a new topic; None: the broker's default."""
    replication: int | None = None
    """Copies of a new topic; None: the broker's default."""
    internal: str = "dimesh"
    """First part of the names of topics that the bus keeps for itself: delayed records, attempts, state."""

    # -- publishing --
    partition_by: Literal["key", "event", "pillar", "tenant"] = "key"
    """What chooses the partition: the ordering key; the event's id (spread evenly, no order); the sender's pillar;
    the tag ``tenant``. The last three keep the order of an ordering key only where all of its events agree in it."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Of each batch; what is read is recognised."""
    batch_size: int = 131_072
    """Bytes of a batch for one partition."""
    linger: float = 0.0
    """How long a batch waits to fill up before it is sent. While one is on its way the next fills anyway."""
    max_queued: int = 100_000
    """Records that may wait to be sent; a publish into a full queue waits for room."""
    max_queued_bytes: int = 64 * 1024 * 1024
    """The same, in bytes."""
    max_request_size: int = 1_048_576
    """Bytes of the largest record that is sent; the broker's and topic's ``message.max.bytes`` bound it too."""
    delivery_timeout: float = 30.0
    """After this a publish that no broker has acknowledged fails, with its outcome unknown."""

    # -- consuming --
    session_timeout: float = 10.0
    """A member that says nothing for so long has left its group."""
    heartbeat_interval: float = 1.0
    """How often a member says something; at most a third of ``session_timeout``."""
    rebalance_timeout: float = 30.0
    """How long a member may take to finish what it handles when partitions move. What takes longer than two thirds of
    it is given up, and handled again by the next owner."""
    fetch_max_bytes: int = 1_048_576
    """Bytes to fetch ahead for each partition."""

    # -- connection --
    request_timeout: float = 30.0
    """How long an answer of the broker may take."""
    tls: bool = False
    """Encrypt the connection."""
    tls_ca: str | None = None
    """File with the certificates of the authorities to trust; None: those of the operating system."""
    tls_cert: str | None = None
    """File with this program's certificate (and key, if ``tls_key`` is not given)."""
    tls_key: str | None = None
    """File with the key of ``tls_cert``."""
    tls_key_password: str | None = None
    tls_verify: bool = True
    """Check the broker's certificate and its name. Turning it off lets anybody in between read and change events."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How this program proves who it is; None: not at all, or by ``tls_cert``."""
    sasl_username: str | None = None
    sasl_password: str | None = None
    oauth_token_file: str | None = None
    """File with a bearer token, read anew for each connection."""
    oauth_token_url: str | None = None
    """Where a token is to be had by client credentials."""
    oauth_client_id: str | None = None
    oauth_client_secret: str | None = None
    oauth_scope: str | None = None

    def __post_init__(self) -> None:
        _check_addresses(self.bootstrap_servers)
        for name in ("batch_size", "max_queued", "max_queued_bytes", "max_request_size", "fetch_max_bytes"):
            if getattr(self, name) < 1:
                raise _wrong(f"{name} must be 1 or more")
        for name in (
            "delivery_timeout",
            "session_timeout",
            "heartbeat_interval",
            "rebalance_timeout",
            "request_timeout",
        ):
            if not 0 < getattr(self, name) < 86_400:
                raise _wrong(f"{name} must be more than 0 and less than a day (seconds)")
        if not 0 <= self.linger <= 60:
            raise _wrong("linger must be 0 to 60 seconds")
        if self.heartbeat_interval > self.session_timeout / 3:
            raise _wrong("heartbeat_interval must be at most a third of session_timeout")
        for name in ("partitions", "replication"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _wrong(f"{name} must be 1 or more, or left out for the broker's default")
        if not _INTERNAL.fullmatch(self.internal):
            raise _wrong("internal must be 1 to 60 letters, digits or dashes")


def _check_addresses(servers: str) -> None:
    for address in servers.split(","):
        found = _ADDRESS.fullmatch(address.strip())
        if found is None or not 0 < int(found[2]) < 65_536:
            raise _wrong(
                f"bootstrap_servers must be host:port, several with commas between: {address.strip()!r:.80} is not"
            )


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"bus 'kafka': {text}")
