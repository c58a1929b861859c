"""Members of a group that come, go and lag behind, and topics that grow under them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import FencedError
from dimesh.spi.bus import Attempts, BusBackend, TopicConfig
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import QUIET, BusHarness, Listener, NewBackend, payloads, record
from dimesh_contracts.contract import NOT_OFFERED, proves
from dimesh_contracts.effort import load
from dimesh_contracts.history.exercise import exercise
from dimesh_contracts.waiting import deadline, eventually, until

PARTITIONS = 2


class SlowListener(Listener):
    """A listener whose ``revoked`` returns when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.revoking: list[int] = []
        self.finish = asyncio.Event()

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Wait before the partitions are given up."""
        self.revoking += partitions
        await self.finish.wait()
        await super().revoked(partitions)


class Members(BusHarness):
    """What members may do to each other, and what they may not."""

    @proves(G.HANDOVER, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_a_partition_moves_after_revoked_has_returned(
        self, backend: BusBackend, topic: str
    ) -> None:
        """While one member still finishes what it has of a partition, nobody else gets that partition. Usually wrong:
        ``revoked`` is called and not awaited; the partition is assigned to the new member first.
        """
        await backend.create_topic(topic, TopicConfig(partitions=PARTITIONS))
        slow, eager = SlowListener(), Listener()
        one = await self.open_reader(backend, topic, "g", listener=slow)
        pumps = [asyncio.create_task(one.look())]
        await until(lambda: len(slow.owned) == PARTITIONS, 2)
        await backend.append(topic, [record(n, f"k{n}") for n in range(20)])
        await until(lambda: len(one.got) == 20)

        async def join() -> None:
            two = await self.open_reader(backend, topic, "g", listener=eager)
            try:
                await two.look()
            finally:
                await two.close()

        pumps.append(asyncio.create_task(join()))
        await until(lambda: slow.revoking, 2)
        await asyncio.sleep(QUIET)  # the time in which a wrong backend would assign it
        assert not eager.owned.keys() & set(slow.revoking), "a partition has two owners"
        slow.finish.set()
        await until(lambda: eager.owned, 2)
        assert not eager.owned.keys() & slow.owned.keys()
        for pump in reversed(pumps):
            pump.cancel()
            await asyncio.wait({pump})
        await one.close()

    @proves(G.FENCED, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_what_has_moved_cannot_be_committed_by_its_old_owner(
        self, backend: BusBackend, topic: str
    ) -> None:
        """A member that has given a partition up is fenced, and its position does not move; partitions that it still owns are
        committed by the same call. Usually wrong: any member of the group may commit any partition; one refusal refuses all.
        """
        await backend.create_topic(topic, TopicConfig(partitions=PARTITIONS))
        one = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n, f"k{n}") for n in range(20)])
        got = await one.take(20)
        ends = dict(one.listener.handled)
        one.listener.handled.clear()  # nothing is handled yet, so that nothing is committed when a partition moves
        looking = asyncio.create_task(one.look())
        two = await self.open_reader(backend, topic, "g")
        seeing = asyncio.create_task(two.look())
        await until(lambda: len(one.listener.owned) == len(two.listener.owned) == 1, 2)
        (moved,) = two.listener.owned
        with pytest.raises(FencedError):
            await one.stream.commit(ends)
        for pump, reader in ((looking, one), (seeing, two)):
            pump.cancel()
            await asyncio.wait({pump})
            await reader.close()
        last = await self.open_reader(backend, topic, "g")
        expected = sorted(d.record.event.payload for d in got if d.partition == moved)
        assert sorted(payloads(await last.take(len(expected), times=2))) == expected
        await last.nothing()
        await last.close()

    @proves(G.CHURN, Capability.GROUPS, Capability.KEY_ORDER, Capability.TOPIC_ADMIN)
    async def test_members_come_and_go_under_load(
        self, new_backend: NewBackend, backend: BusBackend, tmp_path: Path, topic: str
    ) -> None:
        """Two members stay and others join, handle something and leave, while four publishers are at work. The history checker
        finds no loss, no disorder within a key, and no position ahead of handling. Usually wrong: the next owner of a
        partition continues where the last one had read, not where it had committed.
        """
        if self.family == "log":
            await backend.create_topic(topic, TopicConfig(partitions=4))
        elif Capability.CONFIRMED_ACKS not in backend.capabilities:
            # An acknowledgement that is lost while a member leaves is no fault there, and neither is the repeat.
            pytest.skip(f"{NOT_OFFERED}{Capability.CONFIRMED_ACKS.value}")
        several = Capability.MULTI_PROCESS in backend.capabilities
        await exercise(
            new_backend if several else lambda: backend,
            tmp_path,
            topic=topic,
            events=load(200),
            members=2,
            guests=load(3),
            pause=0.002,
            one_bus=not several,
            work=0.03,
        )

    @proves(G.COMPLETE, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_partitions_are_added_while_somebody_reads(self, backend: BusBackend, topic: str) -> None:
        """Streams that are open, with a group and without one, get the records of partitions that are added later, from the
        first one on. Usually wrong: the partitions are looked up once, when a stream is opened; a new partition is read from
        its end.
        """
        await backend.create_topic(topic, TopicConfig(partitions=1))
        lone = await self.open_reader(backend, topic)
        member = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(0)])
        for reader in (lone, member):
            await reader.take(1)
        await backend.create_topic(topic, TopicConfig(partitions=4))
        sent = 0

        async def spread() -> bool:
            """Append until a new partition got something: a publisher may learn of it a little later."""
            nonlocal sent
            positions = await backend.append(topic, [record(sent + n, f"k{n}") for n in range(1, 21)])
            sent += 20
            return any(p is not None and p.partition > 0 for p in positions)

        await eventually(spread)
        for reader in (lone, member):
            assert sorted(payloads(await reader.take(sent, times=2))) == list(range(1, sent + 1))
        await member.commit()
        await member.close()
        again = await self.open_reader(backend, topic, "g")
        await again.nothing()
        await again.close()
        await lone.close()

    @proves(G.COMMIT, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_a_backlog_outlasts_new_partitions(self, backend: BusBackend, topic: str) -> None:
        """When partitions are added, a group still gets exactly what it has not committed. Usually wrong: records move to the
        partitions that their keys have now, past positions that were committed there.
        """
        await backend.create_topic(topic, TopicConfig(partitions=PARTITIONS))
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n, f"k{n}") for n in range(30)])
        got = await reader.take(30)
        await reader.stream.commit({1: reader.listener.handled[1]})
        await reader.close()
        await backend.create_topic(topic, TopicConfig(partitions=PARTITIONS + 1))
        again = await self.open_reader(backend, topic, "g")
        expected = sorted(d.record.event.payload for d in got if d.partition != 1)
        assert sorted(payloads(await again.take(len(expected), times=2))) == expected
        await again.nothing()
        await again.close()

    @proves(G.ATTEMPTS, Capability.GROUPS, Capability.DURABLE_ATTEMPTS, Capability.TOPIC_ADMIN, family="log")
    async def test_attempts_of_equal_offsets_in_two_partitions(self, backend: BusBackend, topic: str) -> None:
        """Each partition counts for itself, where offsets are counted for each partition. Usually wrong: attempts are kept by
        offset alone.
        """
        await backend.create_topic(topic, TopicConfig(partitions=PARTITIONS))
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n, f"k{n}") for n in range(20)])
        got = await reader.take(20)
        one, two = min(
            ((a, b) for a in got for b in got if a.partition < b.partition),
            key=lambda pair: abs(pair[0].offset - pair[1].offset),
        )
        first, second = Attempts(2, 1_700_000_000.0), Attempts(5, 1_700_000_001.0)
        await reader.stream.save_attempts(one, first)
        await reader.stream.save_attempts(two, second)

        async def kept() -> Mapping[tuple[int, int], Attempts]:
            again = await self.open_reader(backend, topic, "g")
            found: dict[tuple[int, int], Attempts] = {}
            seen = 0
            async with deadline():
                while seen < 20:
                    for batch in await again.stream.receive(20):
                        seen += len(batch.deliveries)
                        found |= {(batch.partition, at): tried for at, tried in batch.attempts.items()}
            await again.stream.save_attempts(one, None)
            await again.close()
            return found

        await reader.close()
        theirs = {(one.partition, one.offset): first, (two.partition, two.offset): second}
        assert await kept() == theirs
        del theirs[one.partition, one.offset]
        assert await kept() == theirs
