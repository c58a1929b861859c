"""The contract kit on a small server of our own, which needs pip alone: less than Google's fake, and more in a few things.

Here exactly-once delivery is real, messages have up to 10 MB, and flow control holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pubsub_fixtures
import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, NewBackend
from servers.pubsub.small import SmallPubSub

pytestmark = [pytest.mark.timeout(120)]


class TestSmall(BusBackendContract):
    patience = 30.0
    family = "queue"
    max_payload = 9_900_000
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
        Capability.CONFIRMED_ACKS,
    }

    @pytest.fixture
    def new_backend(self, small: SmallPubSub, project: str) -> NewBackend:
        return lambda **options: pubsub_fixtures.backend(small.address, project, exactly_once=True, **options)

    @pytest.fixture
    def new_small_backend(self, new_backend: NewBackend) -> NewBackend:
        return lambda: new_backend(max_queued=100)

    @pytest.fixture
    def driver(self, small: SmallPubSub, project: str) -> tuple[str, Mapping[str, Any]]:
        return "pubsub", pubsub_fixtures.options(small.address, project, exactly_once=True)
