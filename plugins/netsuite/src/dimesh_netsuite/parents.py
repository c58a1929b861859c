"""Lines of transactions whose header changed: an update may rewrite all of them, and what it removes leaves no record."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import TABLES, Table
from dimesh_netsuite.rows import Key, Read

_REMEMBERED: Final = 50_000
"""The largest number of transactions whose lines are remembered."""
HEADER: Final = TABLES["transaction"]


class Children:
    """Reads the lines of changed transactions, and finds those that are gone since they were read last."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lines: OrderedDict[str, frozenset[Key]] = OrderedDict()

    async def changed(self, table: Table, stamp: str) -> AsyncIterator[tuple[str, list[Read], list[Key]]]:
        """Yield for each transaction that changed since a time: that time, its lines, and the keys of lines that are gone."""
        cursor: tuple[str, Key] | None = None
        while True:
            page = await self._reader.stamps(HEADER, stamp, cursor, Priority.STREAM)
            lines = await self._reader.of_parents(table, (key[0] for key, _ in page), Priority.STREAM)
            for key, changed in page:
                reads = lines[key[0]]
                now = frozenset(read.key for read in reads)
                before = self._lines.pop(key[0], frozenset())
                self._lines[key[0]] = now
                while len(self._lines) > _REMEMBERED:
                    self._lines.popitem(last=False)
                yield changed, reads, sorted(before - now)
            if not page or len(page) < self._reader.page_size:
                return
            cursor = (page[-1][1], page[-1][0])
