"""The database file: its tables, its format, and how connections to it are made."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from dimesh.backends.sqlite.filelock import FileLock
from dimesh.errors import StorageError

APPLICATION_ID: Final = 0x646D6573  # "dmes"
FORMAT: Final = 1

OFFSET_BITS: Final = 40
"""A record's rowid is its topic's id and its offset: one B-tree, appended to in order, and no second index."""
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

TABLES: Final = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0,   -- retention has removed everything below
    next_offset INTEGER NOT NULL DEFAULT 0,    -- at least: the last record says it, this is for when there is none,
    last_time REAL NOT NULL DEFAULT 0,         -- so that no offset is used twice and no record's time goes back
    size INTEGER NOT NULL DEFAULT 0,           -- bytes of headers and payloads, about
    retention_seconds REAL, retention_bytes INTEGER, retention_records INTEGER
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,                    -- topic id << 40 | offset
    time REAL NOT NULL,
    slot INTEGER NOT NULL,                     -- of the ordering key; the partition is slot % partitions
    key TEXT NOT NULL, type TEXT NOT NULL, pillar TEXT NOT NULL, priority TEXT NOT NULL,
    header BLOB NOT NULL, payload BLOB NOT NULL,
    crc INTEGER NOT NULL                       -- of header and payload
);
CREATE TABLE delayed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    due REAL NOT NULL,
    topic INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    key TEXT NOT NULL, type TEXT NOT NULL, pillar TEXT NOT NULL, priority TEXT NOT NULL,
    header BLOB NOT NULL, payload BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE INDEX delayed_by_due ON delayed (due, id);
CREATE TABLE offsets (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (topic, grp, part)
) WITHOUT ROWID;
CREATE TABLE members (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, token TEXT NOT NULL,
    joined INTEGER NOT NULL, name TEXT NOT NULL,
    boot TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, seen REAL NOT NULL,
    PRIMARY KEY (topic, grp, token)
) WITHOUT ROWID;
CREATE TABLE owners (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT NULL,
    token TEXT NOT NULL,
    PRIMARY KEY (topic, grp, part)
) WITHOUT ROWID;
CREATE TABLE attempts (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, offset INTEGER NOT NULL,
    count INTEGER NOT NULL, first REAL NOT NULL,
    PRIMARY KEY (topic, grp, offset)
) WITHOUT ROWID;
CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


def prepare(path: Path, lock: FileLock) -> None:
    """Make the database if it is not there, else make sure that it is one of ours that we can read and write.

    Raises:
        StorageError: it is not; the message says what to do.
    """
    try:
        with lock:
            connection = _connect(path)
            try:
                _check_or_make(connection, path)
            finally:
                connection.close()
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _check_or_make(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return
    if application != APPLICATION_ID:
        raise StorageError(f"{path} is a database of another program; give the mesh a file of its own")
    if version > FORMAT:
        raise StorageError(
            f"{path} has format {version}, this dimesh reads up to {FORMAT}: upgrade dimesh, or use another file"
        )
    if version < 1:
        raise StorageError(
            f"{path} has no valid format number; restore it from a backup, or use another file"
        )
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StorageError(
            f"{path} cannot use a write-ahead log (journal mode {mode}): keep it on a local disk"
        )
    damage = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    missing = {"topics", "records", "offsets", "state"} - {name for (name,) in damage}
    if missing:
        raise StorageError(
            f"{path} is damaged: tables {sorted(missing)} are missing; restore it from a backup"
        )
    # Proves that it can be written, too: a read-only file fails here and not at the first publish.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE topics SET id = id WHERE 0")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    connection.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=30, cached_statements=256
    )
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def writer_connection(path: Path, synchronous: str) -> sqlite3.Connection:
    """The one connection of a process that writes. Only under the lock."""
    connection = _connect(path)
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA journal_size_limit=67108864")
    connection.execute("PRAGMA cache_size=-16000")
    return connection


def reader_connection(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only=1")
    connection.execute("PRAGMA mmap_size=268435456")
    return connection


UNWRITABLE: Final = (ValueError, TypeError, OverflowError, MemoryError)
"""What Python's side of SQLite raises for a value that cannot be stored or asked for, such as a string with a lone
surrogate. The thread that it happens in must outlive it.
"""


def explain(error: Exception, path: Path) -> StorageError:
    """What an error of SQLite means for the user."""
    if isinstance(error, UNWRITABLE):
        return StorageError(f"{path}: a value cannot be stored or looked up ({error}); nothing was written")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = str(error)
    if code == sqlite3.SQLITE_FULL:
        return StorageError(
            f"the disk (or the quota) is full, {path} could not grow: free space and try again"
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StorageError(
            f"{path} is damaged or no database ({text}): restore it from a backup, or move it away"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageError(
            f"{path} cannot be written ({text}): check the owner and mode of the file and its folder"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return StorageError(
            f"{path} cannot be opened ({text}): check that the folder exists and can be written"
        )
    if code == sqlite3.SQLITE_BUSY:
        return StorageError(f"{path} is locked by another program ({text}); nothing was written")
    return StorageError(f"{path}: {text}")
