from __future__ import annotations

from typing import Any, ClassVar

import pytest

from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh_contracts.bus import BusBackendContract, NewBackend


class TestMemory(BusBackendContract):
    offers = frozenset(
        {
            Capability.GROUPS,
            Capability.KEY_ORDER,
            Capability.DELAYED_DELIVERY,
            Capability.DURABLE_ATTEMPTS,
            Capability.FILTER_PUSHDOWN,
            Capability.COUNTED_LAG,
            Capability.RETENTION,
            Capability.TOPIC_ADMIN,
            Capability.REPLAY,
            Capability.LOOK_BACK,
            Capability.START_BY_TIME,
        }
    )
    lease = 0.1
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        return lambda: MemoryBackend(MemoryOptions(history=100_000, **self.options), SystemClock())

    @pytest.fixture
    def new_small_backend(self) -> NewBackend:
        return lambda: MemoryBackend(MemoryOptions(capacity=100, **self.options), SystemClock())


@pytest.mark.slow
class TestMemoryWithPartitions(TestMemory):
    options: ClassVar[dict[str, Any]] = {"partitions": 5}
