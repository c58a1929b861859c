"""Stripe: a snapshot into the sqlite bus, and a change's way to its handler with webhook hints and without.

The sandbox runs in a process of its own, so that CPU time here is ours alone. Latency is from the sandbox's answer to the
request that made a customer to the handler, on the same machine.
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

from dimesh import EventBusFactory, StartAt, StripeCDCConnector
from dimesh_stripe import WebhookReceiver
from dimesh_stripe.sandbox.server import KEY

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
CHANGES = 20 if SHORT else 200
ROWS = 2_000 if SHORT else 20_000
POLL = 0.2


class Sandbox:
    """In another process."""

    def __enter__(self) -> Sandbox:
        command = [sys.executable, "-m", "dimesh_stripe.sandbox", "--port", "0", "--customers", str(ROWS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[2]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate()


async def _capture(hints: bool) -> tuple[float, float, list[float]]:
    """Rows a second of CPU and of the clock, and the delays in ms."""
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
            if hints:
                secrets = ["whsec_not_yet"]
                receiver = WebhookReceiver(connector.hint, secrets)
                config = uvicorn.Config(receiver.app("/"), port=0, log_config=None, lifespan="off", ws="none")
                server = uvicorn.Server(config)
                task = asyncio.create_task(server._serve())
                while not server.started:
                    await asyncio.sleep(0.01)
                url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
                made = await http.post("/v1/webhook_endpoints", data={"url": url, "enabled_events[]": "*"})
                receiver._secrets = [made.json()["secret"]]
            arrived: dict[str, float] = {}

            async def handle(event: Any) -> None:
                if event.payload["operation"] == "insert":
                    arrived[event.payload["after"]["name"]] = time.perf_counter()

            await bus.subscribe("cdc.stripe", handle, "bench", start=StartAt.LATEST)
            delays = []
            for n in range(CHANGES):
                (await http.post("/v1/customers", data={"name": f"b{n}"})).raise_for_status()
                at = time.perf_counter()
                while f"b{n}" not in arrived:
                    await asyncio.sleep(0.0005)
                delays.append((arrived[f"b{n}"] - at) * 1000)
            await connector.disconnect()
            if server is not None and task is not None:
                server.should_exit = True
                await task
    return ROWS / cpu, ROWS / wall, delays


def run() -> list[dict[str, Any]]:
    """Snapshot and latency."""
    rate, clock, hinted = asyncio.run(_capture(True))
    _, _, polled = asyncio.run(_capture(False))
    with_hints, without = statistics.median(hinted), statistics.median(polled)
    target = POLL * 1000 + 50
    return [
        {
            "name": f"snapshot into the sqlite bus ({clock:,.0f}/s on the clock)",
            "value": rate,
            "unit": "rows/s CPU",
            "target": "≥ 5,000",
            "ok": rate >= 5_000,
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
