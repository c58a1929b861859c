"""Objects without change events: histories, shares and feeds of other objects, and links of documents.

They are asked for the rows that changed since the last poll, by the time that each row has (Object Reference: histories have
``CreatedDate`` only, shares ``LastModifiedDate``, feeds ``SystemModstamp``). That time is set when a row is saved, and the row
appears when its transaction commits, so each poll goes back by the time that a transaction may take. The rows of that overlap
that were returned are remembered in the position.

Deletes, and links of documents, appear only when all rows are listed again (:class:`dimesh.spi.cdc.Relists`). Links cannot be
listed without the ids of their documents.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import SourceObjectError
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_salesforce.changes import FieldsOf, delete_found, row_change
from dimesh_salesforce.client import Client
from dimesh_salesforce.fields import Fields
from dimesh_salesforce.lookups import Lookups
from dimesh_salesforce.objects import is_append_only, is_polled
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.rows import Place, Row, Rows

OVERLAP: Final = timedelta(minutes=11)
"""How far a poll goes back: a transaction takes ten minutes at most (Apex Developer Guide, *Execution Governors and Limits*), and
reading lags by seconds (estuary/connectors #2678)."""
_NEVER: Final = 86_400.0
"""The number of seconds between two batches of a stream that has no changes."""
_MAX_KNOWN: Final = 2_000
"""The largest number of rows that a position remembers; further ones are returned again after a restart."""


class PollPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position in an object that is polled."""

    since: int
    """The beginning of the last complete poll, by Salesforce's clock."""
    known: list[str] = []
    """The digests of rows of the overlap that were returned."""


POLL_POSITIONS: Final = PositionCodec(PollPosition, "Salesforce")


class Polling:
    """Reads objects without change events."""

    def __init__(
        self,
        options: SalesforceOptions,
        clock: Clock,
        client: Client,
        rows: Rows,
        lookups: Lookups,
        fields_of: FieldsOf,
    ) -> None:
        self._options = options
        self._clock = clock
        self._client = client
        self._rows = rows
        self._lookups = lookups
        self._fields_of = fields_of

    async def position(self, fields: Fields) -> bytes:
        """Return the current position, which knows the rows of the overlap: they are in the snapshot."""
        if is_append_only(fields.object) and fields.stamp is None:
            raise SourceObjectError(
                f"{fields.object} cannot be captured: its rows have none of the times by which new ones are found"
            )
        began = int(self._client.time())
        return _encoded(began, [_digest(row) async for rows in self._changed(fields, began) for row in rows])

    async def stream(self, fields: Fields, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield new and changed rows, poll by poll."""
        at = POLL_POSITIONS.decode(position, fields.object)
        since, known = at.since, at.known
        while True:
            ours, began = self._clock.time(), int(self._client.time())
            returned, read = set(known), list[str]()
            async for rows in self._changed(fields, since):
                read += map(_digest, rows)
                new = [row for row in rows if _digest(row) not in returned]
                if new:
                    known = [*known, *map(_digest, new)]
                    yield ChangeBatch(new, _encoded(since, known))
            since, known = max(since, began), read
            yield ChangeBatch((), _encoded(since, known))
            report_delivered(ours)
            await self._clock.sleep(self._options.poll if _is_dated(fields) else _NEVER)

    async def _changed(self, fields: Fields, since: int) -> AsyncIterator[list[Change]]:
        """Yield the rows that changed after a time, or in the overlap before it."""
        if _is_dated(fields):
            async for rows in self._rows.since(fields, datetime.fromtimestamp(since, UTC) - OVERLAP):
                yield [row_change(fields, row, self._options, self._clock) for row in rows]

    async def by_parent(self, fields: Fields, place: Place | None) -> AsyncIterator[tuple[list[Row], Place]]:
        """Yield all rows of an object that is listed by the ids of another object's rows, each part with the place after it."""
        parent = await self._fields_of(fields.parent_object)
        last = place.last if place is not None else ""
        while ids := await self._rows.ids_after(parent, last):
            last = ids[-1]
            yield await self._rows.of_parents(fields, ids), Place(last)
        yield [], Place(last, done=True)

    async def read_rows(
        self, fields: Fields, keys: Sequence[Mapping[str, Any]]
    ) -> Sequence[Change | None] | None:
        """Return the current rows of an object whose deletes leave no trace; None: its deletes do.

        The rows that belong to one row of another object are visible together: the access to that row decides. So a row that is
        not found was deleted if others beside it are found, or if the row that it belongs to was deleted.
        """
        name = fields.parent_field
        if name is None:
            return None
        rows = await self._rows.rows_by_id(fields, [str(key["Id"]) for key in keys])
        absent = [key for key in keys if key["Id"] not in rows]
        parents = list(dict.fromkeys(str(key[name]) for key in absent if key.get(name)))
        beside = await self._rows.parents_with_rows(fields, parents)
        without = [id for id in parents if id not in beside]
        if without:
            # Nothing is known if the user may not read the other object.
            with contextlib.suppress(SourceObjectError):
                parent = await self._fields_of(fields.parent_object)
                beside |= (await self._lookups.find(parent, without)).deleted
        return [
            row_change(fields, rows[key["Id"]], self._options, self._clock)
            if key["Id"] in rows
            else delete_found(fields.object, key, "deleted", self._clock)
            if key.get(name) in beside
            else None
            for key in keys
        ]


def relist_interval(object: str, options: SalesforceOptions) -> float | None:
    """Return the interval at which all rows of an object are listed again; None: they are not."""
    listed = is_polled(object) and not is_append_only(object)
    return options.refresh or None if listed else None


def _is_dated(fields: Fields) -> bool:
    """Return whether the rows that changed since a time can be asked for."""
    return fields.stamp is not None and not fields.by_parent


def _digest(row: Change) -> str:
    return row.identity.rpartition(":")[2]


def _encoded(since: int, known: Sequence[str]) -> bytes:
    return POLL_POSITIONS.encode(PollPosition(since, list(known[-_MAX_KNOWN:])))
