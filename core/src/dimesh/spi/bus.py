"""What a bus backend must do. The engine (:mod:`dimesh.bus`) does everything else.

Two families fit:

* a **log** (memory, sqlite, Kafka) keeps records at positions ``(partition, offset)``; a subscription reads
  forward and commits how far it is;
* a **queue** (Pub/Sub) leases each record out; it is acknowledged one by one, or comes back.

Filters, lanes per key, retries, dead letters, de-duplication, batching, request-reply and draining are the
engine's. A backend that does one of them too would do it twice.

Calling rules. Every method is called from one event loop, the one that ran :meth:`BusBackend.open`. Calls may
overlap, except that one stream's ``receive`` is never called while another ``receive`` of it runs. Any call may
be cancelled: a cancelled ``append`` has an unknown outcome, a cancelled ``receive`` must lose nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable
from zlib import crc32

import msgspec

from dimesh.capabilities import Capabilities
from dimesh.errors import ConfigurationError
from dimesh.events.codec import decode_header, encode_header
from dimesh.events.event import Event
from dimesh.events.types import EventPriority

DEFAULT_TIMEOUT: Final = 30.0


def partition_of(key: str, partitions: int) -> int:
    """Which of ``partitions`` a key belongs to: CRC-32 of its UTF-8 bytes, the same in every process.

    Backends whose client has its own rule (Kafka's murmur2) keep that one.
    """
    return crc32(key.encode("utf-8", "surrogatepass")) % partitions if partitions > 1 else 0


class Record(msgspec.Struct, gc=False, eq=False):
    """One event on its way to or from a backend. Immutable by convention, shared freely.

    Made by the engine from an event (:meth:`of`), or by a backend from stored bytes (:meth:`stored`). Header
    and event are each computed from the other at first use, so that a backend in memory never encodes and one
    on disk never decodes what a filter leaves out.
    """

    key: str
    """The ordering key: records of one key keep their order."""
    event_type: str
    pillar: str
    """Of the sender."""
    priority: str
    payload: bytes
    deliver_at: float | None = None
    """Not to be delivered before this wall-clock time (epoch seconds); None: at once."""
    decoded: Event | None = None
    encoded: bytes | None = None

    @classmethod
    def of(cls, event: Event, key: str, deliver_at: float | None = None) -> Record:
        """The record of an event."""
        metadata = event.metadata
        return cls(
            key,
            event._event_type,
            metadata.source_pillar,
            metadata.priority._value_,
            event.data,
            deliver_at,
            event,
        )

    @classmethod
    def stored(
        cls,
        header: bytes,
        payload: bytes,
        key: str,
        event_type: str,
        pillar: str,
        priority: str,
        deliver_at: float | None = None,
    ) -> Record:
        """The record that a backend kept. Nothing is decoded yet."""
        return cls(key, event_type, pillar, priority, payload, deliver_at, None, header)

    @property
    def header(self) -> bytes:
        """The compact header, to be stored and handed back unchanged.

        Raises:
            EventError: the event cannot be encoded.
        """
        if self.encoded is None:
            assert self.decoded is not None
            self.encoded = encode_header(self.decoded)
        return self.encoded

    @property
    def event(self) -> Event:
        """The event.

        Raises:
            CodecError: the stored header is damaged or newer than this dimesh.
        """
        if self.decoded is None:
            assert self.encoded is not None
            self.decoded = decode_header(self.encoded, self.payload)
        return self.decoded

    def __repr__(self) -> str:
        return f"<Record {self.event_type} key={self.key!r} {len(self.payload)} bytes>"


class Position(NamedTuple):
    """Where a record stands in its topic. Offsets grow within a partition but may have holes."""

    partition: int
    offset: int


class Delivery(msgspec.Struct, gc=False, eq=False):
    """A record at its position, as a stream hands it out. Shared between subscriptions: never changed."""

    record: Record
    partition: int
    """0 in a queue."""
    offset: int
    """Position in the partition; in a queue any number that names the delivery while it is leased."""
    timestamp: float
    """When the backend took the record, epoch seconds."""
    token: Any = None
    """A queue's handle for acknowledging; None in a log."""

    def __repr__(self) -> str:
        return f"<Delivery {self.partition}/{self.offset} {self.record!r}>"


class Attempts(NamedTuple):
    """Failed attempts at one record by one group, as kept across restarts."""

    failures: int
    first: float
    """Wall-clock time of the first failure, epoch seconds."""


class Batch(NamedTuple):
    """Consecutive deliveries of one partition."""

    partition: int
    deliveries: Sequence[Delivery]
    """In order of offset."""
    next_offset: int
    """Where reading goes on: everything below it was delivered here or earlier, or was left out by the filter."""
    attempts: Mapping[int, Attempts] = {}
    """Earlier failed attempts by offset, for those deliveries that have any."""


class StartAt(Enum):
    """Where a subscription begins when its group has no committed position (or is told to ignore it)."""

    EARLIEST = "earliest"
    LATEST = "latest"


Start = StartAt | datetime | Mapping[int, int]
"""EARLIEST, LATEST, a time (the first record taken at or after it), or an offset for each partition (partitions
that are not named start at the earliest record)."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a subscription wants; an empty set wants everything. Sets are or-ed inside, and-ed between."""

    event_types: frozenset[str] = frozenset()
    pillars: frozenset[str] = frozenset()
    priorities: frozenset[str] = frozenset()

    def wants(self, event_type: str, pillar: str, priority: str) -> bool:
        """Whether a record with these three passes."""
        return (
            (not self.event_types or event_type in self.event_types)
            and (not self.pillars or pillar in self.pillars)
            and (not self.priorities or priority in self.priorities)
        )

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.event_types or self.pillars or self.priorities)


EVERYTHING: Final = Filter()


class PartitionListener(Protocol):
    """How a stream tells the engine that partitions come and go (the engine implements it)."""

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """These partitions are now this member's, each to be read from the offset given. Called before the first
        delivery from them; nothing of them is delivered before it returns.
        """
        ...

    async def revoked(self, partitions: Sequence[int]) -> None:
        """These partitions are to be given up. The engine finishes what it handles of them, commits, returns;
        only then may another member read them. Nothing of them is delivered after the call.
        """
        ...

    def lost(self, partitions: Sequence[int]) -> None:
        """These partitions already belong to another member (a lease lapsed, the session timed out). The engine
        drops what it has not begun and commits nothing of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Subscribe:
    """What a subscription asks for."""

    topic: str
    """Made with default settings if it does not exist."""
    group: str | None
    """None: a lone reader of all partitions that keeps no position."""
    member: str
    """Names this member in listings; unique on the bus."""
    start: Start = StartAt.LATEST
    """Where to begin; a group's committed position comes first unless ``reset`` is set."""
    reset: bool = False
    filter: Filter = EVERYTHING
    produces: bool = False
    """With ``TRANSACTIONS`` and a group: the position is committed by :meth:`TransactionalStream.produce` alone."""


@runtime_checkable
class Stream(Protocol):
    """An open subscription."""

    async def receive(self, limit: int) -> Sequence[Batch]:
        """The next deliveries, at most ``limit`` in all; waits until there is at least one (or a partition's
        ``next_offset`` moved past records left out by the filter). Never waits for a full batch. Returns an
        empty sequence only when the stream was closed.

        Raises:
            PositionLostError: retention has passed the position; the message names partition and both offsets.
                The stream goes on at the oldest record if it is read again.
            StorageError, BusError: it cannot go on; the engine backs off and reads again.
        """
        ...

    def caught_up(self) -> bool:
        """Whether everything that was taken before the call was received; as far as this process knows."""
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Logs: make durable that everything below each offset was handled. Never moves back. When it returns,
        a new member of the group starts there. Without a group it only tells what may be forgotten.

        Raises:
            FencedError: a partition is no longer this member's; the others of the call were taken.
        """
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Queues: these were handled and must not come again. Logs: not called."""
        ...

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Queues: these were not handled; they come again, not before ``delay`` seconds. Logs: not called (what
        was not committed comes again to the next member).
        """
        ...

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        """Keep the count of failed attempts (None: forget it) where ``DURABLE_ATTEMPTS`` is stated; else return."""
        ...

    async def close(self) -> None:
        """Leave the group and free everything. Uncommitted records go to other members. May be called twice."""
        ...


@runtime_checkable
class TransactionalStream(Stream, Protocol):
    """What ``subscribe`` gives for a request that ``produces``, from a backend that states ``TRANSACTIONS``."""

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        """Append the records and commit the position, as one transaction: whoever reads sees both or neither, and a
        member that has lost the partition publishes nothing. Records may be none; the topic is made if it is missing;
        ``deliver_at`` is not offered here.

        Raises:
            FencedError: the partition is no longer this member's; nothing was published or committed.
            PublishError, StorageError: trying again with the same arguments is right, and does it once.
        """
        ...


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Settings of a topic; None leaves the backend's default.

    Raises:
        ConfigurationError: a figure is not positive.
    """

    partitions: int | None = None
    retention_seconds: float | None = None
    retention_bytes: int | None = None
    retention_records: int | None = None

    def __post_init__(self) -> None:
        for name in ("partitions", "retention_seconds", "retention_bytes", "retention_records"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} of a topic must be positive, or left out: not {value}")


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is now."""

    name: str
    partitions: int
    records: int | None
    """Still held; None where the backend cannot say."""
    size: int | None
    """Bytes; None where the backend cannot say."""
    earliest: Mapping[int, int] = field(default_factory=dict)
    """First held offset by partition."""
    latest: Mapping[int, int] = field(default_factory=dict)
    """Offset of the next record by partition."""
    config: TopicConfig = TopicConfig()


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A group's progress on one partition."""

    topic: str
    group: str
    partition: int
    committed: int | None
    """None: nothing committed yet."""
    latest: int
    lag: int | None
    """Records not yet committed, as exactly as the backend can count them; None without ``COUNTED_LAG``."""
    member: str | None
    """Who owns the partition now; None: nobody."""


@runtime_checkable
class BusBackend(Protocol):
    """One way to move and keep records."""

    name: str
    """As in the configuration: ``memory``, ``sqlite``, ``kafka`` …"""
    family: Literal["log", "queue"]
    capabilities: Capabilities
    commit_interval: float
    """Seconds between commits while records are being handled."""
    commit_every: int
    """Commit at the latest after this many handled records; 0: by time alone."""

    async def open(self) -> None:
        """Connect. Called once, before anything else.

        Raises:
            StorageError: the store is corrupt, of a newer format, or cannot be read and written.
            BusError: the broker cannot be reached or refuses the credentials.
        """
        ...

    async def close(self) -> None:
        """Make everything acknowledged durable and free all resources. Streams are closed already. May be called
        twice.
        """
        ...

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Take the records, in order, and return when they are as durable as the backend's capabilities say.

        The topic is made if it is missing. Records of one key keep the order of the calls, also of calls that
        overlap. Either all records are taken or an error is raised; after an error other than the two below,
        the outcome is unknown.

        Args:
            topic: a valid topic name (the engine has checked it).
            records: at least one; empty only with ``state``.
            timeout: how long to wait for room in bounded buffers; 0: do not wait.
            state: with ``ATOMIC_STATE``: keys and values to store in the same transaction.

        Returns:
            A position for each record; None for one that is held back (``deliver_at``) and gets it later.

        Raises:
            BackpressureError: no room came free within ``timeout``; nothing was taken.
            NotOfferedError: ``deliver_at`` or ``state`` without the capability; nothing was taken.
            PublishError: not acknowledged.
            StorageError: disk full, read-only, damaged; nothing was taken.
        """
        ...

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> Stream:
        """Open a stream. With ``LATEST``, every record whose ``append`` begins after this returned is delivered.

        Raises:
            NotOfferedError: the start or group asks for a capability that is not there.
        """
        ...

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Look at records without a group: at most ``limit`` from each partition named in ``start`` (all of them
        for EARLIEST or a time), in the order they were taken as far as the backend knows it. Returns at once,
        with nothing if there is nothing. An offset below the oldest record begins at the oldest. Where no partition is
        named, all that is found out is whether the topic is there.

        Raises:
            TopicNotFoundError: no such topic.
            NotOfferedError: no ``LOOK_BACK``.
        """
        ...

    async def load_state(self, key: str) -> bytes | None:
        """What ``append(state=…)`` stored last; None if nothing.

        Raises:
            NotOfferedError: no ``ATOMIC_STATE``.
        """
        ...

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Make a topic, or change the settings of one that exists (partitions cannot shrink).

        Raises:
            ConfigurationError: a setting is out of range or cannot be changed, or the backend cannot tell the name
                from that of another topic (Kafka refuses names that differ only in ``.`` and ``_``).
            NotOfferedError: retention that the backend does not offer (``retention_records`` needs ``RETENTION``).
        """
        ...

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and groups' positions.

        Raises:
            TopicNotFoundError: no such topic.
        """
        ...

    async def topics(self) -> Sequence[TopicInfo]:
        """All topics, by name."""
        ...

    async def groups(self) -> Sequence[GroupInfo]:
        """All groups' progress, by topic, group, partition."""
        ...

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Set a group's position, forward or back; returns the new offsets by partition.

        Raises:
            TopicNotFoundError: no such topic.
            BusError: the group has active members; stop them first.
        """
        ...


class Finding(NamedTuple):
    """What a check of ``dimesh doctor`` found."""

    name: str
    ok: bool | None
    """None: it works, and something about it should be known."""
    text: str
    """What was done and seen, and what to do about it."""


@runtime_checkable
class SelfCheck(Protocol):
    """A backend that can tell more about itself than the engine can find out. Optional."""

    def check(self) -> AsyncIterator[Finding]:
        """Prove by doing: permissions, durability, clocks. Called on an open backend; leaves nothing behind."""
        ...


PRIORITIES: Final = tuple(p.value for p in EventPriority)
