"""``dimesh doctor`` on a broker: what it makes is gone again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dimesh.mesh import Mesh
from dimesh.ops.health import diagnose
from dimesh.ops.results import Outcome
from dimesh.settings import load_settings
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
