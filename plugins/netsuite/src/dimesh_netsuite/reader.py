"""Reads pages of rows. Pages follow a key, never an offset: NetSuite runs the query again for each page, and rows move
meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dimesh.errors import SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.client import Client, Row, UnknownColumnError
from dimesh_netsuite.columns import ColumnFinder, Columns
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.records import Table
from dimesh_netsuite.rows import Key, Read, digest_of, key_of
from dimesh_netsuite.suiteql import (
    CREATED_ALIAS,
    STAMP_ALIAS,
    Column,
    after,
    number,
    select,
    since,
    text,
    utc,
)

AT_ONCE: Final = 500
"""The largest number of keys in one query; a list of Oracle's holds 1,000."""
_TRIES: Final = 4
_SMALLEST: Final = 10
"""The smallest size of a page."""


class RowPage(NamedTuple):
    """A page of rows."""

    rows: list[Read]
    more: bool
    last: Key | None
    """The key of the last row that NetSuite returned; None: it returned none."""
    stamp: str
    """The stamp of that row."""


class Reader:
    """Reads the rows of tables."""

    def __init__(self, options: NetSuiteOptions, client: Client, columns: ColumnFinder) -> None:
        self._options = options
        self._client = client
        self._limits: dict[str, int] = {}
        """The size of a page that a table's queries are answered in time with, where it is smaller than the option."""
        self.columns = columns

    async def page(
        self, table: Table, last: Key | None, priority: Priority, limit: int | None = None
    ) -> RowPage:
        """Return the rows that follow a key, in the order of keys."""
        order = [f"t.{name}" for name in table.keys]
        where = [after(order, [number(part) for part in last])] if last is not None else []
        return _moved(table, await self._page(table, where, order, priority, limit), last)

    async def changed(
        self, table: Table, stamp: str, cursor: tuple[str, Key] | None, priority: Priority
    ) -> RowPage:
        """Return rows whose last change is not before ``stamp``, in the order of their changes.

        Args:
            table: the table, whose rows have a stamp.
            stamp: a time in UTC.
            cursor: the stamp and the key of the row to continue after; None: from ``stamp`` on.
            priority: which request goes first.
        """
        assert table.stamp is not None
        moment = utc(table.stamp)
        order = [moment, *(f"t.{name}" for name in table.keys)]
        where = [since(table.stamp, stamp if cursor is None else cursor[0])]
        if cursor is not None:
            where.append(after(order, [text(cursor[0]), *(number(part) for part in cursor[1])]))
        page = await self._page(table, where, order, priority)
        return _moved(table, page, cursor[1] if cursor is not None and page.stamp == cursor[0] else None)

    async def by_keys(self, table: Table, keys: Sequence[Key], priority: Priority) -> dict[Key, Read]:
        """Return the rows of keys, by key; a row that is not visible is left out."""
        found: dict[Key, Read] = {}
        for begin in range(0, len(keys), AT_ONCE):
            group = keys[begin : begin + AT_ONCE]
            # A group may have more rows than a page only if a page is smaller than it.
            page = await self._page(
                table, [_one_of(table, group)], [f"t.{name}" for name in table.keys], priority, 1_000
            )
            found |= {read.key: read for read in page.rows}
        return found

    async def of_parents(
        self, table: Table, parents: Iterable[str], priority: Priority
    ) -> dict[str, list[Read]]:
        """Return all rows of an object that belong to rows of ``transaction``, by the id of these."""
        assert table.parent is not None
        ids = [number(parent) for parent in dict.fromkeys(parents)]
        found: dict[str, list[Read]] = {id: [] for id in ids}
        order = [f"t.{name}" for name in table.keys]
        for begin in range(0, len(ids), AT_ONCE):
            group = f"t.{table.parent} IN ({', '.join(ids[begin : begin + AT_ONCE])})"
            last: Key | None = None
            while True:
                where = [group] + (
                    [after(order, [number(part) for part in last])] if last is not None else []
                )
                page = await self._page(table, where, order, priority, 1_000)
                for read in page.rows:
                    found[str(read.row[table.parent])].append(read)
                if not page.more or page.last is None:
                    break
                last = page.last
        return found

    async def keys_of(self, table: Table, keys: Sequence[Key], priority: Priority) -> set[Key]:
        """Return those of some keys whose rows are visible."""
        found: set[Key] = set()
        for begin in range(0, len(keys), AT_ONCE):
            where = [_one_of(table, keys[begin : begin + AT_ONCE])]
            query = select([f"t.{name}" for name in table.keys], table.name, where)
            page = await self._client.query(query, priority, table.name)
            found |= {key_of(table, row) for row in page.rows}
        return found

    @property
    def page_size(self) -> int:
        """The number of rows of a page."""
        return self._options.page

    async def stamps(
        self, table: Table, stamp: str, cursor: tuple[str, Key] | None, priority: Priority
    ) -> list[tuple[Key, str]]:
        """Return a page of the keys of changed rows with the times of their changes; see :meth:`changed`."""
        assert table.stamp is not None
        moment = utc(table.stamp)
        keys = [f"t.{name}" for name in table.keys]
        order = [moment, *keys]
        where = [since(table.stamp, stamp if cursor is None else cursor[0])]
        if cursor is not None:
            where.append(after(order, [text(cursor[0]), *(number(part) for part in cursor[1])]))
        query = select([*keys, f"{moment} AS {STAMP_ALIAS}"], table.name, where, order)
        page = await self._client.query(query, priority, table.name, self._options.page)
        return [(key_of(table, row), str(row.get(STAMP_ALIAS, ""))) for row in page.rows]

    async def size(self, table: Table, priority: Priority) -> tuple[int, int | None]:
        """Return the number of rows that the role sees, and their largest id (None: there is none)."""
        newest = [f"MAX(t.{table.keys[0]}) AS newest"] if len(table.keys) == 1 else []
        query = select(["COUNT(*) AS n", *newest], table.name)
        page = await self._client.query(query, priority, table.name)
        try:
            row = page.rows[0]
            return int(row["n"]), int(row["newest"]) if row.get("newest") else None
        except (IndexError, KeyError, ValueError) as error:
            raise SourceUnavailableError(f"NetSuite did not count the rows of {table.name}") from error

    # -- parts of wide rows ------------------------------------------------------------------------

    async def _page(
        self,
        table: Table,
        where: Sequence[str],
        order: Sequence[str],
        priority: Priority,
        limit: int | None = None,
    ) -> RowPage:
        for tried in range(_TRIES):
            columns = await self.columns.of(table, priority)
            most = limit or self._limits.get(table.name, self._options.page)
            try:
                page = await self._whole_page(columns, where, order, priority, most)
                if limit is None and most < self._options.page:
                    self._limits[table.name] = min(most * 2, self._options.page)
                return page
            except SourceUnavailableError:
                # Some queries are answered in time only if they have few rows: the next attempt asks for half as many.
                if limit is None:
                    self._limits[table.name] = max(most // 2, min(_SMALLEST, self._options.page))
                raise
            except UnknownColumnError:
                # A field was removed, or the role has lost the permission to see it.
                self.columns.forget(table)
                if tried == _TRIES - 1:
                    raise
        raise AssertionError("not reached")

    async def _whole_page(
        self, columns: Columns, where: Sequence[str], order: Sequence[str], priority: Priority, limit: int
    ) -> RowPage:
        table = columns.table
        query = select(_selected(columns, columns.parts[0]), table.name, where, order)
        page = await self._client.query(query, priority, table.name, limit)
        if not page.rows:
            return RowPage([], page.more, None, "")
        last = key_of(table, page.rows[-1])
        stamp = str(page.rows[-1].get(STAMP_ALIAS, ""))
        rows = page.rows
        if len(columns.parts) > 1:
            rows = await self._joined(columns, rows, priority)
        names = columns.names
        return RowPage([_read(columns, names, row) for row in rows], page.more, last, stamp)

    async def _joined(self, columns: Columns, rows: list[Row], priority: Priority) -> list[Row]:
        """Return rows with the columns of all parts. Parts of a row that changed between the queries are read again together."""
        table = columns.table
        whole = {key_of(table, row): row for row in rows}
        pending = list(whole)
        for tried in range(_TRIES):
            torn: set[Key] = set()
            first = 0 if tried else 1
            got: dict[Key, Row] = {} if tried else {key: whole[key] for key in pending}
            for part in columns.parts[first:]:
                seen: set[Key] = set()
                for begin in range(0, len(pending), AT_ONCE):
                    condition = _one_of(table, pending[begin : begin + AT_ONCE])
                    query = select(_selected(columns, part), table.name, [condition])
                    page = await self._client.query(query, priority, table.name)
                    for row in page.rows:
                        key = key_of(table, row)
                        seen.add(key)
                        before = got.get(key)
                        if before is not None and before.get(STAMP_ALIAS) != row.get(STAMP_ALIAS):
                            torn.add(key)
                        got[key] = {**(before or {}), **row}
                for key in set(pending) - seen:  # deleted meanwhile
                    got.pop(key, None)
                    whole.pop(key, None)
                    torn.discard(key)
                pending = [key for key in pending if key in whole]
            whole |= {key: row for key, row in got.items() if key not in torn}
            pending = [key for key in pending if key in torn]
            if not pending:
                return list(whole.values())
        raise SourceUnavailableError(
            f"{len(pending)} rows of {table.name} changed again and again while they were read"
        )


def _moved(table: Table, page: RowPage, last: Key | None) -> RowPage:
    """Return a page, unless it ends at the row after which it was to begin: reading would never end."""
    if page.last is not None and page.last == last:
        raise SourceUnavailableError(f"NetSuite answers with the same page of {table.name} again and again")
    return page


def _selected(columns: Columns, part: Sequence[Column]) -> list[str]:
    found = [f"t.{name}" for name in columns.table.keys]
    if columns.stamp is not None:
        found.append(f"{utc(columns.stamp)} AS {STAMP_ALIAS}")
    if columns.created is not None:
        found.append(f"{utc(columns.created)} AS {CREATED_ALIAS}")
    return [*found, *(column.expression for column in part)]


def _one_of(table: Table, keys: Sequence[Key]) -> str:
    if len(table.keys) == 1:
        return f"t.{table.keys[0]} IN ({', '.join(number(key[0]) for key in keys)})"
    rows = [
        "("
        + " AND ".join(f"t.{name} = {number(part)}" for name, part in zip(table.keys, key, strict=True))
        + ")"
        for key in keys
    ]
    return "(" + " OR ".join(rows) + ")"


def _read(columns: Columns, names: Sequence[str], row: Row) -> Read:
    stamp, created = row.get(STAMP_ALIAS), row.get(CREATED_ALIAS)
    get = row.get
    whole = {name: get(name) for name in names}
    # A column that is new, and empty, does not make another row.
    filled = {name: value for name, value in whole.items() if value is not None}
    return Read(key_of(columns.table, row), stamp, created, whole, digest_of(filled))
