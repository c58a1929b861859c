"""Change capture on the sqlite bus: the CPU time per change, from a source with prepared changes to the bus, which stores
them and the position in the same transaction.

Changes are updates of rows of about 500 bytes, in batches of 100. ``native``: the source reports rows before and after, and
no state is stored. ``whole`` and ``partial``: the source reports the row after the change, or only its changed fields,
and the stored last state becomes ``before`` and completes the row. Costs are CPU time of the process, since the handlers
share it; waiting for the disk is not included.

The floor is what the same events cost without the runner: they are made with ``CDCEvent``, of rows that are known, and published
by ``publish_many``, in the same batches on the same bus. A ratio holds on other machines; a time holds on this one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dimesh import CDCEvent, EventBusFactory, SqliteCDCStore
from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc import SourceConnector
from dimesh.spi.cdc import Before, Change, ChangeBatch, CheckResult, Operation

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROWS = 2_000 if SHORT else 20_000
CHANGES = 4_000 if SHORT else 40_000
ROUNDS = 1 if SHORT else 3
BATCH = 100
TARGETS = {"native": 2.0, "whole": 3.0, "partial": 3.0}
"""The allowed multiples of the floor, by the kind of source."""


def _row(number: int, value: str) -> dict[str, Any]:
    return {"id": f"003{number:015}", "value": value, **{f"field_{n}": f"text {n} " * 3 for n in range(11)}}


class Ready:
    """A source with prepared changes."""

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
    """Return the CPU seconds per change."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        store = SqliteCDCStore(Path(name) / "cdc.db") if kind != "native" else None
        source = Ready(kind)
        async with EventBusFactory.create("sqlite", path=str(Path(name) / "mesh.db")) as bus:
            connector = SourceConnector("bench", source, bus, store=store)
            await connector.start(["row"])
            while connector.get_status()["objects"]["row"]["phase"] != "stream":
                await asyncio.sleep(0.01)
            gc.collect()
            began = time.process_time()
            source.go.set()
            await source.done.wait()
            cost = (time.process_time() - began) / CHANGES
            await connector.disconnect()
        if store is not None:
            await store.close()
    return cost


def _event(change: Change) -> CDCEvent:
    return CDCEvent(
        change.operation,
        "bench",
        change.object,
        change.primary_key,
        change.before,
        change.after,
        change.timestamp,
        change.sequence,
        identity=change.identity,
        before_from=change.before_from,
        changed_fields=change.changed_fields,
        read=change.timestamp,
        connector_id="bench",
    )


async def _floor() -> float:
    """Return the CPU seconds per change of making and publishing the same events, and nothing else."""
    source = Ready("native")
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        async with EventBusFactory.create("sqlite", path=str(Path(name) / "mesh.db")) as bus:
            gc.collect()
            began = time.process_time()
            for first in range(0, CHANGES, BATCH):
                changes = [_event(change) for change in source.changes[first : first + BATCH]]
                await bus.publish_many(
                    "cdc.bench",
                    [change.to_event("") for change in changes],
                    keys=[change.ordering_key for change in changes],
                )
            return (time.process_time() - began) / CHANGES


def run() -> list[dict[str, Any]]:
    """Measure the CPU time per change for each kind of source, and its ratio to the floor of the same round."""
    rounds = [
        (asyncio.run(_floor()), {kind: asyncio.run(_measured(kind)) for kind in TARGETS})
        for _ in range(ROUNDS)
    ]
    floor = statistics.median(floor for floor, _ in rounds) * 1e6
    rows: list[dict[str, Any]] = []
    for kind, target in TARGETS.items():
        ratio = statistics.median(costs[kind] / floor for floor, costs in rounds)
        rows.append(
            {
                "name": f"change capture, {kind}",
                "value": statistics.median(costs[kind] for _, costs in rounds) * 1e6,
                "unit": "µs CPU/change",
                "floor": floor,
                "ratio": ratio,
                "target": f"≤ {target:g} × floor",
                "ok": ratio <= target,
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
