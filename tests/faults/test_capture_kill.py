"""Capture is killed at every named point and at random moments, in beginning, snapshot, stream and repair, while the system
changes. A consumer's history must end as the system is, hold every committed change, and name no two changes alike.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from capture import worker
from capture.history import History
from capture.stages import STAGES, Stage
from capture.worker import BATCH, BEGINNING, DELETE, REPAIR, SEPARATE, Task

from dimesh import EventBus, EventBusFactory, StartAt
from dimesh_contracts.waiting import be_patient, eventually, until


class Capture:
    """A system, the processes that capture it one after the other, and a consumer."""

    def __init__(self, stage: Stage, folder: Path, separate: bool, seed: int) -> None:
        self.stage = stage
        self.rng = random.Random(seed)
        self.history = History(stage)
        self._folder = folder
        self._separate = separate
        self.numbers = 0
        self._keys: list[str] = []

    async def open(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        await stack.enter_async_context(self.stage)  # type: ignore[arg-type]
        bus: EventBus = EventBusFactory.create("sqlite", path=str(self._folder / "mesh.db"))
        self.bus = await stack.enter_async_context(bus)
        topic = f"cdc.{self.stage.driver}"
        await bus.subscribe(topic, self.history, "history", start=StartAt.EARLIEST)
        for _ in range(60):
            self.change(insert=True)

    def change(self, insert: bool = False) -> None:
        """One change of the system."""
        self.numbers += 1
        name = f"n{self.numbers}"
        sure = self.history.sure
        if insert or len(self._keys) < 20 or self.rng.random() < 0.3:
            key = self.stage.put(None, name)
            self._keys.append(key)
            said: tuple[str, str | None] = (key, name)
        elif self.rng.random() < 0.3:
            key = self._keys.pop(self.rng.randrange(len(self._keys)))
            self.stage.delete(key)
            said = (key, None)
        else:
            key = self.rng.choice(self._keys)
            self.stage.put(key, name)
            said = (key, name)
        if sure:
            self.history.expect(*said)

    async def start(self, point: str = "", hits: int = 1) -> asyncio.subprocess.Process:
        stage = self.stage
        task = Task(str(self._folder), stage.driver, stage.object, stage.options, self._separate, point, hits)
        with (self._folder / "worker.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, worker.__file__, msgspec.json.encode(task).decode(), stderr=log
            )
        self._stack.callback(_kill, process)
        return process

    async def run(self) -> asyncio.subprocess.Process:
        """As a user does it: ``dimesh run``, with the same files."""
        stage = self.stage
        options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in stage.options.items())
        (self._folder / "dimesh.toml").write_text(
            f"""
[bus]
driver = "sqlite"
options = {{ path = "mesh.db" }}
[cdc]
state = "cdc.db"
[[sources]]
driver = "{stage.driver}"
name = "captured"
objects = ["{stage.object}"]
[sources.options]
{options}
"""
        )
        with (self._folder / "worker.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dimesh",
                "--output",
                "json",
                "run",
                cwd=self._folder,
                stdout=PIPE,
                stderr=log,
            )
        self._stack.callback(_kill, process)
        assert process.stdout is not None
        await process.stdout.readline()  # it has begun
        return process

    async def lose(self) -> None:
        """While nobody captures, the system changes and forgets."""
        await eventually(self._consumed)
        if not self.history.begun:
            return  # there is no position yet that could be lost
        for _ in range(10):
            self.change()
        self.stage.forget()
        self.history.forget()
        for _ in range(5):
            self.change()

    async def _consumed(self) -> bool:
        return sum(group.lag or 0 for group in await self.bus.backend.groups()) == 0

    async def end(self) -> None:
        """Let one process go on to the end, and judge."""
        await self.judge(await self.start())

    async def judge(self, process: asyncio.subprocess.Process) -> None:
        """What the process brings to an end."""
        history = self.history
        await until(lambda: history.sure)
        for _ in range(30):
            self.change()
        try:
            await until(lambda: history.rows == self.stage.rows())
            await until(lambda: not history.missing)
        except TimeoutError:
            truth = self.stage.rows()
            missing = sorted(history.missing, key=str)
            differ = [key for key in {*history.rows, *truth} if history.rows.get(key) != truth.get(key)]
            log = (self._folder / "worker.log").read_text("utf-8")[-2_000:]
            pytest.fail(
                f"{len(missing)} changes are missing, such as {missing[:5]}; {len(differ)} rows differ, such as"
                f" {[(key, history.rows.get(key), truth.get(key)) for key in differ[:5]]}; the worker said: {log}"
            )
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert history.rows == self.stage.rows()
        assert history.expected > 20


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


QUICK = (("outbox", False),)
ALL = [
    pytest.param(
        system,
        separate,
        id=f"{system}-{'separate' if separate else 'in-the-bus'}",
        marks=[] if (system, separate) in QUICK else [pytest.mark.slow],
    )
    for system in STAGES
    for separate in (False, True)
]


@pytest.mark.parametrize(("system", "separate"), ALL)
@pytest.mark.timeout(300)
async def test_killed_at_every_named_point(tmp_path: Path, system: str, separate: bool) -> None:
    be_patient(20.0)
    points = [(point, False) for point in (*BEGINNING, *BATCH, *DELETE, *(SEPARATE if separate else ()))]
    points += [(point, True) for point in REPAIR]
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate, seed=1)
        await capture.open(stack)
        for point, lost in points:
            if lost:
                await capture.lose()
            process = await capture.start(point, hits=capture.rng.randint(1, 2) if point in BATCH else 1)
            while process.returncode is None:
                capture.change()
                await asyncio.sleep(0.005)  # how often it changes
                assert capture.numbers < 20_000, f"{point} was not reached"
            assert process.returncode == -signal.SIGKILL, f"{point}: {process.returncode}"
        await capture.end()
        assert capture.history.gaps >= 2
        assert capture.history.repaired >= 1


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True], ids=["in-the-bus", "separate"])
@pytest.mark.parametrize("system", list(STAGES))
@pytest.mark.timeout(600)
async def test_killed_at_random_moments(tmp_path: Path, system: str, separate: bool) -> None:
    be_patient(20.0)
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate, seed=2)
        await capture.open(stack)
        for _ in range(34):
            if capture.rng.random() < 0.3:
                await capture.lose()
            process = await capture.start()
            # The moment is what is tried: it takes about half a second until capture begins.
            end = asyncio.get_running_loop().time() + capture.rng.uniform(0.4, 1.6)
            while asyncio.get_running_loop().time() < end:
                capture.change()
                await asyncio.sleep(capture.rng.uniform(0.001, 0.02))  # how often it changes
            process.kill()
            await process.wait()
        await capture.end()
        assert capture.history.gaps >= 2


@pytest.mark.parametrize("system", list(STAGES))
@pytest.mark.timeout(300)
async def test_dimesh_run_is_killed_again_and_again(tmp_path: Path, system: str) -> None:
    be_patient(20.0)
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate=False, seed=3)
        await capture.open(stack)
        for _ in range(5):
            process = await capture.run()
            end = asyncio.get_running_loop().time() + capture.rng.uniform(0.0, 0.4)
            while asyncio.get_running_loop().time() < end:
                capture.change()
                await asyncio.sleep(capture.rng.uniform(0.001, 0.02))  # how often it changes
            process.kill()
            await process.communicate()
        await capture.judge(await capture.run())
