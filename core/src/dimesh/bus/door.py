"""The door: the one object that holds a backend.

Whatever reads or writes records goes through here: publishing, replies, produced results, dead letters, redrive, replay,
reading and administration. Each call names its operation and is made for a principal, so that access, sealing and audit
can be rules of this module, with no way around them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, Protocol

from dimesh.capabilities import Capabilities
from dimesh.errors import ConfigurationError, EventError
from dimesh.events.event import Event
from dimesh.events.fields import NO_HEADERS, Headers
from dimesh.events.names import show
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    Attempts,
    BusBackend,
    Delivery,
    Finding,
    GroupInfo,
    HeldBackRecords,
    KeptAttempts,
    PartitionListener,
    Position,
    Record,
    RecordLimits,
    SelfCheck,
    Start,
    StartAt,
    Stream,
    Subscribe,
    TopicConfig,
    TopicInfo,
    TransactionalStream,
)

RESERVED: Final = "dimesh-"
"""The beginning of the names of headers that only the engine writes."""
UNNAMED: Final = "local"
"""The principal of a bus that was given none."""


class Operation(StrEnum):
    """What a call at the door is for."""

    PUBLISH = "publish"
    REQUEST = "request"
    REPLY = "reply"
    PRODUCE = "produce"
    DEAD_LETTER = "dead-letter"
    REDELIVER = "redeliver"
    REDRIVE = "redrive"
    DISCARD = "discard"
    REPLAY = "replay"
    STATUS = "status"
    SUBSCRIBE = "subscribe"
    READ = "read"
    DESCRIBE = "describe"
    CREATE_TOPIC = "create-topic"
    DELETE_TOPIC = "delete-topic"
    SEEK_GROUP = "seek-group"
    LOAD_STATE = "load-state"
    CHECK = "check"


class Append(Protocol):
    """Appends records; see :meth:`dimesh.spi.bus.BusBackend.append`."""

    def __call__(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Awaitable[Sequence[Position | None]]:
        """Append ``records`` to ``topic``."""
        ...


class Door:
    """The only way to a backend.

    Args:
        backend: moves and keeps the records. Nothing else may hold it.
        principal: who the calls are made for.
    """

    def __init__(self, backend: BusBackend, principal: str = UNNAMED) -> None:
        self._backend = backend
        self.principal = principal
        # Fixed for the life of a backend, and read in hot paths.
        self.name: str = backend.name
        self.family: Literal["log", "queue"] = backend.family
        self._limits = backend if isinstance(backend, RecordLimits) else None

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the backend."""
        return self._backend.capabilities

    @property
    def commit_interval(self) -> float:
        """The seconds between commits while records are being handled."""
        return self._backend.commit_interval

    @property
    def commit_every(self) -> int:
        """The number of handled records after which a commit is due; 0: by time alone."""
        return self._backend.commit_every

    @property
    def path(self) -> str | None:
        """The file that the backend keeps its records in; None where there is no such file."""
        path = getattr(self._backend, "path", None)
        return None if path is None else str(path)

    def open(self) -> Awaitable[None]:
        """Connect the backend. Called once, before anything else."""
        return self._backend.open()

    def close(self) -> Awaitable[None]:
        """Close the backend."""
        return self._backend.close()

    # -- records ---------------------------------------------------------------------------------

    # Plain functions that return the backend's coroutine: a coroutine of their own would cost every event.

    def appender(self, operation: Operation) -> Append:
        """Return the function that appends for one operation, so that whatever the door decides by operation is decided once
        and not for each event.
        """
        return self._backend.append

    def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        operation: Operation,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Awaitable[Sequence[Position | None]]:
        """Append records; see :meth:`dimesh.spi.bus.BusBackend.append`."""
        return self._backend.append(topic, records, timeout=timeout, state=state)

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Refuse records that the backend is known never to take.

        Raises:
            RefusedError, EventError: one of them is too large, or has a header that the backend cannot keep.
        """
        if self._limits is not None:
            self._limits.check_records(topic, records)

    def produce(
        self, stream: TransactionalStream, partition: int, offset: int, topic: str, records: Sequence[Record]
    ) -> Awaitable[None]:
        """Append what a handler produced and commit the position, as one transaction."""
        return stream.produce(partition, offset, topic, records)

    def subscribe(self, request: Subscribe, listener: PartitionListener) -> Awaitable[Stream]:
        """Open a stream.

        Raises:
            ConfigurationError: ``start`` is not a place to start.
        """
        check_start(request.start)
        return self._backend.subscribe(request, listener)

    def read(
        self,
        topic: str,
        start: Mapping[int, int] | StartAt | datetime,
        limit: int,
        *,
        operation: Operation = Operation.READ,
    ) -> Awaitable[Sequence[Delivery]]:
        """Read records without a group; see :meth:`dimesh.spi.bus.BusBackend.read`."""
        check_start(start)
        return self._backend.read(topic, start, limit)

    def load_state(self, key: str) -> Awaitable[bytes | None]:
        """Return the value that was stored last with records, or None."""
        return self._backend.load_state(key)

    # -- administration --------------------------------------------------------------------------

    def create_topic(self, name: str, config: TopicConfig) -> Awaitable[TopicInfo]:
        """Create a topic, or change the settings of one that exists."""
        return self._backend.create_topic(name, config)

    def delete_topic(self, name: str) -> Awaitable[None]:
        """Delete a topic with its records and the positions of its groups."""
        return self._backend.delete_topic(name)

    def topics(self) -> Awaitable[Sequence[TopicInfo]]:
        """List all topics by name."""
        return self._backend.topics()

    def groups(self) -> Awaitable[Sequence[GroupInfo]]:
        """List the progress of all groups."""
        return self._backend.groups()

    def seek_group(self, topic: str, group: str, start: Start) -> Awaitable[Mapping[int, int]]:
        """Set the position of a group; return the new offsets by partition."""
        check_start(start)
        return self._backend.seek_group(topic, group, start)

    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        """Return the failed attempts of a group at records that it has not finished, as far as the backend reports them. They may
        bear the mark of :mod:`dimesh.bus.crashes`.
        """
        if isinstance(self._backend, KeptAttempts):
            return await self._backend.read_attempts(topic, group, positions)
        return {}

    @property
    def reports_held_back(self) -> bool:
        """Whether :meth:`held_back` yields what the backend holds back, and not nothing."""
        return isinstance(self._backend, HeldBackRecords)

    async def held_back(self) -> AsyncIterator[tuple[str, Record]]:
        """Yield the records that are delivered later, with their topics, as far as the backend reports them."""
        if isinstance(self._backend, HeldBackRecords):
            async for held in self._backend.held_back():
                yield held

    async def check(self) -> AsyncIterator[Finding]:
        """Yield what the backend finds out about itself, where it can."""
        if isinstance(self._backend, SelfCheck):
            async for finding in self._backend.check():
                yield finding


def check_start(start: object) -> None:
    """Refuse what no backend can start at, before one of them fails on it.

    Raises:
        ConfigurationError: it is neither a :class:`StartAt`, an aware datetime, nor offsets by partition.
    """
    if isinstance(start, StartAt):
        return
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigurationError("start has no time zone: use an aware datetime")
        return
    if isinstance(start, Mapping) and all(
        type(number) is int for partition in start.items() for number in partition
    ):
        return
    raise ConfigurationError(
        f"start is {show(start)}: use StartAt.EARLIEST, StartAt.LATEST, an aware datetime, or a dict of offsets by partition"
    )


def check_user_headers(headers: Headers) -> None:
    """Refuse headers that only the engine may write, at every place where users give headers.

    Raises:
        EventError: a name begins with ``dimesh-``, in upper or lower case.
    """
    for name in headers:
        if name[:7].lower() == RESERVED:
            raise EventError(
                f"header {show(name)} is reserved: names that begin with 'dimesh-' belong to the engine. Publish the event "
                "without it"
            )


def without_engine_headers(event: Event, keep: str | None = None) -> Event:
    """Return the event as a handler gets it: without the headers of the engine, except those that begin with ``keep``.

    A handler that publishes the event again then publishes what the sender wrote, and nothing that steers the bus.
    """
    kept = {
        name: value
        for name, value in event.headers.items()
        if name[:7].lower() != RESERVED or (keep is not None and name.startswith(keep))
    }
    return event if len(kept) == len(event.headers) else event.replace(headers=kept)


def check_all_headers(events: Iterable[Event]) -> None:
    """Apply :func:`check_user_headers` to each event. Raises EventError."""
    for event in events:
        if event.headers is not NO_HEADERS:
            check_user_headers(event.headers)
