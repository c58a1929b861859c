"""What the runner remembers in a file of its own: positions, for buses that cannot keep them, and which rows there are, so
that a repair can say which ones are gone.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

from dimesh.errors import StorageError

T = TypeVar("T")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    source TEXT NOT NULL, key TEXT NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (source, key)
) WITHOUT ROWID;
"""
_VERSION: Final = 1


class RowKeys(Protocol):
    """The keys of the rows that were published and not deleted, by source."""

    async def present(self, source: str, keys: Sequence[str], generation: int) -> None:
        """These rows are there; seen in this generation. Called before their changes are published."""
        ...

    async def gone(self, source: str, keys: Sequence[str]) -> None:
        """These rows are deleted. Called after that was published."""
        ...

    async def unseen(self, source: str, generation: int, limit: int) -> list[str]:
        """Keys that were not seen in this generation."""
        ...

    async def clear(self, source: str) -> None:
        """Forget a source's rows."""
        ...


class SqliteCDCStore:
    """Positions and keys in one SQLite file. Made at first use.

    Args:
        path: of the file; its folder must be there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    # -- positions (StateStore) --------------------------------------------------------------------

    async def load(self, key: str) -> bytes | None:
        """The value saved last."""
        rows = await self._run(
            lambda c: c.execute("SELECT value FROM state WHERE name = ?", (key,)).fetchall()
        )
        return bytes(rows[0][0]) if rows else None

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace it; None removes it."""
        if value is None:
            await self._run(lambda c: c.execute("DELETE FROM state WHERE name = ?", (key,)))
        else:
            await self._run(lambda c: c.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value)))

    # -- keys (RowKeys) ----------------------------------------------------------------------------

    async def present(self, source: str, keys: Sequence[str], generation: int) -> None:
        """See :class:`RowKeys`."""
        rows = [(source, key, generation) for key in keys]
        await self._run(lambda c: c.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", rows))

    async def gone(self, source: str, keys: Sequence[str]) -> None:
        """See :class:`RowKeys`."""
        rows = [(source, key) for key in keys]
        await self._run(lambda c: c.executemany("DELETE FROM rows WHERE source = ? AND key = ?", rows))

    async def unseen(self, source: str, generation: int, limit: int) -> list[str]:
        """See :class:`RowKeys`."""
        query = "SELECT key FROM rows WHERE source = ? AND generation < ? ORDER BY key LIMIT ?"
        found = await self._run(lambda c: c.execute(query, (source, generation, limit)).fetchall())
        return [key for (key,) in found]

    async def clear(self, source: str) -> None:
        """See :class:`RowKeys`."""
        await self._run(lambda c: c.execute("DELETE FROM rows WHERE source = ?", (source,)))

    # -- the file ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the file; may be called twice, and it opens again when it is used."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # Shielded: what a cancelled caller began is finished, and the connection is not left in a transaction.
        return await asyncio.shield(asyncio.to_thread(self._do, work))

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                with self._connection as connection:
                    return work(connection)
            except sqlite3.Error as error:
                raise StorageError(
                    f"{self.path} cannot be used for positions of change capture: {error}"
                ) from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False, timeout=10.0)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StorageError(f"{self.path} was written by a newer dimesh (format {version})")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection
