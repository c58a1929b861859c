"""Subscriptions: one consumer each, alone or as a member of a group.

The engine asks for records when it has room, so nothing is fetched ahead except what the client buffers for each partition
(``fetch_max_bytes``). Heartbeats and rebalances run independently: a slow handler never loses its partitions.

The client rebalances eagerly: every partition is revoked, and most are assigned again at once (assignment is sticky). When
partitions are revoked, the engine finishes what it is handling and commits. Whatever takes longer than two thirds of the
rebalance timeout is given up, so that one slow handler does not hold up the whole group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)

from dimesh.errors import BusError, FencedError, PositionLostError, SchemaError
from dimesh.spi.bus import Attempts, Batch, Delivery, PartitionListener, Record, Subscribe
from dimesh_kafka.clients import is_fenced, raise_group_error, stop_consumer
from dimesh_kafka.failures import explained, translated
from dimesh_kafka.messages import from_message
from dimesh_kafka.names import group_id
from dimesh_kafka.production import Production
from dimesh_kafka.services import Services

log = logging.getLogger("dimesh.bus.kafka")

_REGISTRY_PAUSE: Final = 1.0
"""Seconds until a schema registry that does not answer is asked again."""
_DELETED_CHECK: Final = 0.1
"""Seconds between two looks, during a commit, at whether the topic is deleted."""
_RECHECK: Final = 0.5
"""Seconds after which a waiting ``receive`` checks again: the topic may be deleted, or transaction markers passed."""


class KafkaStream:
    """See :class:`dimesh.spi.bus.Stream`.

    Args:
        services: the clients of the bus.
        request: the subscription.
        listener: is informed about partitions that are assigned and revoked.
        ended: called when the stream ends.
    """

    def __init__(
        self,
        services: Services,
        request: Subscribe,
        listener: PartitionListener,
        ended: Callable[[KafkaStream], None],
    ) -> None:
        self.topic = request.topic
        self.group = request.group
        self.member = request.member
        self.closed = False
        self._services = services
        self._listener = listener
        self._ended = ended
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[int, int] = {}
        """The offset after the last record handed out, for each assigned partition."""
        self._ends: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._positions = 0
        """The number of partitions on which the group had positions when this member joined."""
        self._reported: set[int] = set()
        """Partitions whose missing position was logged."""
        self._attempts: dict[int, dict[int, Attempts]] = {}
        self._production = (
            Production(services, request.topic, request.group)
            if request.produces and request.group is not None
            else None
        )
        self._assigned = False
        """Whether the current assignment of partitions is known."""
        self._lost: list[str] = []
        self._broken: Exception | None = None
        self._unread: dict[TopicPartition, list[Any]] = {}
        """Messages that wait for the schema registry."""

    # -- opening -----------------------------------------------------------------------------------

    async def open_alone(self, offsets: Mapping[int, int]) -> None:
        """Read all partitions, each from its offset."""
        await self._connect(None)
        await self._take_over(dict(offsets))

    async def open_member(self, partitions: int) -> None:
        """Join the group, which has positions on ``partitions`` partitions; some are assigned when it has rebalanced."""
        self._positions = partitions
        await self._connect(self.group)

    async def _connect(self, group: str | None) -> None:
        options = self._services.options
        membership: dict[str, Any] = {}
        if group is not None:
            membership = {
                "group_id": group_id(group, self.topic),
                "client_id": self.member,
                "partition_assignment_strategy": (_sticky(),),
                "session_timeout_ms": int(options.session_timeout * 1000),
                "heartbeat_interval_ms": int(options.heartbeat_interval * 1000),
                "rebalance_timeout_ms": int(options.rebalance_timeout * 1000),
                "max_poll_interval_ms": 2**31 - 1,  # the engine bounds the time of a handler
            }
        consumer = self._services.clients.consumer(
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
        """Start to read partitions from the given offsets."""
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
        self._assigned = True

    async def _ends_of(self, consumer: AIOKafkaConsumer, parts: Sequence[TopicPartition]) -> dict[int, int]:
        if not parts:
            return {}
        found = await consumer.end_offsets(parts)
        return {part.partition: end for part, end in found.items()}

    # -- partitions of a group ---------------------------------------------------------------------

    async def on_assigned(self, consumer: AIOKafkaConsumer, parts: set[TopicPartition]) -> None:
        """Start to read the partitions that a rebalance gave to this member."""
        offsets: dict[int, int] = {}
        fresh = []
        if self._production is not None:
            # Before the positions are read, since this aborts what an earlier owner has in flight.
            await self._production.open(part.partition for part in parts)
        for part in parts:
            committed = await consumer.committed(part)
            if committed is None:
                fresh.append(part)  # added since the group was created, or forgotten by the broker
            else:
                offsets[part.partition] = self._committed[part.partition] = committed
        if fresh:
            for part, offset in (await consumer.beginning_offsets(fresh)).items():
                offsets[part.partition] = offset
        assert self.group is not None
        unreported = {part.partition for part in fresh} - self._reported
        self._reported |= unreported
        log_missing_positions(self.group, self.topic, sorted(unreported), self._positions)
        self._attempts = await self._services.attempts.of(self.group, self.topic, offsets)
        self._consumer = consumer
        await self._take_over(offsets)

    async def on_revoked(self, parts: set[TopicPartition], fenced: bool) -> None:
        """Give partitions up for a rebalance.

        Args:
            parts: the partitions.
            fenced: whether other members have the partitions already.
        """
        numbers = [part.partition for part in parts if part.partition in self._next]
        self._assigned = False
        self._next.clear()
        try:
            await self._give_up(numbers, fenced)
        finally:
            await self._close_production()

    async def _give_up(self, numbers: Sequence[int], fenced: bool) -> None:
        if not numbers:
            return
        if not fenced:
            drained = asyncio.ensure_future(self._listener.revoked(numbers))
            late = self._services.options.rebalance_timeout * 2 / 3
            done, _ = await asyncio.wait((drained,), timeout=late)
            if done:
                drained.result()
                return
            drained.cancel()
            await asyncio.wait((drained,))
            log.warning(
                "%s of group %s: a handler did not finish within %.0f s after a rebalance began; its partitions go to other "
                "members, which handle its events again",
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
                self._unread = {}  # they are read again
                await self._reconnect()
            consumer = self._consumer
            if self._lost:
                lost, self._lost = self._lost, []
                raise PositionLostError(f"topic {self.topic!r}: {'; '.join(lost)}")
            if consumer is None or not self._assigned:
                await self._pause(consumer)
                continue
            if self.group is None:
                await self._add_partitions(consumer)
            passed = await self._passed(consumer)
            if passed:
                return passed
            try:
                found = self._unread or await consumer.getmany(
                    timeout_ms=int(_RECHECK * 1000), max_records=limit
                )
            except ConsumerStoppedError:
                continue
            except OffsetOutOfRangeError as error:
                await self._out_of_range(consumer, error)
                continue
            except KafkaError as error:
                self._broken = error
                raise explained(error, f"read {self.topic}") from error
            if self._services.frames.active and not await self._learned(found):
                continue
            batches = [
                self._batch(part.partition, messages)
                for part, messages in found.items()
                # A rebalance may have happened meanwhile: the next owner gets these.
                if messages and part.partition in self._next
            ]
            if batches:
                return batches
            if not found and self._services.is_deleted(self.topic):
                await self.end()

    async def _learned(self, found: dict[TopicPartition, list[Any]]) -> bool:
        """Return whether the schemas of messages are known. If not, the messages are kept for the next attempt."""
        self._unread = found
        try:
            await self._services.frames.learn(message for messages in found.values() for message in messages)
        except SchemaError as error:
            log.warning("topic %s waits for the schema registry: %s", self.topic, error)
            await asyncio.sleep(_REGISTRY_PAUSE)
            return False
        self._unread = {}
        return True

    async def _pause(self, consumer: AIOKafkaConsumer | None) -> None:
        """Wait for an assignment. Check the client for errors, which it otherwise raises only from a fetch."""
        if consumer is not None:
            try:
                raise_group_error(consumer)
            except KafkaError as error:
                self._broken = error
                raise explained(error, f"join group {self.group} of {self.topic}") from error
        if self._services.is_deleted(self.topic):
            await self.end()
        await asyncio.sleep(0.01)

    async def _add_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Read partitions that were added to the topic, from their first record on. The client does that for a group."""
        known = consumer.partitions_for_topic(self.topic) or ()
        if len(known) <= len(self._next):
            return
        fresh = [TopicPartition(self.topic, number) for number in known if number not in self._next]
        with translated(f"read {self.topic}"):
            offsets = {part.partition: at for part, at in (await consumer.beginning_offsets(fresh)).items()}
            ends = await self._ends_of(consumer, fresh)
        await self._listener.assigned(offsets)
        self._ends |= ends
        await self._resume(self._next | offsets)

    async def _passed(self, consumer: AIOKafkaConsumer) -> Sequence[Batch]:
        """Return empty batches for partitions where reading went past transaction markers, which are not records."""
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
        frames = self._services.frames
        deliveries = [
            Delivery(
                frames.read(message)
                if frames.active
                else from_message(message.key, message.value, message.headers),
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
            self._lost.append(f"partition {part.partition}: {asked} was asked for, {where}")

    def caught_up(self) -> bool:
        if self.closed:
            return True
        consumer = self._consumer
        if consumer is None or not self._assigned:
            return False
        for number, offset in self._next.items():
            end = max(self._ends.get(number, 0), self._services.end_of(self.topic, number))
            stable = consumer.last_stable_offset(TopicPartition(self.topic, number))
            if offset < end or (stable is not None and offset < stable):
                return False
        return True

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.group is None:
            return
        consumer = self._consumer
        fenced: list[int] = []
        wanted: dict[TopicPartition, int] = {}
        for number, offset in positions.items():
            if offset > self._committed.get(number, -1):
                wanted[TopicPartition(self.topic, number)] = offset
        if wanted and consumer is not None:
            # The client refuses all of them for one that is not assigned.
            assigned = consumer.assignment()
            fenced = [part.partition for part in wanted if part not in assigned]
            wanted = {part: offset for part, offset in wanted.items() if part in assigned}
        if wanted and consumer is not None:
            try:
                await self._commit(consumer, wanted)
            except (CommitFailedError, IllegalStateError):
                fenced += [part.partition for part in wanted]
            except KafkaError as error:
                raise explained(error, f"commit for group {self.group}") from error
            else:
                self._committed.update((part.partition, offset) for part, offset in wanted.items())
        if fenced:
            raise FencedError(f"partitions {fenced} of topic {self.topic!r} belong to another member now")

    async def _commit(self, consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, int]) -> None:
        """Commit positions, unless the topic is deleted.

        The client repeats a commit to a deleted topic for ever, and would not join a rebalance meanwhile. On a new topic of that
        name it would even succeed: the group would begin behind events that nobody has handled.
        """
        committing = asyncio.ensure_future(consumer.commit(wanted))
        try:
            while True:
                if self._services.is_deleted(self.topic):
                    raise FencedError(
                        f"topic {self.topic!r} is deleted: the positions on it are of no use any more"
                    )
                if (await asyncio.wait((committing,), timeout=_DELETED_CHECK))[0]:
                    break
        finally:
            if not committing.done():
                committing.cancel()
                await asyncio.wait((committing,))
        committing.result()

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        if self._production is None:
            raise FencedError(
                f"partition {partition} of topic {self.topic!r} no longer belongs to this member"
            )
        await self._production.commit(partition, offset, topic, records)
        self._committed[partition] = offset

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: a log has no leases."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Do nothing: a log has no leases."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        if self.group is None:
            return
        kept = self._attempts.setdefault(delivery.partition, {})
        if attempts is None:
            kept.pop(delivery.offset, None)
        else:
            kept[delivery.offset] = attempts
        await self._services.attempts.save(
            self.group, self.topic, delivery.partition, delivery.offset, attempts
        )

    async def close(self) -> None:
        if self.closed:
            return
        await self.end()

    async def end(self) -> None:
        """Leave the group; ``receive`` returns nothing more."""
        self.closed = True
        consumer, self._consumer = self._consumer, None
        self._next.clear()
        self._ended(self)
        await self._close_production()
        if consumer is not None:
            await stop_consumer(consumer)

    async def _close_production(self) -> None:
        if self._production is not None:
            await self._production.close()

    async def _reconnect(self) -> None:
        """Replace the client, which gives up at some errors."""
        old, self._consumer = self._consumer, None
        offsets = dict(self._next)
        self._assigned = False
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
        self._assigned = True


def _sticky() -> type[StickyPartitionAssignor]:
    """Return an assignor for one consumer: the client stores a member's assignment on the assignor's class."""
    return type("Sticky", (StickyPartitionAssignor,), {})


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, stream: KafkaStream, consumer: AIOKafkaConsumer) -> None:
        self._stream = stream
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            await self._stream.on_revoked(revoked, is_fenced(self._consumer))
        except BusError as error:
            log.warning("the partitions of %s were not given up cleanly: %s", self._stream.topic, error)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        if self._stream.closed:
            return
        try:
            await self._stream.on_assigned(self._consumer, assigned)
        except Exception as error:
            # The client only logs what its listener raises, and this member would hold partitions that it does not read: a read
            # of what was handled last failed, for example, since the broker was restarted. The next receive joins again.
            log.warning(
                "the partitions of %s were not taken over, and are asked for again: %s",
                self._stream.topic,
                error,
            )
            self._stream._broken = error


def log_missing_positions(group: str, topic: str, numbers: Sequence[int], positions: int) -> None:
    """Log the partitions on which a group that is not new starts at the oldest event.

    Args:
        group: the group.
        topic: its topic.
        numbers: the partitions without a position.
        positions: the number of partitions on which the group had positions. Partitions are added at the end, so those with
            a lower number had a position, too.
    """
    forgotten = [number for number in numbers if number < positions]
    added = [number for number in numbers if number >= positions]
    if forgotten:
        log.warning(
            "the broker has forgotten the position of group %s on partitions %s of topic %s (offsets.retention.minutes, or "
            "somebody deleted it): the group starts at the oldest event there, and may handle events again",
            group,
            forgotten,
            topic,
        )
    if added:
        log.info(
            "group %s has no position on partitions %s of topic %s, most likely because they were added after the group "
            "was created: it starts at the oldest event there",
            group,
            added,
            topic,
        )
