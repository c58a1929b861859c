"""The state of change capture in one SQLite file.

It holds positions, for buses that cannot keep them; the rows that exist, so that a repair can find deleted ones; and the
last state of each row, for the previous values of a change.

Rows are staged before their changes are published, under the number of the batch and with their previous state. The bus,
or the store of the positions, knows which batch was published last. After a crash it is therefore known whether a staged
batch was published, and if it was not, its rows are rolled back.

Each row of the file has a checksum (see :mod:`dimesh.storage.checksums`): a damaged position or row is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from dimesh.backends.state.connectors import drop_connector, list_connectors, move_connector
from dimesh.spi.state import Move, StoredConnector
from dimesh.storage.checksums import TOTALS, CheckedTable, row_crc
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import make_folder
from dimesh.storage.sqlitefile import Format, SharedConnection, explain, open_file

_ADVICE: Final = (
    "Restore the file from a backup, or move it away; without it, objects whose position was in it are read again from "
    "the start"
)
STATE: Final = CheckedTable("state", ("name", "value"), 1, _ADVICE)
ROWS: Final = CheckedTable(
    "rows",
    ("source", "key", "generation", "row"),
    2,
    "Restore the file from a backup, or let 'dimesh cdc reset' forget this object, which is then read again from the start",
    group="source",
)
TABLES: Final = (
    "CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE rows (source TEXT NOT NULL, key TEXT NOT NULL, generation INTEGER NOT NULL, row BLOB,"
    " crc INTEGER NOT NULL, PRIMARY KEY (source, key)) WITHOUT ROWID",
)


def _from_1(connection: sqlite3.Connection) -> None:
    """Add the state of rows."""
    connection.execute("ALTER TABLE rows ADD COLUMN row BLOB")


def _from_2(connection: sqlite3.Connection) -> None:
    """Add the checksums."""
    for table in (STATE, ROWS):
        connection.execute(f"ALTER TABLE {table.name} RENAME TO {table.name}_2")
    for statement in (*TABLES, TOTALS):
        connection.execute(statement)
    for table in (STATE, ROWS):
        columns = ", ".join(table.columns)
        connection.execute(
            f"INSERT INTO {table.name} SELECT {columns}, row_crc({columns}) FROM {table.name}_2"
        )
        connection.execute(f"DROP TABLE {table.name}_2")
        table.count(connection)
        for statement in table.triggers():
            connection.execute(statement)


FORMAT: Final = Format(
    application_id=0x646D6373,  # "dmcs"
    version=3,
    statements=(*TABLES, TOTALS, *STATE.triggers(), *ROWS.triggers()),
    migrations={1: _from_1, 2: _from_2},
    unmarked=frozenset({1, 2}),
    checks=(STATE.verify, ROWS.verify),
    wal=True,
)
_PRAGMAS: Final = (
    "synchronous=FULL",
    "cache_size=-16000",
    "wal_autocheckpoint=4000",  # the same pages are written again and again
)
_CLAIM_TRIES: Final = 3
_CLAIM_PAUSE: Final = 0.01
_KEYS: Final = 500
"""The number of keys in one query; old versions of SQLite accept 999 parameters."""

_SAVE: Final = "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value, crc = excluded.crc"
_STAGE: Final = (
    "INSERT INTO rows VALUES (?, ?, ?, ?, ?) ON CONFLICT (source, key)"
    " DO UPDATE SET generation = excluded.generation, row = excluded.row, crc = excluded.crc"
)
# A damaged row keeps its wrong checksum.
_SET_ROW: Final = (
    "UPDATE rows SET row = :row, crc = row_crc(source, key, generation, :row)"
    " WHERE source = :source AND key = :key AND crc = row_crc(source, key, generation, row)"
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


def _pause_key(connector_id: str, object: str | None) -> str:
    return f"pause of {connector_id}/{object or ''}"


def _move_key(connector_id: str) -> str:
    """Return the key of a move; it belongs to no connector, so that it is not moved itself."""
    return f"move/{connector_id}"


def _batch_key(source: str) -> str:
    return f"batch of {source}"


def _undo_key(source: str) -> str:
    return f"undo of {source}"


def _save(connection: sqlite3.Connection, name: str, value: bytes | str) -> None:
    connection.execute(_SAVE, (name, value, row_crc(name, value)))


def _set_row(source: str, key: str, row: bytes | None) -> dict[str, Any]:
    return {"source": source, "key": key, "row": row}


class SqliteCDCStore:
    """Positions and rows in one SQLite file, which is created at its first use.

    Args:
        path: the file; it is created with its folder if it does not exist.
        last_state: whether to keep the last state of each row.
    """

    def __init__(self, path: str | Path, last_state: bool = True) -> None:
        self.path = str(path)
        self.last_state = last_state
        self._path = Path(path)
        self._lock = FileLock(Path(f"{path}-lock"))
        self._file = SharedConnection(self._open, lambda error: explain(error, self._path), self._lock)

    def _open(self) -> sqlite3.Connection:
        return open_file(self._path, FORMAT, _PRAGMAS, self._lock)

    async def close(self) -> None:
        """Close the file when running calls are finished; may be called twice. The next use opens it again."""
        await self._file.close()

    # -- positions (StateStore) --------------------------------------------------------------------

    async def load(self, key: str) -> bytes | None:
        """Return the value that was saved last under ``key``, or None."""
        found = await self._file.read(lambda c: self._load(c, key))
        return None if found is None else bytes(found)

    def _load(self, connection: sqlite3.Connection, name: str) -> Any:
        row = connection.execute("SELECT crc, name, value FROM state WHERE name = ?", (name,)).fetchone()
        if row is None:
            STATE.verify_once(connection, self._path)
            return None
        STATE.check(self._path, *row)
        return row[2]

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace the value of ``key``; None removes it."""
        if value is None:
            await self._file.write(lambda c: c.execute("DELETE FROM state WHERE name = ?", (key,)))
        else:
            await self._file.write(lambda c: _save(c, key, value))

    # -- pauses ------------------------------------------------------------------------------------

    async def pause(self, connector_id: str, object: str | None = None) -> None:
        """Ask a connector, in whatever process it runs, to pause one object or all objects."""
        await self.save(_pause_key(connector_id, object), b"1")

    async def resume(self, connector_id: str, object: str | None = None) -> None:
        """Withdraw a request of :meth:`pause`, for one object or for all objects."""

        def work(connection: sqlite3.Connection) -> None:
            if object is not None:
                names = [_pause_key(connector_id, object)]
            else:
                names = self._pauses(connection, connector_id)
            connection.executemany("DELETE FROM state WHERE name = ?", [(name,) for name in names])

        await self._file.write(work)

    async def paused(self, connector_id: str) -> frozenset[str]:
        """Return the objects that are asked to pause; an empty name stands for all objects."""
        first = len(_pause_key(connector_id, None))
        names = await self._file.read(lambda c: self._pauses(c, connector_id))
        return frozenset(name[first:] for name in names)

    def _pauses(self, connection: sqlite3.Connection, connector_id: str) -> list[str]:
        STATE.verify_once(connection, self._path)
        prefix = _pause_key(connector_id, None)
        query = "SELECT name FROM state WHERE substr(name, 1, ?) = ?"
        return [name for (name,) in connection.execute(query, (len(prefix), prefix))]

    # -- claims ------------------------------------------------------------------------------------

    async def claim(self, connector_id: str) -> FileLock | None:
        """Return the exclusive right to run a connector; None if a connector with this id is running already.

        Raises:
            StorageError: the lock file beside the store cannot be locked.
        """
        make_folder(self._path.parent)
        lock = FileLock(self._claim_file(connector_id))
        for _ in range(_CLAIM_TRIES):
            if lock.try_acquire():
                return lock
            await asyncio.sleep(_CLAIM_PAUSE)  # a call of is_claimed may have it for a moment
        return None

    async def is_claimed(self, connector_id: str) -> bool:
        """Return whether a process runs a connector.

        Raises:
            StorageError: the lock file beside the store cannot be locked.
        """
        if not self._claim_file(connector_id).exists():
            return False
        lock = FileLock(self._claim_file(connector_id))
        free = lock.try_acquire()
        lock.release()
        return not free

    def _claim_file(self, connector_id: str) -> Path:
        name = hashlib.sha256(connector_id.encode()).hexdigest()[:12]
        return Path(f"{self.path}-{name}.lock")

    # -- whole connectors ----------------------------------------------------------------------------

    async def connectors(self) -> dict[str, StoredConnector]:
        """Return the connectors that the file has something of, by name."""
        return await self._file.read(lambda c: list_connectors(c, ROWS))

    async def begin_move(self, old: str, new: str) -> None:
        """Record that the state of a connector is being moved to another name, until :meth:`finish_move`."""

        def work(connection: sqlite3.Connection) -> None:
            for name in (old, new):
                _save(connection, _move_key(name), f"{old} {new}")

        await self._file.write(work)

    async def moving(self, connector_id: str) -> Move | None:
        """See :class:`CaptureStore`."""
        found = await self._file.read(lambda c: self._load(c, _move_key(connector_id)))
        if found is None:
            return None
        old, new = (found if isinstance(found, str) else bytes(found).decode()).split(" ")
        return Move(old, new)

    async def finish_move(self, old: str, new: str) -> None:
        """Move all that the file has of a connector to another name, in one transaction.

        Raises:
            StorageError: something of it is damaged; nothing was moved.
        """

        def work(connection: sqlite3.Connection) -> None:
            move_connector(connection, self._path, STATE, ROWS, old, new)
            names = [(_move_key(name),) for name in (old, new)]
            connection.executemany("DELETE FROM state WHERE name = ?", names)

        await self._file.write(work)

    async def drop(self, connector_id: str) -> None:
        """Delete all that the file has of a connector, in one transaction."""
        await self._file.write(lambda c: drop_connector(c, ROWS, connector_id))

    # -- rows (RowStore) ---------------------------------------------------------------------------

    async def mark_seen(self, source: str, keys: Sequence[str], generation: int) -> None:
        """See :class:`RowStore`."""
        rows = [(source, key, generation, None, row_crc(source, key, generation, None)) for key in keys]
        await self._file.write(lambda c: c.executemany(_STAGE, rows))

    async def remove(self, source: str, keys: Sequence[str]) -> None:
        """See :class:`RowStore`."""
        rows = [(source, key) for key in keys]
        await self._file.write(lambda c: c.executemany("DELETE FROM rows WHERE source = ? AND key = ?", rows))

    async def stale_keys(self, source: str, generation: int, limit: int) -> list[str]:
        """See :class:`RowStore`.

        A delete will be published for each of the keys, so all rows of the source are verified before.
        """
        query = (
            "SELECT key FROM rows WHERE source = ? AND generation < ? AND (row IS NULL OR length(row) > 0)"
            " ORDER BY key LIMIT ?"
        )

        def work(connection: sqlite3.Connection) -> list[str]:
            ROWS.verify_once(connection, self._path, source)
            return [key for (key,) in connection.execute(query, (source, generation, limit))]

        return await self._file.read(work)

    async def keys(self, source: str, after: str, limit: int) -> list[str]:
        """See :class:`RowStore`."""
        query = "SELECT key FROM rows WHERE source = ? AND key > ? AND (row IS NULL OR length(row) > 0) ORDER BY key LIMIT ?"

        def work(connection: sqlite3.Connection) -> list[str]:
            ROWS.verify_once(connection, self._path, source)
            return [key for (key,) in connection.execute(query, (source, after, limit))]

        return await self._file.read(work)

    async def existing(self, source: str, keys: Sequence[str]) -> dict[str, bytes | None]:
        """See :class:`RowStore`."""
        found = await self._file.read(lambda c: self._rows(c, source, keys))
        return {key: row for key, row in found.items() if row != b""}

    async def clear(self, source: str) -> None:
        """See :class:`RowStore`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM rows WHERE source = ?", (source,))
            ROWS.forget(connection, source)
            names = (_batch_key(source), _undo_key(source))
            connection.execute("DELETE FROM state WHERE name IN (?, ?)", names)

        await self._file.write(work)

    # -- the state of rows (RowStore) --------------------------------------------------------------

    async def rollback_uncommitted(self, source: str, committed: int) -> None:
        """See :class:`RowStore`."""

        def work(connection: sqlite3.Connection) -> None:
            ROWS.verify_once(connection, self._path, source)
            staged = int(self._load(connection, _batch_key(source)) or 0)
            if staged == committed:
                return
            if staged == committed + 1:
                undo = self._load(connection, _undo_key(source))
                previous = _decode(undo) if undo is not None else {}
                connection.executemany(
                    _SET_ROW, [_set_row(source, key, row) for key, row in previous.items()]
                )
            else:
                # Batches were published that are not in this file, or the file or the positions are an old copy.
                connection.execute(
                    "UPDATE rows SET row = NULL, crc = row_crc(source, key, generation, NULL) WHERE source = ?",
                    (source,),
                )
            _save(connection, _batch_key(source), str(committed))

        await self._file.write(work)

    async def rows(self, source: str, keys: Sequence[str]) -> dict[str, bytes]:
        """See :class:`RowStore`."""
        found = await self._file.read(lambda c: self._rows(c, source, keys))
        return {key: row for key, row in found.items() if row}

    def _rows(
        self, connection: sqlite3.Connection, source: str, keys: Sequence[str]
    ) -> dict[str, bytes | None]:
        """Return the stored rows with these keys: without a state, or empty if the delete is about to be published."""
        ROWS.verify_once(connection, self._path, source)
        found: dict[str, bytes | None] = {}
        for first in range(0, len(keys), _KEYS):
            some = keys[first : first + _KEYS]
            query = (
                "SELECT crc, key, generation, row FROM rows"
                f" WHERE source = ? AND key IN ({', '.join('?' * len(some))})"
            )
            for crc, key, generation, row in connection.execute(query, (source, *some)):
                ROWS.check(self._path, crc, source, key, generation, row)
                found[key] = row
        return found

    async def stage(
        self,
        source: str,
        batch: int,
        rows: Mapping[str, bytes],
        removed: Sequence[str],
        generation: int,
        previous: Mapping[str, bytes | None],
    ) -> None:
        """See :class:`RowStore`."""
        staged = [
            (source, key, generation, row, row_crc(source, key, generation, row)) for key, row in rows.items()
        ]
        deleted = [_set_row(source, key, b"") for key in removed]
        undo = _encode(previous)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_STAGE, staged)
            connection.executemany(_SET_ROW, deleted)
            _save(connection, _undo_key(source), undo)
            _save(connection, _batch_key(source), str(batch))

        await self._file.write(work)
