"""The flow of a subscription: what comes back later, what waits, and how fast it goes."""

from __future__ import annotations

import asyncio
from typing import Any

from dimesh.bus.door import Operation
from dimesh.bus.engine import EventBus
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.errors import TopicNotFoundError
from dimesh.events import Event
from dimesh.spi.bus import Record, TopicConfig
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, event
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import eventually, until

LATER = SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0.001, redeliver=(0.05, 0.05)))


class Flow(BusHarness):
    """Subscriptions whose events are delivered again later, subscriptions that pause, and subscriptions by pattern."""

    @proves(G.REDELIVERED_LATER, Capability.DELAYED_DELIVERY, Capability.GROUPS)
    async def test_what_is_delivered_again_later_is_for_one_group(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """The group that failed gets the event again with the same id, and those behind it do not wait; another group does not
        see it. Usually wrong: a delayed record loses the headers of the engine.
        """
        bus = EventBus(new_backend())
        one: list[Any] = []
        two: list[Any] = []
        tries: list[str] = []

        async def flaky(e: Event) -> None:
            if e.payload == "flaky":
                tries.append(e.event_id)
                if len(tries) <= 2:
                    raise ValueError("later")
            assert not [name for name in e.headers if name.startswith("dimesh-")]
            one.append(e.payload)

        await bus.subscribe(topic, flaky, f"{topic}.one", options=LATER)
        bare = SubscriptionOptions(dedup_window=0)  # a repeat would be dropped
        await bus.subscribe(topic, lambda e: two.append(e.payload), f"{topic}.two", options=bare)
        sent = event("flaky")
        await bus.publish_many(topic, [sent, event("behind")])
        await until(lambda: one == ["behind", "flaky"])
        await bus.publish(topic, event("after"))
        await until(lambda: "after" in one and "after" in two)
        assert tries == [sent.event_id] * 3
        assert two == ["flaky", "behind", "after"]
        await bus.close()

    @proves(G.REDELIVERED_LATER, Capability.DELAYED_DELIVERY, Capability.GROUPS, Capability.LOOK_BACK)
    async def test_what_fails_after_the_last_redelivery_is_a_dead_letter(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """The dead letter counts the attempts of all deliveries. Usually wrong: a delayed record loses the headers of the
        engine, so that it comes back for ever.
        """
        bus = EventBus(new_backend())
        tries: list[int] = []

        async def fail(e: Event) -> None:
            tries.append(e.payload)
            raise ValueError("never")

        await bus.subscribe(topic, fail, f"{topic}.g", options=LATER)
        sent = event(1)
        await bus.publish(topic, sent)
        letters = DeadLetters(bus)

        async def listed() -> list[Any] | None:
            try:
                return list(await letters.entries(topic))
            except TopicNotFoundError:
                return None

        entries = await eventually(listed)
        assert entries is not None
        (entry,) = entries
        assert len(tries) == 6
        assert (entry.event_id, entry.attempts, entry.group) == (sent.event_id, 6, f"{topic}.g")
        assert entry.first < entry.last
        await bus.close()

    @proves(G.PAUSED, Capability.GROUPS)
    async def test_a_pause_keeps_partitions_and_order(self, new_backend: NewBackend, topic: str) -> None:
        """A paused member handles nothing, also when its buffer is full, stays a member, and continues in order. Usually wrong:
        a member that does not receive counts as dead.
        """
        bus = EventBus(new_backend())
        got: list[Any] = []
        options = SubscriptionOptions(max_in_flight=5)
        await bus.subscribe(topic, lambda e: got.append(e.payload), f"{topic}.g", options=options)
        await bus.publish(topic, event("before"))
        await until(lambda: got == ["before"])

        async def members() -> set[tuple[int, str]]:
            return {(g.partition, g.member) for g in await bus.door.groups() if g.topic == topic and g.member}

        kept = await members()
        bus.pause(f"{topic}.g")
        await bus.publish_many(topic, [event(n) for n in range(30)])
        stats = bus.stats()[f"{topic}.g"]
        await until(lambda: stats.received >= 4)
        await asyncio.sleep(self.lease * 1.6)
        assert got == ["before"]
        assert await members() == kept
        bus.resume(f"{topic}.g")
        await until(lambda: len(got) == 31)
        assert got[1:] == list(range(30))
        assert stats.duplicates == 0
        await bus.close()

    @proves(G.PATTERNS, Capability.TOPIC_ADMIN, Capability.LOOK_BACK)
    async def test_a_pattern_follows_topics_created_later(self, new_backend: NewBackend, topic: str) -> None:
        """A subscription by pattern gets everything of the topics that are there, and of one that somebody else creates with its
        first event. Usually wrong: the list of topics is kept, or has no topics that an append created.
        """
        backend = new_backend()
        bus = EventBus(backend)
        shared = Capability.MULTI_PROCESS in backend.capabilities
        other = EventBus(new_backend()) if shared else bus
        got: list[Any] = []
        await bus.open()
        await bus.door.create_topic(f"{topic}.one", TopicConfig())
        options = SubscriptionOptions(topics_interval=0.05)
        group = f"{topic}.g" if Capability.GROUPS in bus.capabilities else None
        await bus.subscribe(f"{topic}.*", lambda e: got.append(e.payload), group=group, options=options)
        await bus.publish(f"{topic}.one", event(1))
        await other.publish(f"{topic}.two", event(2))
        await other.publish(f"not.{topic}.three", event(3))
        await bus.door.append(f"{topic}.four", [Record.of(event(4), "k")], operation=Operation.PUBLISH)
        await until(lambda: sorted(got) == [1, 2, 4], times=2)
        await bus.close()
        if shared:
            await other.close()
