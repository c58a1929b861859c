"""The contract kit on a real broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, NewBackend
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


class TestKafka(BusBackendContract):
    patience = 30.0
    max_payload = 1_000_000
    offers = {
        Capability.DURABLE,
        Capability.POWER_SAFE,
        Capability.REPLAY,
        Capability.LOOK_BACK,
        Capability.START_BY_TIME,
        Capability.GROUPS,
        Capability.MULTI_PROCESS,
        Capability.KEY_ORDER,
        Capability.DURABLE_ATTEMPTS,
        Capability.DELAYED_DELIVERY,
        Capability.ATOMIC_STATE,
        Capability.TRANSACTIONS,
        Capability.COUNTED_LAG,
        Capability.SEGMENT_RETENTION,
        Capability.TOPIC_ADMIN,
    }

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., KafkaBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def new_small_backend(self, new_backend: Callable[..., KafkaBackend]) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    def driver(
        self, kafka: KafkaCluster, namespace: str, fast: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        return "kafka", {"bootstrap_servers": kafka.servers(), "internal": namespace, **fast}
