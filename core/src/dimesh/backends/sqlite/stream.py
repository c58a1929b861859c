"""An open subscription on the sqlite bus."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from dimesh.backends.sqlite import groups
from dimesh.backends.sqlite.groups import Membership
from dimesh.backends.sqlite.pages import Page, read_attempts, scan
from dimesh.backends.sqlite.tables import Topic, read_topic
from dimesh.errors import DimeshError, FencedError, PositionLostError, TopicNotFoundError
from dimesh.spi.bus import Attempts, Batch, Delivery, PartitionListener, Record, Subscribe

if TYPE_CHECKING:
    from dimesh.backends.sqlite.backend import SqliteBackend

log = logging.getLogger("dimesh.bus.sqlite")

PAGE: Final = 1_000
"""Records looked at in one go."""
TURN: Final = 1.0
"""Seconds between looks at the group's members."""


class SqliteStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    def __init__(
        self,
        backend: SqliteBackend,
        topic: Topic,
        request: Subscribe,
        listener: PartitionListener,
        token: str,
    ) -> None:
        self._backend = backend
        self.topic = topic.name
        self.topic_id = topic.id
        self._request = request
        self._listener = listener
        self.me = (
            Membership(topic.name, request.group, token, request.member)
            if request.group is not None
            else None
        )
        self.closed = False
        self._next: dict[int, int] = {}
        """Partitions that are ours, with the offset to read next."""
        self._buffer: deque[Delivery] = deque()
        self._attempts: dict[int, Attempts] = {}
        self._scanned = 0
        """Everything below was looked at; what it held is in the buffer or was handed out."""
        self._reported: dict[int, int] = {}
        """By partition, the ``next_offset`` told last."""
        self.changed = asyncio.Event()
        """Something was appended, or partitions moved."""
        self._epoch = 0
        """Counts moves of partitions: a page read before one is not used after it."""
        self._coordinator: asyncio.Task[None] | None = None
        self.kick = asyncio.Event()
        """The group's members changed."""

    def same_group(self, other: SqliteStream) -> bool:
        """Whether both are members of one group."""
        return self.me is not None and other.me is not None and self.me[:2] == other.me[:2]

    # -- partitions ------------------------------------------------------------------------------

    async def start_alone(self, offsets: Mapping[int, int]) -> None:
        """Read all partitions, without a group."""
        await self._listener.assigned(offsets)
        self._begin(offsets)

    async def start_in_group(self) -> None:
        """Join in, and go on following the group."""
        await self._turn()
        self._coordinator = asyncio.create_task(self._follow(), name=f"dimesh-sqlite-{self._request.member}")

    def _begin(self, offsets: Mapping[int, int]) -> None:
        self._next.update(offsets)
        self._rewind()

    def _rewind(self) -> None:
        """Read again from where nothing was handed out yet."""
        for delivery in self._buffer:
            part = delivery.partition
            if part in self._next:
                self._next[part] = min(self._next[part], delivery.offset)
        self._buffer.clear()
        self._scanned = min(self._next.values(), default=0)
        self._reported = {part: at for part, at in self._reported.items() if part in self._next}
        self._epoch += 1
        self.changed.set()

    async def _follow(self) -> None:
        clock = self._backend.clock
        while not self.closed:
            timer = clock.call_later(TURN, self.kick.set)
            try:
                await self.kick.wait()
            finally:
                timer.cancel()
            self.kick.clear()
            try:
                await self._turn()
            except TopicNotFoundError:
                self._end()
                return
            except DimeshError as error:
                log.warning("group %s of topic %s: %s", self._request.group, self.topic, error)

    async def _turn(self) -> None:
        """Do what the group's state asks of this member."""
        me = self.me
        assert me is not None
        lease = self._backend.options.lease
        while not self.closed:
            believed = frozenset(self._next)
            if not await self._backend.readers.run(partial(self._is_due, believed)):
                return
            turn = await self._backend.writer.submit(
                lambda c: groups.take_turn(c, read_topic(c, self.topic), me, lease)
            )
            lost = believed - turn.owned
            # Lost and taken again in the same turn: what was in between is not ours to know.
            lost |= believed & turn.claimed.keys()
            if lost:
                self._drop(lost)
                self._listener.lost(sorted(lost))
            if turn.claimed:
                await self._listener.assigned(turn.claimed)
                self._begin(turn.claimed)
            if not turn.surplus:
                if not turn.claimed and not lost:
                    return
                continue
            self._drop(turn.surplus)
            await self._listener.revoked(sorted(turn.surplus))
            await self._backend.writer.submit(
                partial(groups.give_up, topic=self.topic_id, me=me, parts=turn.surplus)
            )
            self._backend.kick_group(self)

    def _is_due(self, believed: frozenset[int], connection: sqlite3.Connection) -> bool:
        assert self.me is not None
        topic = read_topic(connection, self.topic)
        return groups.read_due(connection, topic, self.me, believed, self._backend.options.lease)

    def _drop(self, parts: frozenset[int]) -> None:
        for part in parts:
            self._next.pop(part, None)
            self._reported.pop(part, None)
        self._buffer = deque(d for d in self._buffer if d.partition in self._next)
        self._epoch += 1

    # -- SPI -------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Batch]:
        while not self.closed:
            if self._buffer:
                return self._hand_out(limit)
            self.changed.clear()
            if self._next:
                epoch = self._epoch
                begin = {part: max(at, self._scanned) for part, at in self._next.items()}
                page, topic, attempts = await self._backend.readers.run(partial(self._read, begin))
                if epoch != self._epoch:
                    continue  # partitions moved meanwhile, or the stream was closed
                self._attempts = attempts
                if self._scanned < topic.first_offset:
                    self._skip_to(topic.first_offset)
                self._scanned = max(page.end, self._scanned)
                self._buffer.extend(page.deliveries)
                if self._buffer:
                    continue
                moved = [
                    Batch(part, (), self._scanned)
                    for part in self._next
                    if self._reported.get(part, -1) < self._scanned and self._next[part] < self._scanned
                ]
                for part in self._next:
                    self._next[part] = max(self._next[part], self._scanned)
                    self._reported[part] = self._scanned
                if moved:
                    return moved
                if self._scanned < topic.next_offset:
                    continue
            await self.changed.wait()
        return ()

    def _read(
        self, begin: Mapping[int, int], connection: sqlite3.Connection
    ) -> tuple[Page, Topic, dict[int, Attempts]]:
        """In a reader's thread: nothing of the stream's state is touched here."""
        topic = read_topic(connection, self.topic)
        page = scan(connection, topic, begin, self._request.filter, PAGE, PAGE)
        attempts: dict[int, Attempts] = {}
        if self.me is not None and page.deliveries:
            first = page.deliveries[0].offset
            attempts = read_attempts(connection, topic.id, self.me.group, first, page.end)
        return page, topic, attempts

    def _skip_to(self, first: int) -> None:
        asked = self._scanned
        behind = {part: at for part, at in self._next.items() if at < first}
        for part in behind:
            self._next[part] = first
        self._scanned = first
        if behind:
            raise PositionLostError(
                f"topic {self.topic!r}, partitions {sorted(behind)}: offset {asked} was asked for, "
                f"retention has removed everything below {first}"
            )

    def _hand_out(self, limit: int) -> Sequence[Batch]:
        buffer = self._buffer
        if limit >= len(buffer):
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(limit)]
        by_part: dict[int, list[Delivery]] = {}
        for delivery in taken:
            by_part.setdefault(delivery.partition, []).append(delivery)
        # A partition is read as far as all of them are, once nothing of it is left in the buffer.
        reached = buffer[0].offset if buffer else self._scanned
        batches = []
        for part in tuple(self._next):
            deliveries = by_part.get(part, ())
            at = max(reached, self._next[part])
            if deliveries or self._reported.get(part, -1) < at:
                self._next[part] = at
                self._reported[part] = at
                batches.append(Batch(part, deliveries, at, self._attempts_of(deliveries)))
        return batches

    def _attempts_of(self, deliveries: Sequence[Delivery]) -> Mapping[int, Attempts]:
        kept = self._attempts
        return {d.offset: kept[d.offset] for d in deliveries if d.offset in kept} if kept else {}

    def caught_up(self) -> bool:
        if self.closed or not self._next:
            return True
        return not self._buffer and self._scanned >= self._backend.latest.get(self.topic, 0)

    async def commit(self, positions: Mapping[int, int]) -> None:
        me = self.me
        if me is None:
            return
        fenced = await self._backend.writer.submit(lambda c: groups.commit(c, self.topic_id, me, positions))
        if fenced is not None:
            raise fenced

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        me = self.me
        if me is None or self.closed:
            raise FencedError(f"this stream of topic {self.topic!r} is no member of a group (any more)")
        await self._backend.append_after(
            lambda c: groups.commit_all(c, self.topic_id, me, {partition: offset}), topic, records
        )

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """A log: not used."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """A log: not used."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        me = self.me
        if me is None:
            return
        key = (self.topic_id, me.group, delivery.offset)
        if attempts is None:
            await self._backend.writer.submit(
                lambda c: (
                    c.execute("DELETE FROM attempts WHERE topic = ? AND grp = ? AND offset = ?", key) and None
                )
            )
        else:
            row = (*key, attempts.failures, attempts.first)
            await self._backend.writer.submit(
                lambda c: c.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)", row) and None
            )

    async def close(self) -> None:
        if self.closed:
            return
        self._end()
        if self._coordinator is not None:
            self._coordinator.cancel()
            await asyncio.gather(self._coordinator, return_exceptions=True)
        self._backend.forget(self)
        me = self.me
        if me is not None:
            await self._backend.writer.submit(lambda c: groups.remove(c, self.topic_id, me.group, me.token))
            self._backend.kick_group(self)

    def _end(self) -> None:
        self.closed = True
        self._epoch += 1
        self._next.clear()
        self._buffer.clear()
        self.changed.set()
