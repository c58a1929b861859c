"""Two processes that capture one connector: the second one waits and takes over, whether they share the store or only the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCConnector, EventBus, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.cdc.presence import ASK_AGAIN, REMIND, Presence
from dimesh.cdc.turn import load_standby
from dimesh.clock import ManualClock
from dimesh.errors import PublishError
from dimesh.spi.interceptor import Publishing

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row

Machine = tuple[CDCConnector, ScriptedSource, EventBus, SqliteCDCStore]
Start = Callable[..., Any]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that makes a connector with a bus of its own on the same file, and the store of that name."""
    async with AsyncExitStack() as stack:

        async def make(store: str, clock: ManualClock | None = None) -> Machine:
            bus = await stack.enter_async_context(
                EventBusFactory.create(
                    "sqlite", path=str(tmp_path / "mesh.db"), **({"clock": clock} if clock else {})
                )
            )
            kept = SqliteCDCStore(tmp_path / f"{store}.db")
            stack.push_async_callback(kept.close)
            source = ScriptedSource([row(1, name="Ada")])
            connector = SourceConnector("crm", source, bus, store=kept, status_events=True)
            stack.push_async_callback(connector.disconnect)
            return connector, source, bus, kept

        yield make


def phase(connector: CDCConnector) -> str:
    return connector.report().objects["contact"].phase


async def test_a_second_process_waits_for_the_claim_and_takes_over(
    machine: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first, source, bus, store = await machine("shared")
    await first.start(["contact"], keep_trying=True)
    await streaming(first)
    second, its, _, _ = await machine("shared")
    await second.start(["contact"], keep_trying=True)
    assert phase(second) == "standby"
    await eventually(lambda: "source crm is captured by another process (" in caplog.text)

    async def waiting() -> str:
        found = await load_standby(store, "crm", 0.0)
        return found.process if found is not None else ""

    while not await waiting():
        await asyncio.sleep(0.01)
    await source.say(change("u1", after={"id": 1, "name": "Eve"}))
    await eventually(lambda: first.report().objects["contact"].changes == 1)
    await first.stop()
    await streaming(second)
    assert "source crm is captured by this process from now on" in caplog.text
    await its.say(change("u1", after={"id": 1, "name": "Eve"}))  # its log has that change, too
    await its.say(change("u2", after={"id": 1, "name": "Kim"}))
    found = await published(bus, 2, "cdc.crm", "cdc.update")
    assert [e.payload["after"]["name"] for e in found] == ["Eve", "Kim"]
    assert found[1].payload["before"]["name"] == "Eve"
    await eventually(lambda: second.report().objects["contact"].changes == 2)  # in all runs
    assert len(await published(bus, 1, "cdc.crm", "cdc.snapshot")) == 1
    assert await waiting() == ""
    changes = [
        (e.payload["previous_phase"], e.payload["phase"])
        for e in await published(bus, 6, "cdc.crm", "cdc.status")
    ]
    assert ("waiting", "standby") in changes
    assert ("standby", "waiting") in changes


async def test_machines_that_share_only_the_bus_notice_each_other(
    machine: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first, _, bus, _ = await machine("one")
    await first.start(["contact"], keep_trying=True)
    await streaming(first)
    second, its, _, _ = await machine("another")
    await second.start(["contact"], keep_trying=True)
    await eventually(lambda: phase(second) == "standby")
    await eventually(lambda: "on the same bus (" in caplog.text)
    await first.stop()
    await streaming(second)
    await its.say(change("u1", after={"id": 1, "name": "Eve"}))
    await published(bus, 1, "cdc.crm", "cdc.update")


async def test_a_machine_that_falls_silent_is_replaced(machine: Start) -> None:
    first, _, bus, _ = await machine("one")
    await first.start(["contact"], keep_trying=True)
    await streaming(first)
    clock = ManualClock()
    second, _, _, _ = await machine("another", clock)
    await second.start(["contact"], keep_trying=True)
    await eventually(lambda: phase(second) == "standby")
    for _ in range(3):
        await clock.advance(ASK_AGAIN)  # the first one answers
    assert phase(second) == "standby"
    await bus.close()  # without a farewell
    async with asyncio.timeout(10):
        while phase(second) == "standby":
            await clock.advance(0.5)
            await asyncio.sleep(0.01)


class Divided:
    """An interceptor that lets nothing out while the network is divided."""

    divided = True

    async def publish(self, publishing: Publishing, events: Any, call_next: Any) -> Any:
        if self.divided:
            raise PublishError("the network is divided")
        return await call_next(events)


@asynccontextmanager
async def bus(path: Path, clock: ManualClock, *interceptors: Any) -> AsyncIterator[EventBus]:
    async with EventBusFactory.create(
        "sqlite", path=str(path / "mesh.db"), clock=clock, interceptors=list(interceptors)
    ) as made:
        yield made


async def test_of_two_that_capture_the_one_that_began_later_yields(tmp_path: Path) -> None:
    clock, divided = ManualClock(), Divided()
    yielded: list[str] = []
    async with bus(tmp_path, clock, divided) as one, bus(tmp_path, clock) as another:
        elder = Presence(one, "crm", lambda: yielded.append("elder"))
        divided.divided = False
        assert await elder.alone()
        divided.divided = True
        await clock.advance(1)
        younger = Presence(another, "crm", lambda: yielded.append("younger"))
        assert await younger.alone()  # no answer
        divided.divided = False
        reminding = asyncio.create_task(elder.remind())
        await asyncio.sleep(0)
        await clock.advance(REMIND)
        await eventually(lambda: yielded)
        assert yielded == ["younger"]
        waiting = asyncio.create_task(younger.wait())
        await asyncio.sleep(0)
        await elder.close()
        await asyncio.wait_for(waiting, 10)
        reminding.cancel()
        other = Presence(one, "erp", lambda: None)
        assert await other.alone()  # another connector
        for presence in (younger, other):
            await presence.close()
