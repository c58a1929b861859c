"""An open subscription on the sqlite bus."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from dimesh.backends.bus.sqlite import groups
from dimesh.backends.bus.sqlite.groups import Membership, Turn
from dimesh.backends.bus.sqlite.pages import Page, read_attempts, scan
from dimesh.backends.bus.sqlite.session import Session
from dimesh.backends.bus.sqlite.tables import Topic, read_topic
from dimesh.errors import DimeshError, FencedError, PositionLostError, TopicNotFoundError
from dimesh.spi.bus import Attempts, Batch, Delivery, PartitionListener, Record, Subscribe

log = logging.getLogger("dimesh.bus.sqlite")

PAGE: Final = 1_000
"""The number of records that one read examines."""
RETRY: Final = 1.0
"""Seconds until a turn that failed is repeated."""


class SqliteStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    def __init__(
        self,
        session: Session,
        topic: Topic,
        request: Subscribe,
        listener: PartitionListener,
        me: Membership | None,
        closed: Callable[[Any], None],
    ) -> None:
        self._session = session
        self._closed = closed
        self.topic = topic.name
        self.topic_id = topic.id
        self._request = request
        self._listener = listener
        self.me = me
        self.closed = False
        self._next: dict[int, int] = {}
        """The assigned partitions, each with the offset to read next."""
        self._buffer: deque[Delivery] = deque()
        self._attempts: dict[int, Attempts] = {}
        self._scanned = 0
        """The offset up to which records were examined; they are in the buffer or were handed out."""
        self._reported: dict[int, int] = {}
        """By partition, the ``next_offset`` that was reported last."""
        self.changed = asyncio.Event()
        """Set when records were appended, or partitions moved."""
        self._epoch = 0
        """The number of moves of partitions: a page that was read before a move is not used after it."""
        self._coordinator: asyncio.Task[None] | None = None
        self.kick = asyncio.Event()
        """Set when the members of the group, or the partitions of the topic, changed."""
        self._leaving: dict[int, Turn] = {}
        """The partitions that are being given up, each with the turn that began it."""
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def group(self) -> str | None:
        """The name of the group; None for a stream without one."""
        return self._request.group

    # -- partitions ------------------------------------------------------------------------------

    async def start_alone(self, offsets: Mapping[int, int]) -> None:
        """Read all partitions, without a group."""
        await self._listener.assigned(offsets)
        self._begin(offsets)

    async def start_in_group(self, turn: Turn) -> None:
        """Take part in the group until the stream is closed, beginning with the turn that was taken at joining."""
        await self._act(turn)
        self.kick.set()  # the group may have changed before the session knew of this stream
        self._coordinator = asyncio.create_task(self._follow(), name=f"dimesh-sqlite-{self._request.member}")

    def _begin(self, offsets: Mapping[int, int]) -> None:
        self._next.update(offsets)
        self._rewind()

    def _rewind(self) -> None:
        """Read again from the first record that was not handed out."""
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
        """Take a turn whenever the group has changed. It never waits for handlers: partitions are given up beside it."""
        while True:
            await self.kick.wait()
            self.kick.clear()
            try:
                await self._turn()
            except TopicNotFoundError:
                self.end()
                return
            except DimeshError as error:
                log.warning("group %s of topic %s: %s", self._request.group, self.topic, error)
                self._session.clock.call_later(RETRY, self.kick.set)

    async def _turn(self) -> None:
        """Take and release partitions as the state of the group requires."""
        me = self.me
        assert me is not None
        if await self._session.readers.run(self._is_due):
            await self._act(
                await self._session.writer.submit(
                    lambda c: groups.take_turn(c, read_topic(c, self.topic), me)
                )
            )

    async def _act(self, turn: Turn) -> None:
        believed = frozenset((*self._next, *self._leaving))
        # Lost and taken again in the same turn: another member may have committed in between.
        lost = (believed - turn.owned) | (believed & turn.claimed.keys())
        if lost:
            self._drop(lost)
            self._listener.lost(sorted(lost))
        if turn.claimed:
            await self._listener.assigned(turn.claimed)
            self._begin(turn.claimed)
        surplus = turn.surplus & self._next.keys()
        if surplus:
            self._drop(surplus)
            self._leaving.update(dict.fromkeys(surplus, turn))
            task = asyncio.create_task(
                self._give_up(surplus, turn), name=f"dimesh-sqlite-revoke-{self._request.member}"
            )
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _give_up(self, parts: frozenset[int], turn: Turn) -> None:
        """Let the engine finish its work on partitions, then release them. Heartbeats and turns go on meanwhile."""
        me = self.me
        assert me is not None
        try:
            await self._listener.revoked(sorted(parts))
        except Exception:
            log.exception("group %s of topic %s: a revocation failed", me.group, self.topic)
        # Not those that were lost meanwhile, and perhaps taken again.
        while left := frozenset(part for part in parts if self._leaving.get(part) is turn):
            try:
                await self._session.writer.submit(
                    partial(groups.give_up, topic=self.topic_id, me=me, parts=left)
                )
            except DimeshError as error:
                log.warning("group %s of topic %s: %s", me.group, self.topic, error)
                await self._session.clock.sleep(RETRY)
            else:
                for part in left:
                    del self._leaving[part]
        self.kick.set()

    def _is_due(self, connection: sqlite3.Connection) -> bool:
        assert self.me is not None
        topic = read_topic(connection, self.topic)
        return groups.read_due(connection, topic, self.me, frozenset(self._next), frozenset(self._leaving))

    def _drop(self, parts: frozenset[int]) -> None:
        for part in parts:
            self._leaving.pop(part, None)
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
                page, topic, attempts = await self._session.readers.run(partial(self._read, begin))
                if epoch != self._epoch:
                    continue  # partitions moved meanwhile, or the stream was closed
                if self.me is None and topic.partitions > len(self._next):
                    # Everything before this page was read when there were fewer partitions.
                    added = dict.fromkeys(range(len(self._next), topic.partitions), self._scanned)
                    await self._listener.assigned(added)
                    self._next.update(added)
                    continue
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
        """Read a page. Runs in a reader's thread, so it must not touch the state of the stream."""
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
                f"topic {self.topic!r}, partitions {sorted(behind)}: offset {asked} was requested, "
                f"retention has removed all records below {first}"
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
        # A partition without records in the buffer is read as far as all partitions are.
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
        return not self._buffer and self._scanned >= self._session.latest.get(self.topic_id, 0)

    async def commit(self, positions: Mapping[int, int]) -> None:
        me = self.me
        if me is None:
            return
        fenced = await self._session.writer.submit(lambda c: groups.commit(c, self.topic_id, me, positions))
        if fenced is not None:
            raise fenced

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        me = self.me
        if me is None or self.closed:
            raise FencedError(f"this stream of topic {self.topic!r} is not a member of a group, or no longer")
        await self._session.append(
            lambda c: groups.commit_all(c, self.topic_id, me, {partition: offset}), topic, records
        )

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: a log is not acknowledged record by record."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Do nothing: records that were not committed are read again."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        me = self.me
        if me is None:
            return
        key = (self.topic_id, me.group, delivery.offset)
        if attempts is None:
            await self._session.writer.submit(
                lambda c: (
                    c.execute("DELETE FROM attempts WHERE topic = ? AND grp = ? AND offset = ?", key) and None
                )
            )
        else:
            row = (*key, attempts.failures, attempts.first)
            await self._session.writer.submit(
                lambda c: c.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)", row) and None
            )

    async def close(self) -> None:
        if self.closed:
            return
        self.end()
        tasks = [*self._releases, *([self._coordinator] if self._coordinator is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._session.remove(self)
        self._closed(self)
        me = self.me
        if me is not None:
            await self._session.writer.submit(lambda c: groups.leave(c, self.topic_id, me))

    def end(self) -> None:
        self.closed = True
        self._epoch += 1
        self._next.clear()
        self._buffer.clear()
        self.changed.set()
