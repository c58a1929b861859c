"""``dimesh run``: the time from the start of the process until ``/readyz`` answers 200.

The large mesh has 100 handlers, each in a group of its own, on 20 topics of the sqlite bus, and 10 outbox sources, each with a
database of its own; the first start also makes the files, and takes snapshots of ten rows for each source. Floor: the same
with one handler and one source, in turn in the same run, which is the time that Python, the libraries and the files take.
Seconds are those of the least disturbed round, since a busy machine only adds to them; CPU seconds are medians.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from dimesh.backends.cdc.outbox import watch

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROUNDS = 2 if SHORT else 10
HANDLERS, TOPICS, SOURCES = 100, 20, 10
ROWS = 10
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the processes: compiling modules again at every start would be measured otherwise."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def project(folder: Path, handlers: int, sources: int) -> int:
    """Write the settings, the handlers and the databases of the sources; return the port of the health pages."""
    port = free_port()
    text = [f"[http]\nlisten = '127.0.0.1:{port}'\n[bus]\ndriver = 'sqlite'\n"]
    code = []
    for n in range(handlers):
        text.append(f"[[handlers]]\ntopic = 'orders.{n % TOPICS}'\ncall = 'bench_handlers:handle_{n}'\n")
        code.append(f"async def handle_{n}(event): ...\n")
    for n in range(sources):
        with sqlite3.connect(folder / f"shop{n}.db") as connection:
            connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)")
            watch(connection, "customers")
            connection.executemany(
                "INSERT INTO customers (name) VALUES (?)", [(f"c{r}",) for r in range(ROWS)]
            )
        connection.close()
        text.append(
            f"[[sources]]\nname = 'shop{n}'\ndriver = 'outbox'\nobjects = ['customers']\n"
            f"options = {{ path = 'shop{n}.db' }}\n"
        )
    (folder / "dimesh.toml").write_text("".join(text))
    (folder / "bench_handlers.py").write_text("".join(code))
    return port


def is_ready(port: int) -> bool:
    """Return whether the mesh says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def start(folder: Path, port: int) -> tuple[float, float]:
    """Return the seconds until the mesh is ready, and the CPU seconds that the process has used until then."""
    with (folder / "log").open("wb") as log:
        began = time.monotonic()
        with subprocess.Popen(
            (sys.executable, "-m", "dimesh", "run"),
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=log,
        ) as child:
            while not is_ready(port):
                assert child.poll() is None, (folder / "log").read_text()
                time.sleep(0.005)
            seconds = time.monotonic() - began
            used = cpu(child.pid)
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 0, (folder / "log").read_text()
    return seconds, used


def cpu(pid: int) -> float:
    """Return the CPU seconds of a running process, user and system (proc(5)); 0 where there is no ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def run() -> list[dict[str, Any]]:
    """Return the figures of first and of later starts."""
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(ROUNDS + 1):  # the first round writes bytecode and fills caches
        for name, handlers, sources in (("one", 1, 1), ("many", HANDLERS, SOURCES)):
            with tempfile.TemporaryDirectory(prefix="mesh-bench-") as text:
                folder = Path(text)
                port = project(folder, handlers, sources)
                for which in ("first", "later"):
                    took = start(folder, port)
                    if number:
                        times.setdefault(f"{which} {name}", []).append(took)

    def row(name: str, which: str, column: int, unit: str) -> dict[str, Any]:
        summary = statistics.median if column else min
        value, floor = (
            summary(took[column] for took in times[f"{which} {size}"]) for size in ("many", "one")
        )
        return {"name": name, "value": value, "unit": unit, "floor": floor, "ratio": value / floor}

    sizes = f"{SOURCES} sources and {HANDLERS} handlers"
    rows = [row(f"ready, {sizes}, {which} start", which, 0, "s") for which in ("first", "later")]
    for one in rows:
        one.update(target="< 2", ok=one["value"] < 2)
    return [*rows, row("the same, later start", "later", 1, "s CPU")]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
