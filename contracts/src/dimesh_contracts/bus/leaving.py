"""Closing that ends, and requests that come again."""

from __future__ import annotations

import asyncio
from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.bus.handler import EventHandler
from dimesh.bus.options import SubscriptionOptions
from dimesh.capabilities import Capability
from dimesh.errors import RequestTimeoutError
from dimesh.events import Event
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, event
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, until

LONG = 600.0
"""Seconds that no test waits for."""


class Leaving(BusHarness):
    """What ends: closing, and requests."""

    @proves(G.LEAVES, Capability.GROUPS)
    async def test_closing_waits_for_no_handler_that_swallows_its_cancellation(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """The event of that handler is not committed. Usually wrong: the stream closes when everything is committed."""
        bus = EventBus(new_backend(), drain_timeout=0.05)
        started = asyncio.Event()

        async def swallow(e: Event) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        await bus.subscribe(topic, swallow, "g", options=SubscriptionOptions(handler_timeout=None))
        await bus.publish(topic, event("held"))
        async with deadline():
            await started.wait()
        durable = Capability.DURABLE in bus.capabilities
        async with deadline(2):
            if durable:
                await bus.close()
            else:
                await bus.unsubscribe("g")
        found: list[Any] = []
        if durable:
            bus = EventBus(new_backend())
        await bus.subscribe(topic, lambda e: found.append(e.payload), "g")
        await until(lambda: found == ["held"])
        await bus.close()

    @proves(G.LEAVES)
    async def test_closing_hands_over_a_filling_batch(self, new_backend: NewBackend, topic: str) -> None:
        """At once, and not when the batch would have waited long enough. Usually wrong: closing waits for the timer."""
        bus = EventBus(new_backend())
        batches: list[list[Any]] = []

        async def handle(events: list[Event]) -> None:
            batches.append([e.payload for e in events])

        group = "g" if Capability.GROUPS in bus.capabilities else None
        name = await bus.subscribe(topic, EventHandler(handle, batch_size=10, batch_wait=LONG), group=group)
        await bus.publish_many(topic, [event(n) for n in range(3)])
        await until(lambda: bus.stats()[name].received == 3)
        async with deadline():
            await bus.close()
        assert [n for batch in batches for n in batch] == [0, 1, 2]

    @proves(G.REQUESTS)
    async def test_a_request_that_comes_again_is_answered_again(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """It is handled once, and two requests at once share the reply. Usually wrong: the repeat is dropped, and its sender
        waits for nothing.
        """
        bus = EventBus(new_backend())
        calls: list[Any] = []
        gate = asyncio.Event()

        async def answer(e: Event) -> int:
            calls.append(e.payload)
            await gate.wait()
            return len(calls)

        await bus.subscribe(topic, answer, group="g" if Capability.GROUPS in bus.capabilities else None)
        ask = event("ask")
        try:
            await bus.request(topic, ask, timeout=0.05)
        except RequestTimeoutError:
            pass
        async with deadline(2):
            await until(lambda: bool(calls))
            two = [asyncio.create_task(bus.request(topic, ask, timeout=LONG)) for _ in range(2)]
            gate.set()
            replies = [(await task).payload for task in two]
            replies.append((await bus.request(topic, ask, timeout=LONG)).payload)
        assert replies == [1, 1, 1]
        assert calls == ["ask"]
        await bus.close()
