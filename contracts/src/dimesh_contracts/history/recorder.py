"""Records a history: a backend around another one, and a middleware around the handlers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from dimesh.bus import headers as h
from dimesh.bus.handler import Middleware
from dimesh.capabilities import Capabilities
from dimesh.errors import BackpressureError, CodecError, EventError, NotOfferedError, StorageError
from dimesh.events import Event
from dimesh.events.topics import DEAD_LETTER_SUFFIX
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    Attempts,
    Batch,
    BusBackend,
    Delivery,
    GroupInfo,
    PartitionListener,
    Position,
    Record,
    RecordLimits,
    Start,
    StartAt,
    Stream,
    Subscribe,
    TopicConfig,
    TopicInfo,
)
from dimesh_contracts.history.entries import (
    Acknowledged,
    Assigned,
    CommitBegun,
    Crashed,
    DeadLettered,
    Delivered,
    Entry,
    Handled,
    Left,
    PublishBegun,
    Refused,
    Started,
    Subscribed,
    encode,
)

NOTHING_TAKEN = (BackpressureError, StorageError, NotOfferedError, EventError)


def digest(payload: bytes) -> str:
    """Return a short text that differs for different payloads."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


class History:
    """Appends entries to a file or a pipe, each with one write: whole, in order, and kept even if the process is killed
    next.
    """

    def __init__(self, descriptor: int, process: str | None = None) -> None:
        self._descriptor = descriptor
        self.process = process or str(os.getpid())
        self.add(Started(self.process))

    @classmethod
    def append_to(cls, path: str | Path, process: str | None = None) -> Self:
        """Open a history in a file, which several processes may share."""
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), process)

    def add(self, entry: Entry) -> None:
        """Write an entry."""
        line = encode(entry) + b"\n"
        written = os.write(self._descriptor, line)
        while written < len(line):  # a full pipe takes a part
            written += os.write(self._descriptor, line[written:])

    def crashed(self, process: str) -> None:
        """Record that another process was killed."""
        self.add(Crashed(process))

    def handling(self, topic: str, group: str) -> Middleware:
        """Return a middleware that records what the handler has handled."""

        async def middleware(event: Event, call_next: Callable[[Event], Awaitable[Any]]) -> Any:
            result = await call_next(event)
            self.add(Handled(self.process, topic, group, event.event_id))
            return result

        return middleware

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _id(record: Record) -> str:
    try:
        return record.event.event_id
    except CodecError:
        return f"undecodable-{digest(record.header + record.payload)}"


class RecordingBackend:
    """A bus backend that records what another one does. See :class:`dimesh.spi.bus.BusBackend`."""

    def __init__(self, inner: BusBackend, history: History) -> None:
        self.inner = inner
        self.history = history
        self.name = inner.name
        self.family = inner.family
        self.capabilities: Capabilities = inner.capabilities
        self.commit_interval = inner.commit_interval
        self.commit_every = inner.commit_every

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Refuse what the inner backend is known to refuse."""
        if isinstance(self.inner, RecordLimits):
            self.inner.check_records(topic, records)

    async def open(self) -> None:
        """Open the backend."""
        await self.inner.open()

    async def close(self) -> None:
        """Close the backend."""
        await self.inner.close()

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Append records, and record the outcome."""
        history, process = self.history, self.history.process
        ids = [_id(record) for record in records]
        digests = [digest(record.payload) for record in records]
        history.add(PublishBegun(process, topic, ids, [record.key for record in records], digests))
        try:
            positions = await self.inner.append(topic, records, timeout=timeout, state=state)
        except NOTHING_TAKEN:
            history.add(Refused(process, topic, ids))
            raise
        history.add(Acknowledged(process, topic, ids, [tuple(p) if p else None for p in positions]))  # type: ignore[misc]
        if topic.endswith(DEAD_LETTER_SUFFIX):
            for record, identity in zip(records, ids, strict=True):
                about = record.event.headers
                if h.DLQ_TOPIC in about:
                    # The checker works by the id that the original was delivered with.
                    raw = about.get(h.DLQ_RAW_HEADER)
                    if isinstance(raw, bytes):
                        identity = f"undecodable-{digest(raw + record.payload)}"
                    origin, group = str(about[h.DLQ_TOPIC]), str(about.get(h.DLQ_GROUP, ""))
                    history.add(DeadLettered(process, origin, group, identity))
        return positions

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> Stream:
        """Subscribe, and record what the stream does."""
        group = request.group or request.member
        stream = await self.inner.subscribe(request, _Listener(listener, self.history, request.topic, group))
        self.history.add(Subscribed(self.history.process, request.topic, group))
        return _Stream(stream, self.history, request.topic, group)

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Read without recording: nobody handles these records."""
        return await self.inner.read(topic, start, limit)

    async def load_state(self, key: str) -> bytes | None:
        """Load state without recording."""
        return await self.inner.load_state(key)

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Create a topic without recording."""
        return await self.inner.create_topic(name, config)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic without recording."""
        await self.inner.delete_topic(name)

    async def topics(self) -> Sequence[TopicInfo]:
        """Return the topics without recording."""
        return await self.inner.topics()

    async def groups(self) -> Sequence[GroupInfo]:
        """Return the groups without recording."""
        return await self.inner.groups()

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move a group without recording. Do not use it in a run that is to be checked."""
        return await self.inner.seek_group(topic, group, start)


class _Listener:
    def __init__(self, inner: PartitionListener, history: History, topic: str, group: str) -> None:
        self._inner = inner
        self._history = history
        self._topic = topic
        self._group = group

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        process = self._history.process
        self._history.add(Assigned(process, self._topic, self._group, dict(partitions)))
        await self._inner.assigned(partitions)

    async def revoked(self, partitions: Sequence[int]) -> None:
        await self._inner.revoked(partitions)
        self._history.add(Left(self._history.process, self._topic, self._group, list(partitions)))

    def lost(self, partitions: Sequence[int]) -> None:
        self._history.add(Left(self._history.process, self._topic, self._group, list(partitions)))
        self._inner.lost(partitions)


class _Stream:
    def __init__(self, inner: Stream, history: History, topic: str, group: str) -> None:
        self._inner = inner
        self._history = history
        self._topic = topic
        self._group = group
        self._closed = False

    async def receive(self, limit: int) -> Sequence[Batch]:
        batches = await self._inner.receive(limit)
        for batch in batches:
            for delivery in batch.deliveries:
                record = delivery.record
                self._history.add(
                    Delivered(
                        self._history.process,
                        self._topic,
                        self._group,
                        _id(record),
                        record.key,
                        digest(record.payload),
                        delivery.partition,
                        delivery.offset,
                    )
                )
        return batches

    def caught_up(self) -> bool:
        return self._inner.caught_up()

    async def commit(self, positions: Mapping[int, int]) -> None:
        self._history.add(CommitBegun(self._history.process, self._topic, self._group, dict(positions)))
        await self._inner.commit(positions)

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        await self._inner.acknowledge(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        await self._inner.release(deliveries, delay)

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        await self._inner.save_attempts(delivery, attempts)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._history.add(Left(self._history.process, self._topic, self._group, []))
        await self._inner.close()
