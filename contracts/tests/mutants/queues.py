"""Queues with one fault each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from catalogue import Mutant
from queue_backend import Held, QueueBackend, QueueStream

from dimesh.errors import FencedError
from dimesh.spi.bus import Batch, Delivery, TopicConfig, TopicInfo
from dimesh_contracts.bus import BusGuarantee as G


class TakesAReleaseForAnAcknowledgement(QueueStream):
    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        await self.acknowledge(deliveries)


class IgnoresTheDelay(QueueStream):
    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        await super().release(deliveries)


class LetsLeasesLapse(QueueStream):
    async def extend(self) -> None:
        pass


class AcknowledgesAllBefore(QueueStream):
    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        last = max((delivery.offset for delivery in deliveries), default=0)
        for offset in [offset for offset in self.group.held if offset <= last]:
            del self.group.held[offset]


class AcknowledgesByTheRecord(QueueStream):
    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.group.held.pop(delivery.offset, None)


class RefusesAllForOne(QueueStream):
    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            held = self.group.held.get(delivery.offset)
            if held is None or held.token != delivery.token:
                raise FencedError("lapsed")
        await super().acknowledge(deliveries)


class AcknowledgesAtReceive(QueueStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        batches = await super().receive(limit)
        for batch in batches:
            await super().acknowledge(batch.deliveries)
        return batches

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        pass


class TakesItsLeasesAlong(QueueStream):
    async def close(self) -> None:
        mine = [held for held in self.group.held.values() if held.owner is self]
        await super().close()
        for held in mine:
            held.until = 1e18


class GivesToEverybody(QueueStream):
    def free(self) -> list[Held]:
        twice = [
            held
            for held in self.group.held.values()
            if held.owner not in (None, self)
            and held.offset % 5 == 0
            and held.offset not in self.group.stolen
        ]
        self.group.stolen.update(held.offset for held in twice)
        return [*super().free(), *twice]


class ForgetsTheAge(QueueBackend):
    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        return await super().create_topic(name, replace(config, retention_seconds=None))


def streams(kind: type[QueueStream]) -> Callable[[Path], QueueBackend]:
    """Return a function that makes a queue whose streams have the fault."""

    def make(folder: Path) -> QueueBackend:
        made = QueueBackend()
        made.stream_class = kind
        return made

    return make


MUTANTS = [
    Mutant(
        "forgets-released",
        G.LEASE,
        "treats a release as an acknowledgement",
        streams(TakesAReleaseForAnAcknowledgement),
    ),
    Mutant("impatient", G.LEASE, "ignores the delay of a release", streams(IgnoresTheDelay)),
    Mutant(
        "lets-lapse",
        G.LEASE,
        "lets leases expire while their deliveries are handled",
        streams(LetsLeasesLapse),
    ),
    Mutant("hoards", G.LEASE, "keeps the leases of a member that has left", streams(TakesItsLeasesAlong)),
    Mutant("two-leases", G.LEASE, "leases some records to two members", streams(GivesToEverybody)),
    Mutant(
        "acknowledges-before",
        G.COMMIT,
        "treats an acknowledgement as covering everything before it",
        streams(AcknowledgesAllBefore),
    ),
    Mutant(
        "acknowledges-received",
        G.AT_LEAST_ONCE,
        "acknowledges what was received",
        streams(AcknowledgesAtReceive),
    ),
    Mutant(
        "acknowledges-lapsed",
        G.CONFIRMED,
        "accepts an acknowledgement of an expired lease",
        streams(AcknowledgesByTheRecord),
    ),
    Mutant(
        "refuses-all",
        G.CONFIRMED,
        "refuses all acknowledgements of a call because of one expired lease",
        streams(RefusesAllForOne),
    ),
    Mutant(
        "ageless", G.RETENTION, "accepts a retention by age and does not store it", lambda _: ForgetsTheAge()
    ),
]
