"""NetSuite: the CPU time of a row, of a snapshot and of polling, a cycle of ten tables, and the memory of a large snapshot.

The sandbox runs in a process of its own, so that the CPU time measured here is that of the connector and the bus. The floor of a
row is making and publishing the same event.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from dimesh import Event, EventBusFactory, NetSuiteCDCConnector, StartAt
from dimesh_netsuite.sandbox import ACCOUNT
from dimesh_netsuite.sandbox.security import CERTIFICATE_ID, CLIENT_ID

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROWS = 5_000 if SHORT else 50_000
LARGE = int(os.environ.get("MESH_BENCH_LARGE", "0")) or (20_000 if SHORT else 200_000)
CYCLES = 2 if SHORT else 10
PAGE = 1_000
TABLES = (
    "customer", "vendor", "partner", "contact", "employee", "job", "item", "account", "subsidiary", "transaction",
)  # fmt: skip
"""Ten tables that are polled; the transactions have lines."""


class Sandbox:
    """The sandbox, in another process."""

    def __init__(self, folder: str, rows: int, seed: str = "customer") -> None:
        self.key = str(Path(folder) / "key.pem")
        self._command = [
            sys.executable, "-m", "dimesh_netsuite.sandbox", "--port", "0", "--rows", str(rows), "--seed", seed,
            "--key", self.key,
        ]  # fmt: skip

    def __enter__(self) -> Sandbox:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[2]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def connector(self, bus: Any, **options: Any) -> NetSuiteCDCConnector:
        """Return a connector at concurrency 1."""
        given: dict[str, Any] = {
            "url": self.url, "client_id": CLIENT_ID, "certificate_id": CERTIFICATE_ID, "private_key_file": self.key,
            "rate": 1_000, "concurrency": 1, "poll": 0.01, "reread": 3_600.0, "refresh": 0.0, "ledger": "", **options,
        }  # fmt: skip
        return NetSuiteCDCConnector("bench", bus, "", ACCOUNT, **given)


def _streaming(connector: NetSuiteCDCConnector) -> bool:
    return {one["phase"] for one in connector.get_status()["objects"].values()} == {"stream"}


async def _floor(events: list[Event]) -> float:
    """Return the CPU time in µs of making and publishing one of these events, in batches of a page."""
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
            return (time.process_time() - began) / len(parts) * 1e6


async def _rows() -> tuple[float, float, float]:
    """Return the CPU time in µs of a row of a snapshot, of a row that is polled, and of the floor."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder, Sandbox(folder, ROWS) as sandbox:
        async with (
            EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus,
            httpx.AsyncClient(base_url=sandbox.url) as http,
        ):
            connector = sandbox.connector(bus, poll=3_600.0, notes=False, deletes=False)
            began = time.process_time()
            await connector.start(["customer"])
            while not _streaming(connector):
                await asyncio.sleep(0.02)
            snapshot = (time.process_time() - began) / ROWS * 1e6
            some: list[Event] = []

            async def note(event: Event) -> None:
                some.append(event)

            await bus.subscribe("cdc.netsuite", note, "floor", start=StartAt.EARLIEST)
            while len(some) < ROWS:
                await asyncio.sleep(0.02)
            await bus.unsubscribe("floor")
            floor = await _floor(some)
            # Rows of a transaction that was imported now.
            changed = ROWS // 10
            for _ in range(changed):
                body = {"object": "customer", "fields": {"companyname": "bench", "email": "b@example.com"}}
                (await http.post("/_sandbox/records", json=body)).raise_for_status()
            began = time.process_time()
            connector.source.hint("customer")  # type: ignore[attr-defined]
            while connector.get_status()["objects"]["customer"]["changes"] < changed:
                await asyncio.sleep(0.02)
            polled = (time.process_time() - began) / changed * 1e6
            await connector.disconnect()
    return snapshot, polled, floor


async def _cycle() -> tuple[float, float, float]:
    """Return the wall time, our CPU time and the number of requests of a poll of ten tables without changes, at concurrency 1."""
    with (
        tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder,
        Sandbox(folder, 200, ",".join(TABLES)) as sandbox,
    ):
        async with EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus:
            connector = sandbox.connector(bus, poll=3_600.0)
            await connector.start(list(TABLES))
            while not _streaming(connector) or not _idle(connector):
                await asyncio.sleep(0.02)
            source: Any = connector.source
            requests = source.account()["requests"]
            cpu, wall = time.process_time(), time.perf_counter()
            for n in range(CYCLES):
                before = _positions(connector)
                source.hint("")
                while any(at == before[name] for name, at in _positions(connector).items()):
                    await asyncio.sleep(0.002)
                del n
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            requests = source.account()["requests"] - requests
            await connector.disconnect()
    return wall / CYCLES * 1000, cpu / CYCLES * 1000, requests / CYCLES


def _positions(connector: NetSuiteCDCConnector) -> dict[str, int]:
    return {name: runner.progress.at if runner.progress else 0 for name, runner in connector._runners.items()}  # type: ignore[misc]


def _idle(connector: NetSuiteCDCConnector) -> bool:
    return all(
        runner.progress is not None and time.time() - runner.progress.at > 0.5
        for runner in connector._runners.values()
    )


async def _memory() -> float:
    """Return by how many MB the largest memory of this process grew during a large snapshot, after its first tenth."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder, Sandbox(folder, LARGE) as sandbox:
        async with EventBusFactory.create("sqlite", path=str(Path(folder) / "mesh.db")) as bus:
            connector = sandbox.connector(bus, poll=3_600.0, notes=False, deletes=False)
            await connector.start(["customer"])
            early = 0
            while not _streaming(connector):
                await asyncio.sleep(0.02)
                done = connector.get_status()["objects"]["customer"].get("snapshot_rows", 0)
                if not early and done > LARGE / 10:
                    early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early
            await connector.disconnect()
    return grown / 1024


def run() -> list[dict[str, Any]]:
    """Measure rows, a cycle and memory."""
    grown = asyncio.run(_memory())
    snapshot, polled, floor = asyncio.run(_rows())
    wall, cpu, requests = asyncio.run(_cycle())
    return [
        {
            "name": f"CPU of a row of a snapshot, into the sqlite bus ({floor:.0f} µs of it for making and publishing the event)",
            "value": snapshot,
            "unit": "µs CPU",
            "target": "≤ 100",
            "ok": snapshot <= 100,
        },
        {
            "name": "CPU of a row that a poll found",
            "value": polled,
            "unit": "µs CPU",
            "target": "≤ 100",
            "ok": polled <= 100,
        },
        {
            "name": f"poll of ten tables at concurrency 1, {requests:.0f} requests; {cpu:.0f} ms of it are our CPU, the rest is "
            "the server's",
            "value": wall,
            "unit": "ms",
            "target": f"CPU ≤ half: {wall / 2:.0f}",
            "ok": cpu <= wall / 2,
        },
        {
            "name": f"growth of memory after the first tenth of a snapshot of {LARGE:,} rows",
            "value": grown,
            "unit": "MB",
            "target": "≤ 50",
            "ok": grown <= 50,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
