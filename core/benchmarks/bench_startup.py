"""Start-up: the cost of ``import dimesh`` and of the shortest command.

Floor: an interpreter of the same environment that does nothing (``python -c pass``). Costs are CPU seconds of the
child, user and system, as the kernel reports them when it has ended (``wait4``), so other busy processes do not count.
The three are started in turn, in an empty folder; a first round, which writes bytecode and fills caches, is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROUNDS = 3 if SHORT else 15
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the processes: compiling modules again at every start would be measured otherwise."""
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    'python -c "import dimesh"': ("-c", "import dimesh"),
    "python -m dimesh --help": ("-m", "dimesh", "--help"),
}
ALLOWED = {'python -c "import dimesh"': 40.0, "python -m dimesh --help": 100.0}
"""The allowed time over the floor, in milliseconds."""


def cpu(arguments: tuple[str, ...], folder: str) -> float:
    """Return the CPU milliseconds of a child process from start to end."""
    with subprocess.Popen(
        (sys.executable, *arguments),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, arguments
    return (used.ru_utime + used.ru_stime) * 1e3


def run() -> list[dict[str, Any]]:
    """Return the medians of the rounds; a target applies to the difference from the floor of the same round."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        for number in range(ROUNDS + 1):
            for name, arguments in COMMANDS.items():
                spent = cpu(arguments, folder)
                if number:
                    times[name].append(spent)
    floors = times["python -c pass"]
    floor = statistics.median(floors)
    rows: list[dict[str, Any]] = [{"name": "python -c pass", "value": floor, "unit": "ms CPU"}]
    for name, most in ALLOWED.items():
        value = statistics.median(times[name])
        over = statistics.median(own - bare for own, bare in zip(times[name], floors, strict=True))
        rows += [
            {"name": name, "value": value, "unit": "ms CPU", "floor": floor, "ratio": value / floor},
            {
                "name": f"{name}, over the floor",
                "value": over,
                "unit": "ms CPU",
                "target": f"≤ {most:g}",
                "ok": over <= most,
            },
        ]
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
