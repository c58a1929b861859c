"""Looks rows up whose state the events do not have: after gap events, and for fields that events leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dimesh.clock import Clock
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_salesforce.deletes import Deletes
from dimesh_salesforce.events import RefetchNeeded
from dimesh_salesforce.fields import NOT_IN_ROWS, Fields, time_of
from dimesh_salesforce.rows import Row, Rows


@dataclass(frozen=True, slots=True)
class Found:
    """The result of looking for rows."""

    rows: Mapping[str, Row]
    deleted: Set[str]
    """The ids of rows that Salesforce says were deleted."""
    purged: bool
    """Whether it may not know of deletes any more."""


class Lookups:
    """Reads single rows of one org.

    Args:
        rows: reads the rows.
        deletes: reads the deletes.
        clock: time.
        read_lag: the number of seconds by which reading a row may lag behind its change events.
    """

    def __init__(self, rows: Rows, deletes: Deletes, clock: Clock, read_lag: float) -> None:
        self._rows = rows
        self._deletes = deletes
        self._clock = clock
        self._read_lag = read_lag

    async def find(self, fields: Fields, ids: Sequence[str]) -> Found:
        """Return the rows that are found, and the ids of those that Salesforce says were deleted: those in the recycle bin, or
        else in the log of deletes.
        """
        rows = await self._rows.rows_by_id(fields, ids)
        absent = [id for id in ids if id not in rows]
        binned = await self._deletes.in_recycle_bin(fields, absent)
        if len(binned) == len(absent):
            return Found(rows, binned, False)
        log = await self._deletes.log(fields)
        return Found(rows, binned | {id for id in absent if id in log.rows}, log.purged)

    async def refetch(self, fields: Fields, needed: RefetchNeeded) -> Sequence[Change | Gap]:
        """Return the changes with the current rows."""
        ids = _ids(needed.changes)
        found = await self.find(fields, ids)
        if len(found.rows) + len(found.deleted) < len(ids) or _stale(needed.changes, found.rows):
            # A read may lag behind the stream, by seconds (estuary/connectors #2678).
            await self._clock.sleep(self._read_lag)
            found = await self.find(fields, ids)
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        changes: list[Change] = []
        lost: list[Gap] = []
        for change in needed.changes:
            id = change.primary_key["Id"]
            row = found.rows.get(id)
            if (
                change.after is not None
                and id not in found.deleted
                and (row is None or _stale([change], found.rows))
            ):
                changes.append(change)  # as the event has it
            elif row is not None:
                again = change.operation is Operation.DELETE  # and has been undeleted since
                operation = Operation.UNDELETE if again else change.operation
                whole = without_stamps(row)
                changes.append(replace(change, operation=operation, after=whole, partial=False, as_of=now))
            elif id in found.deleted or change.operation is Operation.DELETE:
                changes.append(replace(change, operation=Operation.DELETE, after=None, partial=False))
            else:
                cause = f"the row {id} was changed and is not found, and Salesforce does not say that it was deleted"
                if found.purged:
                    cause += ": its log of deletes was purged"
                lost.append(
                    Gap(fields.object, cause, change.timestamp, change.timestamp, resnapshot=found.purged)
                )
        if not needed.is_gap:
            return [*changes, *lost]
        moment = needed.changes[0].timestamp if needed.changes else None
        return [Gap(fields.object, needed.cause, moment, moment, resnapshot=False, repair=changes), *lost]

    async def refresh(self, fields: Fields, changes: Sequence[Change]) -> list[Change]:
        """Return changes whose events leave out fields with the whole row, as it is now: the last change of each row, since the
        state after the earlier ones is gone. A change stays as it is if its row is not found, or is older than the change.
        """
        last = {
            change.primary_key["Id"]: change
            for change in changes
            if change.not_current and change.as_of is None and change.object == fields.object
        }
        wanted = {id: change for id, change in last.items() if change.after is not None}
        rows = await self._rows.rows_by_id(fields, list(wanted))
        late = [id for id, change in wanted.items() if id not in rows or _stale([change], rows)]
        if late:
            await self._clock.sleep(self._read_lag)
            rows = {**rows, **await self._rows.rows_by_id(fields, late)}
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        return [
            replace(change, after=without_stamps(rows[key]), partial=False, as_of=now)
            if wanted.get(key := str(change.primary_key["Id"])) is change
            and key in rows
            and not _stale([change], rows)
            else change
            for change in changes
        ]


def without_stamps(row: Row) -> Row:
    """Return a row without the fields that events never have."""
    return {name: value for name, value in row.items() if name not in NOT_IN_ROWS}


def _ids(changes: Sequence[Change]) -> list[str]:
    return list(dict.fromkeys(change.primary_key["Id"] for change in changes))


def _stale(changes: Sequence[Change], rows: Mapping[str, Row]) -> bool:
    """Return whether one of the rows that were found was read before its change was there: its stamp is older, and it does not
    have the values of the change. The stamp alone is not enough, since a transaction sets it and may commit much later.
    """
    for change in changes:
        row = rows.get(change.primary_key["Id"])
        stamp = time_of(row.get("SystemModstamp")) if row is not None else None
        if row is None or stamp is None or stamp >= change.timestamp.replace(microsecond=0):
            continue
        told = change.after
        if told is None or any(name in row and row[name] != value for name, value in told.items()):
            return True
    return False
