"""A member of a group on a sqlite bus, as a process of its own: ``group_worker.py '{"name": …, "path": …}'``.

It prints one JSON line for each call of its handler as it begins and as it ends, with a time that all processes share, and runs
until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from typing import Any

from dimesh import Event, EventBusFactory, EventHandler, RetryPolicy, StartAt, SubscriptionOptions

TOPIC = "slow"
GROUP = "g"
_print = threading.Lock()


def tell(**what: Any) -> None:
    with _print:
        sys.stdout.write(json.dumps({**what, "time": time.monotonic()}) + "\n")
        sys.stdout.flush()


async def main(task: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    seconds: float = task["seconds"]

    async def slow(event: Event) -> None:
        tell(begins=event.payload)
        await asyncio.sleep(seconds)
        tell(ends=event.payload)

    async def blocks(event: Event) -> None:
        plain(event)

    def plain(event: Event) -> None:
        tell(begins=event.payload)
        time.sleep(seconds)
        tell(ends=event.payload)

    async def batch(events: list[Event]) -> None:
        for event in events:
            tell(begins=event.payload)
        await asyncio.sleep(seconds)
        for event in events:
            tell(ends=event.payload)

    handlers = {
        "coroutine": EventHandler(slow),
        "plain function": EventHandler(plain),
        "blocks its loop": EventHandler(blocks),
        "batch": EventHandler(batch, batch_size=2, batch_wait=0.01),
    }
    async with EventBusFactory.create("sqlite", path=task["path"], lease=task["lease"]) as bus:
        await bus.subscribe(
            TOPIC,
            handlers[task["kind"]],
            task["name"],
            group=GROUP,
            start=StartAt.EARLIEST,
            options=SubscriptionOptions(retry=RetryPolicy(base=0.01)),
        )
        tell(joined=task["name"])
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
