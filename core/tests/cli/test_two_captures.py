"""Two processes with the same source: one captures, the other waits and takes over."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dimesh.backends.cdc.outbox import watch
from dimesh.cli.exit_codes import ExitCode

from .conftest import Run
from .processes import eventually, running


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["state", "bus"])
def test_the_second_process_takes_over(dimesh: Run, tmp_path: Path, shared: str) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        state = tmp_path / ("cdc.db" if shared == "state" else f"{folder}.db")
        (tmp_path / folder / "dimesh.toml").write_text(
            f"[mesh]\ndata_dir = '{tmp_path}/data'\n[cdc]\nstate = '{state}'\n"
            "[[sources]]\nname = 'shop'\ndriver = 'outbox'\nobjects = ['orders']\nstatus_events = true\n"
            f"options = {{ path = '{tmp_path}/shop.db', poll = 0.05 }}\n"
        )

    def log(folder: str) -> str:
        return (tmp_path / folder / "log").read_text()

    def status() -> dict[str, Any]:
        (found,) = dimesh("--output", "json", "cdc", "status", folder="first").json
        return dict(found)

    def events(*types: str) -> list[Any]:
        lines = dimesh("--output", "json", "tail", "cdc.outbox", "--all", folder="first").lines
        return [line for line in lines if line["event_type"] in types]

    with closing(sqlite3.connect(tmp_path / "shop.db")) as app:
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
            app.execute("INSERT INTO orders VALUES (1)")
            watch(app, "orders")
        with running(tmp_path / "first", "run") as one:
            eventually(lambda: status()["phase"] == "stream")
            with running(tmp_path / "second", "run") as two:
                eventually(lambda: "is captured by another process" in log("second"))
                assert f"process {one.pid}" in log("second")
                if shared == "state":
                    row = eventually(lambda: found if (found := status())["standby"] else None)
                    assert (row["process"].rpartition(" ")[2], row["standby"].rpartition(" ")[2]) == (
                        str(one.pid),
                        str(two.pid),
                    )
                    assert "waits to take over shop" in dimesh("cdc", "status", folder="first").out
                with app:
                    app.execute("INSERT INTO orders VALUES (2)")
                eventually(lambda: len(events("cdc.insert")) == 1)
                one.send_signal(signal.SIGKILL if shared == "state" else signal.SIGTERM)
                one.wait(20)
                eventually(lambda: "is captured by this process from now on" in log("second"))
                with app:
                    app.execute("INSERT INTO orders VALUES (3)")
                found = eventually(lambda: made if len(made := events("cdc.insert")) == 2 else None)
                assert [e["payload"]["primary_key"] for e in found] == [{"id": 2}, {"id": 3}]
                assert len(events("cdc.snapshot")) == 1
                two.send_signal(signal.SIGTERM)
                assert two.wait(20) == ExitCode.OK
    phases = [json.dumps(e["payload"]["phase"]) for e in events("cdc.status")]
    assert '"standby"' in phases
    assert "Traceback" not in log("first") + log("second")
