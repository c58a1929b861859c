"""The single changes of a ticket, from the export of ticket events.

The ticket export has the latest state of a ticket only. The events between two states, applied backwards to the latest one, give
each state between them, with the row before it. Events name the fields they change and the old values; whatever changed without
an event appears with the last change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dimesh.spi.cdc import Before, Change, Operation
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.changes import Row, deleted_change, epoch, moment

_OF_EVENT: Final = frozenset(
    {
        "id", "via", "via_reference_id", "event_type", "previous_value", "added_tags", "removed_tags", "comment_present",
        "comment_public", "body", "html_body", "plain_body", "public", "attachments", "author_id", "audit_id", "metadata",
        "type", "data", "revision_id", "resource", "macro_id", "macro_title", "macro_deleted", "recipients", "trusted",
    }
)  # fmt: skip
"""The fields of a child event that are not fields of the ticket."""
_STAMPS: Final = ("updated_at", "generated_timestamp")
_UNKNOWN: Final = object()


def changes_of(
    row: Row, events: Sequence[Row], resource: Resource, new: bool, stamp: int | None
) -> list[Change] | None:
    """Return the changes that led to a row; None: the events do not tell, for example since nothing in them is of the row.

    Args:
        row: the ticket as the export shows it.
        events: the events of the ticket since its last known state, oldest first.
        resource: the tickets.
        new: whether the ticket was created since.
        stamp: the time of the row in the export.
    """
    if not events:
        return None
    found: list[Change] = []
    after: Row | None = row
    for number in range(len(events) - 1, -1, -1):
        event = events[number]
        earlier = events[number - 1] if number else None
        if after is None:
            break  # the ticket was created by the event that was looked at last
        created = any(child.get("event_type") == "Create" for child in event.get("child_events", ()))
        before = None if created else _before(after, event, earlier)
        found.append(
            _change(event, before, after, resource, created, stamp if number == len(events) - 1 else None)
        )
        after = before
    found.reverse()
    if new and found and found[0].operation is not Operation.INSERT:
        return None  # the event of its creation is missing: what was before is not known
    return found


def _change(
    event: Row, before: Row | None, after: Row, resource: Resource, created: bool, stamp: int | None
) -> Change:
    when = epoch(event.get("timestamp")) or epoch(event.get("created_at")) or stamp or 0
    operation = Operation.UPDATE
    if created:
        operation = Operation.INSERT
    elif after.get("status") == "deleted":
        operation = Operation.DELETE
    elif before is not None and before.get("status") == "deleted":
        operation = Operation.UNDELETE
    identity, sequence = f"event:{event.get('id')}", f"{when}:{event.get('id')}"
    if operation is Operation.DELETE:
        tombstone = deleted_change(after, resource, when)
        identity, sequence = tombstone.identity, tombstone.sequence or sequence
    changed: list[str] = []
    if before is not None and operation is not Operation.DELETE:
        changed = sorted(name for name, value in after.items() if before.get(name) != value)
    updater = event.get("updater_id")
    return Change(
        identity=identity,
        operation=operation,
        object=resource.name,
        primary_key={resource.key: after.get(resource.key)},
        before=before,
        after=None if operation is Operation.DELETE else after,
        timestamp=moment(when),
        sequence=sequence,
        before_from=Before.DERIVED if before is not None else Before.NONE,
        changed_fields=changed,
        actor=str(updater) if isinstance(updater, int) and updater > 0 else None,
        transaction=str(event.get("id")),
        metadata={"via": event.get("via")} if event.get("via") else {},
    )


def _before(after: Row, event: Row, earlier: Row | None) -> Row:
    """Return a ticket as it was before an event."""
    before = dict(after)
    for child in reversed(list(event.get("child_events", ()))):
        if isinstance(child, dict) and child.get("event_type") == "Change":
            _revert(before, child)
    for name in _STAMPS:
        before.pop(name, None)
    if earlier is not None:
        when = epoch(earlier.get("timestamp"))
        if when is not None and "updated_at" in after:
            before["updated_at"] = moment(when).isoformat().replace("+00:00", "Z")
    return before


def _revert(row: Row, child: Row) -> None:
    """Undo one child event on a row."""
    previous = child.get("previous_value", _UNKNOWN)
    for name in child.keys() - _OF_EVENT:
        if name == "custom_ticket_fields" and isinstance(child[name], Mapping):
            if previous is not _UNKNOWN:
                _revert_fields(row, child[name], previous)
        elif name == "tags":
            row["tags"] = _earlier_tags(child, row.get("tags") or ())
        elif name in row and previous is not _UNKNOWN:
            row[name] = _alike(row[name], previous)
            if name == "subject" and "raw_subject" in row:
                row["raw_subject"] = row[name]


def _earlier_tags(child: Row, now: Iterable[Any]) -> list[Any]:
    added, removed = set(child.get("added_tags") or ()), list(child.get("removed_tags") or ())
    return sorted({str(tag) for tag in now if tag not in added} | {str(tag) for tag in removed})


def _revert_fields(row: Row, changed: Mapping[str, Any], previous: Any) -> None:
    """Undo the change of custom fields: a row lists them twice, by the same ids."""
    for field in ("custom_fields", "fields"):
        entries = row.get(field)
        if isinstance(entries, list):
            row[field] = [
                {**entry, "value": previous}
                if isinstance(entry, dict) and str(entry.get("id")) in changed
                else entry
                for entry in entries
            ]


def _alike(now: Any, previous: Any) -> Any:
    """Return an old value in the type of the row: events have some numbers as texts."""
    if (
        isinstance(now, int)
        and not isinstance(now, bool)
        and isinstance(previous, str)
        and previous.isdigit()
    ):
        return int(previous)
    return previous
