"""Events that flow while something happens, and the history of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from dimesh import Event, EventBus, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.errors import BackpressureError, PublishError
from dimesh.spi.bus import BusBackend
from dimesh_contracts.history import History, RecordingBackend, check
from dimesh_contracts.history.entries import Handled, read
from dimesh_contracts.waiting import deadline, until

LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""aiokafka 0.14 leaves sockets open when a connection fails while it is being made; see the fixture leaky_client."""
LANES = 4
KEYS = 3


async def exercise(
    new_backend: Callable[[], BusBackend],
    folder: Path,
    disturb: Callable[[], Awaitable[None]],
    *,
    topic: str,
    events: int = 800,
    members: int = 1,
    guests: int = 0,
    pause: float = 0.0,
    times: float = 3.0,
) -> int:
    """Publish and handle ``events`` while ``disturb`` runs, and judge the history.

    ``guests`` are members of the group that come one after the other, handle something, and leave. A publish with an
    unknown outcome is repeated with the same event, as users are told to. Returns how many were.
    """
    path = folder / "history"
    history = History.append_to(path)
    handled: set[int] = set()
    repeated = 0

    async def handle(event: Event) -> None:
        handled.add(event.payload)

    async def join() -> EventBus:
        bus = EventBus(RecordingBackend(new_backend(), history))
        await bus.subscribe(
            topic,
            handle,
            subscription_id="member",
            group="g",
            start=StartAt.EARLIEST,
            options=SubscriptionOptions(retry=RetryPolicy(attempts=5, base=0.01)),
            middleware=[history.handling(topic, "g")],
        )
        return bus

    async def visit() -> None:
        guest = await join()
        await until(lambda: guest.stats()["member"].handled > 0 or len(handled) == events, times)
        await guest.close()

    buses = [await join() for _ in range(members)]

    async def publish(lane: int) -> None:
        nonlocal repeated
        for number in range(lane, events, LANES):
            event = Event("order.made", None, number)
            while True:
                try:
                    await buses[0].publish(topic, event, key=f"{lane}-{number // LANES % KEYS}")
                    break
                except (PublishError, BackpressureError):
                    repeated += 1
            await asyncio.sleep(pause)

    async with deadline(times):
        publishing = [asyncio.create_task(publish(lane)) for lane in range(LANES)]
        await until(lambda: len(handled) > events // 10, times)
        await disturb()
        for _ in range(guests):
            await visit()
        await asyncio.gather(*publishing)
        await until(lambda: len(handled) == events, times)
        await asyncio.gather(*(bus.close() for bus in buses))
    history.close()
    judge([path])
    return repeated


def judge(paths: Sequence[Path]) -> None:
    """Nothing lost, no key out of order, nothing committed ahead of handling."""
    entries = [entry for path in paths for entry in read(path)]
    assert any(isinstance(entry, Handled) for entry in entries)
    wrong = check(entries, complete=True)
    assert not wrong, "\n".join(map(str, wrong[:20]))
