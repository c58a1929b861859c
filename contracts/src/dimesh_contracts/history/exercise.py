"""Events that flow while something happens to the bus, and a verdict on the history of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from dimesh import Event, EventBus, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.errors import BackpressureError, PublishError
from dimesh.spi.bus import BusBackend
from dimesh_contracts.history.checker import check
from dimesh_contracts.history.entries import Handled, read
from dimesh_contracts.history.recorder import History, RecordingBackend
from dimesh_contracts.waiting import deadline, until

LANES: Final = 4
"""The number of concurrent publishers."""
KEYS: Final = 3
"""The number of ordering keys of each publisher."""


async def undisturbed() -> None:
    """Disturb nothing."""


async def exercise(
    new_backend: Callable[[], BusBackend],
    folder: Path,
    disturb: Callable[[], Awaitable[None]] = undisturbed,
    *,
    topic: str,
    events: int = 800,
    members: int = 1,
    guests: int = 0,
    pause: float = 0.0,
    times: float = 3.0,
    one_bus: bool = False,
    work: float = 0.0,
) -> int:
    """Publish and handle events while ``disturb`` runs, and assert that the history is correct.

    A publish with an unknown outcome is repeated with the same event, as users are advised to do.

    Args:
        new_backend: creates a backend for each member of the group.
        folder: where the history is written.
        disturb: what happens meanwhile.
        topic: the topic, which nobody else uses.
        events: the number of events to publish.
        members: the number of members that stay in the group.
        guests: the number of members that join one after the other, handle something, and leave.
        pause: the seconds between two publishes of one lane.
        one_bus: whether the members are subscriptions of one bus; otherwise each has a bus of its own.
        work: the seconds that a handler takes, so that members hold records that they have not begun to handle.
        times: the bound on waiting, as a multiple of the kit's patience.

    Returns:
        The number of publishes that were repeated.
    """
    path = folder / "history"
    history = History.append_to(path)
    handled: set[int] = set()
    repeated = 0

    async def handle(event: Event) -> None:
        if work:
            await asyncio.sleep(work)
        handled.add(event.payload)

    buses: list[EventBus] = []
    names = itertools.count()

    async def join() -> tuple[EventBus, str]:
        if buses and one_bus:
            (bus,) = buses
        else:
            bus = EventBus(RecordingBackend(new_backend(), history))
            buses.append(bus)
        name = f"member-{next(names)}"
        await bus.subscribe(
            topic,
            handle,
            subscription_id=name,
            group="g",
            start=StartAt.EARLIEST,
            options=SubscriptionOptions(retry=RetryPolicy(attempts=5, base=0.01)),
            middleware=[history.handling(topic, "g")],
        )
        return bus, name

    async def visit() -> None:
        bus, name = await join()
        await until(lambda: bus.stats()[name].handled > 0 or len(handled) == events, times)
        await bus.unsubscribe(name)
        if not one_bus:
            buses.remove(bus)
            await bus.close()

    for _ in range(members):
        await join()

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
    """Assert that nothing was lost, no key was out of order, and nothing was committed before it was handled."""
    entries = [entry for path in paths for entry in read(path)]
    assert any(isinstance(entry, Handled) for entry in entries)
    wrong = check(entries, complete=True)
    assert not wrong, "\n".join(map(str, wrong[:20]))
