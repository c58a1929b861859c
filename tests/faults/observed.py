"""Workers that can be killed, and the history of their actions."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import fault_worker as worker
from forked import CONTEXT

from dimesh_contracts.history import Entry, Violation, check
from dimesh_contracts.history.entries import Crashed, encode, parse


class Observed:
    """Workers on one database, and the history that they report."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mesh.db"
        self.pipe = folder / "history"
        os.mkfifo(self.pipe)
        # Open for reading and writing, so that the pipe stays open while no worker runs.
        self._descriptor = os.open(self.pipe, os.O_RDWR)
        self._data = bytearray()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()
        self.workers: dict[str, Any] = {}
        self.crashes = 0
        self._number = 0

    def _collect(self) -> None:
        while data := os.read(self._descriptor, 1 << 16):
            self._data += data
            if self._data.endswith(b"the end\n"):
                return

    def start(self, **options: Any) -> str:
        """Start a worker, whose events have their own range of numbers."""
        self._number += 1
        name = f"w{self._number}"
        task = worker.Task(str(self.path), str(self.pipe), name, self._number * 1_000_000, **options)
        process = CONTEXT.Process(target=worker.run, args=(task,), name=name)
        process.start()
        self.workers[name] = process
        return name

    def kill(self, name: str) -> None:
        """Kill a worker with SIGKILL; its history has no entry after the crash."""
        process = self.workers.pop(name)
        if process.exitcode is not None:
            raise AssertionError(f"{name} ended by itself with {process.exitcode}")
        os.kill(process.pid, signal.SIGSTOP)
        os.write(self._descriptor, encode(Crashed(name)) + b"\n")
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        self.crashes += 1

    def terminate(self, name: str) -> None:
        """Terminate the worker and wait for its end."""
        process = self.workers[name]
        process.terminate()
        self.join(name)

    def join(self, name: str, timeout: float = 60) -> int:
        """Wait for the end of the worker; return its exit code."""
        process = self.workers.pop(name)
        process.join(timeout)
        assert process.exitcode is not None, f"{name} did not end"
        if process.exitcode == -signal.SIGKILL:
            self.crashes += 1
        else:
            assert process.exitcode == 0, f"{name} ended with {process.exitcode}"
        return int(process.exitcode)

    def finish(self, fails: bool = True) -> list[Entry]:
        """Let a last worker handle the remaining events; return the whole history."""
        self.join(self.start(publishes=False, until_idle=True, fails=fails), 120)
        os.write(self._descriptor, b"the end\n")
        self._thread.join(30)
        lines = bytes(self._data).splitlines(keepends=True)[:-1]
        return list(parse(lines))

    def close(self) -> None:
        for process in self.workers.values():
            process.kill()
            process.join(10)
        os.close(self._descriptor)


def judge(history: list[Entry], repeats: int = 6_000) -> list[Violation]:
    """Return the violations in the history of a run that ended idle.

    An interruption may repeat the events handled since the last commit (``commit_every``, 5,000) and those in flight
    (``max_in_flight``, 1,000).
    """
    return check(history, complete=True, repeats_per_interruption=repeats)
