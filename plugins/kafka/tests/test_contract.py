"""The contract kit on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from kafka_offers import OFFERS

from dimesh_contracts.bus import BusBackendContract, Hands, NewBackend, ProxyHands
from dimesh_contracts.proxy import FaultProxy
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import LEAKS, KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(240)]


class BrokerHands(ProxyHands):
    """A proxy in front of a broker, and the broker itself."""

    def __init__(self, proxy: FaultProxy, cluster: KafkaCluster) -> None:
        super().__init__(proxy)
        self.cluster = cluster

    async def restart(self) -> None:
        await asyncio.to_thread(self.cluster.brokers[0].restart, kill=True)


class TestKafka(BusBackendContract):
    patience = 30.0
    lease = 5.0  # the session time-out
    max_payload = 1_000_000
    oversized = 1_100_000
    offers = OFFERS

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., KafkaBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def new_small_backend(self, new_backend: Callable[..., KafkaBackend]) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    async def hands(self, proxy: FaultProxy, kafka: KafkaCluster) -> Hands:
        return BrokerHands(proxy, kafka)

    @pytest.fixture
    def new_distant_backend(self, through: Callable[..., KafkaBackend]) -> NewBackend:
        return lambda: through(request_timeout=2.0)

    @pytest.fixture
    def driver(
        self, kafka: KafkaCluster, namespace: str, fast: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        return "kafka", {"bootstrap_servers": kafka.servers(), "internal": namespace, **fast}
