"""The protocol of bus backends. The engine (:mod:`dimesh.bus`) does everything else.

Two families fit:

* a **log** (memory, sqlite, Kafka) keeps records at positions ``(partition, offset)``; a subscription reads
  forward and commits how far it is;
* a **queue** (Pub/Sub) leases each record out; the record is acknowledged, or comes back.

Filters, lanes per key, retries, dead letters, de-duplication, batching, request-reply and draining belong to the
engine. A backend that did one of them, too, would do it twice.

Calling rules. Every method is called from one event loop, the one that ran :meth:`BusBackend.open`. Calls may
overlap, except that one stream's ``receive`` is never called while another ``receive`` of it runs. Any call may
be cancelled: a cancelled ``append`` has an unknown outcome, a cancelled ``receive`` must lose nothing.

Errors. The class of an error decides what the engine does: one that is permanent (:attr:`dimesh.errors.DimeshError.permanent`)
is not tried again, any other is tried again, slowly and for ever. So raise :class:`~dimesh.errors.RefusedError` only for what the
backend will never take, such as a record above its limits, and nothing permanent for what may pass, such as a broker that is
down or a permission that is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable
from zlib import crc32

import msgspec

from dimesh.capabilities import Capabilities
from dimesh.errors import CodecError, ConfigurationError
from dimesh.events.codec import encode_header
from dimesh.events.event import Event, decode_event
from dimesh.events.types import EventPriority

DEFAULT_TIMEOUT: Final = 30.0


def partition_of(key: str, partitions: int) -> int:
    """Return the partition, out of ``partitions``, that a key belongs to: by CRC-32 of its UTF-8 bytes, in every process.

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
    """The pillar of the sender."""
    priority: str
    payload: bytes
    deliver_at: float | None = None
    """The wall-clock time (epoch seconds) before which the record is not delivered; None: at once."""
    decoded: Event | None = None
    encoded: bytes | None = None

    @classmethod
    def of(cls, event: Event, key: str, deliver_at: float | None = None) -> Record:
        """Make the record of an event."""
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
        """Make the record that a backend kept. Nothing is decoded yet."""
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
            self.decoded = event = decode_event(self.encoded, self.payload)  # type: ignore[arg-type]  # one of both is set
            return event
        return self.decoded

    def __repr__(self) -> str:
        return f"<Record {self.event_type} key={self.key!r} {len(self.payload)} bytes>"


class RefusedRecord(Record, gc=False, eq=False):
    """A record of another program that is not an event, with the reason why. A backend makes it (:meth:`of`) from what it
    cannot read; the engine dead-letters it, unless the subscription has a rule for such records.
    """

    reason: str = ""
    tombstone: bool = False
    """Whether the record has no value, which deletes its key in a compacted topic."""

    @classmethod
    def of(  # type: ignore[override]
        cls, header: bytes, payload: bytes, key: str, reason: str, tombstone: bool = False
    ) -> RefusedRecord:
        """Make the record of bytes that are not an event.

        Args:
            header: what else the record has, such as its headers; a dead letter keeps it.
            payload: the record's value.
            key: the ordering key.
            reason: why it is not an event, as a sentence without its end.
            tombstone: whether it has no value.
        """
        return cls(key, "", "", "normal", payload, None, None, header, reason, tombstone)

    @property
    def event(self) -> Event:
        """Not there.

        Raises:
            CodecError: with the reason.
        """
        raise CodecError(f"the record is not an event: {self.reason}")


class Position(NamedTuple):
    """The place of a record in its topic. Offsets grow within a partition, possibly with holes."""

    partition: int
    offset: int


class Delivery(msgspec.Struct, gc=False, eq=False):
    """A record at its position, as a stream delivers it. Shared between subscriptions and never changed."""

    record: Record
    partition: int
    """The partition; 0 in a queue."""
    offset: int
    """The position in the partition; in a queue any number that names the delivery while it is leased."""
    timestamp: float
    """The time at which the backend took the record, in epoch seconds."""
    token: Any = None
    """The handle by which a queue acknowledges the delivery; None in a log."""

    def __repr__(self) -> str:
        return f"<Delivery {self.partition}/{self.offset} {self.record!r}>"


class Attempts(NamedTuple):
    """The failed attempts of one group at one record, as kept across restarts."""

    failures: int
    """The number of failed attempts. A negative number is a mark of the engine, which is kept and returned like any other."""
    first: float
    """The wall-clock time of the first failure, in epoch seconds."""


class Batch(NamedTuple):
    """Consecutive deliveries of one partition."""

    partition: int
    deliveries: Sequence[Delivery]
    """The deliveries in order of offset."""
    next_offset: int
    """The offset at which reading continues: everything below it was delivered here or earlier, or left out by the filter."""
    attempts: Mapping[int, Attempts] = {}
    """Earlier failed attempts by offset, for those deliveries that have any."""


class StartAt(Enum):
    """Where a subscription starts when its group has no committed position, or is to ignore it."""

    EARLIEST = "earliest"
    LATEST = "latest"


Start = StartAt | datetime | Mapping[int, int]
"""EARLIEST, LATEST, a time (the first record taken at or after it), or an offset for each partition (partitions
that are not named start at the earliest record)."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The records that a subscription wants. A record passes if each set has its value; an empty set lets every value pass."""

    event_types: frozenset[str] = frozenset()
    pillars: frozenset[str] = frozenset()
    priorities: frozenset[str] = frozenset()

    def wants(self, event_type: str, pillar: str, priority: str) -> bool:
        """Return whether a record with these three values passes."""
        return (
            (not self.event_types or event_type in self.event_types)
            and (not self.pillars or pillar in self.pillars)
            and (not self.priorities or priority in self.priorities)
        )

    @property
    def everything(self) -> bool:
        """Whether the filter lets everything pass."""
        return not (self.event_types or self.pillars or self.priorities)


EVERYTHING: Final = Filter()


class PartitionListener(Protocol):
    """The callbacks by which a stream reports that partitions come and go. The engine implements them."""

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """Take over these partitions, each to be read from the given offset. Called before the first delivery from them;
        none of their records is delivered before the call returns.
        """
        ...

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Give these partitions up: finish what is being handled of them, commit, return. Only then may another member read
        them. None of their records is delivered after the call.

        The call may take as long as a handler. Meanwhile the stream goes on as a living member: it sends heartbeats, delivers
        from its other partitions, and may have ``assigned`` and ``lost`` called. Where a broker bounds the time of a
        rebalance, a stream may cancel the call and call ``lost``.
        """
        ...

    def lost(self, partitions: Sequence[int]) -> None:
        """Drop these partitions, which already belong to another member (a lease lapsed, the session timed out). Nothing more
        of them is started or committed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The request of a subscription."""

    topic: str
    """The topic; created with default settings if it does not exist."""
    group: str | None
    """The group; None: a lone reader of all partitions that keeps no position."""
    member: str
    """The name of this member in listings; unique on the bus."""
    start: Start = StartAt.LATEST
    """Where to start; the committed position of a group takes precedence unless ``reset`` is set."""
    reset: bool = False
    filter: Filter = EVERYTHING
    produces: bool = False
    """With ``TRANSACTIONS`` and a group: the position is committed by :meth:`TransactionalStream.produce` alone."""


@runtime_checkable
class Stream(Protocol):
    """An open subscription."""

    async def receive(self, limit: int) -> Sequence[Batch]:
        """Return the next deliveries, at most ``limit`` in all. Wait until there is at least one, or until the
        ``next_offset`` of a partition moved past records that the filter left out; never wait for a full batch. Return an
        empty sequence only when the stream was closed.

        Raises:
            PositionLostError: retention has passed the position; the message names partition and both offsets.
                The stream continues at the oldest record if it is read again.
            StorageError, BusError: reading failed; the engine backs off and reads again.
        """
        ...

    def caught_up(self) -> bool:
        """Return whether everything that was taken before the call was received, as far as this process knows."""
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Make durable that everything below each offset was handled (logs only). A commit never moves back. When the call
        returns, a new member of the group starts there. Without a group it only marks what may be forgotten.

        Raises:
            FencedError: a partition is no longer this member's; the others of the call were taken.
        """
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries that were handled and must not come again (queues only)."""
        ...

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Release deliveries that were not handled (queues only); they come again, not before ``delay`` seconds. In a log, what
        was not committed comes again to the next member.
        """
        ...

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        """Keep the number of failed attempts (None: forget it) where ``DURABLE_ATTEMPTS`` is stated; otherwise do nothing."""
        ...

    async def close(self) -> None:
        """Leave the group and free all resources. Uncommitted records go to other members. May be called twice."""
        ...


@runtime_checkable
class TransactionalStream(Stream, Protocol):
    """The stream that ``subscribe`` returns for a request that ``produces``, from a backend that states ``TRANSACTIONS``."""

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        """Append the records and commit the position, as one transaction: a reader sees both or neither, and a member that has
        lost the partition publishes nothing. ``records`` may be empty; the topic is created if it is missing; ``deliver_at`` is
        not offered here.

        Raises:
            FencedError: the partition is no longer this member's; nothing was published or committed.
            PublishError, StorageError: another call with the same arguments is right, and takes effect once.
        """
        ...


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The settings of a topic; None leaves the default of the backend.

    Raises:
        ConfigurationError: a number is not positive.
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
    """The current state of a topic."""

    name: str
    partitions: int
    records: int | None
    """The number of records that are held; None where the backend cannot count them."""
    size: int | None
    """The size in bytes; None where the backend cannot measure it."""
    earliest: Mapping[int, int] = field(default_factory=dict)
    """The first held offset of each partition."""
    latest: Mapping[int, int] = field(default_factory=dict)
    """The offset of the next record of each partition."""
    config: TopicConfig = TopicConfig()


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """The progress of a group on one partition."""

    topic: str
    group: str
    partition: int
    committed: int | None
    """The committed offset; None: nothing is committed yet."""
    latest: int
    lag: int | None
    """The number of records that are not committed, as exactly as the backend can count them; None without ``COUNTED_LAG``."""
    member: str | None
    """The member that owns the partition; None: no member does."""


@runtime_checkable
class BusBackend(Protocol):
    """One way to move and keep records."""

    name: str
    """The name in the configuration: ``memory``, ``sqlite``, ``kafka`` …"""
    family: Literal["log", "queue"]
    capabilities: Capabilities
    commit_interval: float
    """The seconds between commits while records are being handled."""
    commit_every: int
    """The number of handled records after which a commit is due; 0: by time alone."""

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
        """Append the records, in order, and return when they are as durable as the capabilities of the backend state.

        The topic is created if it is missing. Records of one key keep the order of the calls, even of calls that
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
            RefusedError: a record is larger than the backend takes, or has a header that it cannot keep. It was not taken.
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
        """Read records without a group: at most ``limit`` from each partition named in ``start`` (from all for EARLIEST or a
        time), in the order in which they were taken, as far as the backend knows it. Return at once, with an empty result if
        there is no record. An offset below the oldest record means the oldest. If ``start`` names no partition, the call only
        finds out whether the topic exists.

        Raises:
            TopicNotFoundError: no such topic.
            NotOfferedError: no ``LOOK_BACK``.
        """
        ...

    async def load_state(self, key: str) -> bytes | None:
        """Return the value that ``append(state=…)`` stored last, or None.

        Raises:
            NotOfferedError: no ``ATOMIC_STATE``.
        """
        ...

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Create a topic, or change the settings of one that exists (partitions cannot shrink).

        Raises:
            ConfigurationError: a setting is out of range or cannot be changed, or the backend cannot tell the name
                from that of another topic (Kafka refuses names that differ only in ``.`` and ``_``).
            NotOfferedError: retention that the backend does not offer (``retention_records`` needs ``RETENTION``).
        """
        ...

    async def delete_topic(self, name: str) -> None:
        """Delete a topic with its records and the positions of its groups.

        Raises:
            TopicNotFoundError: no such topic.
        """
        ...

    async def topics(self) -> Sequence[TopicInfo]:
        """List all topics by name."""
        ...

    async def groups(self) -> Sequence[GroupInfo]:
        """List the progress of all groups, by topic, group and partition."""
        ...

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Set the position of a group, forward or back; return the new offsets by partition. Delete the group's counts of failed
        attempts, so that what is handled again gets all of its attempts again.

        Raises:
            TopicNotFoundError: no such topic.
            BusError: the group has active members; stop them first.
        """
        ...


@runtime_checkable
class RecordLimits(Protocol):
    """A backend that knows before an append that it will refuse a record, such as one that is too large. Optional: what a handler
    produces is checked so while the event that it handled can still fail.
    """

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Return if an append to ``topic`` may take each of these records. Does no I/O.

        Raises:
            RefusedError, EventError: an append never takes one of them.
        """
        ...


@runtime_checkable
class KeptAttempts(Protocol):
    """A backend that can report the failed attempts that it keeps (``DURABLE_ATTEMPTS``) to others than members of the group.
    Optional: operators see by it that an event waits for its next attempt.
    """

    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        """Return what :meth:`Stream.save_attempts` keeps for these records of a group. Records without failed attempts are left
        out.

        Raises:
            TopicNotFoundError: no such topic.
        """
        ...


@runtime_checkable
class HeldBackRecords(Protocol):
    """A backend that can report the records that wait for their ``deliver_at``. Optional: operators see by it an event that is
    not in its topic yet.
    """

    def held_back(self) -> AsyncIterator[tuple[str, Record]]:
        """Yield the topic of each such record, and the record with its ``deliver_at``. Those that are due first come first."""
        ...


class Finding(NamedTuple):
    """The result of one check of ``dimesh doctor``."""

    name: str
    ok: bool | None
    """Whether the check passed; None: it passed, with something that the user should know."""
    text: str
    """What was checked and found, and what to do about it."""


@runtime_checkable
class SelfCheck(Protocol):
    """A backend that can check more about itself than the engine can. Optional."""

    def check(self) -> AsyncIterator[Finding]:
        """Prove permissions, durability and clocks by using them. Called on an open backend; leaves nothing behind."""
        ...


PRIORITIES: Final = tuple(p.value for p in EventPriority)
