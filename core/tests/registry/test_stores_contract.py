from __future__ import annotations

from pathlib import Path

import pytest

from dimesh.backends.registry.memory import MemoryStore
from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh_contracts.registry import NewStore, RegistryStoreContract


class TestMemoryStore(RegistryStoreContract):
    offers = frozenset({Capability.SOFT_DELETE, Capability.NOTES})

    @pytest.fixture
    def new_store(self) -> NewStore:
        return lambda: MemoryStore(SystemClock())


class TestSqliteStore(RegistryStoreContract):
    offers = frozenset({Capability.SOFT_DELETE, Capability.PERSISTENT, Capability.NOTES})

    @pytest.fixture
    def new_store(self, tmp_path: Path) -> NewStore:
        options = SqliteStoreOptions(path=str(tmp_path / "registry.db"))
        return lambda: SqliteStore(options, SystemClock())
