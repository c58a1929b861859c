"""The contract kit on Google's fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pubsub_fixtures
import pytest

from dimesh_contracts.bus import BusBackendContract, NewBackend
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.fake import PubSub

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


class TestPubSub(BusBackendContract):
    patience = 30.0
    family = "queue"
    oversized = 10_000_001
    max_payload = 4_000_000  # the limit of the fake; the service accepts 10 MB
    max_text = 1_024
    offers = pubsub_fixtures.OFFERS

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., PubSubBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def new_small_backend(self, new_backend: Callable[..., PubSubBackend]) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    def driver(self, pubsub: PubSub, project: str) -> tuple[str, Mapping[str, Any]]:
        return "pubsub", pubsub_fixtures.options(pubsub.address, project)
