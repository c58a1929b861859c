"""A captured world with a continuous verification, in simulated time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from dimesh import EventBusFactory, StartAt
from dimesh.cdc import SourceConnector
from dimesh.clock import ManualClock

from .world import MemoryStore, World, WorldSource

DAY: Final = 86_400.0


class Simulation:
    """A captured world with a continuous verification."""

    def __init__(self, rows: int = 300, late: float = 20.0, stale: float = 3.0, seed: int = 7) -> None:
        self.clock = ManualClock()
        self.rng = random.Random(seed)
        self.world = World(self.clock, self.rng, late, stale)
        self.store = MemoryStore()
        for n in range(rows):
            self.world.put(f"r{n:05}", name=f"name {n}", amount=n + 0.25, tags=["a", "b"], note=None)

    async def start(self, source: WorldSource, verify: float = 0.01) -> None:
        """Capture the world, in which the initial rows have settled."""
        await self.clock.advance(120)
        self.source = source
        self.bus = EventBusFactory.create("memory", clock=self.clock, history=100_000)
        await self.bus.open()
        self.connector = SourceConnector(
            "w", source, self.bus, store=self.store, clock=self.clock, seed=1, verify=verify
        )
        await self.connector.start(["thing"])
        await self.until(lambda: self.connector.get_status()["objects"]["thing"]["phase"] == "stream")

    async def until(self, true: Callable[[], Any], seconds: float = 86_400, step: float = 30.0) -> float:
        """Let time pass until a condition is true; return the seconds that passed."""
        began = self.clock.time()
        while not true():
            assert self.clock.time() - began < seconds, "it did not happen in time"
            await self.clock.advance(step)
        return self.clock.time() - began

    @property
    def kinds(self) -> dict[str, int]:
        """The kinds of errors that were found so far."""
        verified = self.connector.report().objects["thing"].verified
        return {} if verified is None else verified.kinds

    async def notices(self) -> list[Any]:
        records = await self.bus.door.read("cdc.world", StartAt.EARLIEST, 100_000)
        return [d.record.event.payload for d in records if d.record.event_type == "cdc.verified"]

    async def stop(self) -> None:
        await self.connector.disconnect()
        await self.bus.close()
