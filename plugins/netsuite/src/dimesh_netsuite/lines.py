"""The lines of transactions, in the rows of their headers.

A line may change while the header's time does not, and an update may remove lines and add others without a record of it. With its
lines, the row of a transaction shows both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import TABLES, Table
from dimesh_netsuite.rows import Key, Read, digest_of

LINE: Final = TABLES["transactionline"]
HEADER: Final = TABLES["transaction"]
FIELD: Final = "lines"


@dataclass(frozen=True, slots=True)
class Lines:
    """Adds lines to transactions."""

    options: NetSuiteOptions
    reader: Reader

    def wanted(self, table: Table) -> bool:
        """Return whether the rows of a table have lines."""
        return self.options.lines and table.name == "transaction"

    async def touched(self, stamp: str) -> AsyncIterator[list[Read]]:
        """Yield the transactions of lines that changed since a time, a page at a time: the time of the header need not have
        moved.
        """
        if (await self.reader.columns.of(LINE)).stamp is None:
            return
        cursor: tuple[str, Key] | None = None
        while True:
            page = await self.reader.stamps(LINE, stamp, cursor, Priority.STREAM)
            keys: list[Key] = [(id,) for id in dict.fromkeys(key[0] for key, _ in page)]
            found = await self.reader.by_keys(HEADER, keys, Priority.STREAM)
            yield list(found.values())
            if len(page) < self.reader.page_size:
                return
            cursor = (page[-1][1], page[-1][0])

    async def added(self, table: Table, rows: Sequence[Read], priority: Priority) -> list[Read]:
        """Return rows with their lines, in the order of the lines' ids. A transaction that changed after its row was read may
        have newer lines; the next poll finds it again.
        """
        if not rows or not self.wanted(table):
            return list(rows)
        found = await self.reader.of_parents(LINE, (read.key[0] for read in rows), priority)
        whole = []
        for read in rows:
            row = {**read.row, FIELD: [line.row for line in found[read.key[0]]]}
            whole.append(
                read._replace(
                    row=row, digest=digest_of([read.digest, *(line.digest for line in found[read.key[0]])])
                )
            )
        return whole
