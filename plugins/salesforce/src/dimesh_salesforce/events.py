"""Converts change events of Salesforce to changes and gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_salesforce.fields import NOT_IN_ROWS, Fields
from dimesh_salesforce.schemas import HEADER, DecodingError, Schema

_OPERATIONS: Final[Mapping[str, Operation]] = {
    "CREATE": Operation.INSERT,
    "UPDATE": Operation.UPDATE,
    "DELETE": Operation.DELETE,
    "UNDELETE": Operation.UNDELETE,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_BITMAPS: Final = 1_000
"""The number of different bitmaps whose names are kept."""
_Step = tuple[str, Callable[[Any], Any] | None]
"""A field of a row, and the function that converts the value of an event."""


@dataclass(frozen=True, slots=True)
class RefetchNeeded:
    """Changes of rows whose state is not in the event: the rows must be fetched."""

    cause: str
    changes: list[Change]
    """The changes; ``after`` is None, or what the event has, which is published if the row is not found."""
    is_gap: bool
    """Whether the change itself is missing as well."""


def entity_of(event: Mapping[str, Any]) -> str:
    """Return the API name of the object that an event is about."""
    return str(event[HEADER]["entityName"])


class EventReader:
    """Reads the events of one version of an object's schema.

    Args:
        schema: the schema of the events.
        fields: the fields of the object.
        is_own: returns whether a change by this user, with this origin, is an own write.
        api_version: the API version of the rows.
    """

    def __init__(
        self, schema: Schema, fields: Fields, is_own: Callable[[str, str], bool], api_version: str
    ) -> None:
        self.fields = fields
        self._schema = schema
        self._is_own = is_own
        self._api_version = api_version
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._steps: dict[str, _Step] = {
            name: (name, fields.converter(name)) for name in schema.fields if name in fields.types
        }
        told = {column for name in schema.fields for column in fields.columns(name)}
        self._told = [column for column in fields.types if column in told]
        self.absent: tuple[str, ...] = tuple(
            column for column in fields.types if column not in told and column not in ("Id", *NOT_IN_ROWS)
        )
        """The fields of a row that events leave out: formulas, and other values that are derived. The schema of the events
        decides, since releases differ (Change Data Capture Developer Guide, *General Considerations*)."""
        self.hidden: tuple[str, ...] = tuple(
            name for name in schema.fields if not fields.columns(name) and name not in schema.arrays
        )
        """The fields of events that the user may not see: events have no values of them (*Field-Level Security*)."""
        halves = sorted(fields.contact_half - set(self.absent))
        self._not_in_updates = (*self.absent, *halves) if halves else ()
        self._required = frozenset(column for column in self._told if column in fields.required)

    def read(self, event: Mapping[str, Any]) -> Sequence[Change] | RefetchNeeded | Gap:
        """Return the changes in a decoded event, or the gap that it reports.

        Raises:
            DecodingError: the event does not fit its schema.
        """
        header: Mapping[str, Any] = event[HEADER]
        kind, ids = header["changeType"], header["recordIds"]
        moment = _EPOCH + timedelta(milliseconds=header["commitTimestamp"])
        name = self.fields.object
        if kind == "GAP_OVERFLOW":
            cause = "one transaction changed more than Salesforce reports (GAP_OVERFLOW)"
            return Gap(name, cause, moment, moment)
        for id in ids:
            if "*" in id:
                cause = f"{kind} of {', '.join(ids)[:100]}: Salesforce does not name the ids"
                return Gap(name, cause, moment, moment)
        operation = _OPERATIONS.get(kind.removeprefix("GAP_"))
        if operation is None:
            return Gap(name, f"a change has the unknown kind {kind[:40]!r}", moment, moment)
        changed = self._columns(header["changedFields"])
        nulled = self._columns(header["nulledFields"])
        diffs = self._columns(header["diffFields"])
        if kind.startswith("GAP_"):
            cause = f"{kind}: Salesforce could not report what changed"
            return RefetchNeeded(cause, self._changes(header, operation, moment, None, False, ()), True)
        if operation is Operation.DELETE:
            return self._changes(header, operation, moment, None, False, ())
        if operation is Operation.UPDATE:
            names = changed if not nulled and not diffs else tuple(dict.fromkeys((*changed, *nulled, *diffs)))
            if diffs:
                changes = self._changes(header, operation, moment, None, False, names)
                return RefetchNeeded("the event has only a difference of texts", changes, False)
            after = dict.fromkeys(names)
            self._fill(after, event)
            for column in nulled:
                after[column] = None
            changes = self._changes(header, operation, moment, after, True, names)
            cause = self._why_fetch(event, header, names)
            return RefetchNeeded(cause, changes, False) if cause else changes
        # Fields that are missing in the event have no value.
        after = dict.fromkeys(self._told)
        self._fill(after, event)
        lacking = [column for column in self._required if after[column] is None]
        if lacking:
            # For example, an inserted PricebookEntry has no creator (Change Data Capture Developer Guide).
            for column in lacking:
                del after[column]
            found = self._changes(header, operation, moment, after, False, ())
            changes = [replace(change, not_current=(*self.absent, *sorted(lacking))) for change in found]
            return RefetchNeeded("the event lacks fields that every row has", changes, False)
        changes = self._changes(header, operation, moment, after, False, ())
        if self._schema.arrays & event.keys():
            return RefetchNeeded("the event lists names", changes, False)
        return changes

    def _why_fetch(self, event: Mapping[str, Any], header: Mapping[str, Any], names: Sequence[str]) -> str:
        """Return the reason for which an update is not enough; empty if there is none."""
        arrays = self._schema.arrays
        if arrays and (
            arrays & event.keys() or not arrays.isdisjoint(self._schema.names(header["changedFields"]))
        ):
            # UserPreferences lists the preferences that are on; a row has a field for each of them.
            return "the event lists names"
        if self.fields.contact_half and "RecordTypeId" in names:
            return "the account may have become a person account, or none"
        return ""

    def _columns(self, bitmaps: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of a row that bitmaps name."""
        if not bitmaps:
            return ()
        key = tuple(bitmaps)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MAX_BITMAPS:
                self._known.clear()
            names = self._schema.names(bitmaps)
            columns = (column for name in names for column in self.fields.columns(name))
            found = self._known[key] = tuple(dict.fromkeys(columns))
        return found

    def _fill(self, row: dict[str, Any], event: Mapping[str, Any]) -> None:
        """Add the values of an event to a row."""
        steps = self._steps
        for name, value in event.items():
            step = steps.get(name)
            if value.__class__ is dict:
                if name != HEADER:
                    self._fill_compound(row, name, value)
            elif step is not None:
                column, convert = step
                row[column] = value if convert is None else convert(value)

    def _fill_compound(self, row: dict[str, Any], name: str, members: Mapping[str, Any]) -> None:
        for member, value in members.items():
            key = f"{name}.{member}"
            if key not in self._steps:
                column = self.fields.column(name, member)
                self._steps[key] = (column, self.fields.converter(column)) if column else ("", None)
            column, convert = self._steps[key]
            if column:
                row[column] = value if convert is None else convert(value)

    def _changes(
        self,
        header: Mapping[str, Any],
        operation: Operation,
        moment: datetime,
        after: Mapping[str, Any] | None,
        partial: bool,
        names: tuple[str, ...],
    ) -> list[Change]:
        """Return a change for each row of an event."""
        key, number, commit = header["transactionKey"], header["sequenceNumber"], header["commitNumber"]
        user, origin = header["commitUser"], header["changeOrigin"]
        absent = self.absent
        if self._not_in_updates and operation is Operation.UPDATE:
            absent = tuple(name for name in self._not_in_updates if name not in names)
        own, sequence = self._is_own(user, origin), f"{commit}.{number:06}"
        metadata = {"change_origin": origin, "commit_number": commit, "change_type": header["changeType"]}
        return [
            Change(
                identity=f"{key}:{number}:{id}",
                operation=operation,
                object=self.fields.object,
                primary_key={"Id": id},
                before=None,
                after=None if after is None else {"Id": id, **after},
                timestamp=moment,
                sequence=sequence,
                changed_fields=names,
                partial=partial,
                actor=user or None,
                own=own,
                transaction=key,
                api_version=self._api_version,
                metadata=metadata,
                not_current=absent,
            )
            for id in header["recordIds"]
        ]


__all__ = ["DecodingError", "EventReader", "RefetchNeeded", "entity_of"]
