"""Buses that go wrong when members or partitions come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bus import Memory
from catalogue import Mutant

from dimesh.backends.bus.memory.group import Group
from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.spi.bus import Attempts, Delivery, PartitionListener, Subscribe, TopicConfig, TopicInfo
from dimesh_contracts.bus import BusGuarantee as G


class Impatient:
    """A listener that does not wait for ``revoked``."""

    def __init__(self, listener: PartitionListener) -> None:
        self.assigned, self.lost = listener.assigned, listener.lost
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()

    async def revoked(self, partitions: Sequence[int]) -> None:
        self._tasks.add(asyncio.ensure_future(self._listener.revoked(partitions)))


class DoesNotWaitForRevoked(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        return await super().subscribe(request, Impatient(listener))


class RestlessStream(MemoryStream):
    def give_up(self, partitions: Sequence[int]) -> None:
        self._store(partitions)
        super().give_up(partitions)

    async def close(self) -> None:
        self._store(list(self.delivered))
        await super().close()

    def _store(self, partitions: Sequence[int]) -> None:
        group: Group | None = self._topic.groups.get(self.group or "")
        for partition in partitions:
            if group is not None and partition in self.delivered:
                group.committed[partition] = self.delivered[partition]


class ContinuesWhereItWasRead(Memory):
    stream_class = RestlessStream


class UnfencedStream(MemoryStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        group = self._topic.groups.get(self.group or "")
        if group is not None:
            for partition, offset in positions.items():
                group.committed[partition] = max(offset, group.committed.get(partition, 0))


class LetsAnybodyCommit(Memory):
    stream_class = UnfencedStream


class LooksForPartitionsOnce(Memory):
    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        topic = self._topics.get(name)
        known = {stream: set(stream.delivered) for stream in topic.streams} if topic else {}
        info = await super().create_topic(name, config)
        for stream, partitions in known.items():
            stream.give_up(sorted(stream.delivered.keys() - partitions))
        return info


class SharedAttemptsStream(MemoryStream):
    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        group = self._topic.groups.get(self.group or "")
        for log in self._topic.logs if group is not None else ():
            if attempts is None:
                group.attempts.pop((log.partition, delivery.offset), None)
            else:
                group.attempts[log.partition, delivery.offset] = attempts


class CountsAttemptsByOffset(Memory):
    stream_class = SharedAttemptsStream


class MovesRecordsToNewPartitions(Memory):
    """Distributes what is there over the new partitions, while the positions of the group stay."""

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        topic = self._topics.get(name)
        before = topic.partitions if topic else 0
        info = await super().create_topic(name, config)
        if topic is not None and 0 < before < topic.partitions:
            records: list[Any] = [d.record for log in topic.logs[:before] for d in log.records]
            for log in topic.logs:
                log.records.clear()
            self._take(topic, records)
        return info


MUTANTS = [
    Mutant(
        "does-not-wait",
        G.HANDOVER,
        "gives a partition away while its owner still finishes its records",
        DoesNotWaitForRevoked,
    ),
    Mutant(
        "continues-where-read",
        G.CHURN,
        "lets the next owner of a partition begin after what the last one had received",
        ContinuesWhereItWasRead,
    ),
    Mutant("unfenced", G.FENCED, "lets a member commit a partition that has moved", LetsAnybodyCommit),
    Mutant(
        "looks-once",
        G.COMPLETE,
        "reads no partitions that are added after a subscription was made",
        LooksForPartitionsOnce,
    ),
    Mutant(
        "moves-records",
        G.COMMIT,
        "moves the backlog to other partitions when some are added",
        MovesRecordsToNewPartitions,
    ),
    Mutant(
        "attempts-by-offset",
        G.ATTEMPTS,
        "counts attempts by offset, for all partitions together",
        CountsAttemptsByOffset,
    ),
]
