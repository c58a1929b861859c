"""The end of a mesh that runs as a process: nothing that is filling, and nothing that hangs, holds it up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .conftest import Run
from .test_flow import ndjson, running, wait_for, words

SHOP = """
import asyncio, pathlib

def note(name, text):
    with pathlib.Path(name).open("a") as file:
        file.write(f"{text}\\n")

async def ship(events):
    note("shipped", ",".join(str(event.payload["order"]) for event in events))

async def hang(event):
    note("hanging", event.payload["order"])
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""


def lag(dimesh: Run, group: str) -> int:
    return sum(row["lag"] for row in dimesh("--output", "json", "groups").json if row["group"] == group)


@pytest.mark.slow
def test_a_process_that_ends_hands_over_a_filling_batch(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\nbatch_size = 10\nbatch_wait = 600\n'
        '[[handlers]]\ntopic = "marks"\ncall = "shop:hang"\nstart = "earliest"\n'
        "[bus]\ndrain_timeout = 3\n"
    )
    dimesh("publish", "orders", stdin=ndjson({"order": 1}, {"order": 2}, {"order": 3}))
    dimesh("publish", "marks", stdin=ndjson({"order": 4}))
    with running(tmp_path) as process:
        wait_for(lambda: words(tmp_path / "hanging") == ["4"])
        began = time.monotonic()
        process.terminate()
        # The handler that hangs gets the drain time-out and five seconds, and the process does not wait for it after that.
        assert process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert words(tmp_path / "shipped") == ["1,2,3"]
    log = (tmp_path / "run.log").read_text()
    (line,) = [line for line in log.splitlines() if "did not end within 5 s" in line]
    assert "WARNING dimesh-worker-shop:hang" in line
    assert "shop.py:15" in line
    assert "Traceback" not in log
    assert lag(dimesh, "shop:ship") == 0
    assert lag(dimesh, "shop:hang") == 1
