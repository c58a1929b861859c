"""The schema store in one SQLite file, for the processes of one machine.

Writes are rare and small, so the file uses a rollback journal: no second file, and SQLite's own locks keep the processes
apart.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    ConfigurationError,
    NotOfferedError,
    StorageError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.options import Options, is_path, parse_options
from dimesh.spi.registry import RegistryStore, StoredSchema

T = TypeVar("T")

APPLICATION_ID: Final = 0x646D7367  # "dmsg"
FORMAT: Final = 1

TABLES: Final = (
    "CREATE TABLE contents (id INTEGER PRIMARY KEY AUTOINCREMENT, format TEXT NOT NULL, text TEXT NOT NULL,"
    " UNIQUE (format, text))",
    "CREATE TABLE subjects (name TEXT PRIMARY KEY, highest INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE versions (subject TEXT NOT NULL, version INTEGER NOT NULL, content INTEGER NOT NULL,"
    " created REAL NOT NULL, deleted INTEGER NOT NULL DEFAULT 0, metadata TEXT NOT NULL,"
    " PRIMARY KEY (subject, version)) WITHOUT ROWID",
    "CREATE TABLE config (subject TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
GLOBAL: Final = ""
"""Key of the global settings: no subject's name is empty."""

SELECT: Final = (
    "SELECT v.subject, v.version, v.content, c.format, c.text, v.created, v.deleted, v.metadata"
    " FROM versions v JOIN contents c ON c.id = v.content"
)


class SqliteStoreOptions(Options, frozen=True):
    """Options of the sqlite store."""

    path: str = "mesh-data/registry.db"
    """The database file; made if it does not exist, with its folder."""


class SqliteStore:
    """See :class:`dimesh.spi.registry.RegistryStore`."""

    name = "sqlite"
    capabilities = Capabilities(Capability.SOFT_DELETE, Capability.PERSISTENT)

    def __init__(self, options: SqliteStoreOptions, clock: Clock) -> None:
        if not is_path(options.path):
            raise ConfigurationError("registry 'sqlite': path must name a file")
        self._path = Path(options.path).absolute()
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Open or make the file."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        if self._connection is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {self._path.parent}: {error.strerror}") from error
        try:
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=30
            )
            try:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._explain(error) from error
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
        elif application != APPLICATION_ID:
            raise StorageError(f"{self._path} belongs to something else; give the registry a file of its own")
        elif version != FORMAT:
            raise StorageError(
                f"{self._path} has format {version}, this dimesh reads {FORMAT}: upgrade dimesh, or use another file"
            )

    async def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._do, work, False)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._do, work, True)

    def _do(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        with self._lock:
            connection = self._connection
            if connection is None:
                raise StorageError("the registry is closed")
            try:
                if not writes:
                    return work(connection)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return StorageError(
                f"{self._path} is damaged or no database: restore it from a backup, or move it away"
            )
        return StorageError(
            f"{self._path}: {error}: check the file, its folder and the disk; nothing was stored"
        )

    # -- versions --------------------------------------------------------------------------------

    async def append(
        self,
        subject: str,
        *,
        expected_latest: int,
        format: str,
        text: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version."""
        created = self._clock.time()
        extra = json.dumps(dict(metadata or {}))

        def work(connection: sqlite3.Connection) -> StoredSchema:
            latest = connection.execute(
                "SELECT coalesce(max(version), 0) FROM versions WHERE subject = ?", (subject,)
            ).fetchone()[0]
            if latest != expected_latest:
                raise VersionConflictError(
                    f"subject {subject!r} has version {latest} by now, not {expected_latest}"
                )
            connection.execute(
                "INSERT INTO subjects VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET highest = highest + 1",
                (subject,),
            )
            number = connection.execute("SELECT highest FROM subjects WHERE name = ?", (subject,)).fetchone()[
                0
            ]
            connection.execute("INSERT OR IGNORE INTO contents (format, text) VALUES (?, ?)", (format, text))
            content = connection.execute(
                "SELECT id FROM contents WHERE format = ? AND text = ?", (format, text)
            ).fetchone()[0]
            connection.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, 0, ?)", (subject, number, content, created, extra)
            )
            return _stored((subject, number, content, format, text, created, 0, extra))

        return await self._write(work)

    async def versions(self, subject: str, *, deleted: bool = False) -> Sequence[StoredSchema]:
        """Oldest first."""
        return await self._read(
            lambda c: [
                _stored(row)
                for row in c.execute(
                    f"{SELECT} WHERE v.subject = ? AND (? OR NOT v.deleted) ORDER BY v.version",
                    (subject, deleted),
                )
            ]
        )

    async def by_id(self, schema_id: int) -> StoredSchema | None:
        """Some version with that content."""
        row = await self._read(
            lambda c: c.execute(
                f"{SELECT} WHERE v.content = ? ORDER BY v.deleted LIMIT 1", (schema_id,)
            ).fetchone()
        )
        return None if row is None else _stored(row)

    async def subjects(self, *, deleted: bool = False) -> Sequence[str]:
        """Sorted names."""
        return await self._read(
            lambda c: [
                row[0]
                for row in c.execute(
                    "SELECT DISTINCT subject FROM versions WHERE ? OR NOT deleted ORDER BY subject",
                    (deleted,),
                )
            ]
        )

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Mark as deleted, or remove what is marked."""
        where = "subject = ? AND (? IS NULL OR version = ?) AND deleted = ?"
        values = (subject, version, version, int(permanent))
        change = "DELETE FROM versions" if permanent else "UPDATE versions SET deleted = 1"

        def work(connection: sqlite3.Connection) -> list[int]:
            touched = [
                row[0]
                for row in connection.execute(
                    f"SELECT version FROM versions WHERE {where} ORDER BY version", values
                )
            ]
            connection.execute(f"{change} WHERE {where}", values)
            return touched

        return await self._write(work)

    async def update_metadata(self, subject: str, version: int, metadata: Mapping[str, Any]) -> StoredSchema:
        """Replace a version's metadata."""
        text = json.dumps(dict(metadata))

        def work(connection: sqlite3.Connection) -> StoredSchema:
            connection.execute(
                "UPDATE versions SET metadata = ? WHERE subject = ? AND version = ?", (text, subject, version)
            )
            row = connection.execute(
                f"{SELECT} WHERE v.subject = ? AND v.version = ?", (subject, version)
            ).fetchone()
            if row is None:
                raise SubjectNotFoundError(f"subject {subject!r} has no version {version}")
            return _stored(row)

        return await self._write(work)

    # -- settings --------------------------------------------------------------------------------

    async def get_config(self, subject: str | None) -> Mapping[str, str]:
        """Settings of a subject."""
        row = await self._read(
            lambda c: c.execute("SELECT value FROM config WHERE subject = ?", (subject or GLOBAL,)).fetchone()
        )
        return {} if row is None else dict(json.loads(row[0]))

    async def set_config(self, subject: str | None, config: Mapping[str, str]) -> None:
        """Replace them."""
        key = subject or GLOBAL

        def work(connection: sqlite3.Connection) -> None:
            if config:
                connection.execute(
                    "INSERT OR REPLACE INTO config VALUES (?, ?)", (key, json.dumps(dict(config)))
                )
            else:
                connection.execute("DELETE FROM config WHERE subject = ?", (key,))

        await self._write(work)

    async def check(self, subject: str, format: str, text: str) -> Sequence[str]:
        """Not offered."""
        raise NotOfferedError("this store does not decide compatibility; the engine does")


def _stored(row: Sequence[Any]) -> StoredSchema:
    subject, version, content, format_, text, created, deleted, metadata = row
    return StoredSchema(
        subject,
        version,
        content,
        format_,
        text,
        datetime.fromtimestamp(created, UTC),
        bool(deleted),
        json.loads(metadata),
    )


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_registry_store(self, options: Mapping[str, Any], clock: Clock) -> RegistryStore:
        return SqliteStore(parse_options(SqliteStoreOptions, options, "registry 'sqlite'"), clock)


plugin = _Plugin()
