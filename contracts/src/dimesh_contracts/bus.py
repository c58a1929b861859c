"""What every bus backend must satisfy.

Subclass :class:`BusBackendContract` in a test module and give it a ``new_backend`` fixture::

    class TestMine(BusBackendContract):
        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda clock=SystemClock(): MyBackend(tmp_path, clock)

A test for a capability that the backend does not state is skipped as "not offered"; one that it states and does not keep
fails. Each docstring says which guarantee the test proves, and what is usually wrong when it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import (
    BackpressureError,
    FencedError,
    NotOfferedError,
    PositionLostError,
    TopicNotFoundError,
)
from dimesh.events import Event, EventMetadata, EventPriority
from dimesh.spi.bus import (
    Attempts,
    BusBackend,
    Delivery,
    Filter,
    Record,
    Start,
    StartAt,
    Stream,
    Subscribe,
    TopicConfig,
)
from dimesh_contracts.waiting import eventually

NewBackend = Callable[..., BusBackend]


def record(payload: Any = None, key: str = "k", kind: str = "contract.event", **metadata: Any) -> Record:
    """A record of a fresh event."""
    return Record.of(Event(kind, EventMetadata(**metadata), payload), key)


def payloads(deliveries: Sequence[Delivery]) -> list[Any]:
    """What the events carry."""
    return [delivery.record.event.payload for delivery in deliveries]


class Listener:
    """Stands for the engine: remembers what it was told, and commits when partitions are taken away."""

    def __init__(self) -> None:
        self.owned: dict[int, int] = {}
        self.stream: Stream | None = None
        self.handled: dict[int, int] = {}
        self.lost_partitions: list[int] = []

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        self.owned.update(partitions)

    async def revoked(self, partitions: Sequence[int]) -> None:
        if self.stream is not None:
            done = {p: at for p, at in self.handled.items() if p in partitions}
            if done:
                await self.stream.commit(done)
        for partition in partitions:
            self.owned.pop(partition, None)

    def lost(self, partitions: Sequence[int]) -> None:
        self.lost_partitions += partitions
        for partition in partitions:
            self.owned.pop(partition, None)


class Reader:
    """A stream with the engine's part played by a listener."""

    def __init__(self, stream: Stream, listener: Listener) -> None:
        self.stream = stream
        self.listener = listener
        self.got: list[Delivery] = []
        listener.stream = stream

    async def take(self, count: int, limit: int = 1_000, timeout: float = 10.0) -> list[Delivery]:
        """Receive until there are ``count`` more deliveries."""
        found: list[Delivery] = []
        async with asyncio.timeout(timeout):
            while len(found) < count:
                for batch in await self.stream.receive(min(limit, count - len(found))):
                    found += batch.deliveries
                    self.listener.handled[batch.partition] = batch.next_offset
        self.got += found
        return found

    async def nothing(self, seconds: float = 0.15) -> None:
        """Assert that no delivery comes."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    batches = await self.stream.receive(10)
                    assert not [d for batch in batches for d in batch.deliveries], "an unexpected delivery"
                    if not batches:
                        return
        except TimeoutError:
            pass

    async def commit(self) -> None:
        """Commit everything received."""
        await self.stream.commit(dict(self.listener.handled))


class BusBackendContract:
    """The tests. Topics have a fresh name in each, so that they may run side by side and their logs be told apart."""

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        """Makes a backend, not opened. Called again it makes one over the same storage, as another process would; a
        backend that keeps nothing beyond its instance may return a fresh one.
        """
        raise NotImplementedError("give your test class a new_backend fixture")

    @pytest.fixture
    async def backend(self, new_backend: NewBackend) -> AsyncIterator[BusBackend]:
        made = new_backend()
        await made.open()
        yield made
        await made.close()

    @pytest.fixture
    def topic(self) -> str:
        return f"contract.{uuid4().hex[:12]}"

    # -- helpers ---------------------------------------------------------------------------------

    @staticmethod
    def needs(backend: BusBackend, *capabilities: Capability) -> None:
        """Skip where the backend does not state them."""
        for capability in capabilities:
            if capability not in backend.capabilities:
                pytest.skip(f"not offered: {capability.value}")

    @staticmethod
    async def open_reader(
        backend: BusBackend,
        topic: str,
        group: str | None = None,
        start: Start = StartAt.LATEST,
        **options: Any,
    ) -> Reader:
        listener = Listener()
        member = f"member-{uuid4().hex[:6]}"
        stream = await backend.subscribe(Subscribe(topic, group, member, start, **options), listener)
        return Reader(stream, listener)

    # -- publish and receive -----------------------------------------------------------------------

    async def test_what_goes_in_comes_out(self, backend: BusBackend, topic: str) -> None:
        """Header, payload, key and routing fields arrive byte for byte. Usually wrong: a text column for bytes, an
        encoding applied twice, an empty payload taken for none.
        """
        reader = await self.open_reader(backend, topic)
        sent = [
            record({"n": 1}, "key-1", tags={"a": "b"}),
            record("", "", source_pillar="Growth Engine", priority=EventPriority.CRITICAL),
            record(None, "ключ \N{PILE OF POO}", kind="other.kind", source_agent="a\u2028b"),
            record("x" * 1_000_000, "large"),
            record({"\x00": ["\x1f", "ﷺ"]}, "\x00"),
        ]
        await backend.append(topic, sent)
        got = await reader.take(len(sent))
        by_key = {d.record.key: d.record for d in got}
        for expected in sent:
            found = by_key[expected.key]
            assert found.header == expected.header
            assert found.payload == expected.payload
            assert found.event == expected.event
            assert (found.event_type, found.pillar, found.priority) == (
                expected.event_type,
                expected.pillar,
                expected.priority,
            )
        await reader.stream.close()

    async def test_positions_grow_and_are_never_used_twice(self, backend: BusBackend, topic: str) -> None:
        """Each record has a position of its own, greater than those before in its partition. Usually wrong: a counter
        that begins anew after the topic was emptied.
        """
        if backend.family != "log":
            pytest.skip("a queue has no positions")
        seen: set[tuple[int, int]] = set()
        last: dict[int, int] = {}
        for n in range(5):
            for position in await backend.append(topic, [record(m, f"k{m}") for m in range(n + 1)]):
                assert position is not None
                assert position not in seen
                assert position.offset > last.get(position.partition, -1)
                last[position.partition] = position.offset
                seen.add(position)

    async def test_a_key_keeps_its_order(self, backend: BusBackend, topic: str) -> None:
        """Records of one key arrive in the order of the calls, also of calls that overlap. Usually wrong: a thread for
        each call, a retry that overtakes, a partition chosen at random.
        """
        self.needs(backend, Capability.KEY_ORDER)
        reader = await self.open_reader(backend, topic)
        await asyncio.gather(
            *(
                backend.append(topic, [record(n, f"key-{n % 3}"), record(n + 0.5, f"key-{n % 3}")])
                for n in range(60)
            )
        )
        got = await reader.take(120)
        for key in ("key-0", "key-1", "key-2"):
            mine = [d.record.event.payload for d in got if d.record.key == key]
            assert mine == sorted(mine)
        await reader.stream.close()

    async def test_latest_sees_everything_appended_after_it(self, backend: BusBackend, topic: str) -> None:
        """A stream at LATEST gets what is appended after ``subscribe`` returned, and nothing from before. Usually wrong:
        a subscription that becomes active some time later.
        """
        await backend.append(topic, [record("before")])
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record("after")])
        assert payloads(await reader.take(1)) == ["after"]
        await reader.stream.close()

    async def test_lone_readers_each_see_everything(self, backend: BusBackend, topic: str) -> None:
        """Streams without a group do not share. Usually wrong: a group made up behind the scenes, and used twice."""
        one, two = await self.open_reader(backend, topic), await self.open_reader(backend, topic)
        await backend.append(topic, [record(n, f"k{n}") for n in range(20)])
        for reader in (one, two):
            assert sorted(payloads(await reader.take(20))) == list(range(20))
            await reader.stream.close()

    async def test_receive_never_gives_more_than_asked(self, backend: BusBackend, topic: str) -> None:
        """``limit`` is a bound, not a hint: the engine has no room for more."""
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record(n, f"k{n}") for n in range(50)])
        total = 0
        while total < 50:
            count = sum(len(batch.deliveries) for batch in await reader.stream.receive(7))
            assert count <= 7
            total += count
        await reader.stream.close()

    async def test_a_cancelled_receive_loses_nothing(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a record taken from a buffer before the await that is cancelled."""
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
        await reader.stream.close()

    async def test_closing_ends_receive_and_may_be_repeated(self, backend: BusBackend, topic: str) -> None:
        """A waiting ``receive`` returns nothing when the stream is closed. Usually wrong: it waits for ever."""
        reader = await self.open_reader(backend, topic)
        waiting = asyncio.create_task(reader.stream.receive(1))
        await asyncio.sleep(0)
        await reader.stream.close()
        await reader.stream.close()
        async with asyncio.timeout(5):
            assert list(await waiting) == []
            assert list(await reader.stream.receive(1)) == []

    async def test_subscribing_and_closing_at_once(self, backend: BusBackend, topic: str) -> None:
        """Many streams come and go while records flow. Usually wrong: a set changed while it is walked."""

        async def come_and_go() -> None:
            for _ in range(5):
                reader = await self.open_reader(backend, topic)
                await asyncio.sleep(0)
                await reader.stream.close()

        steady = await self.open_reader(backend, topic)
        await asyncio.gather(
            *(come_and_go() for _ in range(4)), *(backend.append(topic, [record(n)]) for n in range(50))
        )
        assert payloads(await steady.take(50)) == sorted(payloads(steady.got))
        await steady.stream.close()

    async def test_caught_up(self, backend: BusBackend, topic: str) -> None:
        """``caught_up`` is false while something waits to be received, and true afterwards: closing relies on it."""
        reader = await self.open_reader(backend, topic)
        await backend.append(topic, [record(1)])
        assert not reader.stream.caught_up()
        await reader.take(1)

        async def done() -> bool:
            return reader.stream.caught_up()

        await eventually(done)
        await reader.stream.close()

    # -- starts ------------------------------------------------------------------------------------

    async def test_start_at_the_earliest_and_at_a_position(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: off by one."""
        self.needs(backend, Capability.REPLAY)
        positions = await backend.append(topic, [record(n) for n in range(10)])
        reader = await self.open_reader(backend, topic, start=StartAt.EARLIEST)
        assert payloads(await reader.take(10)) == list(range(10))
        await reader.stream.close()
        fifth = positions[5]
        assert fifth is not None
        reader = await self.open_reader(backend, topic, start={fifth.partition: fifth.offset})
        assert payloads(await reader.take(5)) == [5, 6, 7, 8, 9]
        await reader.stream.close()

    async def test_start_at_a_time(self, backend: BusBackend, topic: str) -> None:
        """The first record is the first one taken at or after the time. Usually wrong: a time zone; seconds for
        milliseconds.
        """
        self.needs(backend, Capability.REPLAY, Capability.START_BY_TIME)
        await backend.append(topic, [record("old")])
        await asyncio.sleep(0.02)
        moment = datetime.now(UTC)
        await asyncio.sleep(0.02)
        await backend.append(topic, [record("new")])
        reader = await self.open_reader(backend, topic, start=moment)
        assert payloads(await reader.take(1)) == ["new"]
        await reader.stream.close()

    async def test_read_looks_without_moving_anything(self, backend: BusBackend, topic: str) -> None:
        """``read`` pages through a topic; an offset below the oldest begins at the oldest."""
        self.needs(backend, Capability.REPLAY)
        with pytest.raises(TopicNotFoundError):
            await backend.read(topic, StartAt.EARLIEST, 10)
        await backend.append(topic, [record(n) for n in range(25)])
        found: list[Any] = []
        page = list(await backend.read(topic, StartAt.EARLIEST, 10))
        while page:
            found += payloads(page)
            following: dict[int, int] = {}
            for delivery in page:
                following[delivery.partition] = delivery.offset + 1
            page = list(await backend.read(topic, following, 10))
        assert found == list(range(25))
        partition = page[0].partition if page else next(iter(following))
        assert payloads(await backend.read(topic, {partition: -5}, 3)) == [0, 1, 2]

    # -- filters -----------------------------------------------------------------------------------

    async def test_a_filter_leaves_out_and_moves_on(self, backend: BusBackend, topic: str) -> None:
        """Only wanted records come, and the position still passes those left out: else a group that wants nothing of
        what comes would lag for ever.
        """
        self.needs(backend, Capability.FILTER_PUSHDOWN)
        wanted = Filter(frozenset({"good.kind"}), frozenset({"P"}), frozenset({"high"}))
        reader = await self.open_reader(backend, topic, filter=wanted)
        await backend.append(
            topic,
            [
                record(1, kind="bad.kind", source_pillar="P", priority=EventPriority.HIGH),
                record(2, kind="good.kind", source_pillar="P", priority=EventPriority.HIGH),
                record(3, kind="good.kind", source_pillar="Q", priority=EventPriority.HIGH),
                record(4, kind="good.kind", source_pillar="P", priority=EventPriority.LOW),
                record(5, kind="good.kind", source_pillar="P", priority=EventPriority.HIGH),
            ],
        )
        assert payloads(await reader.take(2)) == [2, 5]
        await reader.stream.close()
        if Capability.GROUPS in backend.capabilities:
            reader = await self.open_reader(backend, topic, "g", filter=Filter(frozenset({"good.kind"})))
            await backend.append(topic, [record(n, kind="bad.kind") for n in range(5)])
            pump = asyncio.create_task(reader.take(1))

            async def no_lag() -> bool:
                if reader.listener.handled:
                    await reader.commit()
                return not any(g.lag for g in await backend.groups() if g.topic == topic)

            await eventually(no_lag)
            pump.cancel()
            await asyncio.wait({pump})
            await reader.stream.close()

    # -- groups ------------------------------------------------------------------------------------

    async def test_a_group_goes_on_at_its_commit(self, backend: BusBackend, topic: str) -> None:
        """What was committed does not come again; what was not does. Usually wrong: committing at receive."""
        self.needs(backend, Capability.GROUPS)
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(4)])
        await reader.take(2, limit=2)
        await reader.commit()
        await reader.take(1, limit=1)
        await reader.stream.close()
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(2)) == [2, 3]
        await again.stream.close()

    async def test_a_group_gets_what_came_while_nobody_was_there(
        self, backend: BusBackend, topic: str
    ) -> None:
        """A group exists from its first subscription on. Usually wrong: LATEST applied to a group that has a position."""
        self.needs(backend, Capability.GROUPS)
        await (await self.open_reader(backend, topic, "g")).stream.close()
        await backend.append(topic, [record("meanwhile")])
        reader = await self.open_reader(backend, topic, "g")
        assert payloads(await reader.take(1)) == ["meanwhile"]
        await reader.stream.close()

    async def test_groups_do_not_touch_each_other(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a position kept by topic alone."""
        self.needs(backend, Capability.GROUPS)
        one, two = (
            await self.open_reader(backend, topic, "one"),
            await self.open_reader(backend, topic, "two"),
        )
        await backend.append(topic, [record(n) for n in range(3)])
        assert payloads(await one.take(3)) == [0, 1, 2]
        await one.commit()
        assert payloads(await two.take(3)) == [0, 1, 2]
        lags = {g.group: g.lag for g in await backend.groups() if g.topic == topic and g.lag}
        assert lags == {"two": 3}
        await one.stream.close()
        await two.stream.close()

    async def test_a_commit_never_goes_back(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: commits of two moments stored in the order of their arrival."""
        self.needs(backend, Capability.GROUPS)
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(3)])
        got = await reader.take(3)
        await reader.commit()
        await reader.stream.commit({got[0].partition: got[0].offset})
        await reader.stream.close()
        again = await self.open_reader(backend, topic, "g")
        await again.nothing()
        await again.stream.close()

    async def test_members_share_and_hand_over(self, backend: BusBackend, topic: str) -> None:
        """Two members get disjoint partitions; what one gives up, the other gets from the commit on. Usually wrong: a
        partition delivered to both, or to none, while it moves.
        """
        self.needs(backend, Capability.GROUPS, Capability.TOPIC_ADMIN)
        await backend.create_topic(topic, TopicConfig(partitions=4))
        one = await self.open_reader(backend, topic, "g")
        two = await self.open_reader(backend, topic, "g")
        pumps = [asyncio.create_task(self._consume(reader)) for reader in (one, two)]

        async def shared() -> bool:
            owned = (set(one.listener.owned), set(two.listener.owned))
            return owned[0] | owned[1] == {0, 1, 2, 3} and not owned[0] & owned[1] and all(owned)

        await eventually(shared)
        await backend.append(topic, [record(n, f"key-{n}") for n in range(200)])

        async def all_there() -> bool:
            return len(one.got) + len(two.got) >= 200

        await eventually(all_there)
        assert sorted(payloads(one.got + two.got)) == list(range(200))
        assert one.got
        assert two.got
        pumps[0].cancel()
        await asyncio.wait({pumps[0]})
        await one.commit()
        await one.stream.close()

        async def taken_over() -> bool:
            return set(two.listener.owned) == {0, 1, 2, 3}

        await eventually(taken_over, 20)
        await backend.append(topic, [record(n, f"key-{n}") for n in range(200, 300)])
        await eventually(lambda: _at_least(one, two, 300))
        assert sorted(payloads(one.got + two.got)) == list(range(300))
        pumps[1].cancel()
        await asyncio.wait({pumps[1]})
        await two.stream.close()

    @staticmethod
    async def _consume(reader: Reader) -> None:
        while True:
            batches = await reader.stream.receive(10)
            if not batches:
                return
            for batch in batches:
                reader.got += batch.deliveries
                if batch.partition in reader.listener.owned:
                    reader.listener.handled[batch.partition] = batch.next_offset
            try:
                await reader.commit()
            except FencedError:
                pass

    async def test_attempts_belong_to_the_group(self, backend: BusBackend, topic: str) -> None:
        """The count of failed attempts is there for the next member, and gone when it is told to be."""
        self.needs(backend, Capability.GROUPS, Capability.DURABLE_ATTEMPTS)
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(1)])
        (delivery,) = await reader.take(1)
        await reader.stream.save_attempts(delivery, Attempts(2, 1_700_000_000.0))
        await reader.stream.close()
        again = await self.open_reader(backend, topic, "g")
        async with asyncio.timeout(10):
            batches = [b for b in await again.stream.receive(10) if b.deliveries]
            while not batches:
                batches = [b for b in await again.stream.receive(10) if b.deliveries]
        assert batches[0].attempts[delivery.offset] == Attempts(2, 1_700_000_000.0)
        await again.stream.save_attempts(delivery, None)
        await again.stream.close()
        last = await self.open_reader(backend, topic, "g")
        async with asyncio.timeout(10):
            found = [b for b in await last.stream.receive(10) if b.deliveries]
        assert not found or not found[0].attempts
        await last.stream.close()

    async def test_seek(self, backend: BusBackend, topic: str) -> None:
        """A group without members can be moved back and forward; one with members cannot."""
        self.needs(backend, Capability.GROUPS, Capability.REPLAY)
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n) for n in range(5)])
        await reader.take(5)
        await reader.commit()
        with pytest.raises(Exception, match="active members"):
            await backend.seek_group(topic, "g", StartAt.EARLIEST)
        await reader.stream.close()
        await backend.seek_group(topic, "g", StartAt.EARLIEST)
        again = await self.open_reader(backend, topic, "g")
        assert payloads(await again.take(5)) == list(range(5))
        await again.stream.close()
        with pytest.raises(TopicNotFoundError):
            await backend.seek_group(f"{topic}.nope", "g", StartAt.EARLIEST)

    # -- the rest of the capabilities --------------------------------------------------------------

    async def test_delayed_records_come_when_they_are_due(self, backend: BusBackend, topic: str) -> None:
        """Not before, and in order of due time. Usually wrong: an offset given out early, which blocks its partition."""
        self.needs(backend, Capability.DELAYED_DELIVERY)
        reader = await self.open_reader(backend, topic)
        now = SystemClock().time()
        late, soon = record("late"), record("soon")
        late.deliver_at, soon.deliver_at = now + 0.3, now + 0.15
        assert list(await backend.append(topic, [late, soon])) == [None, None]
        await backend.append(topic, [record("now")])
        got = await reader.take(3)
        assert payloads(got) == ["now", "soon", "late"]
        assert SystemClock().time() >= now + 0.3
        await reader.stream.close()

    async def test_what_is_not_offered_is_refused(self, backend: BusBackend, topic: str) -> None:
        """And nothing is taken: a record with a due time must not be delivered at once instead."""
        reader = await self.open_reader(backend, topic)
        if Capability.DELAYED_DELIVERY not in backend.capabilities:
            held = record("late")
            held.deliver_at = SystemClock().time() + 1_000
            with pytest.raises(NotOfferedError):
                await backend.append(topic, [held])
        if Capability.ATOMIC_STATE not in backend.capabilities:
            with pytest.raises(NotOfferedError):
                await backend.append(topic, [record()], state={"k": b"v"})
            with pytest.raises(NotOfferedError):
                await backend.load_state("k")
        await reader.nothing(0.05)
        await reader.stream.close()

    async def test_state_is_stored_with_the_records(self, backend: BusBackend, topic: str) -> None:
        """The latest value is there, also without records."""
        self.needs(backend, Capability.ATOMIC_STATE)
        assert await backend.load_state(topic) is None
        await backend.append(topic, [record()], state={topic: b"\x00one"})
        await backend.append(topic, [], state={topic: b"two"})
        assert await backend.load_state(topic) == b"two"

    async def test_durable_records_survive(self, new_backend: NewBackend, topic: str) -> None:
        """Another instance over the same storage finds records, positions, attempts and state."""
        first = new_backend()
        await first.open()
        try:
            self.needs(first, Capability.DURABLE, Capability.GROUPS, Capability.REPLAY)
            reader = await self.open_reader(first, topic, "g", StartAt.EARLIEST)
            await first.append(topic, [record(n) for n in range(4)])
            await reader.take(2, limit=2)
            await reader.commit()
        finally:
            await first.close()
        second = new_backend()
        await second.open()
        reader = await self.open_reader(second, topic, "g")
        assert payloads(await reader.take(2)) == [2, 3]
        positions = await second.append(topic, [record("new")])
        assert positions[0] is not None
        assert positions[0].offset > reader.got[-1].offset
        await second.close()

    async def test_two_instances_at_once(self, new_backend: NewBackend, topic: str) -> None:
        """What one publishes the other delivers. Usually wrong: a wake-up that stays within the process."""
        one, two = new_backend(), new_backend()
        await one.open()
        try:
            self.needs(one, Capability.MULTI_PROCESS)
            await two.open()
            reader = await self.open_reader(two, topic)
            await asyncio.gather(
                *(one.append(topic, [record(n, f"k{n}")]) for n in range(20)),
                *(two.append(topic, [record(n, f"k{n}")]) for n in range(20, 40)),
            )
            assert sorted(payloads(await reader.take(40))) == list(range(40))
        finally:
            await two.close()
            await one.close()

    async def test_retention_by_count(self, backend: BusBackend, topic: str) -> None:
        """Old records go; a reader that was there is told so (PositionLostError), and goes on with the oldest."""
        self.needs(backend, Capability.RETENTION, Capability.REPLAY, Capability.TOPIC_ADMIN)
        await backend.create_topic(topic, TopicConfig(partitions=1, retention_records=10))
        positions = await backend.append(topic, [record(n) for n in range(100)])
        first = positions[0]
        assert first is not None

        async def removed() -> bool:
            (info,) = [t for t in await backend.topics() if t.name == topic]
            return info.records == 10

        await eventually(removed, 20)
        reader = await self.open_reader(backend, topic, start={first.partition: first.offset})
        with pytest.raises(PositionLostError):
            await reader.take(1)
        assert payloads(await reader.take(10)) == list(range(90, 100))
        await reader.stream.close()

    async def test_topics_are_made_listed_and_removed(self, backend: BusBackend, topic: str) -> None:
        """Usually wrong: a deleted topic whose old records come back when it is made again."""
        self.needs(backend, Capability.TOPIC_ADMIN)
        await backend.append(topic, [record(1)])
        assert topic in [t.name for t in await backend.topics()]
        reader = await self.open_reader(backend, topic)
        await backend.delete_topic(topic)
        async with asyncio.timeout(10):
            assert list(await reader.stream.receive(1)) == []
        assert topic not in [t.name for t in await backend.topics()]
        with pytest.raises(TopicNotFoundError):
            await backend.delete_topic(topic)
        reader = await self.open_reader(backend, topic, start=StartAt.EARLIEST)
        await reader.nothing(0.05)
        await reader.stream.close()

    async def test_a_full_buffer_is_an_error_and_takes_nothing(self, backend: BusBackend, topic: str) -> None:
        """With ``timeout=0`` a full backend refuses at once; what it refused is not delivered later."""
        reader = await self.open_reader(backend, topic)
        taken = 0
        try:
            for n in range(30_000):
                await backend.append(topic, [record(n)], timeout=0)
                taken += 1
        except BackpressureError:
            got = payloads(await reader.take(taken))
            assert got == list(range(taken))
            await reader.nothing(0.05)
        await reader.stream.close()

    async def test_close_may_be_repeated(self, new_backend: NewBackend, topic: str) -> None:
        """Closing ends open streams, and again does nothing."""
        made = new_backend()
        await made.open()
        reader = await self.open_reader(made, topic)
        waiting = asyncio.create_task(reader.stream.receive(1))
        await asyncio.sleep(0)
        await reader.stream.close()
        await made.close()
        await made.close()
        async with asyncio.timeout(5):
            assert list(await waiting) == []


async def _at_least(one: Reader, two: Reader, count: int) -> bool:
    return len(one.got) + len(two.got) >= count
