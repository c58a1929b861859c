"""The state of whole connectors in the SQLite file of change capture: which connectors there are, and moving or dropping one.

Whatever is stored for a connector has its name in the key: ``<kind> of <connector>``, ``<kind> of <connector>/<object>``,
``cdc/<connector>/<object>`` or ``<kind> of cdc/<connector>/<object>``. Names of connectors contain neither spaces nor slashes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dimesh.spi.state import StoredConnector
from dimesh.storage.checksums import CheckedTable, row_crc

_KEY: Final = re.compile(
    r"(?P<kind>[a-z]+ of )?(?P<progress>cdc/)?(?P<connector>[^/\s]+)(?:/(?P<object>.*))?", re.DOTALL
)


def _owner(key: str) -> tuple[str, str] | None:
    """Return the connector and the object that a key belongs to; an empty object stands for the whole connector."""
    found = _KEY.fullmatch(key)
    if found is None or not (found["kind"] or found["progress"]):
        return None
    return found["connector"], found["object"] or ""


def _renamed(key: str, name: str) -> str:
    found = _KEY.fullmatch(key)
    assert found is not None
    return key[: found.start("connector")] + name + key[found.end("connector") :]


def _keys(connection: sqlite3.Connection, connector_id: str) -> Iterator[str]:
    for (key,) in connection.execute("SELECT name FROM state").fetchall():
        owner = _owner(key)
        if owner is not None and owner[0] == connector_id:
            yield key


def _groups(connection: sqlite3.Connection, rows: CheckedTable) -> dict[str, int]:
    """Return the number of stored rows of each source of rows that has had any."""
    prefix = f"{rows.name}/"
    query = "SELECT substr(name, ?), rows FROM totals WHERE substr(name, 1, ?) = ?"
    return dict(connection.execute(query, (len(prefix) + 1, len(prefix), prefix)).fetchall())


def list_connectors(connection: sqlite3.Connection, rows: CheckedTable) -> dict[str, StoredConnector]:
    """Return the connectors that the file has something of."""
    objects: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    stored = [(key, 0) for (key,) in connection.execute("SELECT name FROM state")]
    for key, count in [*stored, *_groups(connection, rows).items()]:
        owner = _owner(key)
        if owner is not None:
            name, object_ = owner
            objects.setdefault(name, set()).update({object_} - {""})
            counts[name] = counts.get(name, 0) + count
    return {
        name: StoredConnector(name, tuple(sorted(found)), counts[name])
        for name, found in sorted(objects.items())
    }


def move_connector(
    connection: sqlite3.Connection, path: Path, state: CheckedTable, rows: CheckedTable, old: str, new: str
) -> None:
    """Move everything of one connector to another name. Damage is found before it gets a new checksum."""
    for key in list(_keys(connection, old)):
        crc, value = connection.execute("SELECT crc, value FROM state WHERE name = ?", (key,)).fetchone()
        state.check(path, crc, key, value)
        moved = _renamed(key, new)
        connection.execute(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (moved, value, row_crc(moved, value))
        )
        connection.execute("DELETE FROM state WHERE name = ?", (key,))
    for source in _groups(connection, rows):
        if (owner := _owner(source)) is not None and owner[0] == old:
            rows.verify(connection, path, source)
            moved = _renamed(source, new)
            connection.execute(
                "INSERT INTO rows SELECT ?, key, generation, row, row_crc(?, key, generation, row) FROM rows WHERE source = ?",
                (moved, moved, source),
            )
            _delete_rows(connection, rows, source)


def drop_connector(connection: sqlite3.Connection, rows: CheckedTable, name: str) -> None:
    """Delete everything of a connector."""
    keys = [(key,) for key in _keys(connection, name)]
    connection.executemany("DELETE FROM state WHERE name = ?", keys)
    for source in _groups(connection, rows):
        if (owner := _owner(source)) is not None and owner[0] == name:
            _delete_rows(connection, rows, source)


def _delete_rows(connection: sqlite3.Connection, rows: CheckedTable, source: str) -> None:
    connection.execute("DELETE FROM rows WHERE source = ?", (source,))
    rows.forget(connection, source)
