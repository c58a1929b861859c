"""The built-in change source: an outbox table in an application's own SQLite database.

The application writes its rows and the outbox in one transaction (by hand, or by the triggers that :func:`watch` makes), so
the outbox says exactly what was committed. SQLite has one writer at a time, so the order of the outbox's ids is the order of
the commits, and no change can appear behind one that was read already.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    ConfigurationError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import Before, CDCSource, Change, ChangeBatch, CheckResult, Operation
from dimesh.spi.options import Options, parse_options

T = TypeVar("T")

TABLE: Final = "dimesh_outbox"
PAGE: Final = 500


# -- for the application -----------------------------------------------------------------------------


def install(connection: sqlite3.Connection, table: str = TABLE) -> None:
    """Make the outbox in the application's database, if it is not there. Part of the caller's transaction.

    Raises:
        ConfigurationError: the name cannot be a table's.
    """
    name = _quoted(table)
    meta = _quoted(f"{table}_meta")
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {name} ("
        "id INTEGER PRIMARY KEY AUTOINCREMENT, object TEXT NOT NULL, operation TEXT NOT NULL"
        " CHECK (operation IN ('insert', 'update', 'delete')),"
        " primary_key TEXT NOT NULL, before TEXT, after TEXT,"
        " at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))"
    )
    connection.execute(f"CREATE TABLE IF NOT EXISTS {meta} (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    # Names this database: a file that was replaced must not be taken for the old one.
    connection.execute(
        f"INSERT OR IGNORE INTO {meta} VALUES ('identity', ?)",
        (uuid.uuid4().hex,),
    )


def record(
    connection: sqlite3.Connection,
    object: str,
    operation: str,
    primary_key: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    *,
    table: str = TABLE,
) -> None:
    """Add an entry by hand, in the application's own transaction.

    Raises:
        ConfigurationError: the operation is none of insert, update, delete.
    """
    if operation not in ("insert", "update", "delete"):
        raise ConfigurationError(f"{operation!r:.40} is no operation: use insert, update or delete")
    connection.execute(
        f"INSERT INTO {_quoted(table)} (object, operation, primary_key, before, after)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            object,
            operation,
            _json(primary_key),
            _json(before) if before is not None else None,
            _json(after) if after is not None else None,
        ),
    )


def watch(connection: sqlite3.Connection, name: str, *, table: str = TABLE) -> None:
    """Have every insert, update and delete of a table written to the outbox, by triggers. Part of the caller's
    transaction; may be repeated after the table's columns changed. Rows that are there already are what a snapshot reads.

    Raises:
        ConfigurationError: there is no such table, or it has no primary key.
    """
    columns, key = _columns(connection, name)
    if not columns:
        raise ConfigurationError(f"there is no table {name!r:.60} in this database")
    if not key:
        raise ConfigurationError(
            f"table {name!r:.60} has no primary key; its changes could not be told apart"
        )
    install(connection, table)
    outbox = _quoted(table)
    for operation, image in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
        trigger = _quoted(f"{table}_{name}_{operation}")
        before = "NULL" if operation == "insert" else _row("OLD", columns)
        after = "NULL" if operation == "delete" else _row("NEW", columns)
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.execute(
            f"CREATE TRIGGER {trigger} AFTER {operation.upper()} ON {_quoted(name)} BEGIN"
            f" INSERT INTO {outbox} (object, operation, primary_key, before, after) VALUES ("
            f"{_literal(name)}, '{operation}', {_row(image, key)}, {before}, {after}); END"
        )


def _row(image: str, columns: Sequence[str]) -> str:
    """SQL for a row as JSON. A blob becomes {"$base16": …}: JSON has none."""
    parts = []
    for column in columns:
        value = f"{image}.{_quoted(column)}"
        parts.append(
            f"{_literal(column)}, json(CASE typeof({value}) WHEN 'blob'"
            f" THEN json_object('$base16', hex({value})) ELSE json_quote({value}) END)"
        )
    return f"json_object({', '.join(parts)})"


def _columns(connection: sqlite3.Connection, name: str) -> tuple[list[str], list[str]]:
    info = connection.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
    key = [row[1] for row in sorted((r for r in info if r[5]), key=lambda r: r[5])]
    return [row[1] for row in info], key


def _quoted(name: str) -> str:
    if "\0" in name or not name or len(name) > 200:
        raise ConfigurationError(f"{name!r:.60} cannot be the name of a table")
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps({k: _plain(v) for k, v in row.items()}, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    return {"$base16": value.hex().upper()} if isinstance(value, bytes) else value


# -- the source --------------------------------------------------------------------------------------


class OutboxOptions(Options, frozen=True):
    """Options of the outbox source."""

    path: str
    """The application's SQLite database."""
    table: str = TABLE
    """The outbox in it."""
    poll: float = 0.1
    """Seconds between looks for new commits."""
    keep_seconds: float | None = None
    """Remove entries that were published and are older than this; None: leave that to the application."""


class OutboxSource:
    """See :class:`dimesh.spi.cdc.CDCSource`."""

    system = "outbox"
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
        _quoted(options.table)
        self._path = Path(options.path)
        self._table = options.table
        self._poll = options.poll
        self._keep = options.keep_seconds
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Open the database; it must be there."""
        await self._run(lambda c: c.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        """Close it."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    if not self._path.is_file():
                        raise SourceUnavailableError(
                            f"there is no database {self._path}: has the application made it yet?"
                        )
                    self._connection = sqlite3.connect(
                        self._path, isolation_level=None, check_same_thread=False, timeout=5
                    )
                    self._connection.row_factory = sqlite3.Row
                return work(self._connection)
            except sqlite3.OperationalError as error:
                raise SourceUnavailableError(f"{self._path}: {error}") from error
            except sqlite3.Error as error:
                raise CDCError(f"{self._path}: {error}") from error

    # -- SPI -------------------------------------------------------------------------------------

    async def check(self) -> CheckResult:
        """Which tables are watched."""
        try:
            return await self._run(self._check)
        except CDCError as error:
            return CheckResult(False, {}, (str(error),))

    def _check(self, connection: sqlite3.Connection) -> CheckResult:
        if not self._exists(connection, self._table):
            return CheckResult(False, {}, (self._missing(),))
        objects = dict.fromkeys(self._watched(connection), "")
        for (name,) in connection.execute(f"SELECT DISTINCT object FROM {_quoted(self._table)}"):
            objects.setdefault(
                name, "" if self._exists(connection, name) else "no table of that name: no snapshot"
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
            f"{self._path} has no table {self._table!r}: call dimesh.backends.outbox.install (and watch) in the "
            "application's migration"
        )

    def _identity(self, connection: sqlite3.Connection) -> str:
        if not self._exists(connection, self._table):
            raise SourceObjectError(self._missing())
        row = connection.execute(
            f"SELECT value FROM {_quoted(self._table + '_meta')} WHERE key = 'identity'"
        ).fetchone()
        if row is None:
            raise SourceObjectError(self._missing())
        return str(row[0])

    async def position(self, object: str) -> bytes:
        """Behind the newest entry."""

        def work(connection: sqlite3.Connection) -> bytes:
            identity = self._identity(connection)
            self._check_object(connection, object)
            row = connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = ?", (self._table,)
            ).fetchone()
            return _position(identity, row[0] if row else 0)

        return await self._run(work)

    def _check_object(self, connection: sqlite3.Connection, name: str) -> None:
        if self._exists(connection, name):
            return
        known = connection.execute(
            f"SELECT 1 FROM {_quoted(self._table)} WHERE object = ? LIMIT 1",
            (name,),
        ).fetchone()
        if known is None:
            watched = ", ".join(self._watched(connection)) or "none"
            raise SourceObjectError(f"{self._path} has no table {name!r:.60}; watched are: {watched}")

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        """The columns of the table, with their types as SQLite has them: a description, since a cell may hold anything."""

        def work(connection: sqlite3.Connection) -> Mapping[str, Any] | None:
            self._check_object(connection, object)
            info = connection.execute(f"PRAGMA table_info({_quoted(object)})").fetchall()
            if not info:
                return None
            return {"type": "object", "properties": {row[1]: {"description": row[2]} for row in info}}

        return await self._run(work)

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """The rows of the table of that name, by primary key; nothing if there is no such table."""
        last: list[Any] | None = _unpack(resume) if resume else None
        while True:
            rows, last, total = await self._run(partial(self._page, object, last))
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
        columns, key = _columns(connection, name)
        if not key:
            raise SourceObjectError(f"table {name!r:.60} has no primary key; it cannot be read in order")
        listed = ", ".join(_quoted(k) for k in key)
        where = f"WHERE ({listed}) > ({', '.join('?' * len(key))})" if last is not None else ""
        total = connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]
        found = connection.execute(
            f"SELECT {', '.join(_quoted(c) for c in columns)} FROM {_quoted(name)} {where}"
            f" ORDER BY {listed} LIMIT {PAGE}",
            last or (),
        ).fetchall()
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        changes = []
        for row in found:
            after = {column: _plain(row[column]) for column in columns}
            # With the content: the row as it is at another snapshot is another change.
            digest = hashlib.sha256(json.dumps(after, sort_keys=True).encode()).hexdigest()[:32]
            changes.append(
                Change(
                    f"snapshot:{digest}",
                    Operation.SNAPSHOT,
                    name,
                    {k: _plain(row[k]) for k in key},
                    None,
                    after,
                    now,
                )
            )
        return changes, ([found[-1][k] for k in key] if found else last), total

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Entries after ``position``, without end."""
        version: int | None = None
        while True:
            seen, changes, position = await self._run(partial(self._entries, object, position, version))
            if changes:
                yield ChangeBatch(changes, position)
            if len(changes) < PAGE:
                version = seen
                await self._clock.sleep(self._poll)
            else:
                version = None  # there is more: look whatever the version says

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
                f"{self._path} was replaced since: its outbox is another one than the position belongs to"
            )
        trimmed = connection.execute(
            f"SELECT value FROM {_quoted(self._table + '_meta')} WHERE key = ?",
            (f"trimmed:{name}",),
        ).fetchone()
        if trimmed is not None and int(trimmed[0]) > after:
            raise SourcePositionLostError(
                f"outbox entries of {name} up to {trimmed[0]} were removed, position {after} is before that"
            )
        rows = connection.execute(
            f"SELECT * FROM {_quoted(self._table)} WHERE id > ? AND object = ? ORDER BY id LIMIT {PAGE}",
            (after, name),
        ).fetchall()
        changes = [_change(row, identity) for row in rows]
        return now, changes, _position(identity, rows[-1]["id"]) if rows else position

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Remove what is old and published, where that is asked for."""
        if self._keep is None:
            return
        _, upto = _parse(position)
        before = datetime.fromtimestamp(self._clock.time() - self._keep, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S.%fZ"
        )

        def work(connection: sqlite3.Connection) -> None:
            table, meta = _quoted(self._table), _quoted(f"{self._table}_meta")
            query = f"SELECT max(id) FROM {table} WHERE object = ? AND id <= ? AND at < ?"
            last = connection.execute(query, (object, upto, before)).fetchone()[0]
            if last is None:
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(f"DELETE FROM {table} WHERE object = ? AND id <= ?", (object, last))
                connection.execute(
                    f"INSERT INTO {meta} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (f"trimmed:{object}", str(last)),
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

        try:
            await self._run(work)
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
        raise SourcePositionLostError(f"{position!r:.80} is no position of an outbox")
    return identity, int(after)


def _pack(key: list[Any] | None) -> bytes:
    tagged = [{"$base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in key or []]
    return json.dumps(tagged).encode()


def _unpack(data: bytes) -> list[Any]:
    try:
        values = json.loads(data)
    except ValueError:
        raise SourcePositionLostError(f"{data!r:.80} is no position of a snapshot") from None
    return [base64.b64decode(v["$base64"]) if isinstance(v, dict) else v for v in values]


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], clock: Clock) -> CDCSource:
        return OutboxSource(parse_options(OutboxOptions, options, "cdc 'outbox'"), clock)


plugin = _Plugin()
