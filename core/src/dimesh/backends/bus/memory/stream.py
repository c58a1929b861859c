"""An open subscription in memory: a mailbox that appends fill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from dimesh.backends.bus.memory.topic import Topic
from dimesh.errors import FencedError, PositionLostError
from dimesh.spi.bus import Attempts, Batch, Delivery, PartitionListener, Subscribe


class MemoryStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    def __init__(self, topic: Topic, request: Subscribe, listener: PartitionListener) -> None:
        self._topic = topic
        self.group = request.group
        self.member = request.member
        self.filter = request.filter
        self.listener = listener
        self.mailbox: deque[Delivery] = deque()
        self.delivered: dict[int, int] = {}
        """The assigned partitions, each with the offset after the last record that was handed out."""
        self.leaving: set[int] = set()
        self.waiter: asyncio.Future[None] | None = None
        self.closed = False
        self._lost: list[str] = []

    # -- partitions ------------------------------------------------------------------------------

    def take_over(self, offsets: Mapping[int, int]) -> None:
        """Start to deliver these partitions; their pending records go into the mailbox."""
        backlog: list[Delivery] = []
        for partition, offset in offsets.items():
            log = self._topic.logs[partition]
            if offset < log.earliest and log.records and log.next_offset > offset:
                self._lost.append(
                    f"partition {partition}: offset {offset} was requested, the oldest record is {log.earliest}"
                )
            self.delivered[partition] = max(offset, log.earliest) if offset < log.next_offset else offset
            backlog.extend(
                d
                for d in log.since(offset)
                if self.filter.wants(d.record.event_type, d.record.pillar, d.record.priority)
            )
            if offset > log.next_offset:
                self._lost.append(
                    f"partition {partition}: offset {offset} was requested, the next record will be {log.next_offset}"
                )
                self.delivered[partition] = log.next_offset
        backlog.sort(key=lambda d: d.timestamp)
        self.mailbox.extend(backlog)
        self._topic.forget_routes()
        if self.mailbox or self._lost:
            self.wake()

    def stop_delivering(self, partitions: Sequence[int]) -> None:
        """Hand out no further records of these partitions."""
        self.leaving.update(partitions)
        self.mailbox = deque(d for d in self.mailbox if d.partition not in self.leaving)
        self._topic.forget_routes()

    def give_up(self, partitions: Sequence[int]) -> None:
        """Release these partitions."""
        self.stop_delivering(partitions)
        for partition in partitions:
            self.delivered.pop(partition, None)
        self.leaving.difference_update(partitions)

    # -- SPI -------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Batch]:
        while not self.mailbox:
            if self._lost:
                lost, self._lost = self._lost, []
                raise PositionLostError(f"topic {self._topic.name!r}: {'; '.join(lost)}")
            if self.closed:
                return ()
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        if self._lost:
            lost, self._lost = self._lost, []
            raise PositionLostError(f"topic {self._topic.name!r}: {'; '.join(lost)}")
        mailbox = self.mailbox
        if limit >= len(mailbox):
            taken: Sequence[Delivery] = tuple(mailbox)
            mailbox.clear()
        else:
            pop = mailbox.popleft
            taken = [pop() for _ in range(limit)]
        topic = self._topic
        if topic.waiters:
            topic.queue.wake()
        if len(topic.logs) == 1:
            return (self._batch(0, taken, taken[-1].offset + 1),)
        sorted_out: dict[int, list[Delivery]] = {}
        for delivery in taken:
            sorted_out.setdefault(delivery.partition, []).append(delivery)
        return [self._batch(p, found, found[-1].offset + 1) for p, found in sorted_out.items()]

    def _batch(self, partition: int, deliveries: Sequence[Delivery], next_offset: int) -> Batch:
        self.delivered[partition] = next_offset
        if self.group is not None:
            kept = self._topic.groups[self.group].attempts
            if kept:
                attempts = {
                    d.offset: kept[partition, d.offset] for d in deliveries if (partition, d.offset) in kept
                }
                return Batch(partition, deliveries, next_offset, attempts)
        return Batch(partition, deliveries, next_offset)

    def caught_up(self) -> bool:
        return not self.mailbox

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.group is None:
            return
        topic = self._topic
        group = topic.groups.get(self.group)
        if group is None:
            return
        fenced = []
        for partition, offset in positions.items():
            if partition not in self.delivered:
                fenced.append(partition)
                continue
            if offset > group.committed.get(partition, -1):
                group.committed[partition] = offset
                log = topic.logs[partition]
                # Not at every commit, since each trim checks every group: when all is done, or when the log has grown.
                if offset == log.next_offset or log.next_offset >= log.trim_at or topic.waiters:
                    topic.trim(log)
        if fenced:
            raise FencedError(f"partitions {fenced} of topic {topic.name!r} belong to another member now")

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: a log is not acknowledged record by record."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Do nothing: records that were not committed are read again."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        group = self._topic.groups.get(self.group) if self.group else None
        if group is None:
            return
        if attempts is None:
            group.attempts.pop((delivery.partition, delivery.offset), None)
        else:
            group.attempts[delivery.partition, delivery.offset] = attempts

    async def close(self) -> None:
        if self.closed:
            return
        topic = self._topic
        group = topic.groups.get(self.group) if self.group is not None else None
        if group is not None:
            for log in topic.logs:
                if log.partition in self.delivered:
                    group.committed[log.partition] = group.effective(log)
        self.shut()
        if self in topic.streams:
            topic.streams.remove(self)
        topic.forget_routes()
        if group is not None and self in group.members:
            group.members.remove(self)
            await topic.rebalance(group)
        topic.queue.wake()

    def shut(self) -> None:
        """End the deliveries."""
        self.closed = True
        self.delivered.clear()
        self.mailbox.clear()
        self._topic.forget_routes()
        self.wake()

    def wake(self) -> None:
        """Let a waiting call of ``receive`` check the mailbox."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
