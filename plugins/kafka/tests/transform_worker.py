"""Publish two events for each event of a topic to another, until killed. ``transform_worker.py OPTIONS SOURCE TARGET``."""

from __future__ import annotations

import asyncio
import json
import sys

from dimesh import Event, EventBusFactory, StartAt


async def main() -> None:
    bus = EventBusFactory.create("kafka", **json.loads(sys.argv[1]))

    async def double(event: Event) -> list[Event]:
        return [Event("made.of", event.metadata, [event.payload, part]) for part in (0, 1)]

    await bus.subscribe(sys.argv[2], double, group="doubling", start=StartAt.EARLIEST, produce_to=sys.argv[3])
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
