"""Converts Stripe's events and rows to changes."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from dimesh.spi.cdc import Before, Change, Operation
from dimesh_stripe.resource import Resource

Row = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def change_of(event: Mapping[str, Any], resource: Resource, own: str | None = None) -> Change:
    """Return the change that an event describes; ``own`` is the prefix of the idempotency keys of own requests.

    Stripe names the request that caused an event, and not who sent it: there is no actor.
    """
    data = event["data"]
    row = data["object"]
    previous = data.get("previous_attributes")
    operation = resource.operation(event["type"])
    if operation is Operation.INSERT and event["created"] - row.get("created", event["created"]) > NEW:
        operation = Operation.UPDATE  # such as charge.succeeded, days after charge.pending
    if event["type"] == "payment_method.detached" and not str(row.get("id")).startswith("pm_"):
        operation = Operation.DELETE  # a card or source is gone once it is detached (dj-stripe #967, #1068)
    before: Mapping[str, Any] | None = None
    if operation is Operation.DELETE:
        before = row
    elif previous is not None:
        before = before_of(row, previous)
    return _reported(event, resource, own, operation, row, before, previous or ())


def entries_of(
    event: Mapping[str, Any], resource: Resource, rows: Sequence[Mapping[str, Any]], own: str | None = None
) -> list[Change]:
    """Return the changes of rows that are entries of a list in the event of another object.

    Args:
        event: the event.
        resource: the object whose rows they are.
        rows: the entries as they are after the event.
        own: as for :func:`change_of`.
    """
    assert resource.inside is not None
    data, name = event["data"], resource.inside.field
    if event["type"] in resource.inside.gone:
        return [_reported(event, resource, own, Operation.DELETE, row, row) for row in rows]
    previous = data.get("previous_attributes")
    earlier: Mapping[str, Mapping[str, Any]] | None = None
    if event["type"].endswith(".created"):
        earlier = {}
    elif previous is not None:
        if name not in previous:
            return []
        listed = previous[name] or {}
        if not listed.get("has_more"):
            earlier = {row["id"]: row for row in listed.get("data", ())}
    found = []
    for row in rows:
        if earlier is None:  # which of them are new is unknown, but for their age
            new = event["created"] - row.get("created", 0) <= NEW
            found.append(
                _reported(event, resource, own, Operation.INSERT if new else Operation.SNAPSHOT, row)
            )
        elif row["id"] not in earlier:
            found.append(_reported(event, resource, own, Operation.INSERT, row))
        elif (before := earlier[row["id"]]) != row:
            changed = [field for field in {**before, **row} if before.get(field) != row.get(field)]
            found.append(_reported(event, resource, own, Operation.UPDATE, row, before, changed))
    gone = {row["id"]: row for row in (earlier or {}).values()}
    for row in rows:
        gone.pop(row["id"], None)
    # Both lists are whole: the event reports that these are no longer on it.
    return found + [_reported(event, resource, own, Operation.DELETE, row, row) for row in gone.values()]


def _reported(
    event: Mapping[str, Any],
    resource: Resource,
    own: str | None,
    operation: Operation,
    row: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    changed: Iterable[str] = (),
) -> Change:
    """Return a change that an event reports."""
    request = event.get("request")
    if not isinstance(request, Mapping):  # before 2017 it was only the id
        request = {"id": request, "idempotency_key": None}
    key = request.get("idempotency_key")
    entry = row is not event["data"]["object"]
    metadata = {
        "event_type": event["type"],
        "livemode": event.get("livemode"),
        "account": event.get("account"),
        "idempotency_key": key,
    }
    return Change(
        identity=f"{event['id']}:{row['id']}" if entry else event["id"],
        operation=operation,
        object=resource.name,
        primary_key=resource.key_of(row, str(event["data"]["object"].get("id") or "") if entry else ""),
        before=before,
        after=None if operation is Operation.DELETE else row,
        timestamp=datetime.fromtimestamp(event["created"], UTC),
        sequence=str(event["created"]),
        before_from=Before.NATIVE if before is not None else Before.NONE,
        changed_fields=sorted(changed),
        # Events cannot be asked to expand a field (airbytehq/airbyte #85087).
        not_current=[name for name in resource.expand if name not in row],
        own=bool(own and isinstance(key, str) and key.startswith(own)),
        transaction=request.get("id"),
        api_version=event.get("api_version"),
        metadata=metadata,
    )


def row_of(
    row: Mapping[str, Any], resource: Resource, read: float, api_version: str, parent: str = ""
) -> Change:
    """Return the change for a row that was read; ``parent`` is the id of the row that it was listed under."""
    content = hashlib.blake2b(_encode(row), digest_size=10).hexdigest()
    key = resource.key_of(row, parent)
    return Change(
        identity=f"{_text(key)}:{content}",
        operation=Operation.SNAPSHOT,
        object=resource.name,
        primary_key=key,
        before=None,
        after=row,
        timestamp=_moment(read),
        api_version=api_version,
        metadata={"created": row.get("created")},
    )


@functools.lru_cache(16)
def _moment(time: float) -> datetime:
    """Return a time as a datetime: all rows of a page are read at the same one."""
    return datetime.fromtimestamp(time, UTC)


def added_row(row: Mapping[str, Any], resource: Resource, api_version: str) -> Change:
    """Return the change for a new row in a list that the stream follows: the id identifies the change."""
    return Change(
        identity=row["id"],
        operation=Operation.INSERT,
        object=resource.name,
        primary_key={"id": row["id"]},
        before=None,
        after=row,
        timestamp=datetime.fromtimestamp(row["created"], UTC),
        sequence=str(row["created"]),
        api_version=api_version,
        metadata={"created": row["created"]},
    )


def deleted_row(key: Mapping[str, Any], resource: Resource, read: float) -> Change:
    """Return the change for a row that turns out to be deleted when it is read."""
    return Change(
        identity=f"{_text(key)}:deleted",
        operation=Operation.DELETE,
        object=resource.name,
        primary_key=dict(key),
        before=None,
        after=None,
        timestamp=datetime.fromtimestamp(read, UTC),
    )


def _text(key: Mapping[str, Any]) -> str:
    if len(key) == 1:
        (value,) = key.values()
        return str(value)
    return ":".join(str(value) for value in key.values())


NEW: Final = 60
"""The largest age in seconds of a row that an event can be the first to show."""
FREE_KEYS: Final = frozenset({"metadata", "currency_options"})
"""The hashes whose keys are data: a null among the old values says that the key was absent. In any other hash, such as an
address, it is the old value."""


def before_of(row: Mapping[str, Any], previous: Mapping[str, Any], free: bool = False) -> dict[str, Any]:
    """Return the row before a change: old values replace new ones, nested hashes are merged, lists are replaced. An empty old
    hash was empty (recorded: ``{"metadata": {}}`` beside a metadata of one key).

    Args:
        row: the row, or a hash in it, after the change.
        previous: the old values of what changed.
        free: whether the keys are data; see :data:`FREE_KEYS`.
    """
    found = copy.deepcopy(dict(row))
    for name, old in previous.items():
        now = found.get(name)
        if isinstance(old, Mapping) and old and isinstance(now, Mapping):
            found[name] = before_of(now, old, name in FREE_KEYS)
        elif old is None and free:
            found.pop(name, None)
        else:
            found[name] = copy.deepcopy(old)
    return found


def cut_lists(row: Mapping[str, Any] | None) -> list[str]:
    """Return the names of a row's fields that hold the first page of a list which has more."""
    return [
        name
        for name, value in (row or {}).items()
        if isinstance(value, Mapping) and value.get("has_more") is True
    ]
