"""Two processes of one mesh that record lineage in the same folder: one of them writes it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dimesh import Event, EventBus, EventBusFactory, LineageQuery, LineageService
from dimesh.cli.exit_codes import ExitCode
from dimesh_contracts.waiting import deadline, until

from .processes import running

Process = subprocess.Popen[bytes]
HANDLER = """
def ship(event):
    with open("handled", "a") as file:
        file.write(event.event_id + "\\n")
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two working folders with the same settings."""
    made = tmp_path / "first", tmp_path / "second"
    for folder in made:
        folder.mkdir()
        (folder / "shop.py").write_text(HANDLER)
        (folder / "dimesh.toml").write_text(
            f"[mesh]\ndata_dir = '{tmp_path}/data'\n[lineage]\nenabled = true\n"
            "[[handlers]]\ntopic = 'orders'\ncall = 'shop:ship'\nstart = 'earliest'\n"
        )
    return made


def handled(folder: Path) -> set[str]:
    file = folder / "handled"
    return set(file.read_text().splitlines()) if file.exists() else set()


def says(folder: Path, words: str) -> Callable[[], bool]:
    return lambda: words in (folder / "log").read_text()


async def publish(bus: EventBus, count: int) -> set[str]:
    """Publish events with keys of their own, so that they go to all members of the group."""
    events = [Event("order.created", None, n) for n in range(count)]
    await bus.publish_many("orders", events, keys=[event.event_id for event in events])
    return {event.event_id for event in events}


async def publish_to_both(bus: EventBus, first: Path, second: Path) -> None:
    """Publish until both processes have handled events, and every event is handled."""
    sent: set[str] = set()
    for _ in range(100):  # the second process joins the group meanwhile
        sent.update(await publish(bus, 8))
        await until(lambda: handled(first) | handled(second) >= sent)
        if handled(first) and handled(second):
            return
    pytest.fail("the second process got no events")


async def recorded(path: Path) -> set[str]:
    """Return the ids of the events in the log, which another process may be writing."""
    async with LineageService(path / "lineage", read_only=True) as log:
        found = await log.query_lineage(LineageQuery(node_type="event", max_nodes=10_000))
    assert not found["partial"]
    return {node["node_id"].removeprefix("event:") for node in found["nodes"]}


@asynccontextmanager
async def both_running(
    data: Path, first: Path, second: Path
) -> AsyncIterator[tuple[Process, Process, EventBus]]:
    """Run both processes, the first one as the writer of the log, until both have handled events."""
    with running(first, "run") as one:
        await until(says(first, "running; stop"))
        await until(lambda: any((data / "lineage").glob("*.lineage")))
        with running(second, "run") as two:
            await until(says(second, "running; stop"))
            async with EventBusFactory.create("sqlite", path=str(data / "mesh.db")) as bus:
                await publish_to_both(bus, first, second)
                yield one, two, bus


@pytest.mark.slow
async def test_the_second_process_says_that_it_writes_no_lineage(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    first, second = folders
    data = tmp_path / "data"
    async with both_running(data, first, second) as (one, two, bus):
        await until(says(second, "lineage is not written: it is kept in memory"))
        two.send_signal(signal.SIGTERM)
        assert two.wait(30) == ExitCode.UNAVAILABLE
        mine = handled(second)
        error = f"error: {len(mine)} lineage observations were not written: the lineage log"
        assert error in (second / "log").read_text()
        sent = await publish(bus, 8)
        await until(lambda: sent <= handled(first))
        one.send_signal(signal.SIGTERM)
        assert one.wait(30) == ExitCode.OK
    assert await recorded(data) == handled(first)


@pytest.mark.slow
async def test_the_second_process_takes_over_when_the_first_is_killed(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    first, second = folders
    data = tmp_path / "data"
    async with both_running(data, first, second) as (one, two, bus):
        async with deadline():
            while not await recorded(data) >= handled(first):
                await asyncio.sleep(0.01)
        one.kill()
        await until(says(second, "lineage is written from now on"))
        await publish(bus, 8)
        two.send_signal(signal.SIGTERM)
        assert two.wait(30) == ExitCode.OK
        assert (second / "log").read_text().count("lineage is not written") == 1
    assert await recorded(data) >= handled(first) | handled(second)
