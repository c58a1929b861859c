from __future__ import annotations

from pathlib import Path

import pytest

from dimesh.backends.sqlite.backend import SqliteBackend
from dimesh.backends.sqlite.options import SqliteOptions
from dimesh.clock import SystemClock
from dimesh_contracts.bus import BusBackendContract, NewBackend


class TestSqlite(BusBackendContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> NewBackend:
        return lambda: SqliteBackend(SqliteOptions(path=str(tmp_path / "mesh.db")), SystemClock())


class TestSqliteOnePartition(BusBackendContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> NewBackend:
        options = SqliteOptions(path=str(tmp_path / "mesh.db"), partitions=1, synchronous="normal")
        return lambda: SqliteBackend(options, SystemClock())
