"""Groups whose members are processes: slow handlers, processes that die, and containers that share the file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory
from dimesh_contracts.waiting import eventually, until

WORKER = Path(__file__).with_name("group_worker.py")
TOPIC, GROUP = "slow", "g"
OWN_IDS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Runs a command in a namespace of process ids of its own, as in a container."""


class Member:
    """A process that is a member of the group."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.errors = ""
        self._reading = asyncio.gather(self._read(), self._read_errors())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.errors += line.decode()

    def kill(self) -> None:
        self.process.kill()

    async def end(self) -> None:
        """Send SIGTERM to the worker itself, if it still runs, and wait for its end."""
        if self.process.returncode is None:
            # A process of another namespace has two ids; unshare does not pass signals on.
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            inner = children.read_text().split() if children.exists() else []
            os.kill(int(inner[0]) if inner else self.process.pid, signal.SIGTERM)
        await asyncio.wait_for(self._reading, 60)
        await self.process.wait()

    @property
    def ended(self) -> list[Any]:
        return [line["ends"] for line in self.lines if "ends" in line]


Start = Callable[..., Awaitable[Member]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    members: list[Member] = []

    async def start(
        name: str, *, seconds: float, kind: str = "coroutine", lease: float, own_ids: bool = False
    ) -> Member:
        task = {
            "name": name,
            "path": str(tmp_path / "mesh.db"),
            "seconds": seconds,
            "kind": kind,
            "lease": lease,
        }
        process = await asyncio.create_subprocess_exec(
            *(OWN_IDS if own_ids else ()),
            *(sys.executable, str(WORKER), json.dumps(task)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        member = Member(process)
        members.append(member)
        await until(lambda: bool(member.lines) or process.returncode is not None, 4)
        assert process.returncode is None, member.errors
        return member

    yield start
    for member in members:
        await member.end()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EventBus]:
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        yield bus


async def publish(bus: EventBus, keys: int, each: int) -> int:
    events = [(f"k{key}", number) for number in range(each) for key in range(keys)]
    await bus.publish_many(
        TOPIC, [Event("made", None, pair) for pair in events], keys=[key for key, _ in events]
    )
    return len(events)


async def handled(count: int, *members: Member) -> None:
    """Wait until the members have handled so many events."""
    await until(lambda: sum(len(member.ended) for member in members) >= count, 4)


async def all_committed(bus: EventBus) -> bool:
    found = [info for info in await bus.door.groups() if info.group == GROUP]
    return bool(found) and sum(info.lag or 0 for info in found) == 0


def overlaps(members: list[Member]) -> list[str]:
    """Return the keys that two calls had in hand at the same time."""
    lines = sorted(
        (line for m in members for line in m.lines if "joined" not in line), key=lambda line: line["time"]
    )
    running: dict[str, int] = {}
    found = []
    for line in lines:
        key, number = line.get("begins") or line["ends"]
        if "ends" in line:
            running.pop(key, None)
        elif running.setdefault(key, number) != number:
            found.append(f"{key}: {number} began while {running[key]} ran")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coroutine", "plain function", "blocks its loop", "batch"])
async def test_a_handler_longer_than_the_lease_keeps_its_partition(
    start: Start, bus: EventBus, kind: str
) -> None:
    """Each event is handled once and committed, and no key is in both processes, although the second one joins while the
    handlers of the first one run for longer than the lease: heartbeats do not wait for them.
    """
    blocking = kind == "blocks its loop"
    total = await publish(bus, *((4, 1) if blocking else (8, 2)))
    # A batch has two events of its partition, so it takes the place of several calls.
    one = await start("one", seconds=3.0, kind=kind, lease=1.0)
    await until(lambda: any("begins" in line for line in one.lines), 4)
    two = await start("two", seconds=3.0, kind=kind, lease=1.0)
    await handled(total, one, two)
    await eventually(lambda: all_committed(bus), 2)
    await one.end()
    await two.end()
    assert Counter(map(tuple, one.ended + two.ended)).most_common(1)[0][1] == 1
    assert overlaps([one, two]) == []
    assert "lost partition" not in one.errors + two.errors


@pytest.mark.slow
async def test_a_killed_process_is_noticed_before_its_lease_is_over(start: Start, bus: EventBus) -> None:
    await publish(bus, 8, 1)
    one = await start("one", seconds=600.0, lease=60.0)
    await until(lambda: sum("begins" in line for line in one.lines) == 8, 4)
    two = await start("two", seconds=0.01, lease=60.0)
    one.kill()
    await until(lambda: len(two.ended) == 8, 4)


def namespaces() -> str | None:
    """Return why no namespace can be made; None if one can."""
    if shutil.which(OWN_IDS[0]) is None:
        return "there is no unshare"
    made = subprocess.run([*OWN_IDS, "true"], capture_output=True, text=True, check=False)
    return made.stderr.strip() or f"exit code {made.returncode}" if made.returncode else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "hosts", [(True, True), (False, True)], ids=["two containers", "a host and a container"]
)
async def test_processes_of_other_containers_are_not_judged_by_their_ids(
    start: Start, bus: EventBus, hosts: tuple[bool, bool]
) -> None:
    """Two containers share the file: neither takes the partitions of the other while it lives, and each takes them over when
    the other one was killed and its lease is over.
    """
    if reason := namespaces():
        pytest.skip(f"NOT TESTED: this needs root and namespaces of process ids: {reason}")
    one = await start("one", seconds=0.05, lease=1.5, own_ids=hosts[0])
    two = await start("two", seconds=0.05, lease=1.5, own_ids=hosts[1])
    total = 0
    for _ in range(8):  # for longer than the lease, and than the interval between looks at the others
        total += await publish(bus, 16, 4)
        await handled(total, one, two)
    assert len(one.ended) + len(two.ended) == total
    assert one.ended
    assert two.ended
    assert "lost partition" not in one.errors + two.errors
    assert overlaps([one, two]) == []
    await eventually(lambda: all_committed(bus), 2)
    two.kill()
    await two.process.wait()
    await handled(total + await publish(bus, 16, 1), one, two)
