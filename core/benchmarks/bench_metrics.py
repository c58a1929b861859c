"""Metrics: what an event pays for them, and what a scrape of 10,000 series costs.

Floor: the same events through the same mesh without ``[http] listen``, in turn in the same run.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import types
from typing import Any

from dimesh import Event
from dimesh.http.exposition import render
from dimesh.mesh import Mesh
from dimesh.ops.metrics import Metrics
from dimesh.ops.readiness import Stage, Watch
from dimesh.settings import MeshSettings

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
EVENTS = 5_000 if SHORT else 20_000
ROUNDS = 3 if SHORT else 15
LISTEN = {"listen": "127.0.0.1:0"}


async def handle(event: Event) -> None:
    """Do nothing."""


async def through_a_mesh(http: dict[str, str]) -> float:
    """Return the CPU seconds of an event from publish to the end of its handler."""
    sample = [Event("bench.type", None, n) for n in range(EVENTS)]
    async with Mesh(MeshSettings(bus={"driver": "memory"}, http=http)) as mesh:
        await mesh.bus.subscribe("bench", handle, "group")
        gc.collect()
        began = time.process_time()
        for event in sample:
            await mesh.bus.publish("bench", event)
        await mesh.bus.idle()
        return (time.process_time() - began) / EVENTS


async def scrape() -> tuple[int, float, float]:
    """Return the number of series, and the CPU seconds to collect them on the event loop and to render them beside it."""
    handlers = [
        {"topic": f"topic-{t}", "call": "bench_handlers:handle", "group": f"group-{g}"}
        for t in range(80)
        for g in range(8)
    ]
    async with Mesh(MeshSettings(bus={"driver": "memory"}, http=LISTEN, handlers=handlers)) as mesh:
        await mesh.start()
        watch = Watch(mesh)
        watch.stage = Stage.RUNNING
        metrics = Metrics(watch)
        await metrics.collect()
        began = time.process_time()
        families = await metrics.collect()
        collected = time.process_time()
        render(families)
        rendered = time.process_time()
    return sum(len(f.samples) for f in families), collected - began, rendered - collected


def run() -> list[dict[str, Any]]:
    """Measure events without and with metrics in turn, and one scrape."""
    module = types.ModuleType("bench_handlers")
    module.handle = handle  # type: ignore[attr-defined]
    sys.modules["bench_handlers"] = module
    without, with_ = [], []
    for _ in range(ROUNDS):
        without.append(asyncio.run(through_a_mesh({})))
        with_.append(asyncio.run(through_a_mesh(LISTEN)))
    extra = (min(with_) - min(without)) * 1e6  # the least disturbed round of each: the difference is small
    series, collected, rendered = asyncio.run(scrape())
    assert series >= 10_000
    return [
        {
            "name": "metrics, for one event",
            "value": extra,
            "unit": "µs CPU/event",
            "floor": min(without) * 1e6,
            "ratio": min(with_) / min(without),
            "target": "≤ 0.3",
            "ok": extra <= 0.3,
        },
        {
            "name": f"scrape of {series:,} series, on the event loop",
            "value": collected * 1e3,
            "unit": "ms CPU",
            "target": "≤ 50",
            "ok": collected <= 0.05,
        },
        {
            "name": f"scrape of {series:,} series, in all",
            "value": (collected + rendered) * 1e3,
            "unit": "ms CPU",
            "target": "≤ 200",
            "ok": collected + rendered <= 0.2,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
