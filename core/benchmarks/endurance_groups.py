"""Endurance of groups: members of one group on the sqlite bus come, go and are killed, in containers and with slow handlers.

Usage: ``python core/benchmarks/endurance_groups.py [--short] [--seed N]``, ten minutes (``--short``: 40 seconds). Run by
``nox -s endurance``; it measures nothing.

Three processes (this file with the argument ``member``) publish and handle events. Every second one runs in a namespace of
process ids of its own, as in a container, where root allows that. Some handlers take one and a half times the lease: as
coroutines, as plain functions, or blocking the event loop. All the time a member is killed with SIGKILL or stopped with SIGTERM,
and another one starts.

The history of the run (:mod:`dimesh_contracts.history`) is checked at the end. The program ends with code 1 unless nothing was
lost, reordered, committed too early or repeated without an interruption, the group has no lag, and no member lost a partition
while it lived.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dimesh import Event, EventBus, EventBusFactory, EventHandler, StartAt
from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.clock import SystemClock
from dimesh_contracts.history import History, RecordingBackend, check, read
from dimesh_contracts.history.entries import Handled

TOPIC = "endurance"
GROUP = "members"
MEMBERS = 3
KEYS = 16
LEASE = 2.0
SLOW = 1.5 * LEASE
"""The seconds of a slow handler."""
PACE = 0.03
"""The seconds between two publishes of a member."""
REPEATS = 6_000
"""The events that an interruption may repeat: those handled since the last commit, and those in flight."""
PATIENCE = 120.0
"""Seconds that the members may take for the rest once nothing more is published."""
OWN_IDS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
KINDS = ("coroutine", "plain", "blocking")


# -- a member ------------------------------------------------------------------------------------------


async def member(task: dict[str, Any]) -> None:
    """Publish, if the task says so, and handle events, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)  # noqa: T201
    name: str = task["name"]
    history = History.append_to(task["history"], name)
    backend = SqliteBackend(SqliteOptions(path=task["path"], lease=LEASE), SystemClock())

    def plain(event: Event) -> None:
        if event.payload % 60 == 0:
            time.sleep(SLOW)

    async def coroutine(event: Event) -> None:
        await asyncio.sleep(SLOW if event.payload % 60 == 0 else 0.002)

    async def blocking(event: Event) -> None:
        if event.payload % 240 == 0:
            time.sleep(SLOW)  # noqa: ASYNC251 - what must not be done, and is

    handler = {"plain": plain, "coroutine": coroutine, "blocking": blocking}[task["kind"]]
    bus = EventBus(RecordingBackend(backend, history))
    await bus.subscribe(
        TOPIC,
        EventHandler(handler),
        name,
        group=GROUP,
        start=StartAt.EARLIEST,
        middleware=[history.handling(TOPIC, GROUP)],
    )
    rng = random.Random(name)
    while task["publishes"] and not stop.is_set():
        event = Event("made", None, rng.randrange(1_000_000))
        await bus.publish(TOPIC, event, key=f"key-{rng.randrange(KEYS)}")
        await asyncio.sleep(PACE)
    await stop.wait()
    await bus.close()
    history.close()


# -- the run -------------------------------------------------------------------------------------------


class Run:
    """One run."""

    def __init__(self, folder: Path, seed: int, containers: bool) -> None:
        self.path = folder / "mesh.db"
        self.log = folder / "history"
        self.rng = random.Random(seed)
        self.counts = Counter[str]()
        self._containers = containers
        self._history = History.append_to(self.log, "parent")
        self._errors = open(folder / "errors", "w+b")  # noqa: SIM115 - closed at the end of the run
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._number = 0

    def start(self, publishes: bool = True) -> None:
        """Start a member."""
        self._number += 1
        name = f"member-{self._number}"
        contained = self._containers and self._number % 2 == 0
        task = {
            "name": name,
            "path": str(self.path),
            "history": str(self.log),
            "kind": KINDS[self._number % len(KINDS)],
            "publishes": publishes,
        }
        command = (*(OWN_IDS if contained else ()), sys.executable, __file__, "member", json.dumps(task))
        self._running.append((name, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors)))
        self.counts["started in a namespace of its own" if contained else "started"] += 1

    def kill(self) -> None:
        """Kill a member. Its history has no entry after that of the crash."""
        name, process = self._pick()
        pid = _worker(process)
        os.kill(pid, signal.SIGSTOP)
        self._history.crashed(name)
        os.kill(pid, signal.SIGKILL)
        process.wait(30)
        self.counts["killed"] += 1

    def stop(self) -> None:
        """Stop a member in good order; it drains while the others go on."""
        name, process = self._pick()
        assert process.stdout is not None
        process.stdout.readline()  # the first process of a namespace ignores a signal that it does not handle yet
        os.kill(_worker(process), signal.SIGTERM)
        if code := process.wait(60):
            raise SystemExit(f"{name} ended with {code}: {self.errors()}")
        self.counts["stopped"] += 1

    def _pick(self) -> tuple[str, subprocess.Popen[bytes]]:
        return self._running.pop(self.rng.randrange(len(self._running)))

    def errors(self) -> str:
        """Return what the members wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    async def go(self, seconds: float) -> int:
        """Disturb the group for so long, then wait until it has handled everything; return the lag that is left."""
        end = time.monotonic() + seconds
        for _ in range(MEMBERS):
            self.start()
        while time.monotonic() < end:
            await asyncio.sleep(self.rng.uniform(0.5, 2.5 * LEASE))
            await asyncio.to_thread(self.rng.choice((self.kill, self.stop)))
            self.start()
        while self._running:
            await asyncio.to_thread(self.stop)
        for _ in range(2):
            self.start(publishes=False)
        async with EventBusFactory.create("sqlite", path=str(self.path), lease=LEASE) as bus:
            end = time.monotonic() + PATIENCE
            while (lag := await _lag(bus)) and time.monotonic() < end:
                await asyncio.sleep(0.1)
        while self._running:
            await asyncio.to_thread(self.stop)
        self._history.close()
        return lag

    def end(self) -> None:
        """Kill the members that are left after an error."""
        for _, process in self._running:
            process.kill()
        self._errors.close()


async def _lag(bus: EventBus) -> int:
    return sum(info.lag or 0 for info in await bus.door.groups() if info.group == GROUP)


def _worker(process: subprocess.Popen[bytes]) -> int:
    """Return the id of the worker, which is a child of ``process`` if that made a namespace."""
    if process.args[0] != OWN_IDS[0]:  # type: ignore[index]
        return process.pid
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.01)
    raise SystemExit(f"a member ended by itself with {process.returncode}")


def namespaces() -> str | None:
    """Return why no namespace of process ids can be made here; None if one can."""
    if shutil.which(OWN_IDS[0]) is None:
        return "there is no unshare"
    made = subprocess.run([*OWN_IDS, "true"], capture_output=True, text=True, check=False)
    return made.stderr.strip() or f"exit code {made.returncode}" if made.returncode else None


def main() -> int:
    if sys.argv[1:2] == ["member"]:
        logging.basicConfig(level=logging.WARNING)
        asyncio.run(member(json.loads(sys.argv[2])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="40 seconds instead of ten minutes")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the seed of the disturbances")
    arguments = parser.parse_args()
    seconds = 40.0 if arguments.short else 600.0
    reason = namespaces()
    if reason:
        print(f"NOT TESTED: members in namespaces of their own, which need root: {reason}")  # noqa: T201
    with tempfile.TemporaryDirectory(prefix="mesh-endurance-") as folder:
        run = Run(Path(folder), arguments.seed, containers=reason is None)
        try:
            lag = asyncio.run(run.go(seconds))
            history = read(run.log)
            errors = run.errors()
        finally:
            run.end()
    violations = check(history, complete=True, repeats_per_interruption=REPEATS)
    handled = Counter(entry.id for entry in history if isinstance(entry, Handled))
    lost = errors.count("lost partition")
    run.counts |= {"events": len(handled), "handled again": handled.total() - len(handled)}
    print(f"seed {arguments.seed}: " + ", ".join(f"{count:,} {name}" for name, count in run.counts.items()))  # noqa: T201
    for violation in violations[:20]:
        print(violation)  # noqa: T201
    good = not violations and not lost and not lag and len(handled) > seconds
    if not good:
        print(errors[-4_000:])  # noqa: T201
    print(  # noqa: T201
        f"{len(violations)} violations, {lost} partitions lost by members that lived, lag {lag}: "
        + ("all bounds hold" if good else "BROKEN")
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
