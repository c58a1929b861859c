"""Closing a bus or a subscription never waits for more than its bound, and never for itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    BusClosedError,
    Event,
    EventBus,
    EventBusFactory,
    EventHandler,
    RetryPolicy,
    SubscriptionOptions,
)
from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.spi.bus import Batch, PartitionListener, StartAt, Subscribe
from dimesh.tasks import report_if_stuck

from .conftest import event, eventually

MakeBus = Callable[..., EventBus]
LONG = 60.0
"""Seconds that no test waits for: a batch that fills for so long is handed over for another reason."""


class Hanging:
    """Has a handler that swallows every cancellation."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.end = asyncio.Event()

    async def stubborn(self, e: Event) -> None:
        self.running.set()
        while not self.end.is_set():
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                pass


def numbers(events: Sequence[Event]) -> list[int]:
    return [e.payload["n"] for e in events]


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "unsubscribe"])
async def test_a_filling_batch_is_handed_over_at_once(make_bus: MakeBus, leave: str) -> None:
    bus = make_bus()
    batches: list[list[int]] = []

    async def handle(events: list[Event]) -> None:
        batches.append(numbers(events))

    await bus.subscribe("t", EventHandler(handle, batch_size=10, batch_wait=LONG), "g")
    await bus.publish_many("t", [event(n) for n in range(3)])
    await eventually(lambda: bus.stats()["g"].received == 3)
    async with asyncio.timeout(5):
        await (bus.close() if leave == "close" else bus.unsubscribe("g"))
    assert batches == [[0, 1, 2]]


async def test_a_batch_that_waits_for_another_attempt_is_left_to_the_next_member(make_bus: MakeBus) -> None:
    bus = make_bus()
    if Capability.DURABLE not in bus.capabilities:
        pytest.skip("a bus in memory has no next member")
    failed = asyncio.Event()

    async def fail(events: list[Event]) -> None:
        failed.set()
        raise ConnectionError("later")

    await bus.subscribe(
        "t",
        EventHandler(fail, batch_size=2),
        "g",
        options=SubscriptionOptions(retry=RetryPolicy(attempts=9, base=LONG, maximum=LONG)),
    )
    await bus.publish_many("t", [event(n) for n in range(3)])
    async with asyncio.timeout(5):
        await failed.wait()
        await bus.close()
    successor = make_bus()
    found: list[int] = []
    await successor.subscribe("t", lambda e: found.append(e.payload["n"]), "g")
    await eventually(lambda: found == [0, 1, 2])


async def test_a_partition_moves_although_its_batch_is_not_full(make_bus: MakeBus, kind: str) -> None:
    bus = make_bus(partitions=1)
    taken: list[int] = []

    async def never_called(events: list[Event]) -> None:
        taken.extend(numbers(events))

    await bus.subscribe("t", EventHandler(never_called, batch_size=10, batch_wait=LONG), "a", group="g")
    await bus.publish("t", event(1))
    await eventually(lambda: bus.stats()["a"].received == 1)
    subscription = bus.subscription("a")
    async with asyncio.timeout(5):
        await subscription.revoked(list(subscription.parts))
    assert subscription.parts == {}
    assert taken == []


# -- from inside -----------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "unsubscribe"])
@pytest.mark.parametrize("how", ["directly", "in a task", "in a batch", "in middleware"])
async def test_a_handler_may_close_what_calls_it(make_bus: MakeBus, leave: str, how: str) -> None:
    bus = make_bus()
    returned: list[str] = []

    async def end() -> None:
        assert await (bus.close() if leave == "close" else bus.unsubscribe("g")) in (None, True)

    async def handle(e: Any) -> None:
        if how == "in a task":
            await asyncio.create_task(end())
        elif how != "in middleware":
            await end()
        returned.append("handler")

    async def middleware(e: Event, call_next: Callable[[Event], Any]) -> Any:
        await end()
        return await call_next(e)

    handler = EventHandler(handle, batch_size=5 if how == "in a batch" else None)
    await bus.subscribe("t", handler, "g", middleware=[middleware] if how == "in middleware" else ())
    await bus.publish("t", event(1))
    async with asyncio.timeout(5):
        await eventually(lambda: returned == ["handler"])
        await bus.close()  # from outside, it waits
    assert returned == ["handler"]
    assert bus.stats() == {}
    with pytest.raises(BusClosedError):
        await bus.publish("t", event(2))


async def test_what_the_handler_that_closed_the_bus_handled_is_committed(
    make_bus: MakeBus, kind: str
) -> None:
    if kind == "memory":
        pytest.skip("its positions end with it")
    bus = make_bus()

    async def handle(e: Event) -> None:
        await bus.close()

    await bus.subscribe("t", handler := EventHandler(handle), "g")
    await bus.publish("t", event(1))
    async with asyncio.timeout(5):
        await eventually(lambda: bus.closed)
        await bus.close()
    assert handler.name
    successor = make_bus()
    found: list[int] = []
    await successor.subscribe("t", lambda e: found.append(e.payload["n"]), "g")
    await successor.publish("t", event(2))
    await eventually(lambda: found)
    assert found == [2]


async def test_a_task_that_outlives_its_handler_waits_for_the_close(bus: EventBus) -> None:
    closed: list[bool] = []
    tasks: list[asyncio.Task[None]] = []
    gate = asyncio.Event()

    async def shut_down() -> None:
        await gate.wait()
        await bus.close()
        closed.append(bus.stats() == {} and bool(bus._closing and bus._closing.done()))

    async def handle(e: Event) -> None:
        tasks.append(asyncio.create_task(shut_down()))

    await bus.subscribe("t", handle, "g")
    await bus.publish("t", event(1))
    await eventually(lambda: bus.stats()["g"].handled == 1)
    gate.set()
    await eventually(lambda: closed)
    assert closed == [True]


# -- what hangs ------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_handler_that_swallows_one_cancellation_does_not_hold_up_closing(
    make_bus: MakeBus, kind: str
) -> None:
    bus = make_bus()
    running = asyncio.Event()

    async def swallow(e: Event) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    await bus.subscribe("t", swallow, "g")
    await bus.publish("t", event(1))
    await running.wait()
    async with asyncio.timeout(4):
        await bus.close(timeout=0.01)


async def test_a_handler_that_returns_when_it_is_cancelled_has_not_handled(
    make_bus: MakeBus, kind: str
) -> None:
    if kind == "memory":
        pytest.skip("its positions end with it")
    bus = make_bus()
    running = asyncio.Event()

    async def swallow(e: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    await bus.subscribe("t", swallow, "single")
    await bus.subscribe("t", EventHandler(swallow, batch_size=3), "batch")
    await bus.publish("t", event(1))
    await running.wait()
    await eventually(lambda: all(s.received == 1 for s in bus.stats().values()))
    await bus.close(timeout=0.05)
    successor = make_bus()
    found: list[str] = []
    for group in ("single", "batch"):
        await successor.subscribe("t", lambda e, group=group: found.append(group), group)
    await eventually(lambda: sorted(found) == ["batch", "single"])


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["close", "unsubscribe"])
async def test_a_handler_that_swallows_every_cancellation_is_left_behind_and_named(
    make_bus: MakeBus, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(drain_timeout=0.05)
    hanging = Hanging()
    await bus.subscribe("t", hanging.stubborn, "g")
    await bus.publish("t", event(1))
    await hanging.running.wait()
    with caplog.at_level(logging.WARNING, "dimesh"):
        try:
            async with asyncio.timeout(9):
                await (bus.close() if leave == "close" else bus.unsubscribe("g"))
        finally:
            hanging.end.set()
    (line,) = [r.getMessage() for r in caplog.records if "left behind" in r.getMessage()]
    assert line.startswith("dimesh-worker-g did not end within 5 s")
    assert "stubborn" in line
    assert "test_closing.py" in line


class Deaf(MemoryStream):
    """A stream whose client library swallows cancellations."""

    cancellations = 0
    swallows = 1

    async def receive(self, limit: int) -> Sequence[Batch]:
        while True:
            try:
                return await super().receive(limit)
            except asyncio.CancelledError:
                self.cancellations += 1
                if self.cancellations > self.swallows:
                    raise


class DeafBackend(MemoryBackend):
    def __init__(self, swallows: int) -> None:
        super().__init__(MemoryOptions(), SystemClock())
        self.swallows = swallows
        self.stuck = False

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        stream = await super().subscribe(request, listener)
        stream.__class__ = Deaf
        assert isinstance(stream, Deaf)
        stream.swallows = self.swallows
        return stream

    async def close(self) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        await super().close()


async def test_a_receive_that_swallows_one_cancellation_does_not_hold_up_closing() -> None:
    bus = EventBus(DeafBackend(1))
    found: list[int] = []
    await bus.subscribe("t", lambda e: found.append(e.payload["n"]), "g")
    await bus.publish("t", event(1))
    await eventually(lambda: found)
    async with asyncio.timeout(4):
        await bus.close()


@pytest.mark.slow
async def test_plugins_that_never_end_are_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    backend = DeafBackend(8)
    bus = EventBus(backend)
    await bus.subscribe("t", lambda e: None, "g")
    backend.stuck = True
    with caplog.at_level(logging.WARNING, "dimesh"):
        async with asyncio.timeout(18):
            await bus.close()
    lines = [r.getMessage() for r in caplog.records]
    assert any(line.startswith("dimesh-pump-g did not end") and "Deaf.receive" in line for line in lines)
    assert any(
        line.startswith("closing the memory bus did not finish within 10 s") and "DeafBackend.close" in line
        for line in lines
    )


@pytest.mark.slow
async def test_a_revocation_does_not_wait_for_a_handler_beyond_its_limit(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(drain_timeout=0.05)
    hanging = Hanging()
    await bus.subscribe("t", hanging.stubborn, "g", options=SubscriptionOptions(handler_timeout=0.2))
    await bus.publish("t", event(1))
    await hanging.running.wait()
    subscription = bus.subscription("g")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "dimesh"):
        try:
            await subscription.revoked(list(subscription.parts))
        finally:
            hanging.end.set()
    assert time.monotonic() - began < 7
    assert "dimesh-worker-g in " in caplog.text
    assert "stubborn" in caplog.text


def test_plain_code_that_hangs_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> None:
        while "dimesh_stop of audit" not in caplog.text:
            time.sleep(0.001)

    with report_if_stuck("dimesh_stop of audit", 0.02):
        stop()
    assert "did not finish within 0.02 s, and cannot be given up; it hangs in stop (" in caplog.text
    caplog.clear()
    with report_if_stuck("dimesh_stop of audit"):
        pass
    assert not caplog.records


# -- forgotten -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # Python 3.13 reports the file, too
def test_a_bus_that_is_collected_open_is_reported(kind: str, tmp_path: Path) -> None:
    options = {} if kind == "memory" else {"path": str(tmp_path / "mesh.db")}

    async def forget() -> None:
        bus = EventBusFactory.create(kind, **options)
        await bus.subscribe("t", lambda e: None, "g", start=StartAt.EARLIEST)

    def run() -> None:
        asyncio.run(forget())
        gc.collect()

    with pytest.warns(ResourceWarning, match=rf"an event bus \({kind}.*await bus.close\(\)"):
        run()


def test_a_bus_that_is_open_at_the_end_of_the_program_is_reported() -> None:
    program = (
        "import asyncio; from dimesh import EventBusFactory\n"
        "bus = EventBusFactory.create('memory')\n"
        "asyncio.run({}())"
    )
    for call, warned in (("bus.open", True), ("bus.close", False)):
        done = subprocess.run(
            [sys.executable, "-W", "always::ResourceWarning", "-c", program.format(call)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("an event bus (memory) was open" in done.stderr) is warned, done.stderr
