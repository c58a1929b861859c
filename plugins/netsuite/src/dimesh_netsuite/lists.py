"""All rows of an object, and single rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_netsuite.client import Client
from dimesh_netsuite.deletes import Deletes
from dimesh_netsuite.lines import Lines
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import TABLES, Table
from dimesh_netsuite.rows import Key, Read, delete_change, row_change


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The place in the list of all rows: the key of the last row that was read."""

    last: list[str]


PLACES: Final = PositionCodec(Place, "NetSuite")


class Lists:
    """Lists the rows of objects, and reads single ones."""

    def __init__(self, client: Client, reader: Reader, deletes: Deletes, lines: Lines) -> None:
        self._client = client
        self._reader = reader
        self._deletes = deletes
        self._lines = lines

    async def snapshot(self, table: Table, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield all rows, in the order of keys."""
        last: Key | None = tuple(PLACES.decode(resume, table.name).last) if resume is not None else None
        total: int | None = None
        if last is None:
            total, _ = await self._reader.size(table, Priority.SNAPSHOT)
        while True:
            page = await self._reader.page(table, last, Priority.SNAPSHOT)
            if page.last is None:
                if last is None and total:
                    raise SourceObjectError(
                        f"{table.name} has {total} rows, and NetSuite answered without any: the query selects too many "
                        "columns, or "
                        "the role may count the rows and not read them"
                    )
                return
            last = page.last
            changes = await self._changes(table, page.rows, Priority.SNAPSHOT)
            yield ChangeBatch(changes, PLACES.encode(Place(list(last))), total)
            if not page.more:
                return

    async def after(self, table: Table, key: Mapping[str, Any] | None, limit: int) -> Sequence[Change] | None:
        """Return the rows that follow a row; see :class:`dimesh.spi.cdc.SamplesRows`."""
        last: Key | None = None
        if key is not None:
            last = tuple(str(key[name]) for name in table.keys)
            if not await self._reader.keys_of(table, [last], Priority.VERIFICATION):
                return None
        page = await self._reader.page(table, last, Priority.VERIFICATION, limit)
        return await self._changes(table, page.rows, Priority.VERIFICATION)

    async def read_rows(self, table: Table, keys: Sequence[Mapping[str, Any]]) -> list[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`.

        A row that is not visible may be hidden from the role. It counts as deleted only if there is a record of its delete, or,
        for a line, if its transaction is visible or was deleted: the lines of a transaction are visible with it.
        """
        wanted = [tuple(str(key[name]) for name in table.keys) for key in keys]
        found = await self._reader.by_keys(table, wanted, Priority.SNAPSHOT)
        read = self._client.time()
        rows = await self._changes(table, list(found.values()), Priority.SNAPSHOT)
        present = dict(zip(found, rows, strict=True))
        gone = await self._gone(table, [key for key in wanted if key not in found])
        at = datetime.fromtimestamp(read, UTC)
        return [
            present[key] if key in present else delete_change(table, key, at) if key in gone else None
            for key in wanted
        ]

    async def _gone(self, table: Table, absent: Sequence[Key]) -> set[Key]:
        """Return those of some keys whose rows were certainly deleted."""
        if not absent:
            return set()
        if table.parent is None:
            recorded = await self._deletes.recorded(table, [key[0] for key in absent], Priority.SNAPSHOT)
            return {key for key in absent if key[0] in recorded}
        at = table.keys.index(table.parent)
        parents = list(dict.fromkeys(key[at] for key in absent))
        transaction = TABLES["transaction"]
        keys: list[Key] = [(parent,) for parent in parents]
        visible = {key[0] for key in await self._reader.keys_of(transaction, keys, Priority.SNAPSHOT)}
        rest = [parent for parent in parents if parent not in visible]
        decided = visible | await self._deletes.recorded(transaction, rest, Priority.SNAPSHOT)
        return {key for key in absent if key[at] in decided}

    async def _changes(self, table: Table, rows: Sequence[Read], priority: Priority) -> list[Change]:
        read = self._client.time()
        whole = await self._lines.added(table, rows, priority)
        return [row_change(table, row, read) for row in whole]
