"""Options of the Pub/Sub bus."""

from __future__ import annotations

import re
from typing import Final, Literal

from dimesh.errors import ConfigurationError
from dimesh.spi.options import Options

_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{0,99}")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:,/\[\]]+):(\d{1,5})")
RETENTION: Final = (600.0, 31 * 86_400.0)
"""Seconds that a topic can keep messages: https://cloud.google.com/pubsub/docs/replay-overview"""


class PubSubOptions(Options, frozen=True):
    """Options of the Pub/Sub bus. Times are seconds."""

    project_id: str
    """The Google Cloud project that topics and subscriptions are in."""
    endpoint: str = "pubsub.googleapis.com:443"
    """``host:port``. Order per key holds for what is published through one region: name a regional endpoint, such as
    ``europe-west1-pubsub.googleapis.com:443``, where publishers run in several."""
    emulator_host: str | None = None
    """``host:port`` of an emulator, without TLS and credentials; None: that of ``PUBSUB_EMULATOR_HOST``, if it is set."""
    credentials_file: str | None = None
    """File with the key of a service account; None: Application Default Credentials (workload identity, federation,
    ``gcloud auth application-default login``)."""
    tls_ca: str | None = None
    """File with the certificates of the authorities to trust; None: those that come with gRPC."""

    # -- topics --
    retention: float | None = 86_400.0
    """How long a new topic keeps messages (10 minutes to 31 days), also those that were acknowledged: what a new group
    can begin with, and what can be replayed. None: nothing beyond the subscriptions' own backlog."""

    # -- publishing --
    order_by: Literal["key", "pillar", "tenant", "none"] = "key"
    """What is Pub/Sub's ordering key: the event's, the sender's pillar, the tag ``tenant``, or nothing (no order, and the
    most throughput). One ordering key takes 1 MB a second."""
    batch_messages: int = 1_000
    """Messages of one request, at most 1,000."""
    batch_bytes: int = 1_000_000
    linger: float = 0.0
    """How long a request waits to fill up. While one of a key is on its way the next fills anyway."""
    max_queued: int = 100_000
    """Messages that may wait to be sent; a publish into a full queue waits for room."""
    max_queued_bytes: int = 64 * 1024 * 1024
    delivery_timeout: float = 60.0
    """After this a publish that was not acknowledged fails, with its outcome unknown."""

    # -- consuming --
    lease: float = 60.0
    """A delivery comes again this long after its process died (10 to 600). While the process lives it is extended."""
    max_lease: float = 3_600.0
    """How long a delivery's lease is extended at most: what takes longer comes again."""
    prefetch: int = 1_000
    """Deliveries that a subscription has at a time, waiting and handled together."""
    prefetch_bytes: int = 100 * 1024 * 1024
    ack_interval: float = 0.05
    """Seconds between acknowledgements, which are sent together."""
    exactly_once: bool = False
    """New groups get exactly-once delivery: acknowledgements are confirmed, and what was acknowledged does not come
    again. Slower, and within one region."""
    push_filters: bool = True
    """New groups and lone subscriptions are filtered by the service where its filters can. A group's filter cannot be
    changed later, only made anew."""
    dead_letter_after: int | None = None
    """5 to 100: the service itself moves what was delivered so often without an acknowledgement to ``<topic>.dlq``, and
    attempts count on from one process to the next. None: an event that ends the process each time comes again for ever."""
    look_back_quiet: float = 1.0
    """A reading of what a topic holds ends when nothing came for so long: the service does not say where the end is."""

    request_timeout: float = 30.0
    """Of one request; what is worth it is tried again."""

    def __post_init__(self) -> None:
        if not _PROJECT.fullmatch(self.project_id):
            raise _wrong(f"project_id {self.project_id!r:.80} cannot be a project's id")
        for name in ("endpoint", "emulator_host"):
            value = getattr(self, name)
            found = _HOST.fullmatch(value) if value is not None else None
            if value is not None and (found is None or not 0 < int(found[2]) < 65_536):
                raise _wrong(f"{name} must be host:port: {value!r:.80} is not")
        for name in ("max_queued", "max_queued_bytes", "prefetch", "prefetch_bytes"):
            if getattr(self, name) < 1:
                raise _wrong(f"{name} must be 1 or more")
        for name, lowest, highest in (
            ("batch_messages", 1, 1_000),
            ("batch_bytes", 1_000, 9_000_000),
            ("retention", *RETENTION),
            ("linger", 0.0, 60.0),
            ("delivery_timeout", 0.1, 86_400.0),
            ("request_timeout", 0.1, 600.0),
            ("lease", 10.0, 600.0),
            ("max_lease", 10.0, 7 * 86_400.0),
            ("ack_interval", 0.001, 5.0),
            ("dead_letter_after", 5, 100),
            ("look_back_quiet", 0.05, 60.0),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise _wrong(f"{name} must be {lowest:g} to {highest:g}, not {value:g}")


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"bus 'pubsub': {text}")
