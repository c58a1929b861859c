"""A line of the JSON log: from a record to its text, with values that break other formatters.

Floor: the standard library's ``logging.Formatter`` with time, level, logger and message, for a record whose values are plain; it
has no fields, and most of these values would forge a line, or raise. Times are CPU µs a line, the best of many short runs that
alternate, so that another busy process does not count.
"""

from __future__ import annotations

import logging
import math
import os
import statistics
import time
from typing import Any

from dimesh.logs.lines import JsonLines

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
NUMBER = 500 if SHORT else 2_000
"""The number of lines in a run."""
REPEAT = 5 if SHORT else 30
"""The number of runs, of which the fastest counts."""


class Unspeakable:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("not to be shown")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(3_000):
    DEEP = [DEEP]
HOSTILE: dict[str, Any] = {
    "newline": 'a\n{"level": "INFO"}',
    "escape": "\x1b[2J\u2028\u202egnp.exe",
    "surrogate": "order \ud800",
    "nan": math.nan,
    "large": 10**30,
    "bytes": b"\xff\x00\n",
    "mixed": {(1, 2): 3, None: 4, 1: 5, "1": 6},
    "circle": CIRCLE,
    "deep": DEEP,
    "unspeakable": Unspeakable(),
}
"""Ten fields, from which the values of messages are taken, too."""
TEMPLATE = "source %s: %s is refused: %s"


def record(logger: str, args: tuple[object, ...], fields: dict[str, Any]) -> logging.LogRecord:
    """Return a warning."""
    made = logging.LogRecord(logger, logging.WARNING, __file__, 1, TEMPLATE, args, None)
    made.__dict__.update(fields)
    return made


def timed(formatter: logging.Formatter, made: logging.LogRecord) -> float:
    """Return the CPU µs of a line."""
    began = time.process_time()
    for _ in range(NUMBER):
        formatter.format(made)
    return (time.process_time() - began) / NUMBER * 1e6


def run() -> list[dict[str, Any]]:
    """Return the cost of lines with plain and with hostile values."""
    plain = ("billing", "customer", "no such column")
    nasty = (HOSTILE["newline"], HOSTILE["surrogate"], HOSTILE["escape"])
    own = "dimesh.cdc"
    lines = {
        "log line, plain values": record(own, plain, {}),
        "log line, hostile values": record(own, nasty, {}),
        "log line, hostile tables": record(own, ("billing", HOSTILE["mixed"], HOSTILE["circle"]), {}),
        **{f"field {name}": record(own, nasty, {name: value}) for name, value in HOSTILE.items()},
        "log line, ten plain fields": record(own, plain, dict.fromkeys(HOSTILE, "plain")),
        "log line, ten hostile fields": record(own, nasty, HOSTILE),
        "log line of a library, redacted": record("httpx", nasty, {}),
    }
    each = "log line, hostile values and one hostile field, mean of ten"
    limits = {"log line, hostile values": 15, each: 15}
    standard = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    ours = JsonLines()
    best = dict.fromkeys(("floor", *lines), math.inf)
    for _ in range(REPEAT):
        best["floor"] = min(best["floor"], timed(standard, lines["log line, plain values"]))
        for name, made in lines.items():
            best[name] = min(best[name], timed(ours, made))
    floor = best.pop("floor")
    best[each] = statistics.fmean([best.pop(f"field {name}") for name in HOSTILE])
    rows: list[dict[str, Any]] = []
    for name in best:
        row = {
            "name": name,
            "value": best[name],
            "unit": "µs CPU",
            "floor": floor,
            "ratio": best[name] / floor,
        }
        if name in limits:
            row |= {"target": f"≤ {limits[name]}", "ok": best[name] <= limits[name]}
        rows.append(row)
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
