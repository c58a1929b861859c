"""The runner of change capture on the sqlite bus: CPU for each change, from a source that has them ready to the bus that
has them stored, with the position in the same transaction.

Changes are updates of rows of about 500 bytes, in batches of 100. ``native``: the source gives rows before and after, and
nothing is remembered. ``whole`` and ``partial``: it gives the row after, or what changed of it, and the last state that
the store remembers becomes ``before`` and completes it. CPU time of the process, since that is what is shared with the
handlers; waiting for the disk is not in it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dimesh import EventBusFactory
from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.spi.cdc import Before, Change, ChangeBatch, CheckResult, Operation

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROWS = 2_000 if SHORT else 20_000
CHANGES = 4_000 if SHORT else 40_000
ROUNDS = 1 if SHORT else 3
BATCH = 100
TARGET = 60.0
"""µs CPU for each change."""


def _row(number: int, value: str) -> dict[str, Any]:
    return {"id": f"003{number:015}", "value": value, **{f"field_{n}": f"text {n} " * 3 for n in range(11)}}


class Ready:
    """A source whose changes are made beforehand."""

    system = "bench"
    capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM)

    def __init__(self, kind: str) -> None:
        begun = datetime.now(UTC) + timedelta(days=1)
        read = datetime.now(UTC)
        self.rows = [
            Change(f"r{n}", Operation.SNAPSHOT, "row", {"id": n}, None, _row(n, "0"), read)
            for n in range(ROWS)
        ]
        self.changes = [
            Change(
                f"c{n}",
                Operation.UPDATE,
                "row",
                {"id": n % ROWS},
                _row(n % ROWS, str(n - ROWS)) if kind == "native" else None,
                {"value": str(n)} if kind == "partial" else _row(n % ROWS, str(n)),
                begun + timedelta(milliseconds=n),
                str(n),
                Before.NATIVE if kind == "native" else Before.NONE,
                changed_fields=("value",),
                partial=kind == "partial",
            )
            for n in range(CHANGES)
        ]
        self.go = asyncio.Event()
        self.done = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> CheckResult:
        return CheckResult(True, {"row": ""})

    async def position(self, object: str) -> bytes:
        return b"0"

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        for first in range(0, ROWS, 500):
            yield ChangeBatch(self.rows[first : first + 500], str(first + 500).encode())

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        await self.go.wait()
        for first in range(0, CHANGES, BATCH):
            yield ChangeBatch(self.changes[first : first + BATCH], str(first + BATCH).encode())
        self.done.set()
        await asyncio.Event().wait()

    async def acknowledge(self, object: str, position: bytes) -> None: ...


async def _measured(kind: str) -> float:
    """Seconds of CPU for each change."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        store = SqliteCDCStore(Path(name) / "cdc.db") if kind != "native" else None
        source = Ready(kind)
        async with EventBusFactory.create("sqlite", path=str(Path(name) / "mesh.db")) as bus:
            connector = SourceConnector("bench", source, bus, store=store)
            await connector.start(["row"])
            while connector.get_status()["objects"]["row"]["phase"] != "stream":
                await asyncio.sleep(0.01)
            began = time.process_time()
            source.go.set()
            await source.done.wait()
            cost = (time.process_time() - began) / CHANGES
            await connector.disconnect()
        if store is not None:
            await store.close()
    return cost


def run() -> list[dict[str, Any]]:
    """CPU by what the source gives."""
    rows: list[dict[str, Any]] = []
    for kind in ("native", "whole", "partial"):
        value = statistics.median(asyncio.run(_measured(kind)) for _ in range(ROUNDS)) * 1e6
        rows.append(
            {
                "name": f"change capture, {kind}",
                "value": value,
                "unit": "µs CPU/change",
                "target": f"≤ {TARGET:g}",
                "ok": value <= TARGET,
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
