"""Several instances of a backend over the same storage, in one process and in several."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import BusError
from dimesh.spi.bus import BusBackend, StartAt
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, payloads, record
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import eventually


class Instances(BusHarness):
    """What one instance does and another one sees."""

    @proves(G.PROCESSES, Capability.MULTI_PROCESS)
    async def test_two_instances_at_once(self, new_backend: NewBackend, topic: str) -> None:
        """What one instance publishes, the other delivers. Usually wrong: a wake-up that stays within the process."""
        one, two = new_backend(), new_backend()
        await one.open()
        await two.open()
        try:
            reader = await self.open_reader(two, topic)
            sent = await asyncio.gather(
                *(one.append(topic, [record(n, f"k{n}")]) for n in range(20)),
                *(two.append(topic, [record(n, f"k{n}")]) for n in range(20, 40)),
            )
            assert len({position for positions in sent for position in positions}) == 40
            assert sorted(payloads(await reader.take(40))) == list(range(40))
        finally:
            await two.close()
            await one.close()

    @proves(
        G.PROCESSES,
        Capability.MULTI_PROCESS,
        Capability.GROUPS,
        Capability.REPLAY,
        Capability.COUNTED_LAG,
    )
    async def test_two_processes(
        self, backend: BusBackend, driver: tuple[str, Mapping[str, Any]], topic: str
    ) -> None:
        """Another process publishes and consumes in the same group at the same time, and one of them handles each record.
        Usually wrong: a lock between threads only; a dead process keeps its partitions.
        """
        reader = await self.open_reader(backend, topic, start=StartAt.EARLIEST)
        groups = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        pump = asyncio.create_task(groups.consume())
        name, options = driver
        task = json.dumps({"driver": name, "options": dict(options), "topic": topic, "count": 100})
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dimesh_contracts.bus.child", task, stdout=asyncio.subprocess.PIPE
        )
        try:
            for n in range(100):
                await backend.append(topic, [record(n, f"k{n}")])
            got = await reader.take(200, times=3)
            assert sorted(payloads(got)) == sorted([*range(100), *range(1_000, 1_100)])
            handled_there: list[int] = []

            async def all_handled() -> bool:
                return (
                    sum(g.lag or 0 for g in await backend.groups() if g.topic == topic and g.group == "g")
                    == 0
                )

            await eventually(all_handled, 3)
            assert child.stdout is not None
            child.terminate()
            handled_there = [int(line) for line in (await child.stdout.read()).split()]
            here = [d.record.event.payload for d in groups.got]
            assert set(here) | set(handled_there) == {*range(100), *range(1_000, 1_100)}
        finally:
            if child.returncode is None:
                try:
                    child.kill()
                except ProcessLookupError:
                    pass
            await child.wait()
            pump.cancel()
            await asyncio.wait({pump})
            await groups.close()
            await reader.close()

    @proves(G.SEEK, Capability.MULTI_PROCESS, Capability.GROUPS, Capability.LOOK_BACK)
    async def test_seek_from_another_instance(self, new_backend: NewBackend, topic: str) -> None:
        """An operator's process cannot move a group whose members are in another process, and moves it when they have left.
        Usually wrong: only the members of the own instance are counted; the next member continues from a cached position.
        """
        one, two = new_backend(), new_backend()
        await one.open()
        await two.open()
        try:
            reader = await self.open_reader(one, topic, "g")
            await one.append(topic, [record(n) for n in range(5)])
            await reader.take(5)
            await reader.commit()
            if self.family == "log":  # a queue's service does not say who receives
                with pytest.raises(BusError):
                    await two.seek_group(topic, "g", StartAt.EARLIEST)
            await reader.close()
            await two.seek_group(topic, "g", StartAt.EARLIEST)
            again = await self.open_reader(one, topic, "g")
            assert sorted(payloads(await again.take(5, times=2))) == list(range(5))
            await again.close()
        finally:
            await two.close()
            await one.close()

    @proves(G.CAUGHT_UP, Capability.DURABLE, Capability.GROUPS, Capability.REPLAY)
    async def test_a_new_instance_over_a_backlog_is_not_caught_up(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """Records of an earlier instance wait to be received like any others. Usually wrong: what counts is what this instance
        has published, or has fetched so far, so that a bus that is closed soon, or asked whether it is idle, leaves them.
        """
        first = new_backend()
        await first.open()
        await (await self.open_reader(first, topic, "g")).close()
        await first.append(topic, [record(n) for n in range(20)])
        await first.close()
        second = new_backend()
        await second.open()
        for group in ("g", None):
            reader = await self.open_reader(second, topic, group, StartAt.EARLIEST)
            assert not reader.stream.caught_up()
            await reader.take(20)

            async def done(stream: Any = reader.stream) -> bool:
                return bool(stream.caught_up())

            receiving = asyncio.create_task(reader.look())  # a filter or a marker may have to be read past
            await eventually(done)
            receiving.cancel()
            await asyncio.wait({receiving})
            await reader.close()
        await second.close()
