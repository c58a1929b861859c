"""Through the public bus: what users see of the backend, with the engine on top of it."""

from __future__ import annotations

import asyncio
from typing import Any

from dimesh.bus.deadletter import UNDECODABLE
from dimesh.bus.door import Operation
from dimesh.bus.engine import EventBus
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.errors import BackpressureError, TopicNotFoundError
from dimesh.events import Event
from dimesh.spi.bus import Record
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, event
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, eventually, until

FAST = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.001))


async def dead_letters(bus: EventBus, topic: str, count: int = 1) -> list[Any]:
    """Return the dead letters of a topic once there are at least ``count``."""

    async def enough() -> list[Any] | None:
        try:
            found = list(await DeadLetters(bus).entries(topic))
        except TopicNotFoundError:
            return None
        return found if len(found) >= count else None

    found = await eventually(enough)
    assert found is not None
    return found


class Engine(BusHarness):
    """Handlers that fail, hang, are cancelled or are slow."""

    @proves(G.REDELIVERY)
    async def test_a_failing_handler_is_called_again(self, new_backend: NewBackend, topic: str) -> None:
        """A failed event is handled again with the same id, while later events of its key wait. Usually wrong: a delivery
        counts as handled when it was handed out.
        """
        bus = EventBus(new_backend())
        calls: list[tuple[str, int]] = []

        async def flaky(e: Event) -> None:
            calls.append((e.event_id, e.payload))
            if len([c for c in calls if c[1] == e.payload]) < 3:
                raise ConnectionError("not yet")

        await bus.subscribe(topic, flaky, options=FAST)
        await bus.publish_many(topic, [event(1), event(2)])
        await until(lambda: len(calls) >= 6)
        assert [n for _, n in calls] == [1, 1, 1, 2, 2, 2]
        assert len({event_id for event_id, _ in calls}) == 2
        await bus.close()

    @proves(G.DEAD_LETTER, Capability.LOOK_BACK)
    async def test_what_always_fails_becomes_a_dead_letter(self, new_backend: NewBackend, topic: str) -> None:
        """A dead letter holds the original bytes and the origin of its event, and what follows the event is handled. Usually
        wrong: headers are lost on the way; a dead letter is acknowledged before it is stored.
        """
        bus = EventBus(new_backend())
        handled: list[Any] = []

        async def handle(e: Event) -> None:
            if e.payload == "poison":
                raise ValueError("never")
            handled.append(e.payload)

        await bus.subscribe(
            topic, handle, "g" if Capability.GROUPS in bus.capabilities else None, options=FAST
        )
        poison = event("poison")
        await bus.publish_many(topic, [event(1), poison, event(2)])
        (entry,) = await dead_letters(bus, topic)
        assert entry.event.data == poison.data
        assert entry.event.metadata == poison.metadata
        assert (entry.topic, entry.attempts, entry.reason) == (topic, 3, "ValueError: never")
        await until(lambda: handled == [1, 2])
        await bus.close()

    @proves(G.DEAD_LETTER, Capability.LOOK_BACK)
    async def test_bytes_that_are_no_event_become_dead_letters(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """Both byte strings are kept. Usually wrong: the stream ends with an error, or the record is skipped."""
        bus = EventBus(new_backend())
        await bus.open()
        handled: list[Any] = []
        await bus.subscribe(topic, lambda e: handled.append(e.payload), options=FAST)
        raw = [(b"\xff\x00junk", b"\x00payload"), (b"", b""), (b"{" * 300, b"}" * 70_000)]
        await bus.door.append(
            topic,
            [Record.stored(h, p, "P:a", "t", "p", "normal") for h, p in raw],
            operation=Operation.PUBLISH,
        )
        await bus.publish(topic, event("good"))
        entries = await dead_letters(bus, topic, 3)
        assert [
            (e.event.event_type, e.event.headers["dimesh-dlq-raw-header"], e.event.data) for e in entries
        ] == [(UNDECODABLE, header, payload) for header, payload in raw]
        await until(lambda: handled == ["good"])
        await bus.close()

    @proves(G.HANDLED_BEFORE_COMMIT, Capability.GROUPS)
    async def test_the_position_waits_for_the_handlers(self, new_backend: NewBackend, topic: str) -> None:
        """While an event is being handled, nothing at or after it is committed, whatever else happens. Usually wrong: what
        was received is committed; a commit passes a hole.
        """
        bus = EventBus(new_backend())
        gate = asyncio.Event()
        handled: list[int] = []

        async def handle(e: Event) -> None:
            if e.payload == 3:
                await gate.wait()
            handled.append(e.payload)

        async def lag() -> int:
            return sum(g.lag or 0 for g in await bus.door.groups() if g.topic == topic)

        await bus.subscribe(topic, handle, "g")
        receipts = [await bus.publish(topic, event(n, f"agent-{n}")) for n in range(10)]
        await until(lambda: len(handled) == 9)
        await asyncio.sleep(bus.door.commit_interval * 2)
        if self.family == "log":
            held = receipts[3].position
            assert held is not None
            same = [r for r in receipts[3:] if r.position and r.position.partition == held.partition]
            assert await lag() >= len(same)
            for info in await bus.door.groups():
                if (info.topic, info.partition) == (topic, held.partition):
                    assert info.committed is None or info.committed <= held.offset
        gate.set()
        await eventually(lambda: _none(lag))
        await bus.close()

    @proves(G.CANCELLATION, Capability.GROUPS)
    async def test_a_cancelled_handler_has_not_handled(self, new_backend: NewBackend, topic: str) -> None:
        """A bus that is closed in haste commits only what is done; the next one handles the rest. Usually wrong:
        CancelledError is caught with all others, and the event counts as handled.
        """
        backend = new_backend()
        bus = EventBus(backend, drain_timeout=0.01)
        began = asyncio.Event()

        async def hang(e: Event) -> None:
            began.set()
            await asyncio.Event().wait()

        await bus.subscribe(topic, hang, "g")
        await bus.publish(topic, event("held"))
        async with deadline():
            await began.wait()
        found: list[Any] = []
        if Capability.DURABLE in backend.capabilities:
            await bus.close()
            bus = EventBus(new_backend())
        else:
            await bus.unsubscribe("g")
        await bus.subscribe(topic, lambda e: found.append(e.payload), "g")
        await until(lambda: found == ["held"])
        await bus.close()

    @proves(G.DRAIN, Capability.GROUPS)
    async def test_closing_finishes_and_commits(self, new_backend: NewBackend, topic: str) -> None:
        """Closing waits for running handlers, and what they handled is not delivered again. Usually wrong: the last commit
        is sent after the stream has left the group.
        """
        backend = new_backend()
        bus = EventBus(backend)
        handled: list[int] = []

        async def slow(e: Event) -> None:
            await asyncio.sleep(0.01)
            handled.append(e.payload)

        await bus.subscribe(topic, slow, "g")
        await bus.publish_many(topic, [event(n, f"agent-{n}") for n in range(30)])
        await until(lambda: bool(handled))
        if Capability.DURABLE in backend.capabilities:
            await bus.close()
            bus = EventBus(new_backend())
        else:
            await bus.unsubscribe("g")
        await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
        async with deadline(2):
            await bus.idle()
        await until(lambda: len(handled) >= 30)
        assert sorted(handled) == list(range(30))
        await bus.close()

    @proves(G.TRANSACTION, Capability.GROUPS, Capability.LOOK_BACK, Capability.KEY_ORDER)
    async def test_what_a_handler_returns_is_published(self, new_backend: NewBackend, topic: str) -> None:
        """What handlers return is published in the order of each key, also after retries and a restart of the subscription;
        what fails for good produces nothing. With ``transactions`` each event is published once. Usually wrong: what a
        handler returned before it was retried is published, too.
        """
        bus = EventBus(new_backend())
        tries: dict[int, int] = {}

        async def double(e: Event) -> list[Event] | None:
            tries[e.payload] = tries.get(e.payload, 0) + 1
            if e.payload % 5 == 1 and tries[e.payload] < 2:
                raise ConnectionError("once")
            if e.payload == 13:
                raise ValueError("always")
            return [event([e.payload, part], e.metadata.source_agent) for part in (0, 1)]

        out: list[Any] = []
        await bus.subscribe(f"{topic}.out", lambda e: out.append(e.payload))
        await bus.subscribe(topic, double, "g", produce_to=f"{topic}.out", options=FAST)
        await bus.publish_many(topic, [event(n, f"agent-{n % 3}") for n in range(10)])
        await until(lambda: len(out) >= 20)
        await bus.unsubscribe("g")
        await bus.publish_many(topic, [event(n, f"agent-{n % 3}") for n in range(10, 20)])
        await bus.subscribe(topic, double, "g", produce_to=f"{topic}.out", options=FAST)
        expected = [[n, part] for n in range(20) if n != 13 for part in (0, 1)]
        await until(lambda: len(out) >= len(expected))
        await bus.close()
        assert sorted(out) == expected
        for key in range(3):
            assert [pair for pair in out if pair[0] % 3 == key] == [p for p in expected if p[0] % 3 == key]

    @proves(G.BACK_PRESSURE)
    async def test_a_slow_consumer_is_not_flooded(self, new_small_backend: NewBackend, topic: str) -> None:
        """The subscription holds no more than its bound, and everything that was received is handled in the end. Usually
        wrong: an unbounded queue between backend and handler; a full queue that drops.
        """
        bus = EventBus(new_small_backend())
        gate = asyncio.Event()
        handled: list[int] = []
        running = 0
        most = 0

        async def slow(e: Event) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            handled.append(e.payload)

        await bus.subscribe(topic, slow, options=SubscriptionOptions(concurrency=3, max_in_flight=5))
        taken = []
        for n in range(300):
            try:
                await bus.publish(topic, event(n, f"agent-{n % 11}"), timeout=0)
                taken.append(n)
            except BackpressureError:
                break
        await until(lambda: running > 0)
        assert bus.subscription(next(iter(bus.stats()))).in_flight.count <= 5
        gate.set()
        async with deadline(2):
            await bus.idle()
        await until(lambda: len(handled) == len(taken))
        assert sorted(handled) == taken
        assert most <= 3
        await bus.close()

    @proves(G.KEY_ORDER, Capability.KEY_ORDER)
    async def test_order_holds_through_retries(self, new_backend: NewBackend, topic: str) -> None:
        """Events of one key are handled one at a time and in order, although some fail at first. Usually wrong: a retry is
        appended at the end.
        """
        bus = EventBus(new_backend())
        tries: dict[Any, int] = {}
        done: dict[int, list[int]] = {}

        async def flaky(e: Event) -> None:
            key, number = e.payload
            tries[key, number] = tries.get((key, number), 0) + 1
            await asyncio.sleep(0)
            if tries[key, number] <= (key + number) % 3:
                raise ValueError("again")
            done.setdefault(key, []).append(number)

        await bus.subscribe(
            topic, flaky, options=SubscriptionOptions(retry=RetryPolicy(attempts=4, base=0.001))
        )
        for number in range(20):
            await bus.publish_many(topic, [event([key, number], f"agent-{key}") for key in range(4)])
        async with deadline(2):
            await bus.idle()
        await until(lambda: sum(map(len, done.values())) == 80)
        assert done == {key: list(range(20)) for key in range(4)}
        await bus.close()


async def _none(count: Any) -> bool:
    return not await count()
