"""The other process of the kit's tests: it publishes, consumes in group ``g``, and prints what it handled.

``python -m dimesh_contracts.bus.child '{"driver": …, "options": {…}, "topic": …, "count": …}'``; runs until terminated.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from dimesh import Event, EventBusFactory, StartAt


async def main(task: str) -> None:
    """Run the task until SIGTERM."""
    wanted = json.loads(task)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bus = EventBusFactory.create(wanted["driver"], **wanted["options"])

    async def handle(event: Event) -> None:
        sys.stdout.write(f"{event.payload}\n")
        sys.stdout.flush()

    await bus.subscribe(wanted["topic"], handle, "child", group="g", start=StartAt.EARLIEST)
    for n in range(wanted["count"]):
        await bus.publish(wanted["topic"], Event("contract.event", None, 1_000 + n), key=f"k{n}")
    await stop.wait()
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
