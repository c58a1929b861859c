"""The database file: its format, and how connections to it are made."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final
from zlib import crc32

from dimesh.errors import StorageError
from dimesh.storage.checksums import TOTALS, CheckedTable
from dimesh.storage.filelock import FileLock
from dimesh.storage.sqlitefile import Format, connect, open_file

OFFSET_BITS: Final = 40
"""A record's rowid is its topic's id and its offset: one B-tree, appended to in order, and no second index."""
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

STATE: Final = CheckedTable(
    "state",
    ("key", "value"),
    1,
    "Restore the database from a backup; or delete the row, and what it was the position of is read from the start",
)
TABLES: Final = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0,   -- retention has removed all records below it
    next_offset INTEGER NOT NULL DEFAULT 0,    -- a lower bound: the last record gives the end. For a topic without records,
    last_time REAL NOT NULL DEFAULT 0,         -- so that no offset is used twice and record times do not go back
    size INTEGER NOT NULL DEFAULT 0,           -- bytes of headers and payloads, approximately
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
"""
_MEMBERS: Final = (
    """CREATE TABLE processes (
    token TEXT PRIMARY KEY,
    boot TEXT NOT NULL, namespace TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL,
    seen REAL NOT NULL                         -- the last heartbeat
) WITHOUT ROWID""",
    """CREATE TABLE members (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, token TEXT NOT NULL,
    joined INTEGER NOT NULL, name TEXT NOT NULL, process TEXT NOT NULL,
    PRIMARY KEY (topic, grp, token)
) WITHOUT ROWID""",
    """CREATE TABLE changes (
    topic INTEGER NOT NULL, grp TEXT NOT NULL, -- a group whose members changed; empty: the topic changed
    version INTEGER NOT NULL,                  -- grows with every change of the file
    PRIMARY KEY (topic, grp)
) WITHOUT ROWID""",
    "CREATE INDEX changes_by_version ON changes (version)",
)
_STATE: Final = (
    "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
)


def _from_1(connection: sqlite3.Connection) -> None:
    """Add the checksums of the state."""
    connection.execute("ALTER TABLE state RENAME TO state_1")
    connection.execute(_STATE)
    connection.execute(TOTALS)
    connection.execute("INSERT INTO state SELECT key, value, row_crc(key, value) FROM state_1")
    connection.execute("DROP TABLE state_1")
    STATE.count(connection)
    for statement in STATE.triggers():
        connection.execute(statement)


def _from_2(connection: sqlite3.Connection) -> None:
    """Record processes beside members. The members of before are dropped: whoever runs joins again."""
    connection.execute("DROP TABLE members")
    connection.execute("DELETE FROM owners")
    for statement in _MEMBERS:
        connection.execute(statement)


def verify_records(connection: sqlite3.Connection, path: Path) -> None:
    """Check all records against their checksums.

    Raises:
        StorageError: a record is damaged; the message names it.
    """
    for table in ("records", "delayed"):
        for rowid, header, payload, crc in connection.execute(
            f"SELECT id, header, payload, crc FROM {table}"
        ):
            if crc32(payload, crc32(header)) != crc:
                raise StorageError(
                    f"{path} is damaged: the row {rowid} of table {table!r} does not have its checksum. Restore it from a "
                    "backup, or move it away"
                )


FORMAT: Final = Format(
    application_id=0x646D6573,  # "dmes"
    version=3,
    statements=(
        *(statement.strip() for statement in TABLES.split(";\n") if statement.strip()),
        *_MEMBERS,
        _STATE,
        TOTALS,
        *STATE.triggers(),
    ),
    migrations={1: _from_1, 2: _from_2},
    checks=(STATE.verify, verify_records),
    wal=True,
)


def prepare(path: Path, lock: FileLock) -> None:
    """Create or migrate the database, or make sure that it is one of ours that can be read and written.

    Raises:
        StorageError: it is not; the message says what to do.
    """
    connection = open_file(path, FORMAT, lock=lock)
    with lock:
        connection.close()


def writer_connection(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open the one connection of a process that writes; to be used only under the lock."""
    connection = _connect(path)
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA journal_size_limit=67108864")
    connection.execute("PRAGMA cache_size=-16000")
    return connection


def reader_connection(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only=1")
    connection.execute("PRAGMA mmap_size=268435456")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection
