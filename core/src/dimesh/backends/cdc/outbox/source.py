"""The change source that reads an outbox table."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from dimesh.backends.cdc.outbox.tables import TABLE, as_cell, columns_of, plain, quoted
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.contact import report_delivered, report_reached
from dimesh.errors import (
    CDCError,
    ConfigurationError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.options import Options
from dimesh.spi.cdc import Before, Change, ChangeBatch, CheckResult, Operation
from dimesh.storage.sqlitefile import SharedConnection, connect

PAGE: Final = 500
"""The number of rows or entries in one query."""


class OutboxOptions(Options, frozen=True):
    """Options of the outbox source."""

    path: str
    """The application's SQLite database."""
    table: str = TABLE
    """The outbox table in the database."""
    poll: float = 0.1
    """Seconds between checks for new commits."""
    keep_seconds: float | None = None
    """Published entries that are older than this many seconds are removed; None leaves that to the application."""


class OutboxSource:
    """See :class:`dimesh.spi.cdc.CDCSource`."""

    system = "outbox"
    read_lag = 0.0
    changed_at = None
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        Capability.DESCRIBED,
    )

    def __init__(self, options: OutboxOptions, clock: Clock) -> None:
        if not options.path or "\0" in options.path:
            raise ConfigurationError("cdc 'outbox': path must name the application's database")
        if options.poll <= 0:
            raise ConfigurationError("cdc 'outbox': poll must be positive")
        quoted(options.table)
        self._path = Path(options.path)
        self._table = options.table
        self._poll = options.poll
        self._keep = options.keep_seconds
        self._clock = clock
        self._file = SharedConnection(self._connect, self._explain)

    def _connect(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise SourceUnavailableError(
                f"there is no database {self._path}: start the application that creates it, or correct the option 'path'"
            )
        connection = connect(self._path, timeout=5)
        connection.row_factory = sqlite3.Row
        return connection

    def _explain(self, error: Exception) -> CDCError:
        kind = SourceUnavailableError if isinstance(error, sqlite3.OperationalError) else CDCError
        return kind(f"{self._path}: {error}")

    async def open(self) -> None:
        """Open the database; it must exist."""
        await self._file.open()

    async def close(self) -> None:
        """Close the database."""
        await self._file.close()

    # -- SPI -------------------------------------------------------------------------------------

    async def check(self) -> CheckResult:
        """Report the tables that are watched."""
        try:
            return await self._file.read(self._check)
        except CDCError as error:
            return CheckResult(False, {}, (str(error),))

    def _check(self, connection: sqlite3.Connection) -> CheckResult:
        if not self._exists(connection, self._table):
            return CheckResult(False, {}, (self._missing(),))
        objects = dict.fromkeys(self._watched(connection), "")
        for (name,) in connection.execute(f"SELECT DISTINCT object FROM {quoted(self._table)}"):
            objects.setdefault(
                name,
                "" if self._exists(connection, name) else "there is no table of this name, so no snapshot",
            )
        return CheckResult(True, objects)

    def _watched(self, connection: sqlite3.Connection) -> list[str]:
        prefix = f"{self._table}_"
        return sorted(
            {
                row["tbl_name"]
                for row in connection.execute(
                    "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
                )
                if row["name"].startswith(prefix)
            }
        )

    @staticmethod
    def _exists(connection: sqlite3.Connection, name: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return connection.execute(query, (name,)).fetchone() is not None

    def _missing(self) -> str:
        return (
            f"{self._path} has no table {self._table!r}: call dimesh.backends.cdc.outbox.install (and watch) in the "
            "application's migration"
        )

    def _identity(self, connection: sqlite3.Connection) -> str:
        if not self._exists(connection, self._table):
            raise SourceObjectError(self._missing())
        row = connection.execute(
            f"SELECT value FROM {quoted(self._table + '_meta')} WHERE key = 'identity'"
        ).fetchone()
        if row is None:
            raise SourceObjectError(self._missing())
        return str(row[0])

    async def position(self, object: str) -> bytes:
        """Return the position after the newest entry."""

        def work(connection: sqlite3.Connection) -> bytes:
            identity = self._identity(connection)
            self._check_object(connection, object)
            row = connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = ?", (self._table,)
            ).fetchone()
            return _position(identity, row[0] if row else 0)

        return await self._file.read(work)

    def _check_object(self, connection: sqlite3.Connection, name: str) -> None:
        if self._exists(connection, name):
            return
        known = connection.execute(
            f"SELECT 1 FROM {quoted(self._table)} WHERE object = ? LIMIT 1",
            (name,),
        ).fetchone()
        if known is None:
            watched = ", ".join(self._watched(connection)) or "none"
            raise SourceObjectError(f"{self._path} has no table {name!r:.60}; watched are: {watched}")

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        """Describe the columns of the table with their declared types, which SQLite does not enforce."""

        def work(connection: sqlite3.Connection) -> Mapping[str, Any] | None:
            self._check_object(connection, object)
            info = connection.execute(f"PRAGMA table_info({quoted(object)})").fetchall()
            if not info:
                return None
            return {"type": "object", "properties": {row[1]: {"description": row[2]} for row in info}}

        return await self._file.read(work)

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the rows of the table of this name by primary key; none if there is no such table."""
        last: list[Any] | None = _unpack(resume) if resume else None
        while True:
            rows, last, total = await self._file.read(partial(self._page, object, last))
            if rows:
                yield ChangeBatch(rows, _pack(last), total)
            if len(rows) < PAGE:
                return

    def _page(
        self, name: str, last: list[Any] | None, connection: sqlite3.Connection
    ) -> tuple[list[Change], list[Any] | None, int | None]:
        self._check_object(connection, name)
        if not self._exists(connection, name):
            return [], last, None
        columns, key = columns_of(connection, name)
        if not key:
            raise SourceObjectError(
                f"table {name!r:.60} has no primary key, so it cannot be read in order: give it one"
            )
        total = connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0]
        found = self._select(connection, name, columns, key, last, PAGE)
        changes = [self._row(name, columns, key, row) for row in found]
        return changes, ([found[-1][k] for k in key] if found else last), total

    @staticmethod
    def _select(
        connection: sqlite3.Connection,
        name: str,
        columns: Sequence[str],
        key: Sequence[str],
        after: Sequence[Any] | None,
        limit: int,
    ) -> list[sqlite3.Row]:
        """Return rows in the order of the primary key, after the row with a key."""
        listed = ", ".join(quoted(k) for k in key)
        where = f"WHERE ({listed}) > ({', '.join('?' * len(key))})" if after is not None else ""
        return connection.execute(
            f"SELECT {', '.join(quoted(c) for c in columns)} FROM {quoted(name)} {where}"
            f" ORDER BY {listed} LIMIT {limit}",
            after or (),
        ).fetchall()

    def _row(self, name: str, columns: Sequence[str], key: Sequence[str], row: sqlite3.Row) -> Change:
        after = {column: plain(row[column]) for column in columns}
        # The id covers the content: the same row in another state is another change.
        digest = hashlib.sha256(json.dumps(after, sort_keys=True).encode()).hexdigest()[:32]
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        primary_key = {k: plain(row[k]) for k in key}
        return Change(f"snapshot:{digest}", Operation.SNAPSHOT, name, primary_key, None, after, now)

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`. Nothing is known without a table of this name."""
        return await self._file.read(partial(self._read_rows, object, keys))

    def _read_rows(
        self, name: str, keys: Sequence[Mapping[str, Any]], connection: sqlite3.Connection
    ) -> Sequence[Change | None]:
        self._check_object(connection, name)
        columns, key = columns_of(connection, name) if self._exists(connection, name) else ([], [])
        found: list[Change | None] = []
        for wanted in keys:
            if not key or set(wanted) != set(key):
                found.append(None)
                continue
            where = " AND ".join(f"{quoted(k)} = ?" for k in key)
            query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(name)} WHERE {where}"
            row = connection.execute(query, [as_cell(wanted[k]) for k in key]).fetchone()
            if row is None:
                now = datetime.fromtimestamp(self._clock.time(), UTC)
                found.append(Change("absent", Operation.DELETE, name, dict(wanted), None, None, now))
            else:
                found.append(self._row(name, columns, key, row))
        return found

    @property
    def feed_lag(self) -> float:
        """The time between two checks for new commits."""
        return self._poll

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return rows by primary key; see :class:`dimesh.spi.cdc.SamplesRows`."""
        return await self._file.read(partial(self._rows_after, object, key, limit))

    def _rows_after(
        self, name: str, after: Mapping[str, Any] | None, limit: int, connection: sqlite3.Connection
    ) -> Sequence[Change] | None:
        self._check_object(connection, name)
        columns, key = columns_of(connection, name) if self._exists(connection, name) else ([], [])
        if not key or (after is not None and set(after) != set(key)):
            return None
        last = [as_cell(after[k]) for k in key] if after is not None else None
        if last is not None:
            where = " AND ".join(f"{quoted(k)} = ?" for k in key)
            if connection.execute(f"SELECT 1 FROM {quoted(name)} WHERE {where}", last).fetchone() is None:
                return None
        found = self._select(connection, name, columns, key, last, limit)
        return [self._row(name, columns, key, row) for row in found]

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the entries after ``position``, without end."""
        version: int | None = None
        while True:
            began = self._clock.time()
            seen, changes, position = await self._file.read(partial(self._entries, object, position, version))
            report_reached()
            if changes:
                yield ChangeBatch(changes, position)
            if len(changes) < PAGE:
                report_delivered(began)
                version = seen
                await self._clock.sleep(self._poll)
            else:
                version = None  # there is more: read on, whatever the version is

    def _entries(
        self, name: str, position: bytes, version: int | None, connection: sqlite3.Connection
    ) -> tuple[int, list[Change], bytes]:
        now = connection.execute("PRAGMA data_version").fetchone()[0]
        if now == version:
            return now, [], position
        identity = self._identity(connection)
        own, after = _parse(position)
        if own != identity:
            raise SourcePositionLostError(
                f"{self._path} was replaced: the position belongs to another outbox"
            )
        trimmed = connection.execute(
            f"SELECT value FROM {quoted(self._table + '_meta')} WHERE key = ?",
            (f"trimmed:{name}",),
        ).fetchone()
        if trimmed is not None and int(trimmed[0]) > after:
            raise SourcePositionLostError(
                f"the outbox entries of {name} up to {trimmed[0]} were removed, and position {after} is before them"
            )
        rows = connection.execute(
            f"SELECT * FROM {quoted(self._table)} WHERE id > ? AND object = ? ORDER BY id LIMIT {PAGE}",
            (after, name),
        ).fetchall()
        changes = [_change(row, identity) for row in rows]
        return now, changes, _position(identity, rows[-1]["id"]) if rows else position

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Remove published entries that are older than the option ``keep_seconds``."""
        if self._keep is None:
            return
        _, upto = _parse(position)
        before = datetime.fromtimestamp(self._clock.time() - self._keep, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S.%fZ"
        )
        table, meta = quoted(self._table), quoted(f"{self._table}_meta")
        query = f"SELECT max(id) FROM {table} WHERE object = ? AND id <= ? AND at < ?"

        def trim(connection: sqlite3.Connection) -> None:
            connection.execute(f"DELETE FROM {table} WHERE object = ? AND id <= ?", (object, last))
            connection.execute(
                f"INSERT INTO {meta} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (f"trimmed:{object}", str(last)),
            )

        try:
            last = await self._file.read(lambda c: c.execute(query, (object, upto, before)).fetchone()[0])
            if last is not None:
                await self._file.write(trim)
        except SourceUnavailableError:
            pass  # the application is writing; the next acknowledgement tries again


def _change(row: sqlite3.Row, identity: str) -> Change:
    before = json.loads(row["before"]) if row["before"] is not None else None
    after = json.loads(row["after"]) if row["after"] is not None else None
    changed = (
        [k for k in after if before.get(k) != after[k]] if before is not None and after is not None else ()
    )
    return Change(
        f"{identity}:{row['id']}",
        Operation(row["operation"]),
        row["object"],
        json.loads(row["primary_key"]),
        before,
        after,
        _moment(row["at"]),
        str(row["id"]),
        Before.NATIVE if before is not None else Before.NONE,
        changed,
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _position(identity: str, after: int) -> bytes:
    return f"{identity}:{after}".encode()


def _parse(position: bytes) -> tuple[str, int]:
    identity, _, after = position.decode("utf-8", "replace").partition(":")
    if not after.isascii() or not after.isdigit():
        raise SourcePositionLostError(f"{position!r:.80} is not a position of an outbox")
    return identity, int(after)


def _pack(key: list[Any] | None) -> bytes:
    tagged = [{"$base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in key or []]
    return json.dumps(tagged).encode()


def _unpack(data: bytes) -> list[Any]:
    try:
        values = json.loads(data)
    except ValueError:
        raise SourcePositionLostError(f"{data!r:.80} is not a position of a snapshot") from None
    return [base64.b64decode(v["$base64"]) if isinstance(v, dict) else v for v in values]
