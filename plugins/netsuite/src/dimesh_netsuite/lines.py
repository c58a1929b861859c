"""The lines of transactions, in the rows of their headers.

A line may change while the header's time does not, and an update may remove lines and add others without a record of it. With its
lines, the row of a transaction shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import TABLES, Table
from dimesh_netsuite.rows import Read, digest_of

LINE: Final = TABLES["transactionline"]
FIELD: Final = "lines"


@dataclass(frozen=True, slots=True)
class Lines:
    """Adds lines to transactions."""

    options: NetSuiteOptions
    reader: Reader

    def wanted(self, table: Table) -> bool:
        """Return whether the rows of a table have lines."""
        return self.options.lines and table.name == "transaction"

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
            whole.append(read._replace(row=row, digest=digest_of(row)))
        return whole
