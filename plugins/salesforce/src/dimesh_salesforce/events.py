"""Change events of Salesforce as changes and gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_salesforce.fields import Fields
from dimesh_salesforce.schemas import HEADER, DecodingError, Schema

_OPERATIONS: Final[Mapping[str, Operation]] = {
    "CREATE": Operation.INSERT,
    "UPDATE": Operation.UPDATE,
    "DELETE": Operation.DELETE,
    "UNDELETE": Operation.UNDELETE,
}


@dataclass(frozen=True, slots=True)
class Unread:
    """Rows whose state an event does not tell: it is to be fetched."""

    cause: str
    changes: list[Change]
    """What is known of each; ``after`` is what is to be found out."""
    is_gap: bool
    """The change itself was not told either."""


def entity_of(event: Mapping[str, Any]) -> str:
    """The API name of the object that an event is about."""
    return str(event[HEADER]["entityName"])


def read(
    schema: Schema,
    event: Mapping[str, Any],
    fields: Fields,
    is_own: Callable[[str, str], bool],
    api_version: str,
) -> list[Change] | Unread | Gap:
    """What an event tells.

    Args:
        schema: by which it was read.
        event: the decoded event.
        fields: of its object.
        is_own: whether a change by this user, of this origin, is ours.
        api_version: of the rows.

    Raises:
        DecodingError: it does not fit its schema.
    """
    header: Mapping[str, Any] = event[HEADER]
    kind, ids = str(header["changeType"]), [str(id) for id in header["recordIds"]]
    moment = datetime.fromtimestamp(header["commitTimestamp"] / 1000, UTC)
    name = fields.object
    if kind == "GAP_OVERFLOW":
        return Gap(name, "one transaction changed more than Salesforce tells (GAP_OVERFLOW)", moment, moment)
    if any("*" in id for id in ids):
        return Gap(name, f"{kind} of {', '.join(ids)[:100]}: the ids are not told", moment, moment)
    operation = _OPERATIONS.get(kind.removeprefix("GAP_"))
    if operation is None:
        return Gap(name, f"a change of the unknown kind {kind[:40]!r}", moment, moment)
    user, origin = str(header["commitUser"]), str(header["changeOrigin"])
    changed = schema.names(header["changedFields"])
    nulled = schema.names(header["nulledFields"])
    diffs = schema.names(header["diffFields"])

    def change(
        id: str, after: dict[str, Any] | None, partial: bool = False, names: list[str] | None = None
    ) -> Change:
        return Change(
            identity=f"{header['transactionKey']}:{header['sequenceNumber']}:{id}",
            operation=operation,
            object=name,
            primary_key={"Id": id},
            before=None,
            after=after,
            timestamp=moment,
            sequence=f"{header['commitNumber']}.{header['sequenceNumber']:06}",
            changed_fields=names or (),
            partial=partial,
            actor=user or None,
            own=is_own(user, origin),
            transaction=str(header["transactionKey"]),
            api_version=api_version,
            metadata={"change_origin": origin, "commit_number": header["commitNumber"], "change_type": kind},
        )

    if kind.startswith("GAP_"):
        return Unread(
            f"{kind}: Salesforce could not tell what changed", [change(id, None) for id in ids], True
        )
    if operation is Operation.DELETE:
        return [change(id, None) for id in ids]
    row = fields.flat({name: value for name, value in event.items() if name != HEADER})
    if operation is Operation.UPDATE:
        told = [column for field in (*changed, *nulled, *diffs) for column in fields.columns(field)]
        names = list(dict.fromkeys(told))
        if diffs:
            return Unread(
                "told as a difference of texts", [change(id, None, False, names) for id in ids], False
            )
        for field in (*nulled, *changed):
            for column in fields.columns(field):
                row.setdefault(column, None)
        for field in nulled:
            for column in fields.columns(field):
                row[column] = None
        return [change(id, {"Id": id, **row}, True, names) for id in ids]
    # All that is not there has no value.
    seen = {column for field in schema.fields for column in fields.columns(field)}
    whole = {**dict.fromkeys(column for column in fields.types if column in seen), **row}
    return [change(id, {"Id": id, **whole}) for id in ids]


__all__ = ["DecodingError", "Unread", "entity_of", "read"]
