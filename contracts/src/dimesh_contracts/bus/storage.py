"""What is kept, for how long, and for whom: other instances, other processes, later times."""

from __future__ import annotations

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import (
    ConfigurationError,
    FencedError,
    NotOfferedError,
    PositionLostError,
    TopicNotFoundError,
)
from dimesh.spi.bus import Attempts, BusBackend, HeldBackRecords, StartAt, TopicConfig, TransactionalStream
from dimesh_contracts.bus.groups import first_batch
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, payloads, record
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, eventually


class Storage(BusHarness):
    """Durability, retention, administration, delayed records and state."""

    # -- restarts ------------------------------------------------------------------------------------

    @proves(G.DURABLE, Capability.DURABLE, Capability.REPLAY)
    async def test_records_survive(self, new_backend: NewBackend, topic: str) -> None:
        """Another instance over the same storage finds every record unchanged, and positions continue. Usually wrong: an
        offset counter is not stored; the last write stays in a buffer.
        """
        first = new_backend()
        await first.open()
        sent = [record(n, f"k{n % 3}", tags={"N": str(n)}) for n in range(40)]
        before = await first.append(topic, sent)
        await first.close()
        second = new_backend()
        await second.open()
        everything = await self.open_reader(second, topic, start=StartAt.EARLIEST)
        headers = {d.record.event.payload: d.record.header for d in await everything.take(40)}
        assert headers == {r.event.payload: r.header for r in sent}
        await everything.close()
        positions = await second.append(topic, [record("new", f"k{n % 3}") for n in range(3)])
        assert not set(positions) & set(before)
        highest = {
            p.partition: max(q.offset for q in before if q and q.partition == p.partition)
            for p in before
            if p
        }
        for position in positions:
            assert position is not None
            assert position.offset > highest.get(position.partition, -1)
        await second.close()

    @proves(G.DURABLE, Capability.DURABLE, Capability.GROUPS)
    async def test_groups_survive(self, new_backend: NewBackend, topic: str) -> None:
        """A group continues after its commit when the backend restarts. Usually wrong: the last commit is not flushed."""
        first = new_backend()
        await first.open()
        reader = await self.open_reader(first, topic, "g")
        await first.append(topic, [record(n, f"k{n % 3}") for n in range(40)])
        got = await reader.take(15, limit=15)
        await reader.commit()
        await first.close()
        second = new_backend()
        await second.open()
        again = await self.open_reader(second, topic, "g")
        rest = await again.take(40 - len(got))
        assert sorted(payloads(got + rest)) == list(range(40))
        await second.close()

    @proves(G.ATTEMPTS, Capability.DURABLE, Capability.GROUPS, Capability.DURABLE_ATTEMPTS)
    async def test_attempts_survive(self, new_backend: NewBackend, topic: str) -> None:
        """The count continues after a restart: otherwise a poisoned event is retried for ever, restart after restart.
        Usually wrong: it is kept in memory.
        """
        first = new_backend()
        await first.open()
        reader = await self.open_reader(first, topic, "g")
        await first.append(topic, [record(1)])
        (delivery,) = await reader.take(1)
        await reader.stream.save_attempts(delivery, Attempts(4, 1_700_000_000.5))
        await first.close()
        second = new_backend()
        await second.open()
        again = await self.open_reader(second, topic, "g")
        batch = await first_batch(again)
        assert dict(batch.attempts) == {batch.deliveries[0].offset: Attempts(4, 1_700_000_000.5)}
        await second.close()

    @proves(G.ATTEMPTS, Capability.DURABLE, Capability.GROUPS, Capability.DURABLE_ATTEMPTS)
    async def test_a_negative_number_of_attempts_survives(self, new_backend: NewBackend, topic: str) -> None:
        """The engine marks with it what a process has in hand, to find the event that ends its process. Usually wrong: the
        number is kept without its sign, or counts as none.
        """
        first = new_backend()
        await first.open()
        reader = await self.open_reader(first, topic, "g")
        await first.append(topic, [record(1)])
        (delivery,) = await reader.take(1)
        await reader.stream.save_attempts(delivery, Attempts(-3, 0.0))
        await first.close()
        second = new_backend()
        await second.open()
        again = await self.open_reader(second, topic, "g")
        batch = await first_batch(again)
        assert dict(batch.attempts) == {batch.deliveries[0].offset: Attempts(-3, 0.0)}
        await second.close()

    @proves(G.DELAYED, Capability.DURABLE, Capability.DELAYED_DELIVERY, Capability.REPLAY)
    async def test_delayed_records_survive(self, new_backend: NewBackend, topic: str) -> None:
        """A waiting record is delivered after a restart, even if it fell due meanwhile. Usually wrong: a timer in memory."""
        first = new_backend()
        await first.open()
        held = record("held")
        held.deliver_at = SystemClock().time() + 0.2
        assert list(await first.append(topic, [held])) == [None]
        await first.close()
        second = new_backend()
        await second.open()
        reader = await self.open_reader(second, topic, start=StartAt.EARLIEST)
        assert payloads(await reader.take(1)) == ["held"]
        assert SystemClock().time() >= held.deliver_at
        await reader.nothing(0.05)
        await second.close()

    @proves(G.STATE, Capability.DURABLE, Capability.ATOMIC_STATE)
    async def test_state_survives(self, new_backend: NewBackend, topic: str) -> None:
        """Usually wrong: a cache that is written at close."""
        first = new_backend()
        await first.open()
        await first.append(topic, [record()], state={topic: b"\x00\xff"})
        await first.close()
        second = new_backend()
        await second.open()
        assert await second.load_state(topic) == b"\x00\xff"
        await second.close()

    # -- the rest of the capabilities ----------------------------------------------------------------

    @proves(G.DELAYED, Capability.DELAYED_DELIVERY)
    async def test_delayed_records_come_when_they_are_due(self, backend: BusBackend, topic: str) -> None:
        """They are not delivered early, and are delivered in the order of their due times. Usually wrong: an offset is
        assigned early, which blocks its partition; a record is reported as held back although it was delivered.
        """
        reader = await self.open_reader(backend, topic)
        now = SystemClock().time()
        late, soon = record("late"), record("soon")
        late.deliver_at, soon.deliver_at = now + 0.3, now + 0.15
        far = record("far")
        far.deliver_at = now + 3_600.0
        delayed = [late, soon, *([far] if isinstance(backend, HeldBackRecords) else [])]
        assert list(await backend.append(topic, delayed)) == [None] * len(delayed)
        await backend.append(topic, [record("now")])
        got = []
        for expected, due in (("now", now), ("soon", now + 0.15), ("late", now + 0.3)):
            got += await reader.take(1, limit=1)
            assert payloads(got)[-1] == expected
            assert SystemClock().time() >= due
        if isinstance(backend, HeldBackRecords):
            held = [(r.event.payload, r.deliver_at) async for name, r in backend.held_back() if name == topic]
            assert held == [("far", far.deliver_at)]
        await reader.close()

    @proves(G.STATE, Capability.ATOMIC_STATE)
    async def test_state_is_stored_with_the_records(self, backend: BusBackend, topic: str) -> None:
        """The latest value can be loaded, even if it was stored without records. Usually wrong: a value is merged with the
        one before.
        """
        assert await backend.load_state(topic) is None
        await backend.append(topic, [record()], state={topic: b"\x00one", f"{topic}.b": b""})
        await backend.append(topic, [], state={topic: b"two"})
        assert await backend.load_state(topic) == b"two"
        assert await backend.load_state(f"{topic}.b") == b""

    @proves(G.TRANSACTION, Capability.TRANSACTIONS, Capability.GROUPS, Capability.REPLAY)
    async def test_producing_commits(self, backend: BusBackend, topic: str) -> None:
        """``produce`` publishes in order and moves the position; without records it only moves the position. Usually wrong:
        the position is committed beside the transaction, not in it.
        """
        target = await self.open_reader(backend, f"{topic}.out")
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST, produces=True)
        await backend.append(topic, [record(n) for n in range(6)])
        got = await reader.take(4, limit=4)
        stream, part = reader.stream, got[0].partition
        assert isinstance(stream, TransactionalStream)
        await stream.produce(part, got[2].offset, f"{topic}.out", [record("a"), record("b")])
        await stream.produce(part, got[3].offset, f"{topic}.out", [])
        assert payloads(await target.take(2)) == ["a", "b"]
        await reader.close()
        again = await self.open_reader(backend, topic, "g", produces=True)
        assert payloads(await again.take(3)) == [3, 4, 5]
        await again.close()
        await target.nothing(0.05)
        await target.close()

    @proves(G.TRANSACTION, Capability.TRANSACTIONS, Capability.GROUPS, Capability.REPLAY)
    async def test_a_member_that_is_gone_produces_nothing(self, backend: BusBackend, topic: str) -> None:
        """A closed stream is fenced, and neither its records nor its positions take effect. Usually wrong: records are sent
        before the owner of the partition is checked.
        """
        target = await self.open_reader(backend, f"{topic}.out")
        old = await self.open_reader(backend, topic, "g", StartAt.EARLIEST, produces=True)
        await backend.append(topic, [record(n) for n in range(3)])
        got = await old.take(3)
        await old.close()
        new = await self.open_reader(backend, topic, "g", produces=True)
        assert payloads(await new.take(3)) == [0, 1, 2]
        assert isinstance(old.stream, TransactionalStream)
        with pytest.raises(FencedError):
            await old.stream.produce(got[2].partition, got[2].offset + 1, f"{topic}.out", [record("zombie")])
        assert isinstance(new.stream, TransactionalStream)
        await new.stream.produce(got[2].partition, got[2].offset + 1, f"{topic}.out", [record("alive")])
        assert payloads(await target.take(1)) == ["alive"]
        await target.nothing(0.05)
        await new.close()
        await target.close()

    @proves(G.RETENTION, Capability.RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
    async def test_retention_by_count(self, backend: BusBackend, topic: str) -> None:
        """The oldest records are removed; a reader that asks for them gets PositionLostError, and continues with the oldest
        that are left. Usually wrong: an error that repeats for ever; records skipped silently.
        """
        await backend.create_topic(topic, TopicConfig(partitions=1, retention_records=10))
        positions = await backend.append(topic, [record(n) for n in range(100)])
        first = positions[0]
        assert first is not None

        async def removed() -> bool:
            (info,) = [t for t in await backend.topics() if t.name == topic]
            return info.records == 10

        await eventually(removed)
        reader = await self.open_reader(backend, topic, start={first.partition: first.offset})
        with pytest.raises(PositionLostError):
            await reader.take(1)
        assert payloads(await reader.take(10)) == list(range(90, 100))
        await reader.close()
        after = await backend.append(topic, [record("next")])
        last = positions[-1]
        assert after[0] is not None
        assert last is not None
        assert after[0].offset > last.offset

    @proves(G.RETENTION, Capability.RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
    async def test_retention_by_size(self, backend: BusBackend, topic: str) -> None:
        """About as many bytes as configured are left, and they are the newest. Usually wrong: bits instead of bytes; the
        newest are removed.
        """
        await backend.create_topic(topic, TopicConfig(partitions=1, retention_bytes=20_000))
        for n in range(100):
            await backend.append(topic, [record(f"{n:03}" + "x" * 1_000)])

        async def left() -> list[str]:
            return [text[:3] for text in payloads(await backend.read(topic, StartAt.EARLIEST, 1_000))]

        async def few() -> bool:
            return len(await left()) <= 20

        await eventually(few)
        kept = await left()
        assert len(kept) >= 5
        assert kept == [f"{n:03}" for n in range(100 - len(kept), 100)]

    @proves(G.RETENTION, Capability.RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
    async def test_retention_by_age(self, backend: BusBackend, topic: str) -> None:
        """Older records are removed, younger ones stay. Usually wrong: seconds read as milliseconds; the age of the topic."""
        await backend.create_topic(topic, TopicConfig(partitions=1, retention_seconds=1.0))
        await backend.append(topic, [record("old")])
        taken = SystemClock().time()

        async def gone() -> bool:
            await backend.topics()
            return not await backend.read(topic, StartAt.EARLIEST, 10)

        await eventually(gone)
        assert SystemClock().time() >= taken + 0.9
        await backend.append(topic, [record("young")])
        assert payloads(await backend.read(topic, StartAt.EARLIEST, 10)) == ["young"]

    @proves(G.RETENTION, Capability.RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
    async def test_nothing_goes_that_retention_does_not_name(self, backend: BusBackend, topic: str) -> None:
        """Other topics keep everything. Usually wrong: a limit is applied to the whole store."""
        names = (f"{topic}.before", topic, f"{topic}.after")
        for name, records in zip(names, (1_000, 5, 1_000), strict=True):
            await backend.create_topic(name, TopicConfig(partitions=1, retention_records=records))
        for name in names:
            await backend.append(name, [record(n) for n in range(50)])

        async def counts() -> bool:
            found = {t.name: t.records for t in await backend.topics()}
            return [found[name] for name in names] == [50, 5, 50]

        await eventually(counts)

    @proves(G.RETENTION, Capability.SEGMENT_RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
    async def test_segments_go_by_age_and_size(self, backend: BusBackend, topic: str) -> None:
        """A segment is removed when a limit covers all of it; the newest record stays, and other topics keep everything. A
        limit that cannot be configured is refused. Usually wrong: a limit is not passed on; a count is read as a size.
        """
        with pytest.raises(NotOfferedError):
            await backend.create_topic(f"{topic}.counted", TopicConfig(retention_records=10))
        aged, sized, other = f"{topic}.aged", f"{topic}.sized", f"{topic}.other"
        await backend.create_topic(aged, TopicConfig(partitions=1, retention_seconds=1.0))
        await backend.create_topic(sized, TopicConfig(partitions=1, retention_bytes=100_000))
        await backend.create_topic(other, TopicConfig(partitions=1))
        await backend.append(other, [record("kept")])
        await backend.append(aged, [record("old")])
        for n in range(60):
            await backend.append(sized, [record(f"{n:03}" + "x" * 100_000)])

        async def gone() -> bool:
            left = [text[:3] for text in payloads(await backend.read(sized, StartAt.EARLIEST, 1_000))]
            assert left == sorted(left)
            assert not left or left[-1] == "059"
            # What is looked at while segments go may have a hole where one went; once they are gone it has none.
            whole = left == [f"{n:03}" for n in range(60 - len(left), 60)]
            return whole and 0 < len(left) < 40 and not await backend.read(aged, StartAt.EARLIEST, 10)

        await eventually(gone, 3)
        assert payloads(await backend.read(other, StartAt.EARLIEST, 10)) == ["kept"]

    @proves(G.RETENTION, Capability.AGE_RETENTION, Capability.TOPIC_ADMIN)
    async def test_age_is_configured_and_nothing_else(self, backend: BusBackend, topic: str) -> None:
        """The topic reports how long it keeps records, also after a change. Limits that the backend does not support are
        refused, and no topic is created. Usually wrong: a limit is accepted and not kept.
        """
        for unknown in (TopicConfig(retention_records=10), TopicConfig(retention_bytes=10_000)):
            with pytest.raises(NotOfferedError):
                await backend.create_topic(topic, unknown)
        assert topic not in [t.name for t in await backend.topics()]
        for seconds in (86_400.0, 7_200.0):
            await backend.create_topic(topic, TopicConfig(retention_seconds=seconds))
            (info,) = [t for t in await backend.topics() if t.name == topic]
            assert info.config.retention_seconds == seconds

    @proves(G.ADMIN, Capability.TOPIC_ADMIN)
    async def test_topics_are_made_listed_and_removed(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: the records of a deleted topic come back when it is created again; a stream of it waits for ever."""
        await backend.append(topic, [record(1)])
        assert topic in [t.name for t in await backend.topics()]
        reader = await self.open_reader(backend, topic)
        await backend.delete_topic(topic)
        async with deadline():
            assert list(await reader.stream.receive(1)) == []
        assert topic not in [t.name for t in await backend.topics()]
        with pytest.raises(TopicNotFoundError):
            await backend.delete_topic(topic)
        reader = await self.open_reader(backend, topic, start=StartAt.EARLIEST)
        await reader.nothing(0.05)
        await backend.append(topic, [record(2)])
        assert payloads(await reader.take(1)) == [2]
        await reader.close()

    @proves(G.ADMIN, Capability.TOPIC_ADMIN)
    async def test_a_topic_says_what_it_is(self, backend: BusBackend, topic: str) -> None:
        """A topic has the partitions that it was created with, and creating it again with the same settings changes nothing.
        Usually wrong: an error, or an emptied topic, when it exists.
        """
        # Partitions are what members share: without groups there need not be more than one.
        wanted = 3 if Capability.GROUPS in backend.capabilities and self.family == "log" else 1
        await backend.create_topic(topic, TopicConfig(partitions=wanted))
        await backend.append(topic, [record(n, f"k{n}") for n in range(12)])
        await backend.create_topic(topic, TopicConfig(partitions=wanted))
        (info,) = [t for t in await backend.topics() if t.name == topic]
        assert info.partitions == wanted
        assert info.records in (12, None)
        for bad in ({"partitions": 0}, {"retention_records": -1}, {"retention_seconds": 0.0}):
            with pytest.raises(ConfigurationError):
                await backend.create_topic(topic, TopicConfig(**bad))
