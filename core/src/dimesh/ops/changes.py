"""Change events as an operator reads them: the object, the key, and the fields that changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimesh.errors import PayloadError
from dimesh.events.event import Event


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a row before and after a change."""

    name: str
    known_before: bool
    """Whether the row before the change is known."""
    before: Any
    """The value before the change; None if there was none, or it is not known."""
    after: Any
    """The value after the change; None if there is none."""


@dataclass(frozen=True, slots=True)
class ChangeSummary:
    """One change of one row."""

    source: str
    object: str
    key: Mapping[str, Any]
    operation: str
    fields: tuple[FieldChange, ...]
    """The fields that changed. Of a row that was created, read or deleted, all fields that it has."""


def summarize_change(event: Event) -> ChangeSummary | None:
    """Return the change that an event reports; None if the event is not a change event of this mesh."""
    if not event.event_type.value.startswith("cdc."):
        return None
    try:
        payload = event.payload
    except PayloadError:
        return None
    if not isinstance(payload, dict):
        return None
    name, key, operation = payload.get("object"), payload.get("primary_key"), payload.get("operation")
    before, after = payload.get("before"), payload.get("after")
    if not (isinstance(name, str) and isinstance(key, dict) and isinstance(operation, str)):
        return None
    if not all(row is None or isinstance(row, dict) for row in (before, after)):
        return None
    changed = payload.get("changed_fields")
    named = [field for field in changed if isinstance(field, str)] if isinstance(changed, list) else []
    return ChangeSummary(
        str(payload.get("source_system", "")),
        name,
        key,
        operation,
        tuple(_fields(key, before, after, named, bool(payload.get("partial")))),
    )


def _fields(
    key: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    named: list[str],
    partial: bool,
) -> list[FieldChange]:
    if before is None or after is None:
        row = after if after is not None else before or {}
        names = [name for name in named if name in row] if before is None and named else list(row)
        return [
            FieldChange(
                name,
                before is not None,
                None if before is None else row[name],
                None if after is None else row[name],
            )
            for name in names
            if not (name in key and key[name] == row[name])
        ]
    # Of a row that is known in part only, a field that is missing has not changed.
    names = [*after, *(name for name in before if name not in after and not partial)]
    return [
        FieldChange(name, True, before.get(name), after.get(name))
        for name in names
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
