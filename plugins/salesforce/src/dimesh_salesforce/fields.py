"""The fields of an object, and rows in one form: flat, with times as the REST API writes them, whether they come from a query, a
Bulk API file or an event.

A compound field (an address, a location, a person's name) is told by its members alone: ``BillingStreet`` is what an event calls
``BillingAddress.Street``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS: Final = frozenset({"double", "currency", "percent"})
_JSON_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "int": {"type": ["integer", "null"]},
    "long": {"type": ["integer", "null"]},
    **{kind: {"type": ["number", "null"]} for kind in _NUMBERS},
    "date": {"type": ["string", "null"], "format": "date"},
}


class Fields:
    """What ``describe`` says of an object.

    Args:
        object: its API name.
        described: the answer.
    """

    def __init__(self, object: str, described: Mapping[str, Any]) -> None:
        self.object = object
        fields: list[Mapping[str, Any]] = list(described["fields"])
        self.known: frozenset[str] = frozenset(field["name"] for field in fields)
        """All that there are, compound ones too."""
        compounds = {field["compoundFieldName"] for field in fields if field.get("compoundFieldName")}
        self.types: dict[str, str] = {
            field["name"]: field["type"]
            for field in fields
            if field["name"] not in compounds and field["type"] not in ("address", "location", "base64")
        }
        """Those of a row, in Salesforce's order, with Salesforce's types."""
        self._parts: dict[str, list[str]] = {}
        for field in fields:
            if field.get("compoundFieldName") and field["name"] in self.types:
                self._parts.setdefault(field["compoundFieldName"], []).append(field["name"])
        self._labels: dict[str, str] = {field["name"]: str(field.get("label", "")) for field in fields}

    def schema(self) -> dict[str, Any]:
        """A JSON Schema of the rows. It means the same in every draft, and names none: a registry may take one only."""
        return {
            "title": self.object,
            "type": "object",
            "properties": {
                name: {
                    **_JSON_TYPES.get(kind, {"type": ["string", "null"]}),
                    "description": self._labels[name],
                }
                for name, kind in self.types.items()
                if name not in ("SystemModstamp", "IsDeleted")
            },
            "required": ["Id"],
        }

    # -- events ------------------------------------------------------------------------------------

    def columns(self, name: str) -> list[str]:
        """The fields of a row that an event's field stands for; none, if this user cannot see it."""
        parent, dot, member = name.partition(".")
        if not dot:
            return [name] if name in self.types else list(self._parts.get(name, ()))
        found = self._column(parent, member)
        return [found] if found is not None else []

    def flat(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """An event's fields as a row's: those that it has a value for."""
        row: dict[str, Any] = {}
        for name, value in event.items():
            if value is None:
                continue
            if isinstance(value, Mapping):
                for member, inner in value.items():
                    column = self._column(name, member)
                    if column is not None and inner is not None:
                        row[column] = self._converted(column, inner)
            elif name in self.types:
                row[name] = self._converted(name, value)
        return row

    def _column(self, parent: str, member: str) -> str | None:
        parts = self._parts.get(parent)
        if parts is None:
            return None
        prefix = parent.removesuffix("Address")
        for candidate in (f"{prefix}{member}", f"{parent.removesuffix('__c')}__{member}__s", member):
            if candidate in parts:
                return candidate
        return None

    def _converted(self, name: str, value: Any) -> Any:
        kind = self.types[name]
        if isinstance(value, int) and not isinstance(value, bool):
            if kind == "datetime":
                return time_text(_EPOCH + timedelta(milliseconds=value))
            if kind == "date":
                return (_EPOCH + timedelta(milliseconds=value)).date().isoformat()
            if kind == "time":
                return f"{(_EPOCH + timedelta(milliseconds=value)).time().isoformat('milliseconds')}Z"
            if kind in _NUMBERS:
                return float(value)
        return value

    # -- queries -----------------------------------------------------------------------------------

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a query."""
        return {name: value for name, value in record.items() if name in self.types}

    def csv_row(self, names: Iterable[str], values: Iterable[str]) -> dict[str, Any]:
        """A row of a Bulk API file, in which all is text and nothing is empty text."""
        return {
            name: _parsed(self.types[name], text)
            for name, text in zip(names, values, strict=True)
            if name in self.types
        }


def _parsed(kind: str, text: str) -> Any:
    if text == "":
        return None
    with contextlib.suppress(ValueError):
        if kind in _NUMBERS:
            return float(text)
        if kind in ("int", "long"):
            return int(text)
    if kind == "boolean":
        return text == "true"
    return text.replace("Z", "+0000") if kind == "datetime" else text


def time_text(moment: datetime) -> str:
    """As the REST API writes a time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}+0000"


def time_of(text: str | None) -> datetime | None:
    """A time as the REST API writes it; None if it is none."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
