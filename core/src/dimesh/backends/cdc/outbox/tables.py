"""The outbox table in the application's database: how it is created and filled. For the application."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dimesh.errors import ConfigurationError

TABLE: Final = "dimesh_outbox"
"""The name of the outbox, unless the application gives another one."""


def install(connection: sqlite3.Connection, table: str = TABLE) -> None:
    """Create the outbox in the application's database if it does not exist. Part of the caller's transaction.

    Raises:
        ConfigurationError: no table can have this name.
    """
    name = quoted(table)
    meta = quoted(f"{table}_meta")
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {name} ("
        "id INTEGER PRIMARY KEY AUTOINCREMENT, object TEXT NOT NULL, operation TEXT NOT NULL"
        " CHECK (operation IN ('insert', 'update', 'delete')),"
        " primary_key TEXT NOT NULL, before TEXT, after TEXT,"
        " at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))"
    )
    connection.execute(f"CREATE TABLE IF NOT EXISTS {meta} (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    # Identifies this database: a file that took the place of another one must not be mistaken for it.
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
        ConfigurationError: the operation is not insert, update or delete.
    """
    if operation not in ("insert", "update", "delete"):
        raise ConfigurationError(f"{operation!r:.40} is not an operation: use insert, update or delete")
    connection.execute(
        f"INSERT INTO {quoted(table)} (object, operation, primary_key, before, after) VALUES (?, ?, ?, ?, ?)",
        (
            object,
            operation,
            _json(primary_key),
            _json(before) if before is not None else None,
            _json(after) if after is not None else None,
        ),
    )


def watch(connection: sqlite3.Connection, name: str, *, table: str = TABLE) -> None:
    """Write every insert, update and delete of a table to the outbox, by triggers. Part of the caller's transaction.

    Call it again after the table's columns changed. The rows that the table has already are read by a snapshot.

    Raises:
        ConfigurationError: there is no such table, or it has no primary key.
    """
    columns, key = columns_of(connection, name)
    if not columns:
        raise ConfigurationError(f"there is no table {name!r:.60} in this database")
    if not key:
        raise ConfigurationError(
            f"table {name!r:.60} has no primary key: its rows cannot be identified. Give it one"
        )
    install(connection, table)
    outbox = quoted(table)
    for operation, image in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
        trigger = quoted(f"{table}_{name}_{operation}")
        before = "NULL" if operation == "insert" else _row("OLD", columns)
        after = "NULL" if operation == "delete" else _row("NEW", columns)
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.execute(
            f"CREATE TRIGGER {trigger} AFTER {operation.upper()} ON {quoted(name)} BEGIN"
            f" INSERT INTO {outbox} (object, operation, primary_key, before, after) VALUES ("
            f"{_literal(name)}, '{operation}', {_row(image, key)}, {before}, {after}); END"
        )


def _row(image: str, columns: Sequence[str]) -> str:
    """Return the SQL expression for a row as JSON. JSON has no blobs: a blob becomes {"$base16": …}."""
    parts = []
    for column in columns:
        value = f"{image}.{quoted(column)}"
        parts.append(
            f"{_literal(column)}, json(CASE typeof({value}) WHEN 'blob'"
            f" THEN json_object('$base16', hex({value})) ELSE json_quote({value}) END)"
        )
    return f"json_object({', '.join(parts)})"


def columns_of(connection: sqlite3.Connection, name: str) -> tuple[list[str], list[str]]:
    """Return the columns of a table, and those of its primary key in their order."""
    info = connection.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
    key = [row[1] for row in sorted((r for r in info if r[5]), key=lambda r: r[5])]
    return [row[1] for row in info], key


def quoted(name: str) -> str:
    """Return a name as a quoted SQL identifier.

    Raises:
        ConfigurationError: no table can have this name.
    """
    if "\0" in name or not name or len(name) > 200:
        raise ConfigurationError(f"{name!r:.60} cannot be the name of a table")
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Return a cell's value as JSON can have it."""
    return {"$base16": value.hex().upper()} if isinstance(value, bytes) else value


def as_cell(value: Any) -> Any:
    """Return the cell's value that :func:`plain` made JSON of."""
    return bytes.fromhex(value["$base16"]) if isinstance(value, dict) else value
