"""Deletes: the table ``deletedrecord``.

Its rows name a type and an id. Ids are unique within a group of types only, so that both must match; and a record of a delete is
believed only if the row is really gone. The table is invisible without the permission Deleted Records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.client import Client, RefusedQueryError, Row, UnknownColumnError, UnknownTableError
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.records import Table, type_key
from dimesh_netsuite.suiteql import STAMP_ALIAS, after, number, select, since, stamp_text, text, utc

LOG: Final = "deletedrecord"
PERMISSION: Final = (
    "the role may not read the deleted records: add the permission Deleted Records (Setup) to it, or set "
    "deletes = false"
)
_COLUMNS: Final = ("recordid", "type", "name", "deletedby", "context")
_AT_ONCE: Final = 500
_TYPE: Final = "LOWER(REPLACE(REPLACE(REPLACE(t.type, ' ', ''), '_', ''), '-', ''))"


class Deleted(NamedTuple):
    """A record of a delete."""

    id: str
    stamp: str
    """The time of the delete as text in UTC."""
    actor: str | None
    metadata: Mapping[str, Any]


class Deletes:
    """Reads the table of deleted records."""

    def __init__(self, options: NetSuiteOptions, client: Client) -> None:
        self._options = options
        self._client = client
        self._columns: tuple[str, ...] = _COLUMNS
        self._types: dict[str, frozenset[str]] = {}

    def tracked(self, table: Table) -> bool:
        """Return whether the deletes of a table are recorded, and read."""
        return self._options.deletes and bool(table.deleted)

    async def check(self) -> str:
        """Return why deletes cannot be read; empty: they can."""
        try:
            await self._client.query(
                f"{select(['t.recordid', 't.type'], LOG)} FETCH FIRST 1 ROWS ONLY", Priority.CHECK, LOG
            )
        except SourceObjectError as error:
            return f"{PERMISSION}: {error}"
        return ""

    async def since(self, table: Table, stamp: str) -> list[Deleted]:
        """Return the records of deletes of a table from a time on, oldest first.

        Raises:
            SourceObjectError: the role may not read the table of deleted records.
        """
        found: list[Deleted] = []
        order = [utc("deleteddate"), "t.recordid"]
        cursor: Deleted | None = None
        where = [await self._of_types(table), since("deleteddate", stamp)]
        while True:
            more = [after(order, [text(cursor.stamp), number(cursor.id)])] if cursor is not None else []
            rows, left = await self._read([*where, *more], order)
            found += [_deleted(row) for row in rows]
            if not left or not rows:
                return found
            cursor = found[-1]

    async def recorded(self, table: Table, ids: Sequence[str], priority: Priority) -> set[str]:
        """Return those of some ids whose deletes are recorded."""
        if not self.tracked(table):
            return set()
        types = await self._of_types(table)
        found: set[str] = set()
        for begin in range(0, len(ids), _AT_ONCE):
            group = ", ".join(number(id) for id in ids[begin : begin + _AT_ONCE])
            rows, _ = await self._read([types, f"t.recordid IN ({group})"], ["t.recordid"], priority)
            found |= {str(row.get("recordid", "")) for row in rows}
        return found

    async def _read(
        self, where: Sequence[str], order: Sequence[str], priority: Priority = Priority.STREAM
    ) -> tuple[list[Row], bool]:
        while True:
            columns = [f"t.{name}" for name in self._columns]
            query = select([*columns, f"{utc('deleteddate')} AS {STAMP_ALIAS}"], LOG, where, order)
            try:
                page = await self._client.query(query, priority, LOG)
            except UnknownColumnError as error:
                left = tuple(n for n in self._columns if n != error.column.rpartition(".")[2].lower())
                if left == self._columns or not {"recordid", "type"} <= set(left):
                    raise SourceObjectError(f"{PERMISSION}: {error}") from error
                self._columns = left
            except UnknownTableError as error:
                raise SourceObjectError(f"{PERMISSION}: {error}") from error
            else:
                return page.rows, page.more

    async def _of_types(self, table: Table) -> str:
        """Return the condition that a record is of one of the table's types."""
        types = self._types.get(table.name)
        if types is None:
            types = table.deleted
            if table.custom:
                types |= await self._numbers(table)
            self._types[table.name] = types
        return f"{_TYPE} IN ({', '.join(text(type_key(name).replace('_', '')) for name in sorted(types))})"

    async def _numbers(self, table: Table) -> frozenset[str]:
        """Return the number of a custom record type, under which its deletes are recorded."""
        condition = f"LOWER(t.scriptid) = {text(table.name)}"
        try:
            page = await self._client.query(
                select(["t.internalid"], "customrecordtype", [condition]), Priority.STREAM, "customrecordtype"
            )
        except (SourceObjectError, UnknownColumnError, RefusedQueryError):
            return frozenset()
        return frozenset(str(row["internalid"]) for row in page.rows if row.get("internalid"))


def horizon(now: float, days: float) -> str:
    """Return the time before which the table of deleted records is not trusted."""
    return stamp_text(now - days * 86_400)


def _deleted(row: Row) -> Deleted:
    told = {"deleted_type": row.get("type"), "name": row.get("name"), "context": row.get("context")}
    return Deleted(
        str(row.get("recordid", "")),
        str(row.get(STAMP_ALIAS, "")),
        row.get("deletedby"),
        {name: value for name, value in told.items() if value is not None},
    )
