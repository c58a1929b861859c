"""Endurance: a million events through the sqlite bus, a consumer that falls behind and catches up, retention on.

Usage: ``python core/benchmarks/endurance.py [--short] [--plot FILE]``. Started by hand and by CI; it is not one of
the benchmarks of ``run.py``. One process publishes at a steady pace, a second one (this file with the argument
``consume``) handles the events. The consumer keeps to 70 % of that pace until it has handled 35 % of the events, so
that a backlog of 15 % has grown by half time; then it runs at full speed. Retention covers more than the backlog, a
quarter of the events, by records and by bytes, so it must never remove an event that was not handled. (``--short``
has the same pace and fewer events, of which retention covers half, since the start of the processes weighs more
there.)

Once a second (ten times with ``--short``) the publisher records: memory of both processes, bytes of the database and its
log, lag of the group, events published and handled. At the end it checks the following, and ends with code 1 unless all hold:

- every sequence number was handled (the consumer keeps a bitmap), and the group's lag is 0;
- memory: until the end, the private memory of each process (mapped pages of the database file belong to the kernel's
  cache and are shown separately) stays within 50 MB of its value when a tenth was published;
- disk: after the first quarter, database and log together never exceed ``DISK_SLACK`` × (what retention covers + what is
  published between two turns of retention, at the measured size of a stored event) + ``WAL_ALLOWED``. The slack is for
  SQLite's pages, which their rows do not fill, and for turns of retention that come late; freed pages are used again but
  not given back, so this is a peak. The log is moved into the database at 4 MB, but restarts only when no reader uses it;
  64 MB is the limit that the bus sets for its size on disk.

The publisher waits when the backlog comes near the limit of retention (on a machine too slow for the pace); the results
include the time that it waited.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dimesh import Event, EventBusFactory, EventMetadata
from dimesh.events.codec import encode_header
from dimesh.spi.bus import StartAt, TopicConfig

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench-results"
PICTURE = ROOT / "docs" / "assets" / "endurance.svg"

TOPIC = "endurance"
GROUP = "slow"
PACE = 25_000
"""The number of events published per second."""
BATCH = 200
SLOW = 0.7
"""The pace of the slow consumer, as a fraction of the publisher's."""
SLOW_UNTIL = 0.35
"""The fraction of all events that the consumer handles slowly."""
RETAINED = 0.25
RETAINED_SHORT = 0.5
"""The fraction of all events that retention covers."""
REPORTS = 0.1
"""The interval between the consumer's reports, in seconds."""
RETENTION_INTERVAL = 1.0
TEXT = "x" * 200

MEGABYTE = 1 << 20
MEMORY_ALLOWED = 50 * MEGABYTE
DISK_SLACK = 1.5
WAL_ALLOWED = 64 * MEGABYTE
PATIENCE = 300.0
"""Seconds that the consumer may take for the rest once all is published."""


@dataclass
class Sample:
    """What was seen at one moment; memory, disk and sizes in bytes."""

    time: float
    published: int
    handled: int
    lag: int
    publisher_memory: int
    publisher_resident: int
    consumer_memory: int
    consumer_resident: int
    database: int
    wal: int
    published_per_second: float = 0.0
    handled_per_second: float = 0.0


def memory() -> tuple[int, int]:
    """Return the private and the resident memory of this process in bytes; where the kernel does not distinguish them, the
    peak for both.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        found = {name: value for name, _, value in (line.partition(":") for line in lines)}
        if "RssAnon" in found:
            return int(found["RssAnon"].split()[0]) * 1024, int(found["VmRSS"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


# -- consumer ------------------------------------------------------------------------------------------


async def consume(path: str, total: int) -> None:
    """Handle events until stdin ends; write a JSON line of counters to stdout at each interval."""
    seen = bytearray((total + 7) // 8)
    handled = distinct = 0
    began = 0.0
    slow_until = int(total * SLOW_UNTIL)

    async def handle(event: Event) -> None:
        nonlocal handled, distinct, began
        number = event.payload["n"]
        bit = 1 << (number & 7)
        if not seen[number >> 3] & bit:
            seen[number >> 3] |= bit
            distinct += 1
        handled += 1
        if handled < slow_until:
            if handled == 1:
                began = time.monotonic()
            early = handled / (PACE * SLOW) - (time.monotonic() - began)
            if early > 0.005:
                await asyncio.sleep(early)

    def report(**more: Any) -> None:
        own, resident = memory()
        line = {"handled": handled, "distinct": distinct, "memory": own, "resident": resident, **more}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with EventBusFactory.create("sqlite", path=path, retention_interval=RETENTION_INTERVAL) as bus:
        await bus.subscribe(TOPIC, handle, GROUP, start=StartAt.EARLIEST)
        report()
        while not stop.done():
            await asyncio.wait((stop,), timeout=REPORTS)
            report()
        stats = bus.stats()[GROUP]
        missing = total - distinct
        first = next((n for n in range(total) if not seen[n >> 3] & (1 << (n & 7))), None)
        report(missing=missing, first_missing=first, gaps=stats.gaps, failed=stats.failed)


# -- publisher -----------------------------------------------------------------------------------------


class Run:
    """One run: the publisher's side."""

    def __init__(
        self, folder: Path, total: int, retained: int, every: float, told: Callable[[Sample], None]
    ) -> None:
        self.path = folder / "endurance.db"
        self.total = total
        self.retained = retained
        """Records that retention covers."""
        self.every = every
        self.samples: list[Sample] = []
        self.held_back = 0.0
        """Seconds that the publisher waited for the consumer."""
        self.last: dict[str, Any] = {}
        """What the consumer said last."""
        self._told = told
        self._published = 0
        self._lag = 0
        self._began = time.monotonic()
        self._done = False

    async def go(self) -> None:
        """Everything, from an empty folder to the consumer's end."""
        options = {"path": str(self.path), "retention_interval": RETENTION_INTERVAL}
        async with EventBusFactory.create("sqlite", **options) as self.bus:
            longest = self._event(self.total)
            size = self.retained * (len(longest.data) + len(encode_header(longest)))
            await self.bus.door.create_topic(
                TOPIC, TopicConfig(retention_records=self.retained, retention_bytes=size)
            )
            consumer = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                "consume",
                *(str(self.path), str(self.total)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert consumer.stdin is not None
            assert consumer.stdout is not None
            listener = asyncio.create_task(self._listen(consumer.stdout))
            try:
                while not self.last:
                    if listener.done():
                        raise SystemExit("the consumer did not start")
                    await asyncio.sleep(0.01)
                self._began = time.monotonic()
                sampler = asyncio.create_task(self._sample())
                await self._publish(listener)
                await self._drain(listener)
                self._done = True
                await sampler
                await self._look()
            finally:
                consumer.stdin.close()
                await asyncio.wait_for(listener, 60)
                await consumer.wait()

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            self.last = json.loads(line)

    def _event(self, number: int) -> Event:
        return Event(
            f"endurance.type{number % 10}",
            EventMetadata(source_pillar="Operations", source_agent=f"agent-{number % 64}"),
            {"n": number, "text": TEXT},
        )

    async def _publish(self, listener: asyncio.Task[None]) -> None:
        began = time.monotonic()
        near = self.retained * 9 // 10
        for first in range(0, self.total, BATCH):
            batch = [self._event(n) for n in range(first, min(first + BATCH, self.total))]
            await self.bus.publish_many(TOPIC, batch)
            self._published += len(batch)
            early = began + self._published / PACE - time.monotonic()
            if early > 0.001:
                await asyncio.sleep(early)
            while self._published - self.last["handled"] > near and not listener.done():
                waited = time.monotonic()
                await asyncio.sleep(0.01)
                waited = time.monotonic() - waited
                self.held_back += waited
                began += waited
            if early < -1.0:  # too slow for the pace: do not make up for it by a rush
                began = time.monotonic() - self._published / PACE

    async def _drain(self, listener: asyncio.Task[None]) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not listener.done():
            if self.last["distinct"] >= self.total and await self._measure_lag() == 0:
                return
            await asyncio.sleep(0.05)

    async def _measure_lag(self) -> int:
        self._lag = sum(info.lag for info in await self.bus.door.groups() if info.group == GROUP)
        return self._lag

    async def _sample(self) -> None:
        due = self._began
        while not self._done:
            await self._look()
            due += self.every
            await asyncio.sleep(max(due - time.monotonic(), 0.01))

    async def _look(self) -> None:
        lag = await self._measure_lag()
        own, resident = memory()
        now = Sample(
            round(time.monotonic() - self._began, 3),
            self._published,
            self.last["handled"],
            lag,
            own,
            resident,
            self.last["memory"],
            self.last["resident"],
            _size(self.path),
            _size(Path(f"{self.path}-wal")),
        )
        if self.samples:
            before = self.samples[-1]
            seconds = max(now.time - before.time, 1e-3)
            now.published_per_second = round((now.published - before.published) / seconds, 1)
            now.handled_per_second = round((now.handled - before.handled) / seconds, 1)
        self.samples.append(now)
        self._told(now)

    async def stored_bytes(self) -> float:
        """Mean bytes of header and payload, as the topic counts them."""
        async with EventBusFactory.create("sqlite", path=str(self.path)) as bus:
            deliveries = await bus.door.read(TOPIC, StartAt.EARLIEST, 250)
            sizes = [len(d.record.header) + len(d.record.payload) + len(d.record.key) for d in deliveries]
            # Beside them in a row: type, pillar, priority, time, slot, crc, rowid and SQLite's own lengths.
            return sum(sizes) / len(sizes) + 75


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def verdict(run: Run, stored: float) -> list[dict[str, Any]]:
    """Each bound, what was measured, and whether it holds."""
    samples, last = run.samples, run.last
    tenth = next(s for s in samples if s.published >= run.total // 10)
    after_tenth = [s for s in samples if s.time >= tenth.time]
    after_quarter = [s for s in samples if s.published >= run.total // 4]
    disk = DISK_SLACK * (run.retained + PACE * RETENTION_INTERVAL) * stored + WAL_ALLOWED
    checks = [
        ("events not handled", last.get("missing"), 0),
        ("positions overtaken by retention", last.get("gaps"), 0),
        ("failed calls of the handler", last.get("failed"), 0),
        ("lag at the end", samples[-1].lag, 0),
    ]
    for name in ("publisher", "consumer"):
        begin = getattr(tenth, f"{name}_memory")
        moved = max(abs(getattr(s, f"{name}_memory") - begin) for s in after_tenth)
        checks.append((f"memory of the {name}, most bytes away from the 10 % mark", moved, MEMORY_ALLOWED))
    checks.append(
        (
            "most bytes on disk after the first quarter",
            max(s.database + s.wal for s in after_quarter),
            int(disk),
        )
    )
    return [
        {"bound": name, "value": value, "allowed": allowed, "ok": value is not None and value <= allowed}
        for name, value, allowed in checks
    ]


def draw(samples: list[Sample], checks: list[dict[str, Any]], target: Path) -> None:
    """Memory, disk and lag over time. The same figures make the same file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "dimesh"
    times = [s.time for s in samples]
    figure, (top, middle, bottom) = plt.subplots(3, 1, sharex=True, figsize=(9, 8), layout="constrained")
    for name, colour in (("publisher", "tab:blue"), ("consumer", "tab:orange")):
        own = [getattr(s, f"{name}_memory") / MEGABYTE for s in samples]
        resident = [getattr(s, f"{name}_resident") / MEGABYTE for s in samples]
        top.plot(times, own, color=colour, label=f"{name}, its own")
        top.plot(times, resident, color=colour, linewidth=1, linestyle=":", label=f"{name}, with mapped file")
    top.set_ylabel("memory, MB")
    middle.plot(times, [s.database / MEGABYTE for s in samples], color="tab:green", label="database")
    middle.plot(times, [s.wal / MEGABYTE for s in samples], color="tab:red", label="write-ahead log")
    bound = next(c["allowed"] for c in checks if "disk" in c["bound"]) / MEGABYTE
    middle.axhline(bound, color="tab:gray", linestyle="--", linewidth=1, label="bound of both")
    middle.set_ylabel("disk, MB")
    bottom.plot(times, [s.lag / 1e3 for s in samples], color="tab:purple", label="lag")
    bottom.set_ylabel("lag, thousand events")
    bottom.set_xlabel("seconds")
    for axes in (top, middle, bottom):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize="small")
    figure.suptitle(f"{samples[-1].published:,} events through the sqlite bus")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    plt.close(figure)
    # Without the spaces that matplotlib leaves at the ends of lines.
    lines = target.read_text("utf-8").splitlines()
    target.write_text("\n".join(line.rstrip() for line in lines) + "\n", "utf-8")


def main() -> int:
    if sys.argv[1:2] == ["consume"]:
        path, count = sys.argv[2:]
        asyncio.run(consume(path, int(count)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--short", action="store_true", help="100,000 events; the picture goes to bench-results/"
    )
    parser.add_argument("--plot", type=Path, help="file for the picture")
    arguments = parser.parse_args()
    total, share, every = (100_000, RETAINED_SHORT, 0.1) if arguments.short else (1_000_000, RETAINED, 1.0)
    suffix = "-short" if arguments.short else ""
    picture = arguments.plot or (RESULTS / "endurance-short.svg" if arguments.short else PICTURE)
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="mesh-endurance-") as folder,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:>9,.0f}  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        ) as progress,
    ):
        published = progress.add_task("published", total=total, note="")
        handled = progress.add_task("handled", total=total, note="")

        def told(sample: Sample) -> None:
            disk = f"{sample.database / MEGABYTE:,.0f} + {sample.wal / MEGABYTE:,.0f} MB on disk"
            own = f"{sample.consumer_memory / MEGABYTE:,.0f} MB, {sample.lag:,} behind"
            progress.update(published, completed=sample.published, note=disk)
            progress.update(handled, completed=sample.handled, note=own)

        run = Run(Path(folder), total, int(total * share), every, told)
        asyncio.run(run.go())
        stored = asyncio.run(run.stored_bytes())
    checks = verdict(run, stored)
    samples = run.samples
    all_published = next(s.time for s in samples if s.published >= total)
    figures = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "events": total,
        "handled": run.last["handled"],
        "seconds": samples[-1].time,
        "published_per_second": round(total / max(all_published, 1e-3)),
        "highest_lag": max(s.lag for s in samples),
        "retention_records": run.retained,
        "held_back_seconds": round(run.held_back, 2),
        "stored_bytes_per_event": round(stored),
        "bounds": checks,
        "samples": [asdict(sample) for sample in samples],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"endurance{suffix}.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    draw(samples, checks, picture)
    for check in checks:
        mark = "[green]holds [/]" if check["ok"] else "[red]BROKEN[/]"
        value = "unknown" if check["value"] is None else f"{check['value']:,}"
        console.print(
            f"{mark} {check['bound']}: {value} (allowed: {check['allowed']:,})",
            highlight=False,
            soft_wrap=True,
        )
    good = all(check["ok"] for check in checks)
    console.print(
        f"{total:,} events in {samples[-1].time:.1f} s, highest lag {figures['highest_lag']:,}: "
        + ("[green]all bounds hold[/]" if good else "[red]a bound is broken[/]"),
        highlight=False,
        soft_wrap=True,
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
