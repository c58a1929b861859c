"""Stripe: a snapshot into the sqlite bus, and the time from a change to its handler, with webhooks and without.

The sandbox runs in a process of its own, so that the CPU time measured here is that of the connector and the bus. The latency
is the time from sending the request that creates a customer until the handler is called, on one machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from dimesh import Event, EventBusFactory, StartAt, StripeCDCConnector
from dimesh_stripe import WebhookReceiver
from dimesh_stripe.sandbox.server import KEY

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
CHANGES = 20 if SHORT else 200
ROWS = 2_000 if SHORT else 20_000
POLL = 0.2
PAGE = 100


class Sandbox:
    """The sandbox, in another process."""

    def __enter__(self) -> Sandbox:
        command = [sys.executable, "-m", "dimesh_stripe.sandbox", "--port", "0", "--customers", str(ROWS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[2]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate()


async def _floor(events: list[Event]) -> float:
    """Return how many of these events are made and published per second of CPU time, in batches of Stripe's size."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus:
            parts = [(e.event_type.value, e.metadata, e.payload, e.metadata.ordering_key) for e in events]
            began = time.process_time()
            for at in range(0, len(parts), PAGE):
                page = parts[at : at + PAGE]
                made = [Event(kind, metadata, payload) for kind, metadata, payload, _ in page]
                await bus.publish_many(
                    "floor", made, keys=[key for *_, key in page], state={"position": b"p"}
                )
            return len(parts) / (time.process_time() - began)


async def _capture(hints: bool) -> tuple[float, float, float, list[float]]:
    """Return rows per second of CPU time, of the floor and of wall time, and the delays in milliseconds."""
    with Sandbox() as sandbox, tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with (
            EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus,
            httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as http,
        ):
            poll = 3_600.0 if hints else POLL
            connector = StripeCDCConnector(
                "bench", bus, "", KEY, url=sandbox.url, rate=1_000, poll=poll, reread=3_600.0, overlap=5.0
            )
            began, wall = time.process_time(), time.perf_counter()
            await connector.start(["customer"])
            while connector.get_status()["objects"]["customer"]["phase"] != "stream":
                await asyncio.sleep(0.02)
            cpu, wall = time.process_time() - began, time.perf_counter() - wall
            server = task = None
            rows: list[Event] = []

            async def note(event: Event) -> None:
                rows.append(event)

            floor = 0.0
            if hints:
                await bus.subscribe("cdc.stripe", note, "floor", start=StartAt.EARLIEST)
                while len(rows) < ROWS:
                    await asyncio.sleep(0.02)
                await bus.unsubscribe("floor")
                floor = await _floor(rows)
                secrets = ["whsec_not_yet"]
                receiver = WebhookReceiver(connector.hint, secrets)
                config = uvicorn.Config(receiver.app("/"), port=0, log_config=None, lifespan="off", ws="none")
                server = uvicorn.Server(config)
                task = asyncio.create_task(server._serve())
                while not server.started:
                    await asyncio.sleep(0.01)
                url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
                made = await http.post("/v1/webhook_endpoints", data={"url": url, "enabled_events[]": "*"})
                receiver.secrets = [made.json()["secret"]]
            arrived: dict[str, float] = {}

            async def handle(event: Any) -> None:
                if event.payload["operation"] == "insert":
                    arrived[event.payload["after"]["name"]] = time.perf_counter()

            await bus.subscribe("cdc.stripe", handle, "bench", start=StartAt.LATEST)
            delays = []
            for n in range(CHANGES):
                at = time.perf_counter()
                (await http.post("/v1/customers", data={"name": f"b{n}"})).raise_for_status()
                while f"b{n}" not in arrived:
                    await asyncio.sleep(0.0005)
                delays.append((arrived[f"b{n}"] - at) * 1000)
            await connector.disconnect()
            if server is not None and task is not None:
                server.should_exit = True
                await task
    return ROWS / cpu, floor, ROWS / wall, delays


def run() -> list[dict[str, Any]]:
    """Measure snapshot and latency."""
    rate, floor, clock, hinted = asyncio.run(_capture(True))
    *_, polled = asyncio.run(_capture(False))
    with_hints, without = statistics.median(hinted), statistics.median(polled)
    target = POLL * 1000 + 50
    return [
        {
            "name": f"snapshot into the sqlite bus ({clock:,.0f}/s of wall time; {floor / rate:.1f}x the CPU of making and "
            f"publishing the same events, {floor:,.0f}/s)",
            "value": rate,
            "unit": "rows/s CPU",
            "target": "≥ 15,000",
            "ok": rate >= 15_000,
        },
        {
            "name": f"change to handler with webhooks, p50 (p99 {sorted(hinted)[int(len(hinted) * 0.99)]:.1f} ms)",
            "value": with_hints,
            "unit": "ms",
            "target": "≤ 50",
            "ok": with_hints <= 50,
        },
        {
            "name": f"change to handler, polled every {POLL * 1000:g} ms, p50",
            "value": without,
            "unit": "ms",
            "target": f"≤ {target:g}",
            "ok": without <= target,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
