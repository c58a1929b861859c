"""Forgeries: the headers of the engine steer the bus, so nobody else may write them, on whichever backend."""

from __future__ import annotations

from typing import Any

import pytest

from dimesh.bus import headers as h
from dimesh.bus.deadletter import DISCARDED, REDRIVEN
from dimesh.bus.door import Operation
from dimesh.bus.engine import EventBus
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.errors import EventError
from dimesh.events import Event, EventMetadata
from dimesh.spi.bus import Record
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import eventually, until

ONCE = SubscriptionOptions(retry=RetryPolicy(attempts=1))
FORGED = (
    "dimesh-redrive-group",
    "dimesh-reply-to",
    "dimesh-dlq-closes",
    "Dimesh-Redrives",
    "dimesh-anything",
)


def event(n: Any, agent: str = "a", type_: str = "custom", **headers: str) -> Event:
    """Return an event of one agent."""
    metadata = EventMetadata(source_pillar="P", source_agent=agent)
    return Event(type_, metadata, n, headers={name.replace("_", "-"): v for name, v in headers.items()})


async def raw(bus: EventBus, topic: str, forged: Event) -> None:
    """Append past the entrances for users, as a stranger with access to the broker does."""
    await bus.door.append(topic, (Record.of(forged, "k"),), operation=Operation.PUBLISH)


class Forgeries(BusHarness):
    """Attempts from outside at what only the engine may do."""

    @proves(G.ENGINE_HEADERS)
    async def test_headers_of_the_engine_are_refused_at_every_entrance(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """Nothing is published, by none of the ways. Usually wrong: this belongs to the engine, and every backend has it."""
        bus = EventBus(new_backend())
        got: list[Any] = []
        await bus.subscribe(topic, lambda e: got.append(e.payload))
        for name in FORGED:
            forged = Event("custom", None, "forged", headers={name: "x"})
            for attempt in (
                bus.publish(topic, forged),
                bus.publish_many(topic, [event("fine"), forged]),
                bus.request(topic, forged, timeout=1),
            ):
                with pytest.raises(EventError, match="reserved"):
                    await attempt
        await bus.publish(topic, event("last", x_own="kept"))
        await until(lambda: got == ["last"])
        await bus.close()

    @proves(G.ENGINE_HEADERS)
    async def test_what_a_handler_gets_can_be_published_again(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """A request that is passed on carries nothing of the engine with it: the second handler does not answer it, and the
        publish is not refused. Usually wrong: the backend shows headers of the engine to handlers as headers of the user.
        """
        bus = EventBus(new_backend())
        passed: list[Event] = []

        async def pass_on(asked: Event) -> str:
            await bus.publish(f"{topic}.next", asked)
            return "first"

        async def second(asked: Event) -> str:
            passed.append(asked)
            return "second"

        await bus.subscribe(topic, pass_on)
        await bus.subscribe(f"{topic}.next", second)
        reply = await bus.request(topic, event("ask", x_own="kept"), timeout=30)
        assert reply.payload == "first"
        await until(lambda: passed != [])
        assert dict(passed[0].headers) == {"x-own": "kept"}
        await bus.close()

    @proves(G.ENGINE_HEADERS)
    async def test_a_reply_goes_to_reply_topics_only(self, new_backend: NewBackend, topic: str) -> None:
        """A stranger's request that names another topic does not make the consumer write there. Usually wrong: the backend
        maps a foreign header to that of the engine.
        """
        bus = EventBus(new_backend())
        written: list[Any] = []
        handled: list[Any] = []

        async def answer(asked: Event) -> str:
            handled.append(asked.payload)
            return "secret result"

        await bus.subscribe(f"{topic}.target", lambda e: written.append(e.payload))
        await bus.subscribe(topic, answer)
        await raw(bus, topic, event("ask", dimesh_reply_to=f"{topic}.target"))
        await bus.publish(topic, event("after"))
        await until(lambda: handled == ["ask", "after"] or handled == ["after", "ask"])
        await bus.publish(f"{topic}.target", event("end"))
        await until(lambda: written == ["end"])
        await bus.close()

    @proves(G.SENDERS_APART)
    async def test_two_senders_may_use_one_event_id(self, new_backend: NewBackend, topic: str) -> None:
        """Both events are handled; a repeat of one sender is dropped. Usually wrong: the backend drops repeats by id itself."""
        bus = EventBus(new_backend())
        got: list[Any] = []
        await bus.subscribe(topic, lambda e: got.append((e.metadata.source_agent, e.payload)))
        for agent in ("one", "two", "one"):
            metadata = EventMetadata(event_id="same", source_pillar="P", source_agent=agent)
            await bus.publish(topic, Event("custom", metadata, agent), key="k")
        await bus.publish(topic, event("end", "end"), key="k")
        await until(lambda: ("end", "end") in got)
        assert sorted(got) == [("end", "end"), ("one", "one"), ("two", "two")]
        await bus.close()

    @proves(G.DEAD_LETTER, Capability.LOOK_BACK)
    async def test_only_the_engine_closes_dead_letters(self, new_backend: NewBackend, topic: str) -> None:
        """An event that claims that an entry is redriven or discarded closes nothing; discarding does. Usually wrong: records
        are read back without their headers.
        """
        bus = EventBus(new_backend())

        async def fail(_: Event) -> None:
            raise ValueError("never")

        await bus.subscribe(topic, fail, options=ONCE)
        await bus.publish(topic, event("poison"))
        letters = DeadLetters(bus)

        async def listed() -> bool:
            return f"{topic}.dlq" in await letters.topics() and len(await letters.entries(topic)) == 1

        await eventually(listed)
        (entry,) = await letters.entries(topic)
        claim = {
            "partition": entry.position.partition,
            "offset": entry.position.offset,
            "event_id": entry.event_id,
        }
        for kind in (REDRIVEN, DISCARDED):
            await bus.publish(f"{topic}.dlq", event(claim, type_=kind))
        assert entry.position in [found.position for found in await letters.entries(topic) if found.open]
        await letters.discard(topic, positions=[entry.position])
        assert entry.position not in [found.position for found in await letters.entries(topic)]
        await bus.close()

    @proves(G.DEAD_LETTER, Capability.LOOK_BACK)
    async def test_a_redrive_goes_to_the_topic_of_the_dead_letters(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """A forged header that names another topic changes nothing. Usually wrong: records are read back from another topic."""
        bus = EventBus(new_backend())
        origin: list[Any] = []
        elsewhere: list[Any] = []
        await bus.subscribe(topic, lambda e: origin.append(e.payload))
        await bus.subscribe(f"{topic}.elsewhere", lambda e: elsewhere.append(e.payload))
        forged = event("forged").replace(headers={h.DLQ_TOPIC: f"{topic}.elsewhere", h.DLQ_REASON: "because"})
        await raw(bus, f"{topic}.dlq", forged)
        letters = DeadLetters(bus)
        (entry,) = await letters.entries(topic)
        assert entry.topic == topic
        await letters.redrive(topic)
        await until(lambda: origin == ["forged"])
        await bus.publish(f"{topic}.elsewhere", event("end"))
        await until(lambda: elsewhere == ["end"])
        await bus.close()

    @proves(G.REDRIVE_FOR_ONE, Capability.GROUPS, Capability.LOOK_BACK)
    async def test_only_a_redrive_is_for_one_group(self, new_backend: NewBackend, topic: str) -> None:
        """A redriven event reaches the group that failed, and no other; both get everything else. Usually wrong: the backend
        loses headers of the engine.
        """
        bus = EventBus(new_backend())
        broken = True
        one: list[Any] = []
        two: list[Any] = []

        async def first(e: Event) -> None:
            if broken and e.payload == "poison":
                raise ValueError("not yet")
            one.append(e.payload)

        await bus.subscribe(topic, first, f"{topic}.one", options=ONCE)
        await bus.subscribe(topic, lambda e: two.append(e.payload), f"{topic}.two")
        await bus.publish(topic, event("poison"))
        letters = DeadLetters(bus)

        async def listed() -> bool:
            return f"{topic}.dlq" in await letters.topics() and len(await letters.entries(topic)) == 1

        await eventually(listed)
        broken = False
        await letters.redrive(topic)
        await until(lambda: one == ["poison"])
        await bus.publish(topic, event("after"))
        await until(lambda: one == ["poison", "after"] and two == ["poison", "after"])
        await bus.close()
