"""The contract kit on Google's fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pubsub_fixtures
import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, NewBackend
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.fake import PubSub

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


class TestPubSub(BusBackendContract):
    patience = 30.0
    family = "queue"
    max_payload = 4_000_000  # of the fake; the service takes 10 MB
    offers = {
        Capability.DURABLE,
        Capability.POWER_SAFE,
        Capability.LOOK_BACK,
        Capability.START_BY_TIME,
        Capability.GROUPS,
        Capability.MULTI_PROCESS,
        Capability.KEY_ORDER,
        Capability.FILTER_PUSHDOWN,
        Capability.AGE_RETENTION,
        Capability.TOPIC_ADMIN,
        Capability.NATIVE_LEASE,
    }

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., PubSubBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def new_small_backend(self, new_backend: Callable[..., PubSubBackend]) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    def driver(self, pubsub: PubSub, project: str) -> tuple[str, Mapping[str, Any]]:
        return "pubsub", pubsub_fixtures.options(pubsub.address, project)
