"""The flow of handlers, as an operator sets it in dimesh.toml and sees it on the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, environment


def ndjson(*payloads: Any, event_type: str = "order.created") -> str:
    return "".join(json.dumps({"event_type": event_type, "payload": p}) + "\n" for p in payloads)


def wait_for(true: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the mesh of a folder; its log is in ``run.log``."""
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", "run"], cwd=folder, stdout=log, stderr=log, env=environment()
        )
        try:
            wait_for(lambda: "started" in (folder / "run.log").read_text() or process.poll() is not None)
            assert process.poll() is None, (folder / "run.log").read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, (folder / "run.log").read_text()


SHOP = """
import pathlib

class UnknownCustomer(Exception):
    pass

def note(name, text):
    with pathlib.Path(name).open("a") as file:
        file.write(f"{text}\\n")

async def ship(event):
    order = event.payload["order"]
    note("tried", order)
    if order == 0:
        raise UnknownCustomer("0")
    if pathlib.Path("down").exists():
        raise ConnectionRefusedError("the carrier")
    note("shipped", order)
"""


def words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.slow
def test_an_outage_dead_letters_nothing(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "down").touch()
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\n'
        'retry_base = 0.05\nretry_maximum = 0.3\nfatal = ["shop:UnknownCustomer"]\n'
    )
    dimesh("publish", "orders", stdin=ndjson({"order": 0}, {"order": 1}, {"order": 2}))
    with running(tmp_path):
        wait_for(lambda: words(tmp_path / "tried").count("1") >= 12)
        (tmp_path / "down").unlink()
        wait_for(lambda: words(tmp_path / "shipped") == ["1", "2"])
    (entry,) = dimesh("--output", "json", "dlq", "list").json
    assert entry["attempts"] == 1
    assert "UnknownCustomer" in entry["reason"]
    (group,) = dimesh("--output", "json", "groups").json
    assert group["lag"] == 0


@pytest.mark.slow
def test_redelivery_from_the_settings(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "down").touch()
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\n'
        "attempts = 1\nredeliver = [1.5, 60]\n"
    )
    dimesh("publish", "orders", stdin=ndjson({"order": 1}))
    with running(tmp_path):
        wait_for(lambda: words(tmp_path / "tried") == ["1"])
        wait_for(lambda: "delivered again in 1.5 s" in " ".join(words(tmp_path / "run.log")))
        (tmp_path / "down").unlink()
        dimesh("publish", "orders", stdin=ndjson({"order": 2}))
        wait_for(lambda: sorted(words(tmp_path / "shipped")) == ["1", "2"])
    assert dimesh("--output", "json", "dlq", "list").json == []


@pytest.mark.slow
def test_an_open_circuit_is_seen_from_other_processes(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "down").touch()
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\ngroup = "shipping"\nstart = "earliest"\n'
        "retry_base = 0.05\nretry_maximum = 0.1\nbreaker_failures = 5\nbreaker_pause = 2\n"
    )
    dimesh("publish", "orders", stdin=ndjson(*({"order": n} for n in range(1, 9))))

    def group() -> Any:
        (found,) = [g for g in dimesh("--output", "json", "groups").json if g["group"] == "shipping"]
        return found

    with running(tmp_path):
        wait_for(lambda: group()["state"] == "open")
        assert "ConnectionRefusedError" in group()["reason"]
        checks = {c["check"]: c for c in dimesh("--output", "json", "doctor", code=None).json}
        assert checks["groups"]["result"] == "warning"
        assert "shipping of orders: open since" in checks["groups"]["detail"]
        (tmp_path / "down").unlink()
        wait_for(lambda: group()["state"] == "running")
        wait_for(lambda: len(words(tmp_path / "shipped")) == 8)
    log = " ".join(words(tmp_path / "run.log"))
    assert "is open: " in log
    assert "is running: an event was handled" in log
    assert dimesh("--output", "json", "dlq", "list").json == []


@pytest.mark.slow
def test_patterns_pauses_and_typos_from_the_settings(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "dimesh.toml").write_text(
        "[bus]\ncreate_topics = false\n"
        '[[handlers]]\ntopic = ["orders.*", "returns"]\ncall = "shop:ship"\ngroup = "shipping"\nstart = "earliest"\nrate = 500\n'
    )
    failed = dimesh("run", code=7)
    assert "no topic 'returns'" in failed.err
    for name in ("returns", "orders.eu"):
        dimesh("topics", "create", name, "--partitions", "2")
    with running(tmp_path):
        dimesh("publish", "orders.eu", stdin=ndjson({"order": 1}))
        wait_for(lambda: words(tmp_path / "shipped") == ["1"])
        dimesh("topics", "create", "orders.us")
        dimesh("publish", "orders.us", stdin=ndjson({"order": 2}))
        assert (
            "did you mean 'returns'"
            in dimesh("publish", "retruns", stdin=ndjson({"order": 3}), code=None).err
        )
        wait_for(lambda: sorted(words(tmp_path / "shipped")) == ["1", "2"], 30)
    assert {g["topic"] for g in dimesh("--output", "json", "groups").json} == {
        "orders.eu",
        "orders.us",
        "returns",
    }


@pytest.mark.slow
def test_a_fatal_error_that_does_not_exist_is_found_at_the_start(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    for name in ("NoSuchError", "shop:note", "shop:Missing", "print"):
        (tmp_path / "dimesh.toml").write_text(
            f'[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nfatal = ["{name}"]\n'
        )
        assert name in dimesh("run", code=3).err
