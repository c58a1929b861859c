"""A mesh that is backed up while it works, lost, and restored; as processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dimesh.backends.cdc.outbox import watch
from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, environment
from .test_flow import ndjson, wait_for

SETTINGS = """
[mesh]
name = "shop"

[lineage]
enabled = true

[[sources]]
driver = "outbox"
name = "shop"
objects = ["orders"]

[sources.options]
path = "shop.db"
poll = 0.02

[[handlers]]
topic = "cdc.outbox"
call = "shop:note"
start = "earliest"
"""


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the mesh of a folder, and kill it at the end."""
    with (folder / "run.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", "run"], cwd=folder, stdout=log, stderr=log, env=environment()
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def captured(dimesh: Run) -> set[int]:
    """Return the ids of the orders with a change in the topic."""
    found = dimesh("--output", "json", "tail", "cdc.outbox", "--limit", "1000000", code=None)
    return {event["payload"]["primary_key"]["id"] for event in found.lines} if found.code == 0 else set()


@pytest.mark.slow
def test_a_mesh_that_is_lost_comes_back_as_it_was_backed_up(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def note(event):\n    pass\n")
    (tmp_path / "dimesh.toml").write_text(SETTINGS)
    stop = threading.Event()

    def sell() -> None:
        with closing(sqlite3.connect(tmp_path / "shop.db", timeout=30)) as shop:
            while not stop.wait(0.005):
                with shop:
                    shop.execute("INSERT INTO orders (product) VALUES ('lamp')")

    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
        watch(shop, "orders")
    seller = threading.Thread(target=sell)
    seller.start()
    try:
        with worker(tmp_path):
            wait_for(lambda: list((tmp_path / "mesh-data").glob("lineage/*.lineage")), 60)
            wait_for(lambda: len(captured(dimesh)) > 100, 60)
            acknowledged = captured(dimesh)
            dimesh("publish", "orders", stdin=ndjson(*range(50)))
            made = dimesh("--output", "json", "backup", "copy").json
    finally:
        stop.set()
        seller.join()
    assert [file["part"] for file in made["files"]] == ["bus", "capture", "registry", "lineage"]
    (tmp_path / "lost").mkdir()
    for path in (tmp_path / "mesh-data", *tmp_path.glob("dimesh-cdc.db*")):
        path.rename(tmp_path / "lost" / path.name)
    assert "mesh 'shop'" in dimesh("restore", "copy").out

    # Nothing that was acknowledged before the backup began is missing.
    assert len(dimesh("--output", "json", "tail", "orders", "--limit", "1000").lines) == 50
    restored = captured(dimesh)
    assert restored >= acknowledged
    # The position is not ahead of the changes.
    (progress,) = dimesh("--output", "json", "cdc", "status").json
    at = int(progress["position"].rpartition(":")[2])
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        entries = shop.execute("SELECT primary_key FROM dimesh_outbox WHERE id <= ?", (at,)).fetchall()
        everything = {number for (number,) in shop.execute("SELECT id FROM orders")}
    passed = {json.loads(key)["id"] for (key,) in entries}
    assert passed
    assert passed <= restored
    # And what came after the backup is captured again.
    assert restored < everything
    with worker(tmp_path) as process:
        wait_for(lambda: captured(dimesh) == everything, 60)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_backup_without_space_leaves_nothing(dimesh: Run, tmp_path: Path) -> None:
    dimesh("publish", "orders", stdin=ndjson(*("x" * 20_000 for _ in range(20))))
    command = f"ulimit -f 200; exec {sys.executable} -m dimesh --output json backup copy"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, env=environment(), check=False, timeout=60
    )
    assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
    assert "copy.partial" in json.loads(done.stderr.splitlines()[-1])["error"]
    assert not list(tmp_path.glob("copy*"))
    dimesh("backup", "copy")
    again = dimesh("backup", "copy", code=ExitCode.CONFIGURATION)
    assert "copy exists, and a backup replaces nothing: name a new folder" in again.err
