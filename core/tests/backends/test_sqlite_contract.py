from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dimesh.backends.sqlite.backend import SqliteBackend
from dimesh.backends.sqlite.options import SqliteOptions
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh_contracts.bus import BusBackendContract, NewBackend


class TestSqlite(BusBackendContract):
    offers = frozenset(
        {
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
            Capability.FILTER_PUSHDOWN,
            Capability.ATOMIC_STATE,
            Capability.COUNTED_LAG,
            Capability.TRANSACTIONS,
            Capability.RETENTION,
            Capability.TOPIC_ADMIN,
        }
    )
    options: ClassVar[dict[str, Any]] = {"retention_interval": 0.1}

    @pytest.fixture
    def driver(self, tmp_path: Path) -> tuple[str, Mapping[str, Any]]:
        return "sqlite", {"path": str(tmp_path / "mesh.db"), **self.options}

    @pytest.fixture
    def new_backend(self, driver: tuple[str, Mapping[str, Any]]) -> NewBackend:
        return lambda: SqliteBackend(SqliteOptions(**driver[1]), SystemClock())

    @pytest.fixture
    def new_small_backend(self, driver: tuple[str, Mapping[str, Any]]) -> NewBackend:
        return lambda: SqliteBackend(SqliteOptions(**driver[1], max_queued=100), SystemClock())


class TestSqliteOnePartition(TestSqlite):
    options: ClassVar[dict[str, Any]] = {"retention_interval": 0.1, "partitions": 1, "synchronous": "normal"}
