"""Events of Stripe as changes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from dimesh.spi.cdc import Before, Change, Operation
from dimesh_stripe.resources import Resource

_encode = msgspec.json.Encoder(order="deterministic").encode


def change_of(event: Mapping[str, Any], resource: Resource, own: str | None = None) -> Change:
    """The change that an event tells of; ``own`` is how idempotency keys of our own requests begin.

    Stripe says which request caused it, and not who made that: there is no actor.
    """
    data = event["data"]
    row = data["object"]
    previous = data.get("previous_attributes")
    operation = resource.operation(event["type"])
    after = None if operation is Operation.DELETE else row
    before: Mapping[str, Any] | None = None
    if operation is Operation.DELETE:
        before = row
    elif previous is not None:
        before = before_of(row, previous)
    request = event.get("request")
    if not isinstance(request, Mapping):  # before 2017 it was the id alone
        request = {"id": request, "idempotency_key": None}
    key = request.get("idempotency_key")
    return Change(
        identity=event["id"],
        operation=operation,
        object=resource.name,
        primary_key={"id": row.get("id")},
        before=before,
        after=after,
        timestamp=datetime.fromtimestamp(event["created"], UTC),
        sequence=str(event["created"]),
        before_from=Before.NATIVE if before is not None else Before.NONE,
        changed_fields=sorted(previous) if previous else (),
        own=bool(own and isinstance(key, str) and key.startswith(own)),
        transaction=request.get("id"),
        api_version=event.get("api_version"),
        metadata={
            "event_type": event["type"],
            "livemode": event.get("livemode"),
            "account": event.get("account"),
            "idempotency_key": key,
        },
    )


def row_of(row: Mapping[str, Any], resource: Resource, read: float, api_version: str) -> Change:
    """A row of a snapshot."""
    content = hashlib.blake2b(_encode(row), digest_size=10).hexdigest()
    return Change(
        identity=f"{row['id']}:{content}",
        operation=Operation.SNAPSHOT,
        object=resource.name,
        primary_key={"id": row["id"]},
        before=None,
        after=row,
        timestamp=datetime.fromtimestamp(read, UTC),
        api_version=api_version,
        metadata={"created": row.get("created")},
    )


def added_row(row: Mapping[str, Any], resource: Resource, api_version: str) -> Change:
    """A row that is new in a list whose rows never change: its id is all that tells it from others."""
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


def deleted_row(id: str, resource: Resource, read: float) -> Change:
    """A row that is found deleted when it is read."""
    return Change(
        identity=f"{id}:deleted",
        operation=Operation.DELETE,
        object=resource.name,
        primary_key={"id": id},
        before=None,
        after=None,
        timestamp=datetime.fromtimestamp(read, UTC),
    )


def before_of(row: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it was: old values laid over it, nested ones in part, lists whole. What is null in a nested place was
    not there.
    """
    found = copy.deepcopy(dict(row))
    for name, old in previous.items():
        now = found.get(name)
        if isinstance(old, Mapping) and isinstance(now, Mapping):
            nested = before_of(now, old)
            for key, value in old.items():
                if value is None:
                    nested.pop(key, None)
            found[name] = nested
        else:
            found[name] = copy.deepcopy(old)
    return found
