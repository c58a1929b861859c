"""The columns of tables, as the role sees them: found by asking, since NetSuite has no list of them for SuiteQL.

Two sources are joined: the metadata of the record service, which has types and names that SuiteQL does not know (``balance``,
``total``), and a sample of rows, which lacks columns that are empty in all of them. What SuiteQL does not know is dropped and
reported. No query selects more than 100 columns: such a query was seen to answer without rows and without an error
(documentation of Estuary's connector), so that a wide table is read in parts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import CDCError, SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.client import CATALOG_PATH, Client, RefusedQueryError, UnknownColumnError
from dimesh_netsuite.records import CREATED, Table
from dimesh_netsuite.suiteql import Column, Kind, select

log = logging.getLogger("dimesh.cdc")

PART: Final = 90
"""The largest number of columns of one query, beside the key and the times."""
MAX_COLUMNS: Final = 2_000
_SAMPLE: Final = 200
_AGAIN: Final = 3_600.0
"""The number of seconds after which the columns are found out again: fields are added to records at any time."""
_DISPLAYED_DATE: Final = re.compile(
    r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}( \d{1,2}:\d{2}( ?[ap]m)?)?", re.IGNORECASE
)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,99}")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table that the role may read."""

    table: Table
    parts: tuple[tuple[Column, ...], ...]
    """The columns in parts that one query can select, without those of the key."""
    stamp: str | None
    """The column with the time of the last change; None: there is none."""
    created: str | None
    """The column with the time of creation; None: there is none."""
    dropped: tuple[str, ...] = ()
    """The names that the metadata has and SuiteQL does not know."""

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return [*self.table.keys, *(column.name for part in self.parts for column in part)]


class ColumnFinder:
    """Finds the columns of tables, once for all readers of a source."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._found: dict[str, tuple[float, Columns]] = {}

    def forget(self, table: Table) -> None:
        """Find the columns again at the next use: a query names one that is gone."""
        self._found.pop(table.name, None)

    async def of(self, table: Table, priority: Priority = Priority.STREAM) -> Columns:
        """Return the columns of a table.

        Raises:
            SourceObjectError: the role may not see the table, or there is none.
        """
        now = self._clock.monotonic()
        known = self._found.get(table.name)
        if known is not None and now - known[0] < _AGAIN:
            return known[1]
        found = await self._find(table, priority)
        if found.dropped and (known is None or known[1].dropped != found.dropped):
            log.info(
                "NetSuite: %s is captured without %s, which SuiteQL does not know or the role may not see",
                table.name,
                ", ".join(found.dropped),
            )
        self._found[table.name] = (now, found)
        return found

    async def _find(self, table: Table, priority: Priority) -> Columns:
        page = await self._client.query(
            f"{select(['t.*'], table.name)} FETCH FIRST {_SAMPLE} ROWS ONLY", priority, table.name
        )
        kinds = await self._described(table, priority)
        for row in page.rows:
            for name, value in row.items():
                if name not in kinds and _NAME.fullmatch(name):
                    kinds[name] = _kind_of(table, name, value)
        tried = (*table.keys, *([table.stamp] if table.stamp else ()), *table.created, *sorted(table.known))
        for name in tried:
            kinds.setdefault(name, _kind_of(table, name, ""))
        names = list(kinds)[:MAX_COLUMNS]
        dropped: list[str] = []
        wanted = [Column(name, kinds[name]) for name in names if name not in table.keys]
        key = [Column(name) for name in table.keys]
        parts: list[tuple[Column, ...]] = []
        for begin in range(0, len(wanted), PART):
            columns, unknown = await self._known(table, [*key, *wanted[begin : begin + PART]], priority)
            dropped += unknown
            rest = tuple(column for column in columns if column.name not in table.keys)
            if rest or not begin:
                parts.append(rest)
        missing = [name for name in table.keys if name in dropped]
        if missing:
            raise SourceObjectError(
                f"{table.name} cannot be captured: it has no column {missing[0]!r}, by which its rows are known"
            )
        there = {column.name for part in parts for column in part}
        return Columns(
            table,
            tuple(parts) or ((),),
            table.stamp if table.stamp in there else None,
            next((name for name in table.created if name in there), None),
            tuple(name for name in dict.fromkeys(dropped) if name not in tried),
        )

    async def _known(
        self, table: Table, columns: list[Column], priority: Priority
    ) -> tuple[list[Column], list[str]]:
        """Return those of some columns that a query may select, and the names of the others."""
        dropped: list[str] = []
        while columns:
            query = select([column.expression for column in columns], table.name)
            try:
                await self._client.query(f"{query} FETCH FIRST 1 ROWS ONLY", priority, table.name)
                break
            except UnknownColumnError as error:
                name = error.column.rpartition(".")[2].lower()
                left = [column for column in columns if column.name != name]
                if len(left) == len(columns):
                    raise SourceObjectError(str(error)) from error
                dropped.append(name)
                columns = left
            except RefusedQueryError as error:
                if all(column.kind == "text" for column in columns):
                    raise
                # A text that looks like a date, or a date without a time zone, cannot be formatted.
                log.info("NetSuite: %s: %s; its dates are captured in the display format", table.name, error)
                times = {table.stamp, *table.created}
                columns = [c if c.name in times and c.kind == "time" else Column(c.name) for c in columns]
                if len(columns) > 1 and all(c.kind == "text" or c.name in times for c in columns):
                    columns = await self._formatted(table, columns, priority)
                    break
        return columns, dropped

    async def _formatted(self, table: Table, columns: list[Column], priority: Priority) -> list[Column]:
        """Return the columns, with the times as text where NetSuite refuses to format them."""
        try:
            query = select([column.expression for column in columns], table.name)
            await self._client.query(f"{query} FETCH FIRST 1 ROWS ONLY", priority, table.name)
        except RefusedQueryError:
            return [Column(column.name) for column in columns]
        return columns

    async def _described(self, table: Table, priority: Priority) -> dict[str, Kind]:
        """Return the columns that the metadata of the record service describes; none if it does not describe the table."""
        try:
            found = await self._client.get(
                f"{CATALOG_PATH}/{table.name}", priority, table.name, "application/schema+json"
            )
        except CDCError as error:
            if not isinstance(error, SourceObjectError):
                raise
            return {}  # transactions are described by their kinds only, and the role need not see the catalogue
        properties = found.get("properties")
        kinds: dict[str, Kind] = {}
        for name, described in (properties if isinstance(properties, dict) else {}).items():
            if isinstance(described, dict) and _is_column(described) and _NAME.fullmatch(name.lower()):
                kinds[name.lower()] = _kind_of(table, name.lower(), "", described)
        return kinds


def schema_of(columns: Columns, titles: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a JSON Schema of a table's rows. NetSuite answers with texts, and so are they published: nothing is rounded."""
    properties: dict[str, Any] = {name: {"type": "string"} for name in columns.table.keys}
    for part in columns.parts:
        for column in part:
            entry: dict[str, Any] = {"type": ["string", "null"]}
            if column.kind != "text":
                entry["format"] = "date" if column.kind == "date" else "date-time"
            properties[column.name] = entry
    return {"type": "object", "title": columns.table.name, "properties": properties}


def _is_column(described: Mapping[str, Any]) -> bool:
    """Return whether a property is a column: sublists and subrecords are objects that are not references."""
    if described.get("type") != "object":
        return described.get("type") != "array"
    return "refName" in (described.get("properties") or {})


def _kind_of(table: Table, name: str, value: Any, described: Mapping[str, Any] | None = None) -> Kind:
    if name == table.stamp or name in table.created or name in CREATED:
        return "time"
    if name in table.dates:
        return "date"
    if described is not None:
        form = described.get("format")
        return "time" if form == "date-time" else "date" if form == "date" else "text"
    match = _DISPLAYED_DATE.fullmatch(str(value)) if value else None
    return "date" if match is not None else "text"
