"""Every command that has to do with the bus works on Kafka."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from dimesh import Event, EventBus, RetryPolicy, StartAt, SubscriptionOptions
from dimesh_contracts.waiting import until
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

Dimesh = Callable[..., str]


@pytest.fixture
def topic() -> str:
    return f"cli.{uuid4().hex[:10]}"


@pytest.fixture
def dimesh(kafka: KafkaCluster, namespace: str, tmp_path: Path) -> Dimesh:
    """Runs a command in a folder with a dimesh.toml; returns its output."""
    (tmp_path / "dimesh.toml").write_text(
        f'[bus]\ndriver = "kafka"\n[bus.options]\nbootstrap_servers = "{kafka.servers()}"\ninternal = "{namespace}"\n'
    )

    def run(*arguments: str, given: str = "", code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=tmp_path,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def lines(output: str) -> list[dict[str, object]]:
    found = (
        json.loads(output)
        if output.lstrip().startswith("[")
        else [json.loads(x) for x in output.splitlines()]
    )
    return list(found)


async def test_publish_topics_tail_groups_replay(
    dimesh: Dimesh, new_backend: Callable[..., KafkaBackend], topic: str
) -> None:
    given = "".join(f"{n}\n" for n in range(5))
    await asyncio.to_thread(dimesh, "publish", topic, "--type", "a.b", given=given)
    found = await asyncio.to_thread(dimesh, "--output", "json", "topics")
    (mine,) = [row for row in lines(found) if row["topic"] == topic]
    assert mine["records"] == 5
    tailed = await asyncio.to_thread(dimesh, "--output", "json", "tail", topic, "--since", "1h")
    assert [row["payload"] for row in lines(tailed)] == list(range(5))
    bus = EventBus(new_backend())
    handled: list[int] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "team", start=StartAt.EARLIEST)
    await until(lambda: len(handled) == 5)
    await bus.close()
    await asyncio.to_thread(dimesh, "replay", topic, "--group", "team", "--from", "earliest")
    groups = lines(await asyncio.to_thread(dimesh, "--output", "json", "groups", "--topic", topic))
    assert [(row["group"], row["lag"]) for row in groups] == [("team", 5)]


async def test_dead_letters(dimesh: Dimesh, new_backend: Callable[..., KafkaBackend], topic: str) -> None:
    bus = EventBus(new_backend())
    broken = True
    handled: list[int] = []

    async def handle(event: Event) -> None:
        if broken:
            raise ValueError("not today")
        handled.append(event.payload)

    options = SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0.01))
    await bus.subscribe(topic, handle, "team", options=options)
    event = Event("a.b", None, 7)
    await bus.publish(topic, event)
    await until(lambda: bus.stats()["team"].dead_lettered == 1)
    listed = lines(await asyncio.to_thread(dimesh, "--output", "json", "dlq", "list", topic))
    assert listed[0]["event_id"] == event.event_id
    assert "not today" in await asyncio.to_thread(dimesh, "dlq", "show", topic, event.event_id)
    broken = False
    await asyncio.to_thread(dimesh, "dlq", "redrive", topic)
    await until(lambda: handled == [7])
    await bus.close()


async def test_doctor_proves_by_doing(dimesh: Dimesh) -> None:
    said = await asyncio.to_thread(dimesh, "--output", "json", "doctor")
    checks = [row["check"] for row in lines(said)]
    assert len(checks) == len(set(checks)), "each check has a name of its own"
    for word in (
        "round trip",
        "encryption",
        "copies",
        "min.insync.replicas",
        "clock",
        "retention",
        "transactions",
    ):
        assert word in said, said
