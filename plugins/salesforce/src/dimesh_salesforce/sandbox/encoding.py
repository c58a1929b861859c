"""The values of change events, and the bitmaps that name the changed fields (recorded)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dimesh.sourcekit.sandbox import Row
from dimesh_salesforce.sandbox.kinds import FLAGS, Field, Kind


def grouped(kind: Kind, changed: set[str]) -> set[str]:
    """Return the changed fields with those that an event has whenever one of their group changed: both parts of a custom
    location, not those of an address, and all preferences of a user (documentation).
    """
    found = set(changed)
    for one in kind.told:
        group = {f"{one.name}{flag}" for flag in FLAGS} if one.kind == "preferences" else set()
        if one.kind == "location" and one.name.endswith("__c"):
            group = {column for member in one.members if (column := one.column(member))}
        if group & changed:
            found |= group
    return found


def bitmaps(kind: Kind, changed: set[str], row: Row) -> tuple[list[str], list[str]]:
    """Return the bitmaps of the changed fields, and of those among them that have no value any more."""
    names: dict[int | None, int] = {}
    nulled: dict[int | None, int] = {}
    for place, one in enumerate(kind.told, 1):
        if one.members and one.kind != "switchable":
            for bit, member in enumerate(one.members):
                column = one.column(member)
                if column in changed:
                    names[place] = names.get(place, 0) | 1 << bit
                    if row[column] is None:
                        nulled[place] = nulled.get(place, 0) | 1 << bit
        elif one.kind == "preferences":
            if any(f"{one.name}{flag}" in changed for flag in FLAGS):
                names[None] = names.get(None, 0) | 1 << place
        elif one.name in changed:
            names[None] = names.get(None, 0) | 1 << place
            if row[one.name] is None:
                nulled[None] = nulled.get(None, 0) | 1 << place
    return _hex(names), _hex(nulled)


def _hex(bits: Mapping[int | None, int]) -> list[str]:
    found = []
    for place in sorted(bits, key=lambda p: -1 if p is None else p):
        digits = f"{bits[place]:X}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        found.append(f"0x{digits}" if place is None else f"{place}-0x{digits}")
    return found


def event_value(one: Field, row: Row) -> Any:
    """Return the value of a field in an event."""
    if one.members and one.kind != "switchable":
        members = {m: row.get(column) if (column := one.column(m)) else None for m in one.members}
        return members if any(value is not None for value in members.values()) else None
    if one.kind == "preferences":
        flags = {flag: row.get(f"{one.name}{flag}") for flag in FLAGS}
        if all(value is None for value in flags.values()):
            return None
        return [flag for flag, value in flags.items() if value]
    value = row.get(one.name)
    if value is None:
        return None
    if one.kind == "datetime":
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    if one.kind == "date":
        return int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
    if one.kind in ("currency", "percent", "double"):
        return float(value)
    return value
