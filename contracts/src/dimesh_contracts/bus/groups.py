"""Consumer groups: sharing, committing, handing over, counting attempts."""

from __future__ import annotations

import asyncio

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import BusError, FencedError, TopicNotFoundError
from dimesh.events import EventPriority
from dimesh.spi.bus import (
    Attempts,
    Batch,
    BusBackend,
    Filter,
    KeptAttempts,
    Position,
    StartAt,
    TopicConfig,
)
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, Reader, payloads, record
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, eventually


class Groups(BusHarness):
    """Everything that belongs to a group rather than to a reader."""

    @proves(G.COMMIT, Capability.GROUPS)
    async def test_a_group_goes_on_at_its_commit(self, backend: BusBackend, topic: str) -> None:
        """What was committed is not delivered again; what was not committed is. Usually wrong: a commit at receive; off by
        one.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(4)])
        await reader.take(2, limit=2)
        await reader.commit()
        await reader.take(1, limit=1)
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(2)) == [2, 3]
        await again.close()

    @proves(G.AT_LEAST_ONCE, Capability.GROUPS)
    async def test_what_was_not_committed_comes_again(self, backend: BusBackend, topic: str) -> None:
        """The next member gets it, in order, as often as nobody commits. Usually wrong: a position that moves with reading;
        a lease that counts as an acknowledgement.
        """
        first = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(5)])
        assert payloads(await first.take(5)) == list(range(5))
        await first.close()
        for _ in range(3):
            reader = await self.open_reader(backend, topic, "g")
            assert payloads(await reader.take(5)) == list(range(5))
            await reader.close()

    @proves(G.COMMIT, Capability.GROUPS)
    async def test_a_group_gets_what_came_while_nobody_was_there(
        self, backend: BusBackend, topic: str
    ) -> None:
        """A group exists from its first subscription on. Usually wrong: LATEST is applied to a group that has a position."""
        await (await self.open_reader(backend, topic, "g")).close()
        await backend.append(topic, [record("meanwhile")])
        reader = await self.open_reader(backend, topic, "g")
        assert payloads(await reader.take(1)) == ["meanwhile"]
        await reader.close()

    @proves(G.INDEPENDENT, Capability.GROUPS)
    async def test_groups_do_not_touch_each_other(self, backend: BusBackend, topic: str) -> None:
        """Each group gets everything, whatever the others receive and commit. Usually wrong: a position stored by topic
        only; the members of one group counted as another's.
        """
        one = await self.open_reader(backend, topic, "one")
        two = await self.open_reader(backend, topic, "two")
        alone = await self.open_reader(backend, topic)
        await backend.append(topic, [record(n) for n in range(3)])
        assert payloads(await one.take(3)) == [0, 1, 2]
        await one.commit()
        assert payloads(await two.take(3)) == [0, 1, 2]
        assert payloads(await alone.take(3)) == [0, 1, 2]
        for reader in (one, two, alone):
            await reader.nothing(0.03)
            await reader.close()

    @proves(G.LAG, Capability.GROUPS, Capability.COUNTED_LAG)
    async def test_lag_counts_what_is_not_committed(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: lag computed from what was received; a group without members is not listed."""

        async def lag() -> int:
            found = [g for g in await backend.groups() if g.topic == topic and g.group == "g"]
            assert found
            return sum(g.lag or 0 for g in found)

        async def is_lag(expected: int) -> bool:
            return await lag() == expected

        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(7)])
        await eventually(lambda: is_lag(7))
        await reader.take(3, limit=3)
        await eventually(lambda: is_lag(7))
        await reader.commit()
        await eventually(lambda: is_lag(4))
        await reader.close()
        await backend.append(topic, [record("more")])
        await eventually(lambda: is_lag(5))

    @proves(G.COMMIT, Capability.GROUPS, family="log")
    async def test_a_commit_never_goes_back(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: two commits are stored in the order of their arrival."""
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(3)])
        got = await reader.take(3)
        await reader.commit()
        await reader.stream.commit({got[0].partition: got[0].offset})
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        await again.nothing()
        await again.close()

    @proves(G.COMMIT, Capability.GROUPS, family="log")
    async def test_a_commit_covers_what_is_below_it_and_no_more(
        self, backend: BusBackend, topic: str
    ) -> None:
        """The offset is that of the next record to be handled. Usually wrong: it is read as the last one handled, which
        skips or repeats a record.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(6)])
        got = await reader.take(6)
        await reader.stream.commit({got[3].partition: got[3].offset})
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(3)) == [3, 4, 5]
        await again.close()

    @proves(G.COMMIT, Capability.GROUPS, Capability.LOOK_BACK)
    async def test_a_new_group_begins_where_it_asks(self, backend: BusBackend, topic: str) -> None:
        """A new group starts at ``start``; an old one continues, unless it is reset. Usually wrong: an old group obeys
        ``start``.
        """
        await backend.append(topic, [record(n) for n in range(3)])
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        assert payloads(await reader.take(3)) == [0, 1, 2]
        await reader.commit()
        await reader.close()
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        await reader.nothing(0.05)
        await reader.close()
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST, reset=True)
        assert payloads(await reader.take(3)) == [0, 1, 2]
        await reader.close()

    @proves(G.FILTER, Capability.GROUPS, Capability.FILTER_PUSHDOWN, Capability.COUNTED_LAG)
    async def test_what_is_filtered_out_does_not_hold_up_a_group(
        self, backend: BusBackend, topic: str
    ) -> None:
        """The position passes what the filter left out: otherwise a group that wants none of the new records would lag for
        ever. Usually wrong: ``next_offset`` of the last record delivered.
        """
        wanted = Filter(frozenset({"good.kind"}), frozenset({"P"}), frozenset({"high"}))
        reader = await self.open_reader(backend, topic, "g", filter=wanted)
        await backend.append(
            topic,
            [
                record(1, kind="bad.kind", source_pillar="P", priority=EventPriority.HIGH),
                record(2, kind="good.kind", source_pillar="P", priority=EventPriority.HIGH),
                record(3, kind="good.kind", source_pillar="Q", priority=EventPriority.HIGH),
                record(4, kind="good.kind", source_pillar="P", priority=EventPriority.LOW),
                record(5, kind="good.kind", source_pillar="P", priority=EventPriority.HIGH),
                *(record(n, kind="bad.kind") for n in range(6, 12)),
            ],
        )
        assert payloads(await reader.take(2)) == [2, 5]
        pump = asyncio.create_task(reader.take(1))

        async def no_lag() -> bool:
            await reader.commit()
            return not any(g.lag for g in await backend.groups() if g.topic == topic)

        await eventually(no_lag)
        pump.cancel()
        await asyncio.wait({pump})
        await reader.close()

    @proves(G.GROUP_SHARING, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_members_share_and_hand_over(self, backend: BusBackend, topic: str) -> None:
        """Two members get disjoint partitions; one gets what the other gives up, from its commit on. Usually wrong: a
        partition is delivered to both, or to neither, while it moves.
        """
        await backend.create_topic(topic, TopicConfig(partitions=4))
        one = await self.open_reader(backend, topic, "g")
        two = await self.open_reader(backend, topic, "g")
        pumps = [asyncio.create_task(reader.consume()) for reader in (one, two)]

        async def shared() -> bool:
            owned = (set(one.listener.owned), set(two.listener.owned))
            return owned[0] | owned[1] == {0, 1, 2, 3} and not owned[0] & owned[1] and all(owned)

        await eventually(shared, 2)
        await backend.append(topic, [record(n, f"key-{n}") for n in range(200)])
        await eventually(lambda: _at_least(one, two, 200), 2)
        assert sorted(payloads(one.got + two.got)) == list(range(200))
        assert one.got
        assert two.got
        pumps[0].cancel()
        await asyncio.wait({pumps[0]})
        await one.commit()
        await one.close()

        async def taken_over() -> bool:
            return set(two.listener.owned) == {0, 1, 2, 3}

        await eventually(taken_over, 2)
        await backend.append(topic, [record(n, f"key-{n}") for n in range(200, 300)])
        await eventually(lambda: _at_least(one, two, 300), 2)
        assert sorted(payloads(one.got + two.got)) == list(range(300))
        pumps[1].cancel()
        await asyncio.wait({pumps[1]})
        await two.close()

    @proves(G.GROUP_SHARING, Capability.GROUPS, Capability.TOPIC_ADMIN, Capability.KEY_ORDER, family="log")
    async def test_keys_keep_their_order_while_members_come_and_go(
        self, backend: BusBackend, topic: str
    ) -> None:
        """The first deliveries of each key are in order and complete, although its partition moves. Usually wrong: the new
        owner starts before the old one has committed, or after records that nobody got.
        """
        await backend.create_topic(topic, TopicConfig(partitions=3))
        firsts: dict[str, list[int]] = {f"key-{k}": [] for k in range(6)}
        seen: set[int] = set()
        stopped = asyncio.Event()

        async def member() -> None:
            reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
            leave = asyncio.create_task(stopped.wait())
            for _ in range(10_000):
                receive = asyncio.create_task(reader.stream.receive(9))
                await asyncio.wait({receive, leave}, return_when=asyncio.FIRST_COMPLETED)
                if not receive.done():
                    receive.cancel()
                    await asyncio.wait({receive})
                    break
                for batch in receive.result():
                    for d in batch.deliveries:
                        number = d.record.event.payload
                        if number not in seen:
                            seen.add(number)
                            firsts[d.record.key].append(number)
                    if batch.partition in reader.listener.owned:
                        reader.listener.handled[batch.partition] = batch.next_offset
                try:
                    await reader.commit()
                except FencedError:
                    pass
                if len(seen) % 5 == 0:
                    break  # others come in its place
            leave.cancel()
            await reader.close()

        async def members() -> None:
            while not stopped.is_set():
                await member()

        steady = [asyncio.create_task(members()) for _ in range(3)]
        for n in range(0, 300, 10):
            await backend.append(topic, [record(n + m, f"key-{(n + m) % 6}") for m in range(10)])

        async def complete() -> bool:
            return len(seen) == 300

        try:
            await eventually(complete, 3)
        finally:
            stopped.set()
            await asyncio.gather(*steady, return_exceptions=True)
        for number, found in enumerate(firsts.values()):
            assert found == list(range(number, 300, 6))

    @proves(G.ATTEMPTS, Capability.GROUPS, Capability.DURABLE_ATTEMPTS)
    async def test_attempts_belong_to_the_group(self, backend: BusBackend, topic: str) -> None:
        """The next member sees the count of failed attempts, until the count is deleted; so do others, if the backend reports
        it. Usually wrong: it is kept with the stream; it counts for another group, too.
        """
        reader = await self.open_reader(backend, topic, "g")
        other = await self.open_reader(backend, topic, "other")
        await backend.append(topic, [record(1), record(2)])
        (delivery, second) = await reader.take(2)
        await reader.stream.save_attempts(delivery, Attempts(2, 1_700_000_000.0))
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        batch = await first_batch(again)
        assert dict(batch.attempts) == {delivery.offset: Attempts(2, 1_700_000_000.0)}
        if isinstance(backend, KeptAttempts):
            places = [Position(d.partition, d.offset) for d in (delivery, second)]
            reported = await backend.read_attempts(topic, "g", places)
            assert reported == {places[0]: Attempts(2, 1_700_000_000.0)}
            assert not await backend.read_attempts(topic, "other", places)
        await again.stream.save_attempts(delivery, Attempts(3, 1_700_000_000.0))
        await again.stream.save_attempts(delivery, None)
        await again.close()
        last = await self.open_reader(backend, topic, "g")
        assert not (await first_batch(last)).attempts
        await last.close()
        assert not (await first_batch(other)).attempts
        await other.close()

    @proves(G.ATTEMPTS, Capability.GROUPS, Capability.DURABLE_ATTEMPTS, Capability.LOOK_BACK)
    async def test_a_group_that_is_moved_has_all_attempts_again(
        self, backend: BusBackend, topic: str
    ) -> None:
        """Setting a position deletes the counts of failed attempts, of that group alone. Usually wrong: an event that is handled
        again is dead-lettered after fewer attempts than the policy has, since the attempts before the move count.
        """
        await backend.append(topic, [record(1)])
        for group in ("g", "other"):
            reader = await self.open_reader(backend, topic, group, StartAt.EARLIEST)
            (delivery,) = await reader.take(1)
            await reader.stream.save_attempts(delivery, Attempts(2, 1_700_000_000.0))
            await reader.close()
        await backend.seek_group(topic, "g", StartAt.EARLIEST)
        for group, kept in (("g", {}), ("other", {delivery.offset: Attempts(2, 1_700_000_000.0)})):
            again = await self.open_reader(backend, topic, group)
            assert dict((await first_batch(again)).attempts) == kept
            await again.close()

    @proves(G.SEEK, Capability.GROUPS, Capability.LOOK_BACK)
    async def test_seek(self, backend: BusBackend, topic: str) -> None:
        """A group without members moves back and forward; one with members is refused. Usually wrong: a member continues as
        before, and commits over the new position.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(5)])
        await reader.take(5)
        await reader.commit()
        with pytest.raises(BusError, match="active members"):
            await backend.seek_group(topic, "g", StartAt.EARLIEST)
        await reader.close()
        await backend.seek_group(topic, "g", StartAt.EARLIEST)
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(5)) == list(range(5))
        await again.close()
        await backend.seek_group(topic, "g", StartAt.LATEST)
        again = await self.open_reader(backend, topic, "g")
        await again.nothing(0.05)
        await again.close()
        with pytest.raises(TopicNotFoundError):
            await backend.seek_group(f"{topic}.nope", "g", StartAt.EARLIEST)

    @proves(G.SEEK, Capability.GROUPS, Capability.REPLAY)
    async def test_seek_to_a_position(self, backend: BusBackend, topic: str) -> None:
        """The group starts with the record at the offset. Usually wrong: off by one."""
        await (await self.open_reader(backend, topic, "g")).close()
        positions = await backend.append(topic, [record(n) for n in range(5)])
        assert positions[3] is not None
        await backend.seek_group(topic, "g", {positions[3].partition: positions[3].offset})
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(2)) == [3, 4]
        await again.close()


async def first_batch(reader: Reader) -> Batch:
    """Return the first batch with deliveries."""
    async with deadline():
        while True:
            for batch in await reader.stream.receive(10):
                if batch.deliveries:
                    return batch


async def _at_least(one: Reader, two: Reader, count: int) -> bool:
    return len(one.got) + len(two.got) >= count
