"""A real broker for the tests that need one, started when the first of them asks for it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_contracts.proxy import FaultProxy
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.options import KafkaOptions
from servers.availability import available
from servers.kafka import KafkaCluster, kafka_cluster
from servers.processes import free_ports

FAST = {"heartbeat_interval": 0.1, "session_timeout": 5.0, "rebalance_timeout": 20.0}
"""Options with which members of a group detect each other, and new partitions, quickly."""
PROXY = free_ports(1)[0]
"""The port of the proxy in front of the broker's listener PROXIED, which the broker advertises."""


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Start one broker for all tests of the process. A test that disturbs the broker starts one of its own."""
    with available(kafka_cluster(proxied={1: PROXY}), request) as cluster:
        yield cluster


@pytest.fixture
def leaky_client() -> Iterator[None]:
    """Collect what the client left open within the test that opened it, where warnings about that are ignored."""
    yield
    gc.collect()


@pytest.fixture
def fast() -> dict[str, Any]:
    """Return the options of members that detect each other quickly."""
    return FAST


@pytest.fixture
def namespace() -> str:
    """Return a prefix that separates the bus's own topics of one test from those of the others."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def new_backend(kafka: KafkaCluster, namespace: str) -> Callable[..., KafkaBackend]:
    """Return a function that makes backends on the broker."""

    def make(**options: Any) -> KafkaBackend:
        given = {"bootstrap_servers": kafka.servers(), "internal": namespace, **FAST, **options}
        return KafkaBackend(parse_options(KafkaOptions, given, "bus 'kafka'"), SystemClock())

    return make


@pytest.fixture
async def proxy(kafka: KafkaCluster) -> AsyncIterator[FaultProxy]:
    """Open a proxy between the bus and the broker."""
    async with FaultProxy(kafka.brokers[0].ports["PROXIED"], PROXY) as opened:
        yield opened


@pytest.fixture
def through(new_backend: Callable[..., KafkaBackend], proxy: FaultProxy) -> Callable[..., KafkaBackend]:
    """Return a function that makes backends which reach the broker through the proxy."""
    return lambda **options: new_backend(bootstrap_servers=f"127.0.0.1:{proxy.port}", **options)
