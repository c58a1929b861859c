"""Options of the Pub/Sub bus."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import Options, is_address

WHERE: Final = "bus 'pubsub'"
"""The name of the driver in error messages."""
RETENTION: Final = (600.0, 31 * 86_400.0)
"""The least and the most seconds for which a topic can keep messages:
https://cloud.google.com/pubsub/docs/replay-overview"""

Positive = Annotated[int, Meta(ge=1)]


class PubSubOptions(Options, frozen=True):
    """Options of the Pub/Sub bus. Times are in seconds."""

    project_id: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9.:-]{0,99}$")]
    """The Google Cloud project of the topics and subscriptions."""
    endpoint: str = "pubsub.googleapis.com:443"
    """The address of the service, ``host:port``. The order of a key holds for what is published through one region: set a
    regional endpoint, such as ``europe-west1-pubsub.googleapis.com:443``, where publishers run in several regions."""
    emulator_host: str | None = None
    """The address of an emulator, ``host:port``, which is used without TLS and credentials; None: the value of
    ``PUBSUB_EMULATOR_HOST``, if it is set."""
    credentials_file: str | None = None
    """A file with the key of a service account; None: Application Default Credentials (workload identity, federation,
    ``gcloud auth application-default login``)."""
    tls_ca: str | None = None
    """A file with the certificates of the trusted authorities; None: those that come with gRPC."""

    # -- topics --
    retention: Annotated[float, Meta(ge=600, le=2_678_400)] | None = 86_400.0
    """How long a new topic keeps messages, acknowledged ones included (10 minutes to 31 days): a new group can start with
    them, and they can be replayed. None: only what the subscriptions have not acknowledged is kept."""

    # -- publishing --
    order_by: Literal["key", "pillar", "tenant", "none"] = "key"
    """Pub/Sub's ordering key of an event: its ordering key, the sender's pillar, the tag ``tenant``, or none (no order, and
    the highest throughput). One ordering key is limited to 1 MB a second."""
    batch_messages: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    """The maximum number of messages of one request, at most 1,000."""
    batch_bytes: Annotated[int, Meta(ge=1_000, le=9_000_000)] = 1_000_000
    """The maximum bytes of one request."""
    linger: Annotated[float, Meta(ge=0, le=60)] = 0.0
    """How long a request waits to fill. While a request of a key is in flight, the next one fills anyway."""
    max_queued: Positive = 100_000
    """The maximum number of messages that wait to be sent. When it is reached, a publish waits until there is room."""
    max_queued_bytes: Positive = 64 * 1024 * 1024
    """The maximum bytes of messages that wait to be sent."""
    delivery_timeout: Annotated[float, Meta(ge=0.1, le=86_400)] = 60.0
    """How long a publish may wait for its acknowledgement; then it fails, and its outcome is unknown."""

    # -- consuming --
    lease: Annotated[float, Meta(ge=10, le=600)] = 60.0
    """How long after the death of its process a delivery is delivered again (10 to 600). A live process extends the lease."""
    max_lease: Annotated[float, Meta(ge=10, le=604_800)] = 3_600.0
    """How long the lease of a delivery is extended at most; a delivery that takes longer is delivered again."""
    prefetch: Positive = 1_000
    """The number of deliveries that a subscription holds at a time, whether waiting or being handled."""
    prefetch_bytes: Positive = 100 * 1024 * 1024
    """The bytes of deliveries that a subscription holds at a time."""
    ack_interval: Annotated[float, Meta(ge=0.001, le=5)] = 0.05
    """The seconds between acknowledgements, which are sent together."""
    exactly_once: bool = False
    """Whether new groups get exactly-once delivery: acknowledgements are confirmed, and what was acknowledged is not
    delivered again. It is slower, and holds within one region."""
    push_filters: bool = True
    """Whether new groups and lone subscriptions are filtered by the service where its filters suffice. The filter of a group
    cannot be changed; the group must be created again."""
    dead_letter_after: Annotated[int, Meta(ge=5, le=100)] | None = None
    """The number of deliveries without an acknowledgement after which the service itself moves a message to ``<topic>.dlq``
    (5 to 100); attempts are then counted across processes. None: an event that kills its process is delivered for ever."""
    look_back_quiet: Annotated[float, Meta(ge=0.05, le=60)] = 1.0
    """The seconds without a message after which a reading of a topic ends, since the service does not report the end."""

    request_timeout: Annotated[float, Meta(ge=0.1, le=600)] = 30.0
    """How long one request may take, retries after transient errors included."""

    def __post_init__(self) -> None:
        for name, address in (("endpoint", self.endpoint), ("emulator_host", self.emulator_host)):
            if address is not None and not is_address(address):
                raise ConfigurationError(f"{name} must be host:port; {address!r:.80} is not")
