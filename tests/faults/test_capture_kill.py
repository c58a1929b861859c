"""Capture is killed at every named point and at random moments, at its start, in snapshot, stream and repair, while the system
changes. A consumer's history must end with the rows of the system, hold every committed change, and give no two changes one id.
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

import pytest
from capture import worker
from capture.history import History
from capture.stages import STAGES, Stage
from capture.worker import BATCH, BEGINNING, DELETE, REPAIR, SEPARATE, Task
from forked import Forked

from dimesh import EventBus, EventBusFactory, StartAt
from dimesh_contracts.waiting import be_patient, eventually, until


class Capture:
    """A system, the processes that capture it in turn, and a consumer."""

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
        """Make one change of the system."""
        self.numbers += 1
        name = f"n{self.numbers}"
        sure = self.history.sure
        if insert or len(self._keys) < 20 or self.rng.random() < 0.3:
            key = self.stage.put(None, name)
            self._keys.append(key)
            made: tuple[str, str | None] = (key, name)
        elif self.rng.random() < 0.3:
            key = self._keys.pop(self.rng.randrange(len(self._keys)))
            self.stage.delete(key)
            made = (key, None)
        else:
            key = self.rng.choice(self._keys)
            self.stage.put(key, name)
            made = (key, name)
        if sure:
            self.history.expect(*made)

    def start(self, point: str = "", hits: int = 1) -> Forked:
        stage = self.stage
        task = Task(str(self._folder), stage.driver, stage.object, stage.options, self._separate, point, hits)
        process = Forked(worker.run, task)
        self._stack.callback(_kill, process)
        return process

    async def run(self) -> asyncio.subprocess.Process:
        """Start ``dimesh run``, as a user does, on the same files."""
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
        await process.stdout.readline()  # printed once it runs
        return process

    async def lose(self) -> None:
        """Change the system and drop its history while no process captures."""
        await eventually(self._consumed)
        if not self.history.begun:
            return  # no position is stored yet
        for _ in range(10):
            self.change()
        self.stage.forget()
        self.history.forget()
        for _ in range(5):
            self.change()

    async def _consumed(self) -> bool:
        return sum(group.lag or 0 for group in await self.bus.door.groups()) == 0

    async def end(self) -> None:
        """Let one process finish, and check the history."""
        await self.judge(self.start())

    async def judge(self, process: asyncio.subprocess.Process | Forked) -> None:
        """Check the history once the process has caught up, and stop the process."""
        history = self.history
        await until(lambda: history.sure)
        for _ in range(30):
            self.change()
        try:
            await until(lambda: history.complete)
        except TimeoutError:
            log = (self._folder / "worker.log").read_text("utf-8")[-2_000:]
            pytest.fail(f"{history.differences()}; the log of the worker: {log}")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert history.complete, history.differences()
        assert history.expected > 20


def _kill(process: asyncio.subprocess.Process | Forked) -> None:
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
@pytest.mark.slow
async def test_killed_at_every_named_point(tmp_path: Path, system: str, separate: bool) -> None:
    be_patient(60.0)  # processes and sandboxes share two cores with other tests
    points = [(point, False) for point in (*BEGINNING, *BATCH, *DELETE, *(SEPARATE if separate else ()))]
    points += [(point, True) for point in REPAIR]
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate, seed=1)
        await capture.open(stack)
        for point, lost in points:
            if lost:
                await capture.lose()
            process = capture.start(point, hits=capture.rng.randint(1, 2) if point in BATCH else 1)
            while process.returncode is None:
                capture.change()
                await asyncio.sleep(0.005)  # the number of rounds of changes
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
    be_patient(60.0)  # processes and sandboxes share two cores with other tests
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate, seed=2)
        await capture.open(stack)
        now = asyncio.get_running_loop().time
        began = now()
        process = capture.start()
        while not capture.history.begun:
            assert process.returncode is None, f"the process did not begin: {process.returncode}"
            capture.change()
            await asyncio.sleep(0.005)  # the number of rounds of changes
        start_up = now() - began  # between half a second and several, as fast as the machine is
        process.kill()
        await process.wait()
        for _ in range(24):
            if capture.rng.random() < 0.3:
                await capture.lose()
            process = capture.start()
            # The random moment is the subject of the test: around the beginning of capture, and after it.
            end = now() + start_up * capture.rng.uniform(0.7, 1.0) + capture.rng.uniform(0.0, 1.2)
            while now() < end:
                capture.change()
                await asyncio.sleep(capture.rng.uniform(0.001, 0.02))  # the number of rounds of changes
            process.kill()
            await process.wait()
        await capture.end()
        assert capture.history.gaps >= 2


@pytest.mark.parametrize("system", list(STAGES))
@pytest.mark.timeout(300)
@pytest.mark.slow
async def test_dimesh_run_is_killed_again_and_again(tmp_path: Path, system: str) -> None:
    be_patient(60.0)  # processes and sandboxes share two cores with other tests
    async with AsyncExitStack() as stack:
        capture = Capture(STAGES[system](tmp_path), tmp_path, separate=False, seed=3)
        await capture.open(stack)
        for _ in range(5):
            process = await capture.run()
            end = asyncio.get_running_loop().time() + capture.rng.uniform(0.0, 0.4)
            while asyncio.get_running_loop().time() < end:
                capture.change()
                await asyncio.sleep(capture.rng.uniform(0.001, 0.02))  # the number of rounds of changes
            process.kill()
            await process.communicate()
        await capture.judge(await capture.run())
