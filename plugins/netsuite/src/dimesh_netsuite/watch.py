"""Watches the size of a table: rows that a role no longer sees leave no other trace, and a refreshed account starts anew.

NetSuite hides rows from roles without any error. A table that shrinks by more than the recorded deletes is reported as a gap;
absence is never published as a delete.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dimesh.errors import SourcePositionLostError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import Gap
from dimesh_netsuite.client import Client
from dimesh_netsuite.deletes import Deletes
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import Table

SHARE: Final = 0.2
"""The share of the rows whose disappearance is reported."""
_LEAST: Final = 5


class Size(NamedTuple):
    """The size of a table, as the role sees it."""

    rows: int | None
    newest: int | None
    """The largest id; None: there is none, or the table has no single key."""


class Watch:
    """Counts the rows of a table from time to time."""

    def __init__(self, table: Table, reader: Reader, deletes: Deletes, client: Client) -> None:
        self._table = table
        self._reader = reader
        self._deletes = deletes
        self._client = client

    async def size(self) -> Size:
        """Return the size of the table now."""
        return Size(*await self._reader.size(self._table, Priority.STREAM))

    async def problem(self, now: Size, before: Size, deleted: int) -> Gap | None:
        """Return the gap that a table which shrank stands for; None: it did not shrink.

        Args:
            now: the size of the table now.
            before: its size when it was counted last.
            deleted: the number of deletes that were returned since then.

        Raises:
            SourcePositionLostError: the largest id fell, and there is no record of a delete: the account was refreshed.
        """
        if (
            before.newest is not None
            and (now.newest or 0) < before.newest
            and self._deletes.tracked(self._table)
        ):
            gone = await self._deletes.recorded(self._table, [str(before.newest)], Priority.STREAM)
            if not gone and (now.rows or 0) >= (before.rows or 0) * (1 - SHARE):
                raise SourcePositionLostError(
                    f"the largest id of {self._table.name} fell from {before.newest} to {now.newest}, and there is no "
                    "record of a "
                    "delete: the account was probably refreshed, so that all rows must be read again"
                )
        if before.rows is None or now.rows is None:
            return None
        lost = before.rows - now.rows - deleted
        if lost < _LEAST or lost <= before.rows * SHARE:
            return None
        return Gap(
            self._table.name,
            f"the role sees {now.rows} rows of {self._table.name}, and saw {before.rows} before: unless so many were "
            "deleted, a "
            "permission or a restriction by subsidiary has changed, and changes of the other rows are missing",
            resnapshot=False,
        )
