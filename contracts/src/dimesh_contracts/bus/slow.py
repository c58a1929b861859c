"""Handlers that take longer than a lease: a member lives as long as its process does, whatever its handlers do."""

from __future__ import annotations

import asyncio
from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capability
from dimesh.events import Event
from dimesh.spi.bus import StartAt
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, event
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, eventually, until

KEYS = 6


class SlowHandlers(BusHarness):
    """Members of a group whose handlers are slow."""

    @proves(G.MEMBERSHIP, Capability.GROUPS)
    async def test_a_handler_may_take_longer_than_the_lease(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """Handlers run for longer than the lease while another member joins: each event is handled once, no key is at two
        members at once, and everything is committed. Usually wrong: a member that gives partitions up, or whose handlers are
        all busy, sends no heartbeat; a partition moves before the handlers on it have ended.
        """
        backend = new_backend()
        one = EventBus(backend)
        two = EventBus(new_backend()) if Capability.DURABLE in backend.capabilities else one
        running: dict[str, str] = {}
        clashes: list[str] = []
        handled: list[tuple[str, int]] = []

        async def handle(e: Event) -> None:
            key, number = e.metadata.source_agent, e.payload
            if key in running:
                clashes.append(f"{key}: {number} began while {running[key]} ran")
            running[key] = f"{number}"
            if number == 0:
                await asyncio.sleep(self.lease * 2)
            running.pop(key, None)
            handled.append((key, number))

        def events(number: int) -> list[Event]:
            return [event(number, f"agent-{n}") for n in range(KEYS)]

        patience = 1 + 6 * self.lease / self.patience
        await one.subscribe(topic, handle, "one", group="g", start=StartAt.EARLIEST)
        await one.publish_many(topic, events(0))
        await until(lambda: len(running) == KEYS)
        joining = asyncio.create_task(two.subscribe(topic, handle, "two", group="g", start=StartAt.EARLIEST))
        for number in (1, 2):
            await one.publish_many(topic, events(number))
        async with deadline(patience):
            await joining
            await until(lambda: len(handled) >= 3 * KEYS, patience)
            for bus in (one, two):
                await bus.idle()
        assert sorted(handled) == sorted((f"agent-{n}", number) for n in range(KEYS) for number in range(3))
        if Capability.KEY_ORDER in backend.capabilities:
            assert clashes == []
            for n in range(KEYS):
                assert [number for key, number in handled if key == f"agent-{n}"] == [0, 1, 2]
        if Capability.COUNTED_LAG in backend.capabilities:
            await eventually(lambda: _committed(one, topic))
        for bus in {one, two}:
            await bus.close()


async def _committed(bus: EventBus, topic: str) -> Any:
    return not sum(info.lag or 0 for info in await bus.door.groups() if info.topic == topic)
