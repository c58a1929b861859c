"""2,000 events a second through a real broker under repeated faults, checked by the history checker.

``python plugins/kafka/benchmarks/endurance_kafka.py [--minutes 10]``. Three processes handle the events that this one
publishes; all reach the broker through a proxy. Every few seconds one of these faults occurs, chosen by a seeded random
generator: a consumer is killed (-9) and replaced, one leaves and another joins, connections are reset, the network is cut
or slow for a while, the broker is killed and restarted. A publish with an unknown outcome is repeated with the same event.

The run fails if an acknowledged event was lost, a key's events were first handled out of order, more events were repeated
than the stated bound allows (for each interruption, the events that a member may hold uncommitted: ``commit_every`` and
its events in flight), or a group's lag does not return to zero.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dimesh import Event, EventBus, EventMetadata, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.clock import SystemClock
from dimesh.errors import BackpressureError, PublishError
from dimesh.options import parse_options
from dimesh.spi.bus import TopicConfig
from dimesh_contracts.history import History, RecordingBackend, check
from dimesh_contracts.history.entries import Delivered, Handled, read
from dimesh_contracts.proxy import FaultProxy
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.options import KafkaOptions

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from servers.kafka import KafkaCluster, kafka_cluster
from servers.processes import free_ports

TOPIC = "endurance"
GROUP = "handlers"
RATE = 2_000
TICK = 0.02
KEYS = 64
PARTITIONS = 6
MEMBERS = 3
IN_FLIGHT = 1_000


def backend(servers: str, history: History) -> RecordingBackend:
    given = {
        "bootstrap_servers": servers,
        "session_timeout": 3.0,
        "heartbeat_interval": 0.3,
        "rebalance_timeout": 6.0,
        "request_timeout": 5.0,
        "delivery_timeout": 20.0,
    }
    return RecordingBackend(
        KafkaBackend(parse_options(KafkaOptions, given, "bus 'kafka'"), SystemClock()), history
    )


async def handle_until_stopped(servers: str, path: str, name: str) -> None:
    """Run a consumer process until SIGTERM."""
    history = History.append_to(path, name)
    bus = EventBus(backend(servers, history))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def handle(event: Event) -> None:
        pass

    await bus.subscribe(
        TOPIC,
        handle,
        name,
        group=GROUP,
        start=StartAt.EARLIEST,
        options=SubscriptionOptions(max_in_flight=IN_FLIGHT, retry=RetryPolicy(attempts=10, base=0.05)),
        middleware=[history.handling(TOPIC, GROUP)],
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()
    await bus.close()


class Run:
    """A run: its processes, faults and results."""

    def __init__(
        self, cluster: KafkaCluster, proxy: FaultProxy, folder: Path, seconds: float, seed: int
    ) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.servers = f"127.0.0.1:{proxy.port}"
        self.path = folder / "history"
        self.history = History.append_to(self.path, "publisher")
        self.rng = random.Random(seed)  # noqa: S311 - which fault comes next
        self.seconds = seconds
        self.members: dict[str, asyncio.subprocess.Process] = {}
        self.started = 0
        self.faults: dict[str, int] = {}
        self.repeated = 0
        self.published = 0

    async def member(self) -> None:
        self.started += 1
        name = f"member-{self.started}"
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--member", self.servers, str(self.path), name),
            stdout=asyncio.subprocess.PIPE,
        )
        self.members[name] = made

    async def lose(self, kill: bool) -> None:
        name = self.rng.choice(sorted(self.members))
        process = self.members.pop(name)
        if kill:
            process.kill()
            await process.wait()
            self.history.crashed(name)
        else:
            process.terminate()
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                self.history.crashed(name)
        await self.member()

    async def fault(self) -> None:
        kind = self.rng.choice(["kill", "kill", "leave", "reset", "reset", "cut", "slow", "broker"])
        self.faults[kind] = self.faults.get(kind, 0) + 1
        if kind in ("kill", "leave"):
            await self.lose(kind == "kill")
        elif kind == "reset":
            self.proxy.reset()
        elif kind == "cut":
            self.proxy.cut()
            await asyncio.sleep(self.rng.uniform(0.5, 4.0))
            self.proxy.heal()
        elif kind == "slow":
            self.proxy.latency = 0.1
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))
            self.proxy.latency = 0.0
        else:
            await asyncio.to_thread(self.cluster.brokers[0].restart, True)

    async def break_things(self) -> None:
        end = time.monotonic() + self.seconds - 5
        while time.monotonic() < end:
            await asyncio.sleep(self.rng.uniform(2.0, 6.0))
            await self.fault()

    async def publish(self, bus: EventBus) -> None:
        """Publish each key's events one after the other, as publishers do that need them in order."""
        queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(KEYS)]

        async def lane(key: int) -> None:
            queue = queues[key]
            while (number := await queue.get()) >= 0:
                numbers = [number]
                while not queue.empty() and len(numbers) < 200:
                    numbers.append(queue.get_nowait())
                stop = numbers[-1] < 0
                events = [
                    Event("endurance.event", EventMetadata(source_agent=f"k{key}"), {"n": n, "x": "x" * 470})
                    for n in numbers
                    if n >= 0
                ]
                while True:
                    try:
                        await bus.publish_many(TOPIC, events, key=f"key-{key}")
                        break
                    except (PublishError, BackpressureError):
                        self.repeated += len(events)
                self.published += len(events)
                if stop:
                    return

        lanes = [asyncio.create_task(lane(key)) for key in range(KEYS)]
        began = time.monotonic()
        number = 0
        while (passed := time.monotonic() - began) < self.seconds:
            while number < passed * RATE:
                queues[number % KEYS].put_nowait(number)
                number += 1
            await asyncio.sleep(TICK)
        for queue in queues:
            queue.put_nowait(-1)
        await asyncio.gather(*lanes)

    async def lag(self, bus: EventBus) -> int:
        return sum(g.lag or 0 for g in await bus.door.groups() if g.topic == TOPIC)

    async def all(self) -> dict[str, Any]:
        bus = EventBus(backend(self.servers, self.history))
        await bus.open()
        await bus.door.create_topic(TOPIC, TopicConfig(partitions=PARTITIONS))
        try:
            for _ in range(MEMBERS):
                await self.member()
            began = time.monotonic()
            await asyncio.gather(self.publish(bus), self.break_things())
            took = time.monotonic() - began
            async with asyncio.timeout(120):
                while await self.lag(bus):
                    await asyncio.sleep(0.5)
            drained = time.monotonic() - began - took
            for process in self.members.values():
                process.terminate()
            await asyncio.gather(*(process.wait() for process in self.members.values()))
        except BaseException:
            for process in self.members.values():  # a run that failed leaves no process behind
                if process.returncode is None:
                    process.kill()
            raise
        await bus.close()
        self.history.close()
        return {
            "events": self.published,
            "seconds": round(took, 1),
            "drained_in": round(drained, 1),
            "published_again": self.repeated,
            "faults": self.faults,
        }


def judge(path: Path) -> tuple[list[str], dict[str, int]]:
    entries = read(path)
    wrong = check(entries, complete=True, repeats_per_interruption=5_000 + IN_FLIGHT)
    handled = [entry.id for entry in entries if isinstance(entry, Handled)]
    return [str(violation) for violation in wrong[:20]], {
        "entries": len(entries),
        "delivered": sum(isinstance(entry, Delivered) for entry in entries),
        "handled": len(handled),
        "handled_again": len(handled) - len(set(handled)),
    }


async def run(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    port = free_ports(1)[0]
    with kafka_cluster(proxied={1: port}) as cluster:
        async with FaultProxy(cluster.brokers[0].ports["PROXIED"], port) as proxy:
            return await Run(cluster, proxy, folder, minutes * 60, seed).all()


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--short", action="store_true", help="one minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.member:
        asyncio.run(handle_until_stopped(*arguments.member))
        return 0
    with tempfile.TemporaryDirectory(prefix="dimesh-endurance-") as name:
        minutes = 1.0 if arguments.short else arguments.minutes
        found = asyncio.run(run(minutes, arguments.seed, Path(name)))
        wrong, counts = judge(Path(name) / "history")
    sys.stdout.write(json.dumps(found | counts, indent=2) + "\n")
    for line in wrong:
        sys.stdout.write(f"WRONG: {line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
