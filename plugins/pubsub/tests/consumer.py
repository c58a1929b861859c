"""Handle events until killed. ``consumer.py OPTIONS TOPIC``; print one line when the handling of an event begins."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from dimesh import Event, EventBusFactory


async def main() -> None:
    bus = EventBusFactory.create("pubsub", **json.loads(sys.argv[1]))

    async def handle(event: Event) -> None:
        print(event.payload, flush=True)
        if event.payload == "hang":
            await asyncio.Event().wait()
        if event.payload == "die":
            os._exit(9)

    await bus.subscribe(sys.argv[2], handle, group="g")
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
