"""Events that end the process that handles them: real processes over one file, which end by themselves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from dimesh import (
    Event,
    EventBus,
    EventBusFactory,
    EventHandler,
    EventMetadata,
    RetryPolicy,
    StartAt,
    SubscriptionOptions,
)
from dimesh.bus.redrive import DeadLetters

from .conftest import eventually

CHILD = """
import asyncio, os, pathlib, signal, sys
from dimesh import EventBusFactory, EventHandler, RetryPolicy, StartAt, SubscriptionOptions

folder, batch, how = pathlib.Path(sys.argv[1]), sys.argv[2] == "batch", sys.argv[3]

def note(text):
    with (folder / "calls").open("a") as file:
        file.write(f"{text}\\n")

async def handle(given):
    for event in given if isinstance(given, list) else [given]:
        note(event.payload)
        if event.payload == "bad":
            os._exit(9) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.01)

async def main():
    bus = EventBusFactory.create("sqlite", path=str(folder / "mesh.db"), synchronous="normal")
    options = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.001), concurrency=8)
    handler = EventHandler(handle, batch_size=5 if batch else None, name="handle")
    await bus.subscribe("t", handler, "g", start=StartAt.EARLIEST, options=options)
    while sum(group.lag for group in await bus.door.groups()):
        await asyncio.sleep(0.01)
    await bus.close()

asyncio.run(main())
"""


def events(bad: int, count: int = 20) -> list[Event]:
    return [
        Event(
            "custom",
            EventMetadata(source_pillar="P", source_agent=f"a{n}"),
            "bad" if n == bad else str(n),
        )
        for n in range(count)
    ]


async def publish(folder: Path, *sent: Event) -> None:
    async with EventBusFactory.create("sqlite", path=str(folder / "mesh.db")) as bus:
        await bus.publish_many("t", sent)


def run(folder: Path, kind: str, how: str) -> int:
    child = [sys.executable, "-c", CHILD, str(folder), kind, how]
    return subprocess.run(child, check=False, timeout=60, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how", "bad"), [("single", "exit", 0), ("single", "kill", 13), ("batch", "exit", 7)]
)
def test_an_event_that_ends_its_process_becomes_a_dead_letter(
    tmp_path: Path, kind: str, how: str, bad: int
) -> None:
    asyncio.run(publish(tmp_path, *events(bad)))
    deaths = 0
    while (code := run(tmp_path, kind, how)) != 0:
        assert code in (9, -9)
        deaths += 1
        assert deaths <= 6, "the group is pinned"
    calls = (tmp_path / "calls").read_text().split()
    # One or two deaths pass before the event is suspected, then each one counts.
    assert 3 <= calls.count("bad") == deaths <= 5
    assert set(calls) == {"bad", *(str(n) for n in range(20) if n != bad)}

    async def check() -> None:
        async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
            (entry,) = await DeadLetters(bus).entries("t")
            assert entry.event.payload == "bad"
            assert entry.attempts == 3
            assert entry.reason.startswith("ProcessDiedError: the process died")
            assert sum(group.lag or 0 for group in await bus.door.groups()) == 0

    asyncio.run(check())


async def counted(bus: EventBus) -> int:
    """Return the number of rows that hold attempts."""
    connection = bus.door._backend.readers  # type: ignore[attr-defined]
    return await connection.run(lambda c: c.execute("SELECT count(*) FROM attempts").fetchone()[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_size", [None, 5])
async def test_a_member_that_leaves_in_order_leaves_no_mark(tmp_path: Path, batch_size: int | None) -> None:
    bus = EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db"), drain_timeout=0.01)
    started = asyncio.Event()

    async def hang(given: object) -> None:
        started.set()
        await asyncio.Event().wait()

    options = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.001))
    await bus.publish_many("t", events(-1))
    await bus.subscribe(
        "t", EventHandler(hang, batch_size=batch_size), "g", start=StartAt.EARLIEST, options=options
    )
    await started.wait()
    assert 1 <= await counted(bus) <= 4  # one mark for each partition, and nothing for each event
    await bus.unsubscribe("g")
    assert await counted(bus) == 0
    handled: list[object] = []
    await bus.subscribe("t", lambda e: handled.append(e.payload), "g", options=options)
    await eventually(lambda: len(handled) == 20)
    await bus.close()


async def test_a_member_that_makes_progress_leaves_no_mark(tmp_path: Path) -> None:
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        await bus.subscribe("t", lambda e: None, "g")
        await bus.publish_many("t", events(-1))

        async with asyncio.timeout(10):
            while await counted(bus) or sum(group.lag or 0 for group in await bus.door.groups()):
                await asyncio.sleep(0.01)
