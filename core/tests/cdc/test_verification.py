"""The feed audits itself: real errors are found and named, and nothing else is."""

from __future__ import annotations

from .simulation import Simulation
from .world import WorldSource


async def test_a_lost_update_is_found() -> None:
    simulation = Simulation()
    await simulation.start(
        WorldSource(simulation.world, alter=lambda c: [] if c.primary_key["id"] == "r00042" else [c])
    )
    simulation.world.put("r00042", name="lost")
    simulation.world.put("r00043", name="not lost")
    await simulation.until(lambda: simulation.kinds)
    assert simulation.kinds == {"lost_update": 1}
    await simulation.clock.advance(60)
    notices = await simulation.notices()
    assert notices[0]["errors"] == [
        {
            "object": "thing",
            "primary_key": {"id": "r00042"},
            "kind": "lost_update",
            "fields": ["modified", "name"],
        }
    ]
    await simulation.stop()
