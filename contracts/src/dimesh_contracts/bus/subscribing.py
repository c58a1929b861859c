"""Streams: where they begin, what they give, how they end."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import TopicNotFoundError
from dimesh.spi.bus import BusBackend, Filter, StartAt, TopicConfig
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, payloads, record
from dimesh_contracts.contract import proves
from dimesh_contracts.limit import pending
from dimesh_contracts.waiting import deadline, eventually, later_than, patience


def tasks() -> int:
    """Return the number of tasks of the loop."""
    return len(asyncio.all_tasks())


def descriptors() -> int:
    """Return the number of open files and sockets; 0 where the system does not list them."""
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


class Subscribing(BusHarness):
    """Lone streams, starts, filters, closing."""

    @proves(G.LATEST)
    async def test_latest_sees_everything_appended_after_it(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a subscription becomes active some time after ``subscribe`` returned."""
        await backend.append(topic, [record("before")])
        for n in range(5):
            reader = await self.open_reader(backend, topic)
            await backend.append(topic, [record(n)])
            assert payloads(await reader.take(1)) == [n]
            await reader.close()

    @proves(G.INDEPENDENT)
    async def test_lone_readers_each_see_everything(self, backend: BusBackend, topic: str) -> None:
        """Streams without a group do not share records. Usually wrong: a hidden group that is used twice."""
        one, two = await self.open_reader(backend, topic), await self.open_reader(backend, topic)
        await backend.append(topic, [record(n, f"k{n}") for n in range(20)])
        # Both before either closes: what a member leaves would go to the other, were they one group.
        for reader in (one, two):
            assert sorted(payloads(await reader.take(20))) == list(range(20))
        for reader in (one, two):
            await reader.close()

    @proves(G.INDEPENDENT)
    async def test_topics_do_not_mix(self, backend: BusBackend, topic: str) -> None:
        """Similar names are different topics. Usually wrong: a prefix match; names folded to one case."""
        names = [
            topic,
            f"{topic}.x",
            f"{topic}-x",
            f"{topic}_y",
            topic.upper(),
            f"{topic}.x.y",
            "t" + "9" * 248,
        ]
        readers = [await self.open_reader(backend, name) for name in names]
        for n, name in enumerate(names):
            await backend.append(name, [record(n)])
        for n, reader in enumerate(readers):
            assert payloads(await reader.take(1)) == [n]
            await reader.nothing(0.02)
            await reader.close()

    @proves(G.BOUNDED_RECEIVE)
    async def test_receive_never_gives_more_than_asked(self, backend: BusBackend, topic: str) -> None:
        """``limit`` is a bound, not a hint: the engine has no room for more. Usually wrong: a limit for each partition."""
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record(n, f"k{n}") for n in range(50)])
        found: list[Any] = []
        async with deadline():
            while len(found) < 50:
                got = [d for batch in await reader.stream.receive(7) for d in batch.deliveries]
                assert len(got) <= 7
                found += payloads(got)
        assert sorted(found) == list(range(50))
        await reader.close()

    @proves(G.CANCELLATION)
    async def test_a_cancelled_receive_loses_nothing(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a record is removed from a buffer before the await that is cancelled."""
        reader = await self.open_reader(backend, topic)
        for n in range(30):
            waiting = asyncio.create_task(reader.stream.receive(1))
            await asyncio.sleep(0)
            append = asyncio.create_task(backend.append(topic, [record(n)]))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            waiting.cancel()
            done, _ = await asyncio.wait({waiting})
            await append
            task = done.pop()
            if not task.cancelled():
                reader.got += [d for batch in task.result() for d in batch.deliveries]
        await reader.take(30 - len(reader.got))
        assert payloads(reader.got) == list(range(30))
        await reader.close()

    @proves(G.CANCELLATION)
    async def test_a_cancelled_receive_ends(self, backend: BusBackend, topic: str) -> None:
        """A ``receive`` that waits ends when it is cancelled, wherever it is at that moment: closing a bus relies on it. Usually
        wrong: a client library catches the cancellation as one more error, and the loop around it goes on.
        """
        reader = await self.open_reader(backend, topic)
        for n in range(30):
            waiting = asyncio.create_task(reader.stream.receive(1))
            for _ in range(n):
                await asyncio.sleep(0)
            waiting.cancel()
            done, _ = await asyncio.wait({waiting}, timeout=patience(0.5))
            assert done, f"the {n + 1}. receive goes on although it was cancelled"
        await reader.close()

    @proves(G.NOTHING_LEFT)
    async def test_closed_streams_leave_nothing_behind(self, backend: BusBackend, topic: str) -> None:
        """After subscriptions that came and went there are as many tasks, and as many open files and sockets, as before them.
        Usually wrong: a task or a connection for each subscription, which ``close`` forgets.
        """
        groups = Capability.GROUPS in backend.capabilities

        async def come_and_go(times: int) -> None:
            for _ in range(times):
                for group in (None, "g") if groups else (None,):
                    reader = await self.open_reader(backend, topic, group)
                    await backend.append(topic, [record()])
                    await reader.take(1)
                    await reader.commit()
                    await reader.close()

        await come_and_go(3)  # pools and caches fill
        before = tasks(), descriptors()
        await come_and_go(8)

        async def few() -> bool:
            # Fewer than one for each: what ends a moment later is not left behind.
            return tasks() < before[0] + 8 and descriptors() < before[1] + 8

        try:
            await eventually(few, 0.5)
        except TimeoutError:
            kind = "tasks" if tasks() >= before[0] + 8 else "open files and sockets"
            raise AssertionError(f"8 subscriptions came and went, and left {kind}:\n{pending()}") from None

    @proves(G.CLOSED)
    async def test_closing_ends_receive_and_may_be_repeated(self, backend: BusBackend, topic: str) -> None:
        """A waiting ``receive`` returns nothing when the stream is closed. Usually wrong: it waits for ever."""
        reader = await self.open_reader(backend, topic)
        waiting = asyncio.create_task(reader.stream.receive(1))
        await asyncio.sleep(0)
        await reader.close()
        await reader.close()
        async with deadline():
            assert list(await waiting) == []
            assert list(await reader.stream.receive(1)) == []

    @proves(G.CLOSED)
    async def test_a_closed_stream_delivers_nothing_more(self, backend: BusBackend, topic: str) -> None:
        """Neither its buffer nor later records are delivered. Usually wrong: the buffer is still emptied; a callback is
        still registered.
        """
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record(n) for n in range(10)])
        await reader.take(1, limit=1)
        await reader.close()
        await backend.append(topic, [record("later")])
        async with deadline():
            assert [d for batch in await reader.stream.receive(10) for d in batch.deliveries] == []

    @proves(G.INDEPENDENT)
    async def test_subscribing_and_closing_at_once(self, backend: BusBackend, topic: str) -> None:
        """Many streams open and close while records flow. Usually wrong: a set is changed during its iteration."""

        async def come_and_go() -> None:
            for _ in range(5):
                reader = await self.open_reader(backend, topic)
                await asyncio.sleep(0)
                await reader.close()

        steady = await self.open_reader(backend, topic)
        await asyncio.gather(
            *(come_and_go() for _ in range(4)), *(backend.append(topic, [record(n)]) for n in range(50))
        )
        found = payloads(await steady.take(50))
        assert sorted(found) == list(range(50))
        await steady.close()

    @proves(G.CAUGHT_UP)
    async def test_caught_up(self, backend: BusBackend, topic: str) -> None:
        """``caught_up`` is false while a published record waits to be received, and true afterwards: closing relies on it.
        Usually wrong: true while a fetch is in flight.
        """
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record(1)])
        assert not reader.stream.caught_up()
        await reader.take(1)

        async def done() -> bool:
            return reader.stream.caught_up()

        await eventually(done)
        await reader.close()

    @proves(G.FILTER, Capability.FILTER_PUSHDOWN)
    async def test_a_filter_leaves_out_what_it_does_not_want(self, backend: BusBackend, topic: str) -> None:
        """One of each set must match, and all sets must. Usually wrong: one of all sets; an empty set that matches nothing."""
        wanted = Filter(event_types=frozenset({"a.one", "a.two"}), pillars=frozenset({"P"}))
        reader = await self.open_reader(backend, topic, filter=wanted)
        await backend.append(
            topic,
            [
                record(f"{kind}/{pillar}", kind=kind, source_pillar=pillar)
                for kind in ("a.one", "a.two", "a.three")
                for pillar in ("P", "p", "Q")
            ],
        )
        assert sorted(payloads(await reader.take(2))) == ["a.one/P", "a.two/P"]
        await reader.nothing(0.05)
        await reader.close()

    # -- starts ------------------------------------------------------------------------------------

    @proves(G.REPLAY, Capability.REPLAY)
    async def test_start_at_the_earliest_and_at_a_position(self, backend: BusBackend, topic: str) -> None:
        """The stream continues with new records. Usually wrong: off by one; a hole or a repeat between old and new records."""
        positions = await backend.append(topic, [record(n) for n in range(10)])
        reader = await self.open_reader(backend, topic, start=StartAt.EARLIEST)
        assert payloads(await reader.take(10)) == list(range(10))
        await backend.append(topic, [record(10)])
        assert payloads(await reader.take(1)) == [10]
        await reader.close()
        fifth = positions[5]
        assert fifth is not None
        reader = await self.open_reader(backend, topic, start={fifth.partition: fifth.offset})
        assert payloads(await reader.take(6)) == [5, 6, 7, 8, 9, 10]
        await reader.close()

    @proves(G.REPLAY, Capability.REPLAY)
    async def test_replay_while_records_flow(self, backend: BusBackend, topic: str) -> None:
        """Streams that start at the earliest while others publish see each record once and in order. Usually wrong: a gap
        between the end of reading the store and the beginning of listening.
        """
        pending = [asyncio.create_task(backend.append(topic, [record(n)])) for n in range(40)]
        await pending[0]
        readers = []
        for n in range(40, 60):
            readers.append(await self.open_reader(backend, topic, start=StartAt.EARLIEST))
            pending.append(asyncio.create_task(backend.append(topic, [record(n)])))
        await asyncio.gather(*pending)
        for reader in readers:
            found = payloads(await reader.take(60))
            assert len(found) == len(set(found)) == 60
            if Capability.KEY_ORDER in backend.capabilities:
                assert found == list(range(60))
            await reader.close()

    @proves(G.START_BY_TIME, Capability.LOOK_BACK, Capability.START_BY_TIME)
    async def test_start_at_a_time(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a time zone; seconds read as milliseconds."""
        await backend.append(topic, [record("old")])
        await later_than(datetime.now(UTC))
        moment = datetime.now(UTC)
        await later_than(moment)
        await backend.append(topic, [record("new")])
        reader = await self.open_reader(backend, topic, start=moment)
        assert payloads(await reader.take(1)) == ["new"]
        await reader.close()
        reader = await self.open_reader(backend, topic, start=datetime.fromtimestamp(0, UTC))
        assert payloads(await reader.take(2)) == ["old", "new"]
        await reader.close()

    @proves(G.REPLAY, Capability.LOOK_BACK)
    async def test_read_looks_without_moving_anything(self, backend: BusBackend, topic: str) -> None:
        """``read`` pages through a topic; an offset below the oldest starts at the oldest. Usually wrong: an error, or an
        empty page, below the oldest.
        """
        with pytest.raises(TopicNotFoundError):
            await backend.read(topic, StartAt.EARLIEST, 10)
        with pytest.raises(TopicNotFoundError):
            await backend.read(topic, {}, 10)
        await backend.append(topic, [record(n) for n in range(25)])
        assert list(await backend.read(topic, {}, 10)) == []
        found: list[Any] = []
        page = list(await backend.read(topic, StartAt.EARLIEST, 10))
        following: dict[int, int] = {}
        while page:
            assert len(page) <= 10
            found += payloads(page)
            for delivery in page:
                following[delivery.partition] = delivery.offset + 1
            page = list(await backend.read(topic, following, 10))
        assert found == list(range(25))
        (partition,) = following
        assert payloads(await backend.read(topic, {partition: -5}, 3)) == [0, 1, 2]

    @proves(G.REPLAY, Capability.LOOK_BACK, Capability.TOPIC_ADMIN, Capability.GROUPS, family="log")
    async def test_read_limits_each_partition(self, backend: BusBackend, topic: str) -> None:
        """``limit`` holds for each partition: a caller pages through all of them at once. Usually wrong: a limit for all
        together, so that the last partitions seem to be empty.
        """
        await backend.create_topic(topic, TopicConfig(partitions=3))
        positions = await backend.append(topic, [record(n, f"k{n}") for n in range(60)])
        sizes = Counter(p.partition for p in positions if p is not None)
        page = await backend.read(topic, StartAt.EARLIEST, 4)
        assert Counter(d.partition for d in page) == {p: min(4, size) for p, size in sizes.items()}
        firsts = {p: min(q.offset for q in positions if q is not None and q.partition == p) for p in sizes}
        for partition in sizes:
            found = await backend.read(topic, {partition: firsts[partition]}, 5)
            assert {d.partition for d in found} == {partition}
            assert len(found) == min(5, sizes[partition])

    @proves(G.CLOSED)
    async def test_close_may_be_repeated(self, new_backend: NewBackend, topic: str) -> None:
        """Closing a backend again does nothing. Usually wrong: an error from a client that is closed already."""
        made = new_backend()
        await made.open()
        reader = await self.open_reader(made, topic)
        waiting = asyncio.create_task(reader.stream.receive(1))
        await asyncio.sleep(0)
        await reader.close()
        await made.close()
        await made.close()
        async with deadline():
            assert list(await waiting) == []
