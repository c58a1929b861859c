"""Zendesk: a snapshot of tickets into the sqlite bus, its memory, and the time from a change to its handler, with webhooks.

The sandbox runs in a process of its own, so that the CPU time measured here is that of the connector and the bus. It holds
changes back for a second instead of a minute; the latency is the time beyond that, from sending the request that creates a ticket
until the handler is called, on one machine.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from dimesh import Event, EventBusFactory, StartAt, ZendeskCDCConnector
from dimesh_zendesk import WebhookReceiver
from dimesh_zendesk.sandbox import API_TOKEN, EMAIL

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
CHANGES = 5 if SHORT else 40
ROWS = int(os.environ.get("MESH_BENCH_ROWS", "2000" if SHORT else "30000"))
HOLD_BACK = 1.0
MEGABYTE = 1024 * 1024
LOGIN = {"email": EMAIL, "api_token": API_TOKEN}


class Sandbox:
    """The sandbox, in another process."""

    def __enter__(self) -> Sandbox:
        command = [
            sys.executable, "-m", "dimesh_zendesk.sandbox", "--port", "0", "--tickets", str(ROWS),
            "--hold-back", f"{HOLD_BACK:g}", "--exports", "1000000",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[2]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate()


def memory() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / MEGABYTE


async def _floor(events: list[Event]) -> float:
    """Return how many of these events are made and published per second of CPU time, in batches of Zendesk's size."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus:
            parts = [(e.event_type.value, e.metadata, e.payload, e.metadata.ordering_key) for e in events]
            began = time.process_time()
            for at in range(0, len(parts), 1_000):
                page = parts[at : at + 1_000]
                made = [Event(kind, metadata, payload) for kind, metadata, payload, _ in page]
                await bus.publish_many(
                    "floor", made, keys=[key for *_, key in page], state={"position": b"p"}
                )
            return len(parts) / (time.process_time() - began)


async def _capture() -> dict[str, Any]:
    """Return rows per second of CPU time, of the floor and of wall time, the growth of memory in MB, and delays in ms."""
    with Sandbox() as sandbox, tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        login = httpx.BasicAuth(f"{EMAIL}/token", API_TOKEN)
        async with (
            EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus,
            httpx.AsyncClient(base_url=sandbox.url, auth=login) as http,
        ):
            connector = ZendeskCDCConnector(
                "bench", bus, "", url=sandbox.url, rate=10_000, exports=1_000_000, poll=3_600.0, hold_back=HOLD_BACK,
                ledger="", **LOGIN,
            )  # fmt: skip
            began, wall = time.process_time(), time.perf_counter()
            await connector.start(["tickets"])
            levels: list[float] = []

            def phase() -> dict[str, Any]:
                found: dict[str, Any] = connector.get_status()["objects"]["tickets"]
                return found

            while phase()["phase"] != "stream":
                await asyncio.sleep(0.05)
                if phase().get("snapshot_rows", 0) >= ROWS / 10:
                    levels.append(memory())
            cpu, wall = time.process_time() - began, time.perf_counter() - wall
            sample: list[Event] = []

            async def note(event: Event) -> None:
                if len(sample) < 10_000:
                    sample.append(event)

            await bus.subscribe("cdc.zendesk", note, "floor", start=StartAt.EARLIEST)
            while len(sample) < min(ROWS, 10_000):
                await asyncio.sleep(0.02)
            await bus.unsubscribe("floor")
            floor = await _floor(sample)
            receiver = WebhookReceiver(connector.hint, ["not yet"])
            server = uvicorn.Server(
                uvicorn.Config(receiver.app("/"), port=0, log_config=None, lifespan="off", ws="none")
            )
            task = asyncio.create_task(server._serve())
            while not server.started:
                await asyncio.sleep(0.01)
            hook = {
                "name": "bench", "status": "active", "http_method": "POST", "request_format": "json",
                "endpoint": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/",
                "subscriptions": ["zen:event-type:ticket.created"],
            }  # fmt: skip
            made = (await http.post("/api/v2/webhooks", json={"webhook": hook})).json()["webhook"]
            secret = (await http.get(f"/api/v2/webhooks/{made['id']}/signing_secret")).json()
            receiver.secrets = [secret["signing_secret"]["secret"]]
            arrived: dict[str, float] = {}

            async def handle(event: Any) -> None:
                if event.payload.get("operation") == "insert":
                    arrived[event.payload["after"]["subject"]] = time.perf_counter()

            await bus.subscribe("cdc.zendesk", handle, "bench", start=StartAt.LATEST)
            delays = []
            for n in range(CHANGES):
                at = time.perf_counter()
                body = {"ticket": {"subject": f"b{n}", "comment": {"body": "x"}}}
                (await http.post("/api/v2/tickets", json=body)).raise_for_status()
                while f"b{n}" not in arrived:
                    await asyncio.sleep(0.0005)
                delays.append((arrived[f"b{n}"] - at - HOLD_BACK) * 1000)
            await connector.disconnect()
            server.should_exit = True
            await task
    growth = max(levels[-5:], default=0.0) - levels[0] if levels else 0.0
    return {"rate": ROWS / cpu, "floor": floor, "wall": ROWS / wall, "growth": growth, "delays": delays}


def run() -> list[dict[str, Any]]:
    """Measure snapshot, memory and latency."""
    found = asyncio.run(_capture())
    rate, delays = found["rate"], sorted(found["delays"])
    middle = statistics.median(delays)
    return [
        {
            "name": f"snapshot into the sqlite bus ({found['wall']:,.0f}/s of wall time; {found['floor'] / rate:.1f}x the CPU of "
            f"making and publishing the same events, {found['floor']:,.0f}/s)",
            "value": rate,
            "unit": "rows/s CPU",
            "target": "≥ 5,000",
            "ok": rate >= 5_000,
        },
        {
            "name": f"memory from a tenth of {ROWS:,} rows to their end",
            "value": found["growth"],
            "unit": "MB",
            "target": "≤ 50",
            "ok": found["growth"] <= 50,
        },
        {
            "name": f"change to handler with webhooks, beyond the hold-back, p50 (p99 {delays[int(len(delays) * 0.99)]:.1f} ms)",
            "value": middle,
            "unit": "ms",
            "target": "≤ 50",
            "ok": middle <= 50,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
