"""Processes that die, or stop for a while: a clean close tests nothing of durability."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.spi.bus import BusBackend, StartAt, TopicConfig
from dimesh_contracts.bus import victim
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, Factory, NewBackend, payloads, record
from dimesh_contracts.contract import NOT_OFFERED, proves
from dimesh_contracts.waiting import deadline

STARTING = 60.0
"""The seconds that the other process may take to start and to do the next thing; a busy machine starts Python slowly."""


class Victim:
    """A process that uses the backend until it is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> Any:
        """Return the next thing that the process has done.

        Raises:
            AssertionError: the process ended; its traceback is on standard error.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(STARTING):
            line = await self._process.stdout.readline()
        assert line, "the process that the test is about to kill has ended by itself: see its standard error"
        return json.loads(line)

    async def tell(self) -> None:
        """Send a line to the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    async def kill(self) -> list[Any]:
        """Kill the process without a warning, and return what else it had done."""
        assert self._process.stdout is not None
        self._process.kill()
        rest = await self._process.stdout.read()
        await self._process.wait()
        # A last line without its end was not written completely: nobody knows whether that was done.
        return [json.loads(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]


@asynccontextmanager
async def started(factory: Factory, role: str, topic: str) -> AsyncIterator[Victim]:
    """Start a process that plays a role of :mod:`dimesh_contracts.bus.victim`; kill it at the end."""
    name, options = factory
    path = [entry for entry in sys.path if entry]
    task = {"factory": name, "options": dict(options), "role": role, "topic": topic, "path": path}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dimesh_contracts.bus",
        json.dumps(task),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    running = Victim(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            await running.kill()


class Crashes(BusHarness):
    """What is left after kill -9, and what a member may do that was taken for dead."""

    @pytest.fixture
    async def reopened(self, new_backend: NewBackend) -> AsyncIterator[BusBackend]:
        """Make a backend that the test opens after the other process is dead."""
        made = new_backend()
        yield made
        async with deadline():
            await made.close()

    @proves(G.CRASH, Capability.DURABLE, Capability.LOOK_BACK)
    async def test_what_was_acknowledged_survives_a_kill(
        self, factory: Factory, reopened: BusBackend, topic: str
    ) -> None:
        """A process is killed while it publishes. Every record of an acknowledged append is there, at its position; an append
        that was under way left all of its records or none. Usually wrong: records are written at ``close``, by a timer, or
        into a buffer of the process.
        """
        async with started(factory, "publish", topic) as process:
            said = [await process.says() for _ in range(20)]
            said += await process.kill()
        acknowledged = {n: position for batch in said for n, position in batch}
        await reopened.open()
        found = await reopened.read(topic, StartAt.EARLIEST, 1_000_000)
        kept = {d.record.event.payload: [d.partition, d.offset] for d in found}
        lost = sorted(acknowledged.keys() - kept.keys())
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged records are lost: {lost[:20]}"
        if self.family == "log":
            assert {n: kept[n] for n in acknowledged} == acknowledged
            # Publishers do not wait for each other here, so that at most one append was under way.
            assert len(kept) % 3 == 0, "a part of the append that was under way is there"

    @proves(G.CRASH, Capability.DURABLE, Capability.GROUPS)
    async def test_what_was_committed_survives_a_kill(
        self, factory: Factory, reopened: BusBackend, topic: str
    ) -> None:
        """A process is killed after some commits. The next member gets everything that was not committed, and nothing that
        was; it also sees the failed attempts, where they are durable. Usually wrong: positions are written at ``close``, or
        every few seconds; a dead member keeps its partitions.
        """
        async with started(factory, "consume", topic) as process:
            committed = [n for _ in range(victim.COMMITTED // victim.STEP) for n in await process.says()]
            failed = await process.says()
            await process.kill()
        await reopened.open()
        reader = await self.open_reader(reopened, topic, "g", StartAt.EARLIEST)
        rest = set(range(victim.BACKLOG)) - set(committed)
        seen: list[int] = []
        attempts: dict[int, Any] = {}
        async with deadline(3):  # a broker takes its time until it counts the member as dead
            while not rest <= set(seen):
                for batch in await reader.stream.receive(10):
                    for d in batch.deliveries:
                        seen.append(d.record.event.payload)
                        attempts[d.record.event.payload] = batch.attempts.get(d.offset)
        if self.family == "log" or Capability.CONFIRMED_ACKS in reopened.capabilities:
            again = sorted(set(seen) & set(committed))
            assert not again, f"{again} were committed, and are delivered again"
        if Capability.DURABLE_ATTEMPTS in reopened.capabilities:
            assert attempts[failed] == victim.FAILED
        await reader.close()

    @proves(G.CRASH, Capability.DURABLE, Capability.DELAYED_DELIVERY, Capability.REPLAY)
    async def test_what_was_held_back_survives_a_kill(
        self, factory: Factory, reopened: BusBackend, topic: str
    ) -> None:
        """A process is killed while a record waits for its time. It is delivered by the next process. Usually wrong: a timer in
        memory, saved at ``close``.
        """
        async with started(factory, "delay", topic) as process:
            due = await process.says()
            await process.kill()
        await reopened.open()
        reader = await self.open_reader(reopened, topic, start=StartAt.EARLIEST)
        assert payloads(await reader.take(1, times=3)) == ["held"]
        assert SystemClock().time() >= due
        await reader.close()

    @proves(G.FENCED, Capability.MULTI_PROCESS, Capability.GROUPS, Capability.TOPIC_ADMIN, family="log")
    async def test_a_member_that_was_evicted_commits_nothing(
        self, hasty_factory: Factory, topic: str
    ) -> None:
        """A process stops for longer than its lease or session, another member takes its partition over, and then the first
        one continues and commits. That is refused, and moves nothing. Usually wrong: a commit asks only whether the group
        exists; the member believes its own clock.
        """
        if not hasattr(signal, "SIGSTOP"):
            pytest.skip(f"{NOT_OFFERED}this system cannot stop a process")
        backend = victim.build(hasty_factory)
        await backend.open()
        await backend.create_topic(topic, TopicConfig(partitions=1))
        await backend.append(topic, [record(n) for n in range(victim.BACKLOG)])
        async with started(hasty_factory, "sleep", topic) as process:
            assert await process.says() == list(range(victim.BACKLOG))
            process.signal(signal.SIGSTOP)
            heir = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
            assert payloads(await heir.take(10, limit=10, times=3)) == list(range(10))
            await heir.commit()
            await process.tell()
            process.signal(signal.SIGCONT)
            assert await process.says() == "fenced"
            await process.kill()
        await heir.close()
        last = await self.open_reader(backend, topic, "g")
        assert payloads(await last.take(20, times=3)) == list(range(10, victim.BACKLOG))
        await last.close()
        await backend.close()
