"""The format of the sqlite registry: its tables, their checksums, and the migrations from older formats."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from dimesh.events.strictjson import canonical
from dimesh.spi.registry import SchemaContent, context_of
from dimesh.storage.checksums import TOTALS, CheckedTable, row_crc
from dimesh.storage.sqlitefile import Format

GLOBAL: Final = ""
"""The key of the global settings: no subject has an empty name."""

_ADVICE: Final = "Restore the file from a backup, or move it away and register the schemas again"
CONTENTS: Final = CheckedTable(
    "contents",
    ("context", "id", "identity", "format", "text", "canonical", "refs", "metadata", "rules"),
    2,
    _ADVICE,
)
"""The schemas, once in each context. Rows are never removed: an id stands for its content for ever."""
IDENTITIES: Final = CheckedTable("identities", ("identity", "context", "id"), 2, _ADVICE)
"""The ids of the contents, by their identities. A table and not an index: an index has no checksums."""
REFERS: Final = CheckedTable("refers", ("context", "content", "name", "subject", "version"), 3, _ADVICE)
"""The references of the contents, by what they refer to."""
HIGHEST: Final = CheckedTable("highest", ("name", "highest"), 1, _ADVICE)
"""The highest version number that each subject ever used."""
LAST_IDS: Final = CheckedTable("last_ids", ("context", "id"), 1, _ADVICE)
"""The highest id that each context ever gave."""
VERSIONS: Final = CheckedTable(
    "versions",
    ("subject", "version", "context", "content", "created", "deleted", "notes"),
    2,
    _ADVICE,
    group="subject",
)
SETTINGS: Final = CheckedTable("settings", ("scope", "value"), 1, _ADVICE)

_CRC: Final = "crc INTEGER NOT NULL DEFAULT 0"
TABLES: Final = (
    "CREATE TABLE contents (context TEXT NOT NULL, id INTEGER NOT NULL, identity TEXT NOT NULL, format TEXT NOT NULL,"
    " text TEXT NOT NULL, canonical TEXT NOT NULL, refs TEXT NOT NULL, metadata TEXT NOT NULL, rules TEXT NOT NULL,"
    f" {_CRC}, PRIMARY KEY (context, id))",
    "CREATE TABLE identities (identity TEXT NOT NULL, context TEXT NOT NULL, id INTEGER NOT NULL,"
    f" {_CRC}, PRIMARY KEY (identity, context)) WITHOUT ROWID",
    f"CREATE TABLE highest (name TEXT PRIMARY KEY, highest INTEGER NOT NULL, {_CRC}) WITHOUT ROWID",
    f"CREATE TABLE last_ids (context TEXT PRIMARY KEY, id INTEGER NOT NULL, {_CRC}) WITHOUT ROWID",
    "CREATE TABLE versions (subject TEXT NOT NULL, version INTEGER NOT NULL, context TEXT NOT NULL,"
    " content INTEGER NOT NULL, created REAL NOT NULL, deleted INTEGER NOT NULL DEFAULT 0, notes TEXT NOT NULL,"
    f" {_CRC}, PRIMARY KEY (subject, version)) WITHOUT ROWID",
    "CREATE TABLE refers (context TEXT NOT NULL, content INTEGER NOT NULL, name TEXT NOT NULL, subject TEXT NOT NULL,"
    f" version INTEGER NOT NULL, {_CRC}, PRIMARY KEY (context, content, name)) WITHOUT ROWID",
    f"CREATE TABLE settings (scope TEXT PRIMARY KEY, value TEXT NOT NULL, {_CRC}) WITHOUT ROWID",
)
_CHECKED: Final = (CONTENTS, IDENTITIES, HIGHEST, LAST_IDS, VERSIONS, REFERS, SETTINGS)


# -- older formats -----------------------------------------------------------------------------------


def _from_1(connection: sqlite3.Connection) -> None:
    """Do nothing: format 2 only added checksums, which :func:`_from_2` computes for all rows."""
    connection.execute("CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, rows INTEGER NOT NULL)")


def _from_2(connection: sqlite3.Connection) -> None:
    """Add contexts, references and identities; what was metadata becomes local notes."""
    connection.execute("DROP TABLE totals")
    old = {
        "contents": "id, format, text",
        "subjects": "name, highest",
        "versions": "subject, version, content, created, deleted, metadata",
        "config": "subject, value",
    }
    rows = {
        name: connection.execute(f"SELECT {columns} FROM {name}").fetchall() for name, columns in old.items()
    }
    given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'contents'").fetchall()
    for name in old:
        connection.execute(f"DROP TABLE {name}")
    for statement in (*TABLES, TOTALS):
        connection.execute(statement)
    texts = {id_: (format_, text) for id_, format_, text in rows["contents"]}
    contexts = {
        (context_of(subject), content) for subject, _, content, *_ in rows["versions"] if content in texts
    } | {(".", content) for content in texts}
    for context, id_ in sorted(contexts):
        row = _content(*texts[id_])
        _insert(connection, "contents", context, id_, *row)
        # Two spellings of one schema had two ids: the first one is given from now on.
        known = "SELECT 1 FROM identities WHERE identity = ? AND context = ?"
        if not connection.execute(known, (row[0], context)).fetchone():
            _insert(connection, "identities", row[0], context, id_)
    for (last,) in given:
        for context in sorted({context for context, _ in contexts} | {"."}):
            _insert(connection, "last_ids", context, last)
    for name, highest in rows["subjects"]:
        _insert(connection, "highest", name, highest)
    for subject, version, content, created, deleted, notes in rows["versions"]:
        _insert(
            connection, "versions", subject, version, context_of(subject), content, created, deleted, notes
        )
    for scope, value in rows["config"]:
        _insert(connection, "settings", scope, value)
    for table in _CHECKED:
        table.count(connection)
        for statement in table.triggers():
            connection.execute(statement)


def _content(format: str, text: str) -> tuple[Any, ...]:
    # Format 2 had JSON Schemas only.
    content = SchemaContent(format, text, canonical(json.loads(text)))
    return (content.identity, format, text, content.canonical, "[]", "{}", "{}")


def _insert(connection: sqlite3.Connection, table: str, *row: Any) -> None:
    marks = ", ".join("?" for _ in (*row, None))
    connection.execute(f"INSERT INTO {table} VALUES ({marks})", (*row, row_crc(*row)))


FORMAT: Final = Format(
    application_id=0x646D7367,  # "dmsg"
    version=3,
    statements=(
        *TABLES,
        TOTALS,
        *(statement for table in _CHECKED for statement in table.triggers()),
    ),
    migrations={1: _from_1, 2: _from_2},
    checks=tuple(table.verify for table in _CHECKED),
)
