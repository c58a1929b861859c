"""Converts Zendesk's rows to changes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from dimesh.spi.cdc import Before, Change, Operation
from dimesh_zendesk.catalogue import Resource

_RECENT: Final = 900
"""The number of seconds for which a row may have been held back again and again since it was created."""
Row = dict[str, Any]
_encode = msgspec.json.Encoder(order="deterministic").encode

SCRUB_SLACK: Final = 3_600
"""The largest number of seconds between a ticket's change and its place in the export (recorded: up to an hour)."""


def epoch(text: Any) -> int | None:
    """Return a time of a row in seconds since the epoch: a number, or a text such as ``2026-01-31T12:00:00Z``."""
    if isinstance(text, bool) or text is None:
        return None
    if isinstance(text, (int, float)):
        return int(text)
    return _epoch(text) if isinstance(text, str) else None


@functools.lru_cache(4_096)
def _epoch(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


@functools.lru_cache(1_024)
def moment(seconds: float) -> datetime:
    """Return a time as a datetime; many rows of a page share one."""
    return datetime.fromtimestamp(seconds, UTC)


def digest(row: Mapping[str, Any]) -> str:
    """Return what stands for the content of a row."""
    return hashlib.blake2b(_encode(row), digest_size=10).hexdigest()


def stamp_of(row: Row, resource: Resource) -> int | None:
    """Return the time of a row's last change; None: the row has none."""
    return epoch(row.get(resource.stamp)) or epoch(row.get("updated_at")) or epoch(row.get("created_at"))


def is_deleted(row: Row) -> bool:
    """Return whether a row is the tombstone of a deleted one: a deleted ticket, an inactive user, an organization or group with a
    mark.
    """
    if row.get("status") == "deleted" or row.get("permanently_deleted") or row.get("deleted_at"):
        return True
    return row.get("deleted") is True or ("role" in row and "email" in row and row.get("active") is False)


def is_scrubbed(row: Row) -> bool:
    """Return whether a ticket is the second tombstone: about 30 days after its delete it is shown again, without content
    (recorded).
    """
    return (
        row.get("status") == "deleted"
        and row.get("subject") == "SCRUBBED"
        and row.get("description") in ("X", "SCRUBBED")
    )


def key_of(row: Row, resource: Resource) -> dict[str, Any]:
    """Return the primary key of a row."""
    return {resource.key: row.get(resource.key)}


def snapshot_change(row: Row, resource: Resource, read: float) -> Change:
    """Return the change for a row that was read."""
    key = row.get(resource.key)
    stamp = row.get(resource.stamp)
    # An export has one state of a row for each time; other lists are told apart by content.
    state = stamp if resource.name == "tickets" else digest(row)
    return Change(
        identity=f"{key}:{state}",
        operation=Operation.SNAPSHOT,
        object=resource.name,
        primary_key={resource.key: key},
        before=None,
        after=row,
        timestamp=moment(read),
    )


def streamed_change(row: Row, resource: Resource, mark: int, read: float) -> Change:
    """Return the change for a row of an export.

    Args:
        row: the row.
        resource: the object.
        mark: the time up to which all rows were returned before: a row that was created later is new.
        read: when the row was read.
    """
    stamp = stamp_of(row, resource)
    if is_deleted(row):
        return deleted_change(row, resource, stamp if stamp is not None else read)
    created = epoch(row.get("created_at"))
    operation = Operation.UPDATE
    if resource.appends or (created is not None and (created > mark or created == mark == stamp)):
        operation = Operation.INSERT
    elif created is not None and created > mark - _RECENT:
        # A new row that changes again while it is held back comes late: the engine knows whether it was published.
        operation = Operation.SNAPSHOT
    # A row counts as read now, and a change as made at its time.
    when = read if operation is Operation.SNAPSHOT or stamp is None else stamp
    state = digest(row) if resource.way.value != "cursor" or stamp is None else stamp
    return Change(
        identity=f"{row.get(resource.key)}:{state}",
        operation=operation,
        object=resource.name,
        primary_key=key_of(row, resource),
        before=None,
        after=row,
        timestamp=moment(when),
        sequence=str(stamp) if stamp is not None else None,
    )


def deleted_change(row: Row, resource: Resource, when: float) -> Change:
    """Return the delete that a tombstone reports. A row may have two tombstones; both give the same identity."""
    deleted: Any = "once"
    if resource.name == "tickets":  # it may be restored and deleted again
        deleted = row.get("updated_at")
        when = epoch(deleted) or when
    metadata = {"permanently_deleted": True} if row.get("permanently_deleted") else {}
    return Change(
        identity=f"{row.get(resource.key)}:deleted:{deleted}",
        operation=Operation.DELETE,
        object=resource.name,
        primary_key=key_of(row, resource),
        before=None,
        after=None,
        timestamp=moment(when),
        sequence=str(int(when)),
        before_from=Before.NONE,
        metadata=metadata,
    )


def gone_change(key: Mapping[str, Any], resource: Resource, read: float) -> Change:
    """Return the delete of a row that turned out to be gone when it was read."""
    return Change(
        identity=f"{key[resource.key]}:deleted:once",
        operation=Operation.DELETE,
        object=resource.name,
        primary_key=dict(key),
        before=None,
        after=None,
        timestamp=moment(read),
    )
