from __future__ import annotations

from typing import Any

import pytest

from dimesh.backends.memory import MemoryBackend, MemoryOptions
from dimesh.clock import SystemClock
from dimesh_contracts.bus import BusBackendContract, NewBackend


class TestMemory(BusBackendContract):
    @pytest.fixture
    def new_backend(self) -> NewBackend:
        def make(**options: Any) -> MemoryBackend:
            return MemoryBackend(MemoryOptions(history=100_000, **options), SystemClock())

        return make


class TestMemoryWithPartitions(BusBackendContract):
    @pytest.fixture
    def new_backend(self) -> NewBackend:
        return lambda: MemoryBackend(MemoryOptions(history=100_000, partitions=5), SystemClock())
