"""Checksums of the rows of a SQLite file, so that damage on the disk is an error and never an answer.

Each row of a checked table has a column ``crc``, the CRC32 of its other columns. The rows of a table are divided into
groups, and triggers keep the number of rows of each group in the table ``totals``: a row that damage has hidden (by a changed
key, or a changed count of cells in a page) is missed there, and one that damage shows twice is out of order.

A reader that finds rows checks each of them, and where the answer is a complete list also the totals of the group. A
reader that finds nothing verifies the whole table, once for each change of the file by another process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

from dimesh.errors import StorageError

_encode: Final = msgspec.msgpack.Encoder().encode

TOTALS: Final = "CREATE TABLE totals (name TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID"


def row_crc(*values: Any) -> int:
    """Return the checksum of a row's values."""
    return crc32(_encode(values))


def _stored_crc(*values: Any) -> int:
    try:
        return row_crc(*values)
    except (ValueError, TypeError):  # damaged text
        return -1


class CheckedConnection(sqlite3.Connection):
    """A connection with the SQL function ``row_crc``, and with text that can always be read.

    Damaged text is read with replacement characters; it does not have its checksum.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.create_function("row_crc", -1, _stored_crc, deterministic=True)
        self.text_factory = _text
        self.verified: dict[tuple[str, str | None], int] = {}
        """The tables and groups that were verified, each with the ``data_version`` of the file at that time."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class CheckedTable:
    """A table whose rows have checksums.

    Args:
        name: the name of the table.
        columns: the columns that the checksum covers, in its order. The key comes first.
        key: the number of columns in the key, to name a row in messages.
        advice: what to do about damage, as the end of the error message.
        group: the column whose values divide the table into groups; None: the table is one group.
    """

    def __init__(
        self, name: str, columns: Sequence[str], key: int, advice: str, group: str | None = None
    ) -> None:
        self.name = name
        self.columns = tuple(columns)
        self._key = key
        self._advice = advice
        self._group = group

    def triggers(self) -> tuple[str, ...]:
        """Return the statements that create the triggers, which keep the totals."""
        new, old = self._total("NEW"), self._total("OLD")
        return (
            f"CREATE TRIGGER {self.name}_inserted AFTER INSERT ON {self.name} BEGIN"
            f" INSERT INTO totals VALUES ({new}, 1) ON CONFLICT (name) DO UPDATE SET rows = rows + 1; END",
            f"CREATE TRIGGER {self.name}_deleted AFTER DELETE ON {self.name} BEGIN"
            f" UPDATE totals SET rows = rows - 1 WHERE name = {old}; END",
        )

    def _total(self, row: str) -> str:
        return f"'{self.name}'" if self._group is None else f"'{self.name}/' || {row}.{self._group}"

    def check(self, path: Path, crc: Any, *values: Any) -> None:
        """Raise a StorageError if the values of a row do not have the checksum ``crc``."""
        if _stored_crc(*values) != crc:
            key = ", ".join(f"{v!r:.80}" for v in values[: self._key])
            raise self.damage(path, f"the row {key} of table {self.name!r} does not have its checksum")

    def check_total(
        self, connection: sqlite3.Connection, path: Path, keys: Sequence[Any], group: str | None = None
    ) -> None:
        """Raise a StorageError if a group does not consist of exactly the rows with these keys, in their order."""
        (total,) = self._totals(connection, group).values()
        if total != len(keys) or any(one >= two for one, two in pairwise(keys)):
            raise self._incomplete(path, group)

    def verify(self, connection: sqlite3.Connection, path: Path, group: str | None = None) -> None:
        """Check all rows of a table, or of one group, and their totals.

        Raises:
            StorageError: a row is damaged or missing.
        """
        where = f" WHERE {self._group} = ?" if self._group is not None and group is not None else ""
        rows = connection.execute(
            f"SELECT crc, {', '.join(self.columns)} FROM {self.name}{where}"
            f" ORDER BY {', '.join(self.columns[: self._key])}",
            (group,) if where else (),
        )
        column = None if self._group is None else self.columns.index(self._group)
        missing = self._totals(connection, group)
        last: tuple[Any, ...] | None = None
        for crc, *values in rows:  # one at a time: a table may be larger than the memory
            self.check(path, crc, *values)
            name = None if column is None else values[column]
            key = tuple(values[: self._key])
            if last is not None and last >= key:
                raise self._incomplete(path, name)
            last = key
            missing[name] = missing.get(name, 0) - 1
        for name, rest in missing.items():
            if rest:
                raise self._incomplete(path, name)

    def _totals(self, connection: sqlite3.Connection, group: str | None) -> dict[str | None, int]:
        """Return the kept number of rows of one group or of each group; of the table, if it has no groups."""
        if self._group is not None and group is None:
            prefix = f"{self.name}/"
            query = "SELECT substr(name, ?), rows FROM totals WHERE substr(name, 1, ?) = ?"
            return dict(connection.execute(query, (len(prefix) + 1, len(prefix), prefix)).fetchall())
        name = self.name if self._group is None else f"{self.name}/{group}"
        found = connection.execute("SELECT rows FROM totals WHERE name = ?", (name,)).fetchone()
        return {group if self._group is not None else None: found[0] if found else 0}

    def _incomplete(self, path: Path, group: str | None) -> StorageError:
        of = f" for {group!r:.80}" if group is not None else ""
        return self.damage(path, f"the rows of table {self.name!r}{of} are not complete")

    def verify_once(self, connection: sqlite3.Connection, path: Path, group: str | None = None) -> None:
        """Verify, unless that was done since the connection was opened and no other process has changed the file since."""
        if not isinstance(connection, CheckedConnection):
            self.verify(connection, path, group)
            return
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if connection.verified.get((self.name, group)) != version:
            self.verify(connection, path, group)
            connection.verified[self.name, group] = version

    def forget(self, connection: sqlite3.Connection, group: str) -> None:
        """Remove the totals of a group whose rows were deleted."""
        connection.execute("DELETE FROM totals WHERE name = ?", (f"{self.name}/{group}",))

    def count(self, connection: sqlite3.Connection) -> None:
        """Compute the totals from the rows as they are. For migrations, before the triggers are created."""
        connection.execute(
            f"INSERT INTO totals SELECT {self._total(self.name)}, count(*) FROM {self.name} GROUP BY 1"
        )

    def damage(self, path: Path, what: str) -> StorageError:
        """Return the error for damage."""
        return StorageError(f"{path} is damaged: {what}. {self._advice}")
