"""A real broker for the tests that need one, started when the first of them asks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from dimesh.clock import SystemClock
from dimesh.spi.options import parse_options
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.options import KafkaOptions
from servers.availability import available
from servers.kafka import KafkaCluster, kafka_cluster

FAST = {"heartbeat_interval": 0.1, "session_timeout": 5.0, "rebalance_timeout": 10.0}
"""Members of a group that notice each other quickly."""


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """One broker for all tests of the process. A test that hurts it starts one of its own."""
    with available(kafka_cluster(), request) as cluster:
        yield cluster


@pytest.fixture
def leaky_client() -> Iterator[None]:
    """Collects what the client left open within the test that made it, where the warnings about it are ignored."""
    yield
    gc.collect()


@pytest.fixture
def fast() -> dict[str, Any]:
    """Options of such members."""
    return FAST


@pytest.fixture
def namespace() -> str:
    """Keeps the bus's own topics of a test apart."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def new_backend(kafka: KafkaCluster, namespace: str) -> Callable[..., KafkaBackend]:
    """Makes backends on the broker."""

    def make(**options: Any) -> KafkaBackend:
        given = {"bootstrap_servers": kafka.servers(), "internal": namespace, **FAST, **options}
        return KafkaBackend(parse_options(KafkaOptions, given, "bus 'kafka'"), SystemClock())

    return make
