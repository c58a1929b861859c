"""Publishers that wait for room when the topic is deleted or the bus is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.clock import ManualClock
from dimesh.errors import BackpressureError, BusClosedError, DimeshError, TopicNotFoundError
from dimesh.events import Event
from dimesh.spi.bus import Record, Subscribe
from dimesh_contracts.waiting import deadline


class Listener:
    async def assigned(self, partitions: Mapping[int, int]) -> None: ...

    async def revoked(self, partitions: Sequence[int]) -> None: ...

    def lost(self, partitions: Sequence[int]) -> None: ...


async def full_backend() -> tuple[MemoryBackend, ManualClock, Record]:
    """Return a backend whose topic ``t`` holds as many records as it may."""
    clock = ManualClock()
    backend = MemoryBackend(MemoryOptions(capacity=3), clock)
    await backend.open()
    await backend.subscribe(Subscribe("t", None, "m"), Listener())
    record = Record.of(Event("x.y"), "k")
    for _ in range(3):
        await backend.append("t", [record])
    return backend, clock, record


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        (lambda backend, clock: backend.delete_topic("t"), TopicNotFoundError, "topic 't' was deleted"),
        (lambda backend, clock: backend.close(), BusClosedError, "the bus is closed"),
        (lambda backend, clock: clock.advance(5.1), BackpressureError, "No room came free within 5 s"),
    ],
    ids=["deleted", "closed", "late"],
)
async def test_a_publisher_that_waits_is_answered(
    end: Callable[[MemoryBackend, ManualClock], Awaitable[None]], error: type[DimeshError], message: str
) -> None:
    backend, clock, record = await full_backend()
    waiting = [asyncio.create_task(backend.append("t", [record], timeout=5.0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    async with deadline():
        await end(backend, clock)
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert type(result) is error
            assert message in str(result)
    await backend.close()
