"""Subscriptions: one consumer each, alone or as a member of a group.

The engine asks when it has room, so nothing is fetched ahead of it but what the client keeps for each partition
(``fetch_max_bytes``). Heartbeats and rebalances run beside: a slow handler never loses its partitions.

The client rebalances eagerly: every partition is revoked and most of them come straight back (assignment is sticky). At
a revoke the engine finishes what it handles and commits; what takes longer than two thirds of the rebalance time-out is
given up, so that one slow handler does not hold up the whole group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    ProducerFenced,
)

from dimesh.errors import BusError, FencedError, PositionLostError, PublishError
from dimesh.spi.bus import Attempts, Batch, Delivery, PartitionListener, Record, Subscribe
from dimesh_kafka.clients import is_fenced, raise_trouble, stop_consumer
from dimesh_kafka.failures import explained, translated
from dimesh_kafka.messages import from_message
from dimesh_kafka.transactions import Transactor

if TYPE_CHECKING:
    from dimesh_kafka.backend import KafkaBackend

log = logging.getLogger("dimesh.bus.kafka")

_LOOK: Final = 0.5
"""Seconds after which a waiting ``receive`` looks around: a topic may be gone, markers of transactions passed."""


class KafkaStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    def __init__(self, backend: KafkaBackend, request: Subscribe, listener: PartitionListener) -> None:
        self.topic = request.topic
        self.group = request.group
        self.member = request.member
        self.closed = False
        self._backend = backend
        self._listener = listener
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[int, int] = {}
        """By partition that is ours, the offset after the last record handed out."""
        self._ends: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._positions = 0
        """On how many partitions the group had positions when this member came."""
        self._told: set[int] = set()
        """Partitions of which it was said that there is no position."""
        self._attempts: dict[int, dict[int, Attempts]] = {}
        self._produces = request.produces
        self._unsure: set[int] = set()
        """Partitions of which a transaction ended with an unknown outcome."""
        self._transactors: dict[int, Transactor] = {}
        """By partition: whoever gets the partition next opens the same transactional id, which shuts this one out."""
        self._settled = False
        """Whether it is known which partitions are ours."""
        self._lost: list[str] = []
        self._broken: KafkaError | None = None

    # -- opening -----------------------------------------------------------------------------------

    async def open_alone(self, offsets: Mapping[int, int]) -> None:
        """Read all partitions, each from its offset."""
        await self._connect(None)
        await self._take_over(dict(offsets))

    async def open_member(self, partitions: int) -> None:
        """Join the group, which has positions on so many partitions; ours come when it has settled."""
        self._positions = partitions
        await self._connect(self.group)

    async def _connect(self, group: str | None) -> None:
        options = self._backend.options
        membership: dict[str, Any] = {}
        if group is not None:
            membership = {
                "group_id": group_id(group, self.topic),
                "client_id": self.member,
                "partition_assignment_strategy": (_sticky(),),
                "session_timeout_ms": int(options.session_timeout * 1000),
                "heartbeat_interval_ms": int(options.heartbeat_interval * 1000),
                "rebalance_timeout_ms": int(options.rebalance_timeout * 1000),
                "max_poll_interval_ms": 2**31 - 1,  # it is the engine that bounds how long a handler may take
            }
        consumer = self._backend.clients.consumer(
            max_partition_fetch_bytes=options.fetch_max_bytes, **membership
        )
        with translated(f"read {self.topic}"):
            try:
                if group is not None:
                    consumer.subscribe([self.topic], listener=_Rebalance(self, consumer))
                await consumer.start()
            except BaseException:
                await stop_consumer(consumer)
                raise
        self._consumer = consumer

    async def _take_over(self, offsets: dict[int, int]) -> None:
        """These partitions are ours from now on."""
        consumer = self._consumer
        assert consumer is not None
        parts = {TopicPartition(self.topic, number): offset for number, offset in offsets.items()}
        if self.group is None:
            consumer.assign(list(parts))
        self._ends = await self._ends_of(consumer, list(parts))
        await self._listener.assigned(offsets)
        for part, offset in parts.items():
            consumer.seek(part, offset)
            self._next[part.partition] = offset
        self._settled = True

    async def _ends_of(self, consumer: AIOKafkaConsumer, parts: Sequence[TopicPartition]) -> dict[int, int]:
        if not parts:
            return {}
        found = await consumer.end_offsets(parts)
        return {part.partition: end for part, end in found.items()}

    # -- partitions of a group ---------------------------------------------------------------------

    async def on_assigned(self, consumer: AIOKafkaConsumer, parts: set[TopicPartition]) -> None:
        """The group has settled."""
        offsets: dict[int, int] = {}
        fresh = []
        if self._produces:
            # Before the positions are read: what an earlier owner has under way is aborted by this.
            for part in parts:
                transactor = self._transactors[part.partition] = self._backend.transactor_of(
                    f"{group_id(self.group or '', self.topic)}-{part.partition}"
                )
                await transactor.open()
        for part in parts:
            committed = await consumer.committed(part)
            if committed is None:
                fresh.append(part)  # added since the group was made, or forgotten by the broker
            else:
                offsets[part.partition] = self._committed[part.partition] = committed
        if fresh:
            for part, offset in (await consumer.beginning_offsets(fresh)).items():
                offsets[part.partition] = offset
        assert self.group is not None
        untold = {part.partition for part in fresh} - self._told
        self._told |= untold
        tell_begun(self.group, self.topic, sorted(untold), self._positions)
        self._attempts = await self._backend.attempts.of(self.group, self.topic, offsets)
        self._consumer = consumer
        await self._take_over(offsets)

    async def on_revoked(self, parts: set[TopicPartition], fenced: bool) -> None:
        """The group changes. ``fenced``: others have the partitions already."""
        numbers = [part.partition for part in parts if part.partition in self._next]
        self._settled = False
        self._next.clear()
        try:
            await self._give_up(numbers, fenced)
        finally:
            await self._close_transactors()

    async def _give_up(self, numbers: Sequence[int], fenced: bool) -> None:
        if not numbers:
            return
        if not fenced:
            drained = asyncio.ensure_future(self._listener.revoked(numbers))
            late = self._backend.options.rebalance_timeout * 2 / 3
            done, _ = await asyncio.wait((drained,), timeout=late)
            if done:
                drained.result()
                return
            drained.cancel()
            await asyncio.wait((drained,))
            log.warning(
                "%s of group %s: what is being handled was not done %.0f s after a rebalance began; its partitions go "
                "to others without it",
                self.member,
                self.group,
                late,
            )
        self._listener.lost(numbers)

    # -- SPI ---------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Batch]:
        while True:
            if self.closed:
                return ()
            if self._broken is not None:
                await self._reconnect()
            consumer = self._consumer
            if self._lost:
                lost, self._lost = self._lost, []
                raise PositionLostError(f"topic {self.topic!r}: {'; '.join(lost)}")
            if consumer is None or not self._settled:
                await self._pause(consumer)
                continue
            passed = await self._passed(consumer)
            if passed:
                return passed
            try:
                found = await consumer.getmany(timeout_ms=int(_LOOK * 1000), max_records=limit)
            except ConsumerStoppedError:
                continue
            except OffsetOutOfRangeError as error:
                await self._out_of_range(consumer, error)
                continue
            except KafkaError as error:
                self._broken = error
                raise explained(error, f"read {self.topic}") from error
            batches = [
                self._batch(part.partition, messages)
                for part, messages in found.items()
                # A rebalance may have come in between: its next owner gets these.
                if messages and part.partition in self._next
            ]
            if batches:
                return batches
            if not found and self._backend.is_gone(self.topic):
                await self.end()

    async def _pause(self, consumer: AIOKafkaConsumer | None) -> None:
        """Wait for partitions, with an eye on the client, which tells its troubles only to who reads."""
        if consumer is not None:
            try:
                raise_trouble(consumer)
            except KafkaError as error:
                self._broken = error
                raise explained(error, f"join group {self.group} of {self.topic}") from error
        if self._backend.is_gone(self.topic):
            await self.end()
        await asyncio.sleep(0.01)

    async def _passed(self, consumer: AIOKafkaConsumer) -> Sequence[Batch]:
        """Partitions where reading went on past markers of transactions, which are no records."""
        passed: list[Batch] = []
        for number, offset in self._next.items():
            part = TopicPartition(self.topic, number)
            end = consumer.last_stable_offset(part)
            if end is not None and end > offset:
                with contextlib.suppress(KafkaError):
                    position = await consumer.position(part)
                    if position > offset and number in self._next:
                        passed.append(Batch(number, (), position))
        for batch in passed:
            self._next[batch.partition] = batch.next_offset
        return passed

    def _batch(self, number: int, messages: Sequence[Any]) -> Batch:
        deliveries = [
            Delivery(
                from_message(message.key, message.value, message.headers),
                number,
                message.offset,
                message.timestamp / 1000,
            )
            for message in messages
        ]
        following = self._next[number] = messages[-1].offset + 1
        kept = self._attempts.get(number)
        if kept:
            attempts = {d.offset: kept[d.offset] for d in deliveries if d.offset in kept}
            return Batch(number, deliveries, following, attempts)
        return Batch(number, deliveries, following)

    async def _out_of_range(self, consumer: AIOKafkaConsumer, error: OffsetOutOfRangeError) -> None:
        for part, asked in error.args[0].items():
            oldest = (await consumer.beginning_offsets([part]))[part]
            end = (await consumer.end_offsets([part]))[part]
            onward = oldest if asked < oldest else end
            consumer.seek(part, onward)
            self._next[part.partition] = onward
            where = f"{oldest} is the oldest" if asked < oldest else f"{end} comes next"
            self._lost.append(f"partition {part.partition}: {asked} asked, {where}")

    def caught_up(self) -> bool:
        if self.closed:
            return True
        consumer = self._consumer
        if consumer is None or not self._settled:
            return False
        for number, offset in self._next.items():
            end = max(self._ends.get(number, 0), self._backend.end_of(self.topic, number))
            stable = consumer.last_stable_offset(TopicPartition(self.topic, number))
            if offset < end or (stable is not None and offset < stable):
                return False
        return True

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.group is None:
            return
        consumer = self._consumer
        fenced = []
        wanted: dict[TopicPartition, int] = {}
        for number, offset in positions.items():
            if offset > self._committed.get(number, -1):
                wanted[TopicPartition(self.topic, number)] = offset
        if wanted and consumer is not None:
            try:
                await consumer.commit(wanted)
            except (CommitFailedError, IllegalStateError):
                fenced = [part.partition for part in wanted]
            except KafkaError as error:
                raise explained(error, f"commit for group {self.group}") from error
            else:
                self._committed.update((part.partition, offset) for part, offset in wanted.items())
        if fenced:
            raise FencedError(f"partitions {fenced} of topic {self.topic!r} belong to another member now")

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        transactor = self._transactors.get(partition)
        if transactor is None or self.group is None:
            raise FencedError(f"partition {partition} of topic {self.topic!r} is not this member's any more")
        await self._backend.ensure(topic)
        if partition in self._unsure and await self._was_committed(transactor, partition, offset):
            return
        messages, _ = self._backend.publisher.prepared(topic, records)
        position = {TopicPartition(self.topic, partition): offset}
        try:
            async with transactor.transaction(f"produce to {topic}") as producer:
                for number, key, value, headers in messages:
                    await producer.send(topic, value, key, number, headers=headers)
                await producer.send_offsets_to_transaction(position, group_id(self.group, self.topic))
        except PublishError as error:
            if isinstance(error.__cause__, ProducerFenced):
                raise FencedError(
                    f"partition {partition} of topic {self.topic!r} is another member's now"
                ) from error
            self._unsure.add(partition)
            raise
        self._committed[partition] = offset

    async def _was_committed(self, transactor: Transactor, partition: int, offset: int) -> bool:
        """What became of a transaction whose outcome is unknown. Opened again, it is finished, one way or the other."""
        await transactor.reopen()
        assert self.group is not None
        found = await self._backend.admin.committed(self.topic, self.group)
        self._unsure.discard(partition)
        return found.get(partition, -1) >= offset

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """A log: not used."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """A log: not used."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        if self.group is None:
            return
        kept = self._attempts.setdefault(delivery.partition, {})
        if attempts is None:
            kept.pop(delivery.offset, None)
        else:
            kept[delivery.offset] = attempts
        await self._backend.attempts.save(
            self.group, self.topic, delivery.partition, delivery.offset, attempts
        )

    async def close(self) -> None:
        if self.closed:
            return
        await self.end()

    async def end(self) -> None:
        """Leave the group; ``receive`` gives nothing more."""
        self.closed = True
        consumer, self._consumer = self._consumer, None
        self._next.clear()
        self._backend.streams.discard(self)
        await self._close_transactors()
        if consumer is not None:
            await stop_consumer(consumer)

    async def _close_transactors(self) -> None:
        transactors, self._transactors = tuple(self._transactors.values()), {}
        for transactor in transactors:
            await transactor.close()

    async def _reconnect(self) -> None:
        """The client gave up (it does at some errors): go on with a new one."""
        old, self._consumer = self._consumer, None
        offsets = dict(self._next)
        self._settled = False
        self._next.clear()
        if old is not None:
            await stop_consumer(old)
        if self.group is not None:
            self._listener.lost(list(offsets))
            await self.open_member(self._positions)
        else:
            await self._connect(None)
            await self._resume(offsets)
        self._broken = None

    async def _resume(self, offsets: dict[int, int]) -> None:
        consumer = self._consumer
        assert consumer is not None
        parts = [TopicPartition(self.topic, number) for number in offsets]
        consumer.assign(parts)
        for part in parts:
            consumer.seek(part, offsets[part.partition])
        self._next = offsets
        self._settled = True


def _sticky() -> type[StickyPartitionAssignor]:
    """An assignor for one consumer: the client keeps what a member had in the assignor's class."""
    return type("Sticky", (StickyPartitionAssignor,), {})


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, stream: KafkaStream, consumer: AIOKafkaConsumer) -> None:
        self._stream = stream
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            await self._stream.on_revoked(revoked, is_fenced(self._consumer))
        except BusError as error:
            log.warning("partitions of %s given up badly: %s", self._stream.topic, error)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        if self._stream.closed:
            return
        try:
            await self._stream.on_assigned(self._consumer, assigned)
        except KafkaError as error:
            # Told at the next receive, which begins anew.
            self._stream._broken = error


def tell_begun(group: str, topic: str, numbers: Sequence[int], positions: int) -> None:
    """Log where a group that is not new begins at the oldest event. Partitions are added at the end, so one below a number
    of which the group had a position had one, too.
    """
    forgotten = [number for number in numbers if number < positions]
    added = [number for number in numbers if number >= positions]
    if forgotten:
        log.warning(
            "the broker has forgotten the position of group %s on partitions %s of topic %s (offsets.retention.minutes, or "
            "somebody deleted it): it begins there at the oldest event, and may handle events again",
            group,
            forgotten,
            topic,
        )
    if added:
        log.info(
            "group %s has no position on partitions %s of topic %s, most likely because they were added since it was made: "
            "it begins there at the oldest event",
            group,
            added,
            topic,
        )


def group_id(group: str, topic: str) -> str:
    """The group's name in Kafka. Groups of the mesh belong to a topic: one that is used for several topics is several
    groups for the broker, so that a member that comes for one topic does not stop the reading of the others.
    """
    return f"{group}@{topic}"
