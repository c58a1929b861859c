"""A round trip on the mock cluster inside librdkafka, which pip alone installs.

The mock cluster has no group rebalancing that works for two members, no topic administration, no timestamps and no real
transactions, so these tests only show that records are published, received, committed and found again. The real tests run
on a real broker (marker ``servers``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from dimesh import Event, EventMetadata, StartAt
from dimesh.clock import SystemClock
from dimesh.errors import PublishError
from dimesh.options import parse_options
from dimesh.spi.bus import Position, Record
from dimesh_contracts.waiting import deadline
from dimesh_kafka.clients import Clients
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.publisher import Publisher
from dimesh_kafka.reader import Reader

COUNT = 300


@pytest.fixture(scope="module")
def mock_cluster() -> Iterator[str]:
    """Yield the address of a cluster inside a producer of librdkafka."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
    brokers = producer.list_topics(timeout=10).brokers
    producer.list_topics("pip-only", timeout=10)  # the cluster creates requested topics, with four partitions
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
    producer.flush(1)  # the cluster exists as long as its producer


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_records_go_in_and_come_out(mock_cluster: str, compression: str) -> None:
    given: dict[str, Any] = {"bootstrap_servers": mock_cluster, "compression": compression}
    options = parse_options(KafkaOptions, given, "bus 'kafka'")
    clients = Clients(options)
    ends: dict[int, int] = {}
    publisher = Publisher(
        options, clients.producer, SystemClock(), lambda topic, part, end: ends.update({part: end})
    )
    reader = Reader(clients.consumer, 20.0)
    async with deadline():
        await publisher.open()
        publisher.learn("pip-only", 4)
        before, _ = await reader.bounds("pip-only", range(4))
        start = await reader.resolve("pip-only", range(4), StartAt.LATEST)
        sent = [
            Record.of(Event("a.b", EventMetadata(source_pillar="P", tags={"n": str(n)}), n), f"key-{n % 7}")
            for n in range(COUNT)
        ]
        appended = await asyncio.gather(*(publisher.append("pip-only", [record], 30) for record in sent))
        positions = [position for (position,) in appended]
        found = {
            Position(d.partition, d.offset): d.record for d in await reader.read("pip-only", start, COUNT)
        }
        assert len(found) == COUNT
        for record, position in zip(sent, positions, strict=True):
            assert position is not None
            read = found[position]
            assert (read.header, read.payload, read.key) == (record.header, record.payload, record.key)
        for key in {record.key for record in sent}:
            mine = [p for r, p in zip(sent, positions, strict=True) if r.key == key]
            assert mine == sorted(mine)  # type: ignore[type-var]
            assert len({p.partition for p in mine if p}) == 1
        assert ends == {n: max(p.offset for p in positions if p and p.partition == n) + 1 for n in ends}
        assert before
        await reader.close()
        await publisher.close()


class Faulty(AIOKafkaProducer):
    """A producer whose first batch fails as no documentation says."""

    failed = False

    async def send_batch(self, *arguments: Any, **options: Any) -> Any:
        if not Faulty.failed:
            Faulty.failed = True
            raise RuntimeError("nobody expected this")
        return await super().send_batch(*arguments, **options)


async def test_an_error_that_nobody_expected_fails_its_publishers_only(mock_cluster: str) -> None:
    options = parse_options(KafkaOptions, {"bootstrap_servers": mock_cluster}, "bus 'kafka'")
    publisher = Publisher(
        options,
        lambda: Faulty(bootstrap_servers=mock_cluster, acks="all", enable_idempotence=True),
        SystemClock(),
        lambda topic, part, end: None,
    )
    record = Record.of(Event("a.b", EventMetadata(), 1), "key")
    async with deadline():
        await publisher.open()
        publisher.learn("pip-only", 4)
        with pytest.raises(PublishError, match="nobody expected this"):
            await publisher.append("pip-only", [record], 30)
        assert await publisher.append("pip-only", [record], 30)
        await publisher.close()
