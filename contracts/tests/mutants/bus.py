"""Buses with one fault each: the memory backend, or the sqlite backend where the fault concerns storage."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from catalogue import Mutant
from queue_backend import LEASE

from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.backends.bus.memory.group import Group
from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.backends.bus.sqlite.stream import SqliteStream
from dimesh.backends.bus.sqlite.writer import Repeated
from dimesh.clock import SystemClock
from dimesh.errors import BackpressureError, FencedError, PositionLostError, PublishError
from dimesh.spi.bus import (
    Attempts,
    Batch,
    Delivery,
    Filter,
    GroupInfo,
    PartitionListener,
    Position,
    Record,
    StartAt,
    Subscribe,
    TopicInfo,
)
from dimesh_contracts.bus import BusGuarantee as G


class Memory(MemoryBackend):
    """The reference backend; mutants change its appends, or the class of its streams."""

    stream_class: type[MemoryStream] = MemoryStream

    def __init__(self, folder: Path) -> None:
        super().__init__(MemoryOptions(history=100_000, capacity=1_000), SystemClock())

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        stream = await super().subscribe(request, listener)
        stream.__class__ = self.stream_class
        return stream


class Sqlite(SqliteBackend):
    """The durable backend."""

    poll = 0.02
    lease = 15.0

    def __init__(self, folder: Path) -> None:
        options = SqliteOptions(
            path=str(folder / "mesh.db"),
            synchronous="normal",
            retention_interval=0.1,
            poll=self.poll,
            lease=self.lease,
        )
        super().__init__(options, SystemClock())

    @property
    def is_closed(self) -> bool:
        return self._session.closed

    async def execute(self, statement: str, *rows: Sequence[Any]) -> None:
        """Change the database behind the backend's back."""
        await self._session.writer.submit(lambda c: c.executemany(statement, rows) and None)


class DropsRepeatsByTheirId(Memory):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ids: set[tuple[str, str]] = set()

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        taken: list[Position | None] = []
        for record in records:
            name = (topic, record.event.event_id)
            if name in self._ids:
                taken.append(None)
                continue
            self._ids.add(name)
            taken += await super().append(topic, [record], **options)
        return taken


class RedrivesForEverybody(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        kept = []
        for record in records:
            headers = {k: v for k, v in record.event.headers.items() if k != "dimesh-redrive-group"}
            kept.append(Record.of(record.event.replace(headers=headers), record.key, record.deliver_at))
        return await super().append(topic, kept, **options)


class ShowsHeadersOfTheEngine(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        sent = []
        for record in records:
            reply_to = record.event.headers.get("dimesh-reply-to")
            if reply_to is not None:
                # Like a backend that stores the headers of the engine among those of the users.
                headers = {**record.event.headers, "x-reply-to": reply_to}
                record = Record.of(record.event.replace(headers=headers), record.key, record.deliver_at)
            sent.append(record)
        return await super().append(topic, sent, **options)


# -- appends -----------------------------------------------------------------------------------------


class LosesTheLastOfABatch(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        if len(records) < 100:
            return await super().append(topic, records, **options)
        taken = await super().append(topic, records[:-1], **options)
        return [*taken, taken[-1]]


class ReordersWithinAKey(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        return list(reversed(await super().append(topic, list(reversed(records)), **options)))


class ReusesAnOffset(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        positions = await super().append(topic, records, **options)
        for log in self._topics[topic].logs:
            if log.next_offset % 5 == 4:
                log.next_offset -= 1
        return positions


def changed(record: Record, **changes: Any) -> Record:
    """Return the record with other headers."""
    event = record.event.replace(**changes)
    return Record.of(event, record.key, record.deliver_at)


class LowerCasesHeaders(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        lowered = []
        for record in records:
            try:
                headers = record.event.headers
            except Exception:
                lowered.append(record)
                continue
            lowered.append(
                changed(record, headers={k.lower(): v for k, v in headers.items()}) if headers else record
            )
        return await super().append(topic, lowered, **options)


class DropsHeaders(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        bare = []
        for record in records:
            try:
                bare.append(changed(record, headers={}) if record.event.headers else record)
            except Exception:
                bare.append(record)
        return await super().append(topic, bare, **options)


class TakesSchemasForItsOwn(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        sent = []
        for record in records:
            try:
                headers = record.event.headers
            except Exception:
                headers = {}
            # Like a broker with a schema registry of its own, whose attributes have such names.
            left = {k: v for k, v in headers.items() if not k.endswith("-schema")}
            sent.append(record if len(left) == len(headers) else changed(record, headers=left))
        return await super().append(topic, sent, **options)


class TruncatesAt64K(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        cut = [
            Record.stored(
                r.header, r.payload[:65_536], r.key, r.event_type, r.pillar, r.priority, r.deliver_at
            )
            if len(r.payload) > 65_536
            else r
            for r in records
        ]
        return await super().append(topic, cut, **options)


class DecodesWhatItCarries(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        for record in records:
            _ = record.event.event_type
        return await super().append(topic, records, **options)


class SwallowsAPublishError(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        try:
            return await super().append(topic, records, **options)
        except BackpressureError:
            return [Position(0, 0)] * len(records)


class RefusesAsInAnOutage(Memory):
    oversized = 50_000

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        if any(len(record.payload) >= self.oversized for record in records):
            raise PublishError("the broker does not answer")
        return await super().append(topic, records, **options)


class DropsTheOldestWhenFull(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        found = self._topics.get(topic)
        for stream in found.streams if found else ():
            while len(stream.mailbox) + len(records) > 100:
                stream.mailbox.popleft()
        return await super().append(topic, records, **options)


class DeliversDelayedAtOnce(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        at_once = [Record.of(r.event, r.key) if r.deliver_at is not None else r for r in records]
        positions = await super().append(topic, at_once, **options)
        return [None if r.deliver_at is not None else p for r, p in zip(records, positions, strict=True)]


class ReportsDelayedForEver(Memory):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._all: list[tuple[str, Record]] = []

    def _hold_back(self, due: float, topic: str, record: Record) -> None:
        self._all.append((topic, record))
        super()._hold_back(due, topic, record)

    async def held_back(self) -> AsyncIterator[tuple[str, Record]]:
        for held in self._all:
            yield held


class ForgetsHeadersOfDelayed(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        bare = [
            r if r.deliver_at is None else Record.of(r.event.replace(headers={}), r.key, r.deliver_at)
            for r in records
        ]
        return await super().append(topic, bare, **options)


# -- streams -----------------------------------------------------------------------------------------


class EagerStream(MemoryStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        batches = await super().receive(limit)
        await self.commit({batch.partition: batch.next_offset for batch in batches})
        return batches


class AcknowledgesBeforeHandling(Memory):
    stream_class = EagerStream


class GreedyStream(MemoryStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        await super().commit({p: self.delivered.get(p, at) for p, at in positions.items()})


class CommitsWhatWasReceived(Memory):
    stream_class = GreedyStream


class HoleStream(MemoryStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        await super().commit({p: at + 1 for p, at in positions.items()})


class CommitsPastAHole(Memory):
    stream_class = HoleStream


class BackwardStream(MemoryStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        await super().commit(positions)
        group = self._topic.groups.get(self.group or "")
        if group is not None:
            group.committed.update(positions)


class CommitsGoBack(Memory):
    stream_class = BackwardStream


class LateStream(MemoryStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        before, self.pending = self.__dict__.get("pending", {}), dict(positions)
        await super().commit({p: at for p, at in before.items() if p in self.delivered})

    async def close(self) -> None:
        group = self._topic.groups.get(self.group or "")
        kept = dict(group.committed) if group is not None else {}
        await super().close()
        if group is not None:
            group.committed = kept


class CommitsLate(Memory):
    stream_class = LateStream


class UndeadStream(MemoryStream):
    async def close(self) -> None:
        kept = list(self.mailbox)
        await super().close()
        self.mailbox.extend(kept)


class DeliversAfterClosing(Memory):
    stream_class = UndeadStream


class HastyStream(MemoryStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        batches = await super().receive(limit)
        await asyncio.sleep(0)  # cancelled here, the records are gone
        await asyncio.sleep(0)
        return batches


class LosesOnCancellation(Memory):
    stream_class = HastyStream


class PatientStream(MemoryStream):
    received = 0

    async def receive(self, limit: int) -> Sequence[Batch]:
        batches = await super().receive(limit)
        self.received = max([self.received, *(batch.next_offset for batch in batches)])
        return batches

    async def commit(self, positions: Mapping[int, int]) -> None:
        await super().commit(positions)
        if max(positions.values()) >= self.received:
            self.received = 0

    async def close(self) -> None:
        while self.received:
            await asyncio.sleep(0.01)
        await super().close()


class WaitsToBeCommitted(Memory):
    stream_class = PatientStream


class DropsRepeats(Memory):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._sent: set[tuple[str, str, str]] = set()

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        taken: list[Position | None] = []
        for record in records:
            name = (topic, record.event.metadata.ordering_key, record.event.event_id)
            if name in self._sent:
                taken.append(None)
                continue
            self._sent.add(name)
            taken += await super().append(topic, [record], **options)
        return taken


class FloodingStream(MemoryStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        return await super().receive(limit * 3)


class IgnoresTheLimit(Memory):
    stream_class = FloodingStream


class OptimisticStream(MemoryStream):
    def caught_up(self) -> bool:
        return True


class SaysCaughtUp(Memory):
    stream_class = OptimisticStream


class SilentStream(MemoryStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        while True:
            try:
                return await super().receive(limit)
            except PositionLostError:
                continue


class SaysNothingOfRetention(Memory):
    stream_class = SilentStream


class ForgetfulStream(MemoryStream):
    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        return


class ForgetsAttempts(Memory):
    stream_class = ForgetfulStream


class ReportsAttemptsOfAllGroups(Memory):
    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        found: dict[Position, Attempts] = {}
        for name in self._topics[topic].groups:
            found |= await super().read_attempts(topic, name, positions)
        return found


# -- subscriptions and groups ------------------------------------------------------------------------


class IgnoresStartByTime(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        if isinstance(request.start, datetime):
            request = replace(request, start=StartAt.EARLIEST)
        return await super().subscribe(request, listener)


class BeginsOneTooLate(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        if isinstance(request.start, Mapping):
            request = replace(request, start={p: at + 1 for p, at in request.start.items()})
        return await super().subscribe(request, listener)


class ShowsTheLatestOnceMore(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        found = self._topics.get(request.topic)
        if request.group is None and request.start is StartAt.LATEST and found is not None:
            first = {log.partition: max(log.next_offset - 1, log.earliest) for log in found.logs}
            request = replace(request, start=first)
        return await super().subscribe(request, listener)


class LeaksBetweenGroups(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        if request.group is not None:
            request = replace(request, group="everybody")
        return await super().subscribe(request, listener)


class OneGroupForLoneReaders(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        if request.group is None:
            request = replace(request, group="nobody")
        return await super().subscribe(request, listener)


class OrsItsFilters(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        class Or(Filter):
            def wants(self, event_type: str, pillar: str, priority: str) -> bool:
                return self.everything or (
                    event_type in self.event_types or pillar in self.pillars or priority in self.priorities
                )

        wanted = request.filter
        request = replace(request, filter=Or(wanted.event_types, wanted.pillars, wanted.priorities))
        return await super().subscribe(request, listener)


class GivesAPartitionToTwo(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        stream = await super().subscribe(request, listener)
        group = self._topics[request.topic].groups.get(request.group or "")
        if group is not None and len(group.members) > 1:
            first = group.members[0]
            extra = {p: at for p, at in stream.delivered.items() if p not in first.delivered}
            await first.listener.assigned(extra)
            first.take_over(extra)
        return stream


class SeeksUnderItsMembers(Memory):
    async def seek_group(self, topic: str, group: str, start: Any) -> Mapping[int, int]:
        found = self._find(topic)
        known = found.groups.setdefault(group, Group(group))
        known.committed = dict(found.resolve(start))
        return dict(known.committed)


class CountsAttemptsFromBeforeASeek(Memory):
    async def seek_group(self, topic: str, group: str, start: Any) -> Mapping[int, int]:
        known = self._find(topic).groups.get(group)
        attempts = {} if known is None else dict(known.attempts)
        moved = await super().seek_group(topic, group, start)
        self._find(topic).groups[group].attempts.update(attempts)
        return moved


class LagsByWhatWasReceived(Memory):
    async def groups(self) -> Sequence[GroupInfo]:
        found = []
        for info in await super().groups():
            owner = self._topics[info.topic].groups[info.group].owner(info.partition)
            lag = info.latest - owner.delivered[info.partition] if owner else info.lag
            found.append(replace(info, lag=lag))
        return found


class BringsATopicBack(Memory):
    async def delete_topic(self, name: str) -> None:
        topic = self._find(name)
        await super().delete_topic(name)
        self._graves = getattr(self, "_graves", {}) | {name: topic}

    def _make(self, name: str, config: Any = None) -> Any:
        old = getattr(self, "_graves", {}).get(name)
        if old is None:
            return super()._make(name, config)
        self._topics[name] = old
        return old


class ForgetsAGroupThatComesAThirdTime(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        if request.group is not None and request.topic.startswith("model."):
            times = self.__dict__.setdefault("times", {})
            times[request.group] = times.get(request.group, 0) + 1
            if times[request.group] == 3:
                request = replace(request, start=StartAt.LATEST, reset=True)
        return await super().subscribe(request, listener)


# -- storage -----------------------------------------------------------------------------------------


class ForgetfulSqliteStream(SqliteStream):
    counts: dict[tuple[int, str], Any] = {}

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        return


class ForgetsAttemptsAtRestart(Sqlite):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._kept: dict[tuple[str, str, int], Attempts] = {}

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> Any:
        stream = await super().subscribe(request, listener)
        kept, group, receive = self._kept, request.group or "", stream.receive

        async def save_attempts(delivery: Delivery, attempts: Attempts | None) -> None:
            if attempts is None:
                kept.pop((request.topic, group, delivery.offset), None)
            else:
                kept[request.topic, group, delivery.offset] = attempts

        async def receive_with_attempts(limit: int) -> Sequence[Batch]:
            return [
                batch._replace(
                    attempts={
                        d.offset: kept[request.topic, group, d.offset]
                        for d in batch.deliveries
                        if (request.topic, group, d.offset) in kept
                    }
                )
                for batch in await receive(limit)
            ]

        stream.save_attempts = save_attempts  # type: ignore[method-assign]
        stream.receive = receive_with_attempts  # type: ignore[method-assign]
        return stream


class KeepsNoNegativeAttempts(Sqlite):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> Any:
        stream = await super().subscribe(request, listener)
        save = stream.save_attempts

        async def save_attempts(delivery: Delivery, attempts: Attempts | None) -> None:
            await save(delivery, attempts and attempts._replace(failures=max(attempts.failures, 0)))

        stream.save_attempts = save_attempts  # type: ignore[method-assign]
        return stream


class AcknowledgesBeforeWriting(Sqlite):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        positions = await super().append(topic, records, **options)
        held = self.__dict__.setdefault("held", {})
        held.setdefault(topic, []).extend(p for p in positions if p is not None)
        return positions

    async def close(self) -> None:
        # The data that a crash would lose: the end of each topic.
        for topic, positions in self.__dict__.get("held", {}).items():
            if self.is_closed or not positions:
                continue
            await self.execute(
                "DELETE FROM records WHERE id = ((SELECT id FROM topics WHERE name = ?) << 40) | ?",
                (topic, positions[-1].offset),
            )
        await super().close()


class LosesState(Sqlite):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        if not records:
            return []
        return await super().append(topic, records, **options)


class SeesNoOtherProcess(Sqlite):
    poll = 3_600.0


class DropsDelayedAtRestart(Sqlite):
    async def close(self) -> None:
        if not self.is_closed:
            await self.execute("DELETE FROM delayed", ())
        await super().close()


class TakesRetentionForEverybody(Sqlite):
    async def create_topic(self, name: str, config: Any) -> Any:
        info = await super().create_topic(name, config)
        if config.retention_records is not None:
            await self.execute(
                "UPDATE topics SET retention_records = min(?, coalesce(retention_records, 1 << 40))",
                (config.retention_records,),
            )
        return info


class SendsNoHeartbeatWhileItRevokes(Sqlite):
    lease = LEASE

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        writer = self._session.writer
        repeat = writer.repeat
        revoked = listener.revoked
        busy: list[None] = []
        writer.repeat = lambda work: repeat(Unless(busy, work))  # type: ignore[method-assign]

        async def revoke(partitions: Sequence[int]) -> None:
            busy.append(None)
            await revoked(partitions)
            busy.pop()

        listener.revoked = revoke  # type: ignore[method-assign]
        return await super().subscribe(request, listener)


class Unless:
    """Repeated work that is left out while a list has elements."""

    def __init__(self, busy: Sequence[None], work: Repeated) -> None:
        self.interval = work.interval
        self._busy = busy
        self._work = work

    def __call__(self, connection: sqlite3.Connection) -> None:
        if not self._busy:
            self._work(connection)


class KeepsTheListOfTopics(Sqlite):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._listed: Sequence[TopicInfo] | None = None

    async def topics(self) -> Sequence[TopicInfo]:
        if self._listed is None:
            self._listed = await super().topics()
        return self._listed


class EvictsWhoDoesNotReceive(Memory):
    """A member of a group that does not receive for longer than a lease counts as dead."""

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        stream = await super().subscribe(request, listener)
        if request.group is None:
            return stream
        receive = stream.receive
        loop = asyncio.get_running_loop()
        evictions: list[asyncio.Task[None]] = []

        async def watched(limit: int) -> Sequence[Batch]:
            batches = await receive(limit)
            timer = loop.call_later(LEASE, lambda: evictions.append(loop.create_task(stream.close())))
            timers.append(timer)
            return batches

        async def called(limit: int) -> Sequence[Batch]:
            while timers:
                timers.pop().cancel()
            return await watched(limit)

        timers: list[asyncio.TimerHandle] = []
        stream.receive = called  # type: ignore[method-assign]
        return stream


class ProducesBesideTheTransaction(Sqlite):
    """Appends the records before it checks the position, so that a member without the partition publishes too."""

    async def subscribe(self, request: Any, listener: Any) -> Any:
        stream = await super().subscribe(request, listener)

        async def produce(partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
            if records:
                await self.append(topic, records)
            if stream.closed:
                raise FencedError("too late")
            await stream.commit({partition: offset})

        stream.produce = produce  # type: ignore[method-assign]
        return stream


class ForgetsWhatWasProduced(Sqlite):
    async def subscribe(self, request: Any, listener: Any) -> Any:
        stream = await super().subscribe(request, listener)

        async def produce(partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
            await stream.commit({partition: offset})
            if len(records) == 1:
                await self.append(topic, records)

        stream.produce = produce  # type: ignore[method-assign]
        return stream


MUTANTS = [
    Mutant(
        "drops-by-id",
        G.SENDERS_APART,
        "drops a record whose event id it has seen before",
        DropsRepeatsByTheirId,
    ),
    Mutant(
        "redrives-for-all",
        G.REDRIVE_FOR_ONE,
        "drops the header that names the group of a redriven event",
        RedrivesForEverybody,
    ),
    Mutant(
        "shows-engine-headers",
        G.ENGINE_HEADERS,
        "shows headers of the engine to users under other names",
        ShowsHeadersOfTheEngine,
    ),
    Mutant(
        "quiet-while-it-revokes",
        G.MEMBERSHIP,
        "sends no heartbeat while it gives partitions up",
        SendsNoHeartbeatWhileItRevokes,
    ),
    Mutant(
        "produces-beside",
        G.TRANSACTION,
        "publishes a member's results before it checks that the member still owns the partition",
        ProducesBesideTheTransaction,
    ),
    Mutant(
        "forgets-produced",
        G.TRANSACTION,
        "commits a position without the records produced for it",
        ForgetsWhatWasProduced,
    ),
    Mutant("loses-last", G.COMPLETE, "loses the last record of a large batch", LosesTheLastOfABatch),
    Mutant("reorders", G.KEY_ORDER, "reorders the records of a key within a batch", ReordersWithinAKey),
    Mutant("reuses-offset", G.POSITIONS, "gives some offsets to two records", ReusesAnOffset),
    Mutant("lower-cases-headers", G.UNCHANGED, "lower-cases the names of headers", LowerCasesHeaders),
    Mutant(
        "drops-headers",
        G.DEAD_LETTER,
        "drops headers, and with them the reason of a dead letter",
        DropsHeaders,
    ),
    Mutant(
        "takes-schemas",
        G.WRITER_SCHEMA,
        "takes headers that name schemas for its own",
        TakesSchemasForItsOwn,
    ),
    Mutant("truncates", G.COMPLETE, "cuts payloads at 64 KiB", TruncatesAt64K),
    Mutant("decodes", G.DEAD_LETTER, "decodes records that it should only carry", DecodesWhatItCarries),
    Mutant("swallows-error", G.REFUSED, "swallows the error of a full buffer", SwallowsAPublishError),
    Mutant(
        "refuses-as-outage",
        G.PERMANENT,
        "raises the error of an outage for what it never takes",
        RefusesAsInAnOutage,
    ),
    Mutant(
        "drops-oldest",
        G.BACK_PRESSURE,
        "drops the oldest records when a buffer is full",
        DropsTheOldestWhenFull,
    ),
    Mutant("hurries", G.DELAYED, "delivers delayed records at once", DeliversDelayedAtOnce),
    Mutant("delayed-for-ever", G.DELAYED, "reports delivered records as held back", ReportsDelayedForEver),
    Mutant("keeps-the-list", G.PATTERNS, "lists topics once and keeps the list", KeepsTheListOfTopics),
    Mutant("evicts-the-silent", G.PAUSED, "evicts a member that does not receive", EvictsWhoDoesNotReceive),
    Mutant(
        "bares-delayed", G.REDELIVERED_LATER, "loses the headers of delayed records", ForgetsHeadersOfDelayed
    ),
    Mutant("acknowledges-early", G.AT_LEAST_ONCE, "acknowledges before handling", AcknowledgesBeforeHandling),
    Mutant("commits-received", G.HANDLED_BEFORE_COMMIT, "commits what was received", CommitsWhatWasReceived),
    Mutant("commits-past-hole", G.COMMIT, "commits one record too far, past a hole", CommitsPastAHole),
    Mutant("commits-back", G.COMMIT, "lets a late commit move the position back", CommitsGoBack),
    Mutant("commits-late", G.DRAIN, "performs a commit only at the next one", CommitsLate),
    Mutant("undead", G.CLOSED, "delivers to a closed subscription", DeliversAfterClosing),
    Mutant(
        "loses-on-cancel", G.CANCELLATION, "loses the records of a cancelled receive", LosesOnCancellation
    ),
    Mutant("patient", G.LEAVES, "closes only when everything is committed", WaitsToBeCommitted),
    Mutant("drops-repeats", G.REQUESTS, "drops a record that its sender sent before", DropsRepeats),
    Mutant("floods", G.BOUNDED_RECEIVE, "returns more records than requested", IgnoresTheLimit),
    Mutant("optimistic", G.CAUGHT_UP, "reports that it has caught up when it has not", SaysCaughtUp),
    Mutant(
        "silent-retention",
        G.RETENTION,
        "skips records that retention removed without reporting it",
        SaysNothingOfRetention,
    ),
    Mutant("forgets-attempts", G.ATTEMPTS, "keeps no count of attempts", ForgetsAttempts),
    Mutant(
        "attempts-of-all",
        G.ATTEMPTS,
        "reports the failed attempts of every group as those of one",
        ReportsAttemptsOfAllGroups,
    ),
    Mutant(
        "ignores-time",
        G.START_BY_TIME,
        "ignores a start by time and starts at the earliest",
        IgnoresStartByTime,
    ),
    Mutant("starts-late", G.REPLAY, "starts one record after the requested position", BeginsOneTooLate),
    Mutant(
        "repeats-latest",
        G.LATEST,
        "delivers the last earlier record to a new subscription",
        ShowsTheLatestOnceMore,
    ),
    Mutant("leaks", G.INDEPENDENT, "leaks one group's records into another", LeaksBetweenGroups),
    Mutant("shares", G.INDEPENDENT, "shares records between lone readers", OneGroupForLoneReaders),
    Mutant("ors-filters", G.FILTER, "treats a filter's sets as alternatives", OrsItsFilters),
    Mutant("two-owners", G.GROUP_SHARING, "gives a partition to two members", GivesAPartitionToTwo),
    Mutant(
        "seeks-members", G.SEEK, "moves the position of a group that has active members", SeeksUnderItsMembers
    ),
    Mutant(
        "old-attempts",
        G.ATTEMPTS,
        "counts the failed attempts from before the position of a group was set",
        CountsAttemptsFromBeforeASeek,
    ),
    Mutant("wrong-lag", G.LAG, "counts lag by what was received", LagsByWhatWasReceived),
    Mutant("brings-back", G.ADMIN, "brings a deleted topic's records back", BringsATopicBack),
    Mutant(
        "third-time",
        G.AS_THE_REFERENCE,
        "forgets a group's position at its third subscription",
        ForgetsAGroupThatComesAThirdTime,
    ),
    Mutant("restart-attempts", G.ATTEMPTS, "forgets attempts at restart", ForgetsAttemptsAtRestart),
    Mutant("unsigned-attempts", G.ATTEMPTS, "keeps no negative number of attempts", KeepsNoNegativeAttempts),
    Mutant("not-durable", G.DURABLE, "acknowledges before writing", AcknowledgesBeforeWriting),
    Mutant("loses-state", G.STATE, "loses state that is saved without records", LosesState),
    Mutant("lonely", G.PROCESSES, "sees no records of other processes", SeesNoOtherProcess),
    Mutant("drops-delayed", G.DELAYED, "forgets delayed records at restart", DropsDelayedAtRestart),
    Mutant(
        "retention-for-all", G.RETENTION, "applies one topic's retention to all", TakesRetentionForEverybody
    ),
]
