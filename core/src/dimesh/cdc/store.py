"""What the runner remembers in a file of its own: positions, for buses that cannot keep them, which rows there are, so that
a repair can say which ones are gone, and what they looked like last.

The rows are written before their changes are published, under the number of the batch, and with what they were before.
The bus (or whoever keeps the positions) says which batch was published last: so after a crash it is known whether a batch
that is written here was, and if not, its rows are put back.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from dimesh.errors import StorageError

T = TypeVar("T")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    source TEXT NOT NULL, key TEXT NOT NULL, generation INTEGER NOT NULL, row BLOB, PRIMARY KEY (source, key)
) WITHOUT ROWID;
"""
_FROM_1: Final = "ALTER TABLE rows ADD COLUMN row BLOB;"
_VERSION: Final = 2
_ASKED: Final = 500
"""Keys in one question; SQLite takes no more than 999 in an old version."""


class RowStore(Protocol):
    """The rows that were published and not deleted, by source; and with ``last_state`` what they looked like."""

    @property
    def last_state(self) -> bool:
        """Whether :meth:`recover`, :meth:`rows` and :meth:`remember` are to be used."""
        ...

    async def recover(self, source: str, committed: int) -> None:
        """Put back what was not published: ``committed`` is the last batch that was. Called before anything else."""
        ...

    async def rows(self, source: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Those of the rows whose looks are known."""
        ...

    async def remember(
        self,
        source: str,
        batch: int,
        rows: Mapping[str, bytes],
        gone: Sequence[str],
        generation: int,
        were: Mapping[str, bytes | None],
    ) -> None:
        """What the rows are like after this batch, which is published next. For those of ``gone``, :meth:`gone` is called
        when it is. ``were``: what to put back if it is not; None: only that the row is there.
        """
        ...

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


_REMEMBER: Final = """
INSERT INTO rows VALUES (?, ?, ?, ?)
ON CONFLICT (source, key) DO UPDATE SET generation = excluded.generation, row = excluded.row
"""
_PUT_BACK: Final = "UPDATE rows SET row = ? WHERE source = ? AND key = ?"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


def _pause_of(connector_id: str, object: str | None) -> str:
    return f"pause of {connector_id}/{object or ''}"


def _pauses(connection: sqlite3.Connection, connector_id: str) -> list[str]:
    prefix = _pause_of(connector_id, None)
    query = "SELECT name FROM state WHERE substr(name, 1, ?) = ?"
    return [name for (name,) in connection.execute(query, (len(prefix), prefix))]


def _batch_of(source: str) -> str:
    return f"batch of {source}"


def _undo_of(source: str) -> str:
    return f"undo of {source}"


def _note_batch(connection: sqlite3.Connection, source: str, batch: int) -> None:
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_batch_of(source), str(batch)))


class SqliteCDCStore:
    """Positions and keys in one SQLite file. Made at first use.

    Args:
        path: of the file; its folder must be there.
        last_state: remember what rows look like, too.
    """

    def __init__(self, path: str | Path, last_state: bool = True) -> None:
        self.path = str(path)
        self.last_state = last_state
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._going: set[asyncio.Future[Any]] = set()
        """Of cancelled callers, too: the file is not closed under them, and not opened by them again."""

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

    # -- pauses ------------------------------------------------------------------------------------

    async def pause(self, connector_id: str, object: str | None = None) -> None:
        """Ask a connector, in whatever process it runs, to pause one object, or all of them."""
        await self.save(_pause_of(connector_id, object), b"1")

    async def resume(self, connector_id: str, object: str | None = None) -> None:
        """Take back what :meth:`pause` asked for: of one object, or of all."""

        def work(connection: sqlite3.Connection) -> None:
            for name in (
                [_pause_of(connector_id, object)] if object is not None else _pauses(connection, connector_id)
            ):
                connection.execute("DELETE FROM state WHERE name = ?", (name,))

        await self._run(work)

    async def paused(self, connector_id: str) -> frozenset[str]:
        """The objects that are asked to pause; an empty name stands for all."""
        first = len(_pause_of(connector_id, None))
        return frozenset(name[first:] for name in await self._run(lambda c: _pauses(c, connector_id)))

    # -- keys (RowStore) ----------------------------------------------------------------------------

    async def present(self, source: str, keys: Sequence[str], generation: int) -> None:
        """See :class:`RowStore`."""
        rows = [(source, key, generation) for key in keys]
        query = "INSERT OR REPLACE INTO rows (source, key, generation) VALUES (?, ?, ?)"
        await self._run(lambda c: c.executemany(query, rows))

    async def gone(self, source: str, keys: Sequence[str]) -> None:
        """See :class:`RowStore`."""
        rows = [(source, key) for key in keys]
        await self._run(lambda c: c.executemany("DELETE FROM rows WHERE source = ? AND key = ?", rows))

    async def unseen(self, source: str, generation: int, limit: int) -> list[str]:
        """See :class:`RowStore`."""
        query = (
            "SELECT key FROM rows WHERE source = ? AND generation < ? AND (row IS NULL OR length(row) > 0)"
            " ORDER BY key LIMIT ?"
        )
        found = await self._run(lambda c: c.execute(query, (source, generation, limit)).fetchall())
        return [key for (key,) in found]

    async def clear(self, source: str) -> None:
        """See :class:`RowStore`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM rows WHERE source = ?", (source,))
            names = (_batch_of(source), _undo_of(source))
            connection.execute("DELETE FROM state WHERE name IN (?, ?)", names)

        await self._run(work)

    # -- last states (RowStore) --------------------------------------------------------------------

    async def recover(self, source: str, committed: int) -> None:
        """See :class:`RowStore`."""

        def work(connection: sqlite3.Connection) -> None:
            found = connection.execute(
                "SELECT value FROM state WHERE name = ?", (_batch_of(source),)
            ).fetchone()
            written = int(found[0]) if found else 0
            if written == committed:
                return
            if written == committed + 1:
                found = connection.execute(
                    "SELECT value FROM state WHERE name = ?", (_undo_of(source),)
                ).fetchone()
                were = _decode(found[0]) if found else {}
                connection.executemany(_PUT_BACK, ((row, source, key) for key, row in were.items()))
            else:
                # Batches went by that are not in here, or this file or the positions are an old copy.
                connection.execute("UPDATE rows SET row = NULL WHERE source = ?", (source,))
            _note_batch(connection, source, committed)

        await self._run(work)

    async def rows(self, source: str, keys: Sequence[str]) -> dict[str, bytes]:
        """See :class:`RowStore`."""

        def work(connection: sqlite3.Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for first in range(0, len(keys), _ASKED):
                some = keys[first : first + _ASKED]
                asked = ", ".join("?" * len(some))
                query = f"SELECT key, row FROM rows WHERE source = ? AND key IN ({asked})"  # noqa: S608
                found.update((key, row) for key, row in connection.execute(query, (source, *some)) if row)
            return found

        return await self._run(work)

    async def remember(
        self,
        source: str,
        batch: int,
        rows: Mapping[str, bytes],
        gone: Sequence[str],
        generation: int,
        were: Mapping[str, bytes | None],
    ) -> None:
        """See :class:`RowStore`."""
        there = [(source, key, generation, row) for key, row in rows.items()]
        deleted = [(b"", source, key) for key in gone]
        undo = _encode(were)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_REMEMBER, there)
            connection.executemany(_PUT_BACK, deleted)
            connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_undo_of(source), undo))
            _note_batch(connection, source, batch)

        await self._run(work)

    # -- the file ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the file, when what was begun is done; may be called twice, and it opens again when it is used."""
        while self._going:
            await asyncio.wait(self._going)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # Shielded: what a cancelled caller began is finished, and the connection is not left in a transaction.
        going = asyncio.ensure_future(asyncio.to_thread(self._do, work))
        self._going.add(going)
        going.add_done_callback(self._going.discard)
        return await asyncio.shield(going)

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
            connection.execute("PRAGMA cache_size = -16000")
            connection.execute(
                "PRAGMA wal_autocheckpoint = 4000"
            )  # the same pages are written again and again
            if version == 1:
                connection.executescript(f"BEGIN; {_FROM_1} PRAGMA user_version = {_VERSION}; COMMIT;")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection
