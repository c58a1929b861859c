from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh_contracts.bus import BusBackendContract, Factory, NewBackend


class TestSqlite(BusBackendContract):
    long: ClassVar[set[str]] = {
        "test_it_does_what_the_reference_does",
        "test_a_member_that_was_evicted_commits_nothing",
        "test_what_was_acknowledged_survives_a_kill",
        "test_what_was_committed_survives_a_kill",
        "test_what_was_held_back_survives_a_kill",
        "test_a_handler_may_take_longer_than_the_lease",
        "test_two_processes",
        "test_a_pause_keeps_partitions_and_order",
        "test_members_come_and_go_under_load",
    }
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
    lease = 1.0
    options: ClassVar[dict[str, Any]] = {"retention_interval": 0.1, "lease": lease}

    @pytest.fixture
    def driver(self, tmp_path: Path) -> tuple[str, Mapping[str, Any]]:
        return "sqlite", {"path": str(tmp_path / "mesh.db"), **self.options}

    @pytest.fixture
    def hasty_factory(self, driver: tuple[str, Mapping[str, Any]]) -> Factory:
        # Two seconds: on a busy machine, the lease of the member that takes over must not end, too.
        options = {**driver[1], "lease": 2.0}
        return "dimesh_contracts.bus.victim:from_driver", {"driver": "sqlite", "options": options}

    @pytest.fixture
    def new_backend(self, driver: tuple[str, Mapping[str, Any]]) -> NewBackend:
        return lambda: SqliteBackend(SqliteOptions(**driver[1]), SystemClock())

    @pytest.fixture
    def new_small_backend(self, driver: tuple[str, Mapping[str, Any]]) -> NewBackend:
        return lambda: SqliteBackend(SqliteOptions(**driver[1], max_queued=100), SystemClock())


@pytest.mark.slow
class TestSqliteOnePartition(TestSqlite):
    options: ClassVar[dict[str, Any]] = {**TestSqlite.options, "partitions": 1, "synchronous": "normal"}
