from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimesh.backends.cdc.outbox import OutboxOptions, OutboxSource, watch
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.spi.cdc import Change
from dimesh_contracts.cdc import CDCSourceContract, NewSource


class Application:
    """A table of an application, watched."""

    object = "things"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("CREATE TABLE things (key TEXT PRIMARY KEY, value TEXT)")
        watch(self._connection, "things")

    async def put(self, key: str, value: str) -> None:
        self._connection.execute(
            "INSERT INTO things VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    async def delete(self, key: str) -> None:
        self._connection.execute("DELETE FROM things WHERE key = ?", (key,))

    async def lose_history(self) -> None:
        (last,) = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'dimesh_outbox'"
        ).fetchone()
        self._connection.execute("DELETE FROM dimesh_outbox")
        self._connection.execute(
            "INSERT OR REPLACE INTO dimesh_outbox_meta VALUES ('trimmed:things', ?)", (str(last),)
        )

    def key(self, change: Change) -> str:
        return str(change.primary_key["key"])

    def value(self, row: Any) -> str:
        return str(row["value"])

    def close(self) -> None:
        self._connection.close()


class TestOutbox(CDCSourceContract):
    offers = frozenset(
        {
            Capability.SNAPSHOT,
            Capability.STREAM,
            Capability.DELETES,
            Capability.BEFORE_IMAGE,
            Capability.DESCRIBED,
        }
    )

    @pytest.fixture
    def system(self, tmp_path: Path) -> Iterator[Application]:
        application = Application(tmp_path / "app.db")
        yield application
        application.close()

    @pytest.fixture
    def new_source(self, system: Application) -> NewSource:
        options = OutboxOptions(path=str(system.path), poll=0.01)
        return lambda: OutboxSource(options, SystemClock())
