"""Options of the Kafka bus."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import Options, is_address
from dimesh.secrets import Secret

WHERE: Final = "bus 'kafka'"
"""The name of the driver in error messages."""

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, lt=86_400)]


class KafkaOptions(Options, frozen=True):
    """Options of the Kafka bus. Times are in seconds."""

    bootstrap_servers: str
    """The addresses of one or more brokers, ``host:port`` separated by commas."""
    client_id: str = "dimesh"
    """The name of this program in the broker's logs and quotas. A member of a group uses the id of its subscription."""

    # -- topics --
    partitions: Positive | None = None
    """The number of partitions of a new topic; None: the broker's default."""
    replication: Positive | None = None
    """The number of replicas of a new topic; None: the broker's default."""
    internal: Annotated[str, Meta(pattern="^[a-zA-Z0-9-]{1,60}$")] = "dimesh"
    """The first part of the names of the bus's own topics: delayed records, attempts, state. 1 to 60 letters, digits or
    dashes."""

    # -- publishing --
    wire: Literal["confluent", "confluent-header"] | None = None
    """The frame around payloads whose schema is registered, for the serializers and deserializers of Confluent's registry in
    other programs: the id in front of the payload, or the GUID in a header. Framed messages of other programs become events. It
    needs the registry of the mesh and ``dimesh-confluent``; None: payloads are bare."""
    partition_by: Literal["key", "event", "pillar", "tenant"] = "key"
    """What chooses the partition: the ordering key; the event's id (spread evenly, no order); the sender's pillar;
    the tag ``tenant``. The last three keep the order of an ordering key only where all of its events agree in it."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """The compression of each published batch. Every compression can be read."""
    batch_size: Positive = 131_072
    """The maximum bytes of a batch for one partition."""
    linger: Annotated[float, Meta(ge=0, le=60)] = 0.0
    """How long a batch waits to fill before it is sent. While a batch is in flight, the next one fills anyway."""
    max_queued: Positive = 100_000
    """The maximum number of records that wait to be sent. When it is reached, a publish waits until there is room."""
    max_queued_bytes: Positive = 64 * 1024 * 1024
    """The maximum bytes of records that wait to be sent."""
    max_request_size: Positive = 1_048_576
    """The maximum bytes of a record. The ``message.max.bytes`` of the broker and the topic limit it, too."""
    delivery_timeout: Seconds = 30.0
    """How long a publish may wait for the broker's acknowledgement; then it fails, and its outcome is unknown."""

    # -- consuming --
    session_timeout: Seconds = 10.0
    """How long a member of a group may be silent before the broker removes it from the group."""
    heartbeat_interval: Seconds = 1.0
    """How often a member sends a heartbeat; at most a third of ``session_timeout``."""
    rebalance_timeout: Seconds = 30.0
    """How long a member may take to finish what it is handling when partitions move. Whatever takes longer than two thirds
    of this is given up, and handled again by the next owner."""
    metadata_interval: Seconds = 30.0
    """How often clients ask for the partitions of their topics; so long a partition that is added may wait for its readers."""
    fetch_max_bytes: Positive = 1_048_576
    """The bytes to fetch ahead for each partition."""

    # -- connection --
    request_timeout: Seconds = 30.0
    """How long the broker may take to answer a request."""
    tls: bool = False
    """Whether the connection is encrypted."""
    tls_ca: str | None = None
    """A file with the certificates of the trusted authorities; None: those of the operating system."""
    tls_cert: str | None = None
    """A file with this program's certificate, and its key unless ``tls_key`` is set."""
    tls_key: str | None = None
    """A file with the key of ``tls_cert``."""
    tls_key_password: Secret | None = None
    """The password of the key."""
    tls_verify: bool = True
    """Whether the broker's certificate and host name are verified. False lets anybody on the network path read and change
    events."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How this program authenticates; None: not at all, or by ``tls_cert``."""
    sasl_username: str | None = None
    """The user name for ``PLAIN`` and ``SCRAM``."""
    sasl_password: Secret | None = None
    """The password of the user."""
    oauth_token_file: str | None = None
    """A file with a bearer token, read again for each connection."""
    oauth_token_url: str | None = None
    """The address that issues tokens for client credentials."""
    oauth_client_id: str | None = None
    """The client id for ``oauth_token_url``."""
    oauth_client_secret: Secret | None = None
    """The client secret for ``oauth_token_url``."""
    oauth_scope: str | None = None
    """The scope of the token; None: the server's default."""

    def __post_init__(self) -> None:
        for address in self.bootstrap_servers.split(","):
            if not is_address(address.strip()):
                raise ConfigurationError(
                    f"bootstrap_servers must be host:port, or several separated by commas; {address.strip()!r:.80} is "
                    "neither"
                )
        if self.heartbeat_interval > self.session_timeout / 3:
            raise ConfigurationError("heartbeat_interval must be at most a third of session_timeout")
