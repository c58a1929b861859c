"""System notes: who changed which audited field of a row, and from which value.

They are the only record of earlier values. Values are display texts, only some fields are audited, notes do not follow a merge,
and a refreshed sandbox account has none: so they accompany a change, and its ``before`` comes from the rows that the runner
stores.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.client import Client, RefusedQueryError, Row, UnknownColumnError, UnknownTableError
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.records import Table
from dimesh_netsuite.suiteql import number, select, since, text, utc

log = logging.getLogger("dimesh.cdc")

_LOG: Final = "systemnote"
_NEWER: Final = "systemnote2"
_AT_ONCE: Final = 300
_MOST: Final = 50
"""The largest number of notes that one change carries."""


class Notes:
    """Reads the system notes of rows."""

    def __init__(self, options: NetSuiteOptions, client: Client) -> None:
        self._options = options
        self._client = client
        self._missing: set[str] = set()

    def wanted(self, table: Table) -> bool:
        """Return whether there are notes about rows of a table, as far as is known."""
        log_table = _NEWER if table.notes is None else _LOG
        return self._options.notes and len(table.keys) == 1 and log_table not in self._missing

    async def check(self) -> str:
        """Return why notes cannot be read; empty: they can."""
        try:
            await self._client.query(
                f"{select(['t.recordid'], _LOG)} FETCH FIRST 1 ROWS ONLY", Priority.CHECK, _LOG
            )
        except (SourceObjectError, UnknownColumnError) as error:
            return f"the role may not read system notes, so that changes do not say who made them: {error}"
        return ""

    async def of(self, table: Table, ids: Sequence[str], stamp: str) -> dict[str, list[dict[str, Any]]]:
        """Return the notes about rows from a time on, oldest first, by the id of the row.

        Args:
            table: the table.
            ids: the ids of the rows.
            stamp: a time in UTC.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        if not self.wanted(table) or not ids:
            return found
        for begin in range(0, len(ids), _AT_ONCE):
            group = ", ".join(number(id) for id in ids[begin : begin + _AT_ONCE])
            for id, note in await (
                self._old(table, group, stamp) if table.notes else self._new(table, group, stamp)
            ):
                found.setdefault(id, []).append(note)
        return {id: notes[-_MOST:] for id, notes in found.items()}

    async def _old(self, table: Table, group: str, stamp: str) -> list[tuple[str, dict[str, Any]]]:
        columns = ["recordid", "field", "oldvalue", "newvalue", "name", "context", "type"]
        where = [f"t.recordtypeid = {table.notes}", f"t.recordid IN ({group})"]
        return [
            (
                str(row.get("recordid")),
                {
                    "at": row.get("at"),
                    "field": row.get("field"),
                    "old": row.get("oldvalue"),
                    "new": row.get("newvalue"),
                    "by": row.get("name"),
                    "context": row.get("context"),
                },
            )
            for row in await self._read(_LOG, columns, "date", where, stamp)
        ]

    async def _new(self, table: Table, group: str, stamp: str) -> list[tuple[str, dict[str, Any]]]:
        # Ids are unique within a record type only, and the name of the element is all that names the type.
        where = [f"t.objectid IN ({group})", f"LOWER(t.elementfullname) LIKE {text(table.name + '.%')}"]
        columns = ["objectid", "elementfullname", "actor", "objectactiontype"]
        return [
            (
                str(row.get("objectid")),
                {
                    "at": row.get("at"),
                    "field": row.get("elementfullname"),
                    "by": row.get("actor"),
                    "action": row.get("objectactiontype"),
                },
            )
            for row in await self._read(_NEWER, columns, "datefrom", where, stamp)
        ]

    async def _read(
        self, log_table: str, columns: list[str], dated: str, where: Sequence[str], stamp: str
    ) -> list[Row]:
        if log_table in self._missing:
            return []
        selected = [*(f"t.{name}" for name in columns), f"{utc(dated)} AS at"]
        query = select(selected, log_table, [*where, since(dated, stamp)], [utc(dated)])
        try:
            return (await self._client.query(query, Priority.STREAM, log_table)).rows
        except (SourceObjectError, UnknownColumnError) as error:
            # Notes are an addition: changes are published without them.
            if isinstance(error, RefusedQueryError | UnknownTableError | UnknownColumnError):
                self._missing.add(log_table)
            log.info("NetSuite: changes carry no notes of %s: %s", log_table, error)
            return []


def told_by(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metadata of a change that has notes. ``before_display`` has the earliest value of each field as NetSuite
    displayed it, of audited fields only: it is not the row before the change.
    """
    if not notes:
        return {}
    before: dict[str, Any] = {}
    for note in notes:
        if note.get("field") and "old" in note:
            before.setdefault(str(note["field"]), note["old"])
    found: dict[str, Any] = {"system_notes": list(notes)}
    if before:
        found |= {
            "before_display": before,
            "before_display_from": "system notes: display text, audited fields only",
        }
    return found
