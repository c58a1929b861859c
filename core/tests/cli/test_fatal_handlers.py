"""Handlers that end their process, or try to, under ``dimesh run``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .conftest import Run, environment

HANDLERS = """
import os, pathlib, sys

def note(event):
    with pathlib.Path("calls").open("a") as file:
        file.write(f"{event.payload['order']}\\n")

async def dies(event):
    note(event)
    if event.payload["order"] == 2:
        os._exit(9)

def exits(event):
    note(event)
    if event.payload["order"] == 2:
        sys.exit("no stock")
"""


def prepare(dimesh: Run, folder: Path, name: str) -> None:
    (folder / "shop.py").write_text(HANDLERS)
    (folder / "dimesh.toml").write_text(
        f'[[handlers]]\ntopic = "orders"\ncall = "shop:{name}"\nstart = "earliest"\nattempts = 2\n'
    )
    orders = "".join(json.dumps({"event_type": "a.b", "payload": {"order": n}}) + "\n" for n in (1, 2, 3))
    dimesh("publish", "orders", stdin=orders)


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dimesh", "run"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def wait(true: Callable[[], bool], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.05)


@pytest.mark.slow
def test_an_event_that_ends_the_process_is_found(dimesh: Run, tmp_path: Path) -> None:
    prepare(dimesh, tmp_path, "dies")
    calls = tmp_path / "calls"
    deaths = 0

    def ended_or_done(process: subprocess.Popen[bytes]) -> bool:
        return process.poll() is not None or (calls.exists() and "3" in calls.read_text().split())

    while True:
        process = start(tmp_path)
        wait(partial(ended_or_done, process))
        if process.poll() is None:
            break
        assert process.returncode == 9
        deaths += 1
        assert deaths <= 4, "the group is pinned"
    process.terminate()
    assert process.wait(20) == 0
    (entry,) = dimesh("--output", "json", "dlq", "list", "orders").json
    assert entry["reason"].startswith("ProcessDiedError: the process died")
    assert entry["attempts"] == 2
    assert dimesh("--output", "json", "groups").json[0]["lag"] == 0


@pytest.mark.slow
def test_sys_exit_in_a_handler_is_a_failure_of_its_event(dimesh: Run, tmp_path: Path) -> None:
    prepare(dimesh, tmp_path, "exits")
    calls = tmp_path / "calls"
    process = start(tmp_path)
    wait(lambda: calls.exists() and "3" in calls.read_text().split())
    process.terminate()
    assert process.wait(20) == 0
    assert calls.read_text().split() == ["1", "2", "2", "3"]
    (entry,) = dimesh("--output", "json", "dlq", "list", "orders").json
    assert entry["reason"] == "SystemExit: no stock"
