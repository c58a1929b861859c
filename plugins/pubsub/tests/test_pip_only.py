"""The contract kit on a small server of our own, installable by pip alone, which has some features that Google's fake lacks.

It has real exactly-once delivery, messages of up to 10 MB, and flow control.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pubsub_fixtures
import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, Hands, NewBackend, ProxyHands
from dimesh_contracts.proxy import FaultProxy
from servers.pubsub.small import SmallPubSub

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


class TestSmall(BusBackendContract):
    patience = 30.0
    family = "queue"
    oversized = 10_000_001
    max_payload = 9_900_000
    max_text = 1_024
    offers = pubsub_fixtures.OFFERS | {Capability.CONFIRMED_ACKS}

    @pytest.fixture
    def new_backend(self, small: SmallPubSub, project: str) -> NewBackend:
        return lambda **options: pubsub_fixtures.backend(small.address, project, exactly_once=True, **options)

    @pytest.fixture
    def new_small_backend(self, new_backend: NewBackend) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    async def line(self, small: SmallPubSub) -> AsyncIterator[FaultProxy]:
        async with FaultProxy(int(small.address.rpartition(":")[2])) as proxy:
            yield proxy

    @pytest.fixture
    async def hands(self, line: FaultProxy) -> Hands:
        return ProxyHands(line)

    @pytest.fixture
    def new_distant_backend(self, line: FaultProxy, project: str) -> NewBackend:
        return lambda: pubsub_fixtures.backend(f"127.0.0.1:{line.port}", project, exactly_once=True)

    @pytest.fixture
    def driver(self, small: SmallPubSub, project: str) -> tuple[str, Mapping[str, Any]]:
        return "pubsub", pubsub_fixtures.options(small.address, project, exactly_once=True)
