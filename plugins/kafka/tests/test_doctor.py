"""``dimesh doctor`` on a broker: what it makes is gone again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dimesh.events import Event
from dimesh.mesh import Mesh
from dimesh.ops.health import diagnose
from dimesh.ops.results import Outcome
from dimesh.settings import load_settings
from dimesh.spi.bus import Finding, Record, StartAt, TopicConfig
from dimesh_kafka.backend import KafkaBackend
from servers.availability import available
from servers.kafka import KafkaCluster, kafka_cluster

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def creating(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Start a broker as Kafka ships it: it creates a topic that a client asks about."""
    with available(kafka_cluster(settings={"auto.create.topics.enable": "true"}), request) as cluster:
        yield cluster


async def test_the_doctor_leaves_no_topic_and_no_group(
    creating: KafkaCluster, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "dimesh.toml"
    file.write_text(
        f'[bus]\ndriver = "kafka"\n[bus.options]\nbootstrap_servers = "{creating.servers()}"\ninternal = "{namespace}"\n'
        f'[mesh]\ndata_dir = "{tmp_path}"\n'
    )

    async def made() -> tuple[set[str], set[str]]:
        async with Mesh(load_settings(file).settings) as mesh:
            topics = await mesh.bus.door.topics()
            return {t.name for t in topics}, {g.group for g in await mesh.bus.door.groups()}

    before = await made()
    results = [result async for result in diagnose(lambda: load_settings(file))]
    assert not [result for result in results if result.outcome is Outcome.FAILED]
    assert {"round trip", "replicas", "retention", "broker's clock"} <= {result.check for result in results}
    assert await made() == before


async def test_the_doctor_is_quick_whatever_the_number_of_groups(
    creating: KafkaCluster, namespace: str, new_backend: Callable[..., KafkaBackend]
) -> None:
    """Each group was read by itself: a broker with hundreds of groups that are behind kept an operator waiting for a minute."""
    names = [f"{namespace}.many.{number}" for number in range(40)]
    late = f"{namespace}.late"
    backend = new_backend(bootstrap_servers=creating.servers())
    await backend.open()
    try:
        await backend.create_topic(late, TopicConfig(partitions=1, retention_seconds=2))
        for name in names:
            await backend.create_topic(name, TopicConfig(partitions=1, retention_seconds=86_400))
        record = Record.of(Event("system.event", None, {}), "test")
        for name in (*names, late):
            await backend.append(name, [record])
            await backend.seek_group(name, "behind", StartAt.EARLIEST)

        async def retention() -> Finding:
            (found,) = [finding async for finding in backend.check() if finding.name == "retention"]
            return found

        async with asyncio.timeout(60):
            while (found := await retention()).ok is not None:
                pass
        assert f"behind of {late} is " in found.text
        # Alone, one group takes about 0.25 s: 40 took 10 s.
        loop = asyncio.get_running_loop()
        began = loop.time()
        listed = await backend.groups()
        topics = await backend.topics()
        assert loop.time() - began < 4
        assert {info.topic: info.lag for info in listed if info.topic in names} == dict.fromkeys(names, 1)
        assert {topic.name for topic in topics} >= set(names)
        began = loop.time()
        await retention()
        assert loop.time() - began < 8
    finally:
        for name in (*names, late):
            await backend.delete_topic(name)
        await backend.close()
