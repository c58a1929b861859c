"""The fields of an object, and rows in one form: flat, with times as the REST API writes them, whether a row comes from
a query, a Bulk API file or an event.

A compound field (an address, a location, a person's name) is represented by its members: ``BillingStreet`` is what an event calls
``BillingAddress.Street``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dimesh_salesforce.objects import BY_PARENT, parent_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NOT_IN_ROWS: Final = ("SystemModstamp", "IsDeleted", "MasterRecordId")
"""Fields that changed rows are published without, since events never have them. The last one is that of a merged row only."""
_STAMPS: Final = ("SystemModstamp", "LastModifiedDate", "CreatedDate")
"""Fields with the time of a change, the best first. Shares lack the first, histories the first two (Object Reference)."""
_NUMBERS: Final = frozenset({"double", "currency", "percent"})
_JSON_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "int": {"type": ["integer", "null"]},
    "long": {"type": ["integer", "null"]},
    **{kind: {"type": ["number", "null"]} for kind in _NUMBERS},
    "date": {"type": ["string", "null"], "format": "date"},
}


class Fields:
    """The fields of an object, from the answer of ``describe``.

    Args:
        object: the API name of the object.
        described: the answer.
    """

    def __init__(self, object: str, described: Mapping[str, Any]) -> None:
        self.object = object
        fields: list[Mapping[str, Any]] = list(described["fields"])
        self.known: frozenset[str] = frozenset(field["name"] for field in fields)
        """The names of all fields, including compound ones."""
        compounds = {field["compoundFieldName"] for field in fields if field.get("compoundFieldName")}
        self.types: dict[str, str] = {
            field["name"]: field["type"]
            for field in fields
            if field["name"] not in compounds and field["type"] not in ("address", "location", "base64")
        }
        """The fields of a row in Salesforce's order, with Salesforce's types."""
        self.children: list[tuple[str, str]] = [
            (str(one["childSObject"]), str(one["field"]))
            for one in described.get("childRelationships") or ()
            if one.get("childSObject") and one.get("field") and one["childSObject"] != object
        ]
        """The objects whose rows refer to one of this object, and the field in which they do."""
        self.required: frozenset[str] = frozenset(
            field["name"]
            for field in fields
            if field["name"] in self.types and not field.get("nillable", True)
        )
        """The fields that have a value in every row."""
        self.contact_half: frozenset[str] = frozenset(
            name
            for name in self.types
            if name.endswith("__pc") or (name.startswith("Person") and "IsPersonAccount" in self.types)
        )
        """The fields of a person account that are those of its contact: events of the account may leave them out."""
        self.archived: bool = {"IsArchived", "IsDeleted"} <= self.types.keys()
        """Whether rows are archived: only queryAll has them then, which also has deleted ones (SOAP API, *queryAll*)."""
        self.replicateable: bool = described.get("replicateable", True)
        """Whether Salesforce keeps a log of deletes of the object."""
        self.stamp: str | None = next((name for name in _STAMPS if name in self.types), None)
        """The field with the time of the last change, or else of the creation; None if there is none."""
        self.parent_object = parent_of(object)
        self.parent_field: str | None = (
            next((name for name in ("ParentId", f"{self.parent_object}Id") if name in self.types), None)
            if self.parent_object
            else None
        )
        """The field that names the row of ``parent_object`` that a row belongs to. It is part of the primary key: without it,
        nobody could tell what became of a row that is gone."""
        self.by_parent: bool = object in BY_PARENT
        """Whether rows are listed only by the ids of the rows that they belong to."""
        self._parts: dict[str, list[str]] = {}
        for field in fields:
            if field.get("compoundFieldName") and field["name"] in self.types:
                self._parts.setdefault(field["compoundFieldName"], []).append(field["name"])
        listed = "\n".join(f"{name} {kind}" for name, kind in sorted(self.types.items()))
        self.digest: str = hashlib.blake2b(listed.encode(), digest_size=4).hexdigest()
        """The same for the same fields with the same types."""
        self._labels: dict[str, str] = {field["name"]: str(field.get("label", "")) for field in fields}

    def converted(self, before: Fields) -> str:
        """Return the fields whose types changed, as text; empty if there are none."""
        return ", ".join(
            f"{name} ({before.types[name]} to {kind})"
            for name, kind in self.types.items()
            if before.types.get(name, kind) != kind
        )

    def schema(self) -> dict[str, Any]:
        """Return a JSON Schema of the rows. It means the same in every draft and names none: a registry may accept one only."""
        return {
            "title": self.object,
            "type": "object",
            "properties": {
                name: {
                    **_JSON_TYPES.get(kind, {"type": ["string", "null"]}),
                    "description": self._labels[name],
                }
                for name, kind in self.types.items()
                if name not in NOT_IN_ROWS
            },
            "required": ["Id"],
        }

    # -- events ------------------------------------------------------------------------------------

    def columns(self, name: str) -> list[str]:
        """Return the fields of a row that an event's field stands for; empty if this user cannot see the field."""
        parent, dot, member = name.partition(".")
        if not dot:
            return [name] if name in self.types else list(self._parts.get(name, ()))
        found = self.column(parent, member)
        return [found] if found is not None else []

    def column(self, parent: str, member: str) -> str | None:
        """Return the field of a row that the member of a compound field stands for; None if this user cannot see it."""
        parts = self._parts.get(parent)
        if parts is None:
            return None
        prefix = parent.removesuffix("Address")
        for candidate in (f"{prefix}{member}", f"{parent.removesuffix('__c')}__{member}__s", member):
            if candidate in parts:
                return candidate
        return None

    def converter(self, column: str) -> Callable[[Any], Any] | None:
        """Return the function that converts the value of a field in an event; None if it is the value in a row."""
        return _CONVERTERS.get(self.types[column])

    # -- queries -----------------------------------------------------------------------------------

    def key(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the primary key of a row."""
        found = {"Id": row["Id"]}
        parent = row[self.parent_field] if self.parent_field is not None else None
        return {**found, str(self.parent_field): parent} if parent is not None else found

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row from a record of a query."""
        return {name: value for name, value in record.items() if name in self.types}

    def csv_row(self, names: Iterable[str], values: Iterable[str]) -> dict[str, Any]:
        """Return a row of a Bulk API file, in which every value is text, and empty text stands for no value."""
        return {
            name: _parsed(self.types[name], text)
            for name, text in zip(names, values, strict=True)
            if name in self.types
        }


@functools.lru_cache(maxsize=1_024)
def _text_of(milliseconds: int) -> str:
    """Return a time as the REST API writes it. Many changes share the time of their transaction."""
    return f"{(_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec='milliseconds')[:-6]}+0000"


def _datetime(value: Any) -> Any:
    return _text_of(value) if value.__class__ is int else value


def _date(value: Any) -> Any:
    return (_EPOCH + timedelta(milliseconds=value)).date().isoformat() if value.__class__ is int else value


def _time(value: Any) -> Any:
    if value.__class__ is not int:
        return value
    return f"{(_EPOCH + timedelta(milliseconds=value)).time().isoformat('milliseconds')}Z"


def _number(value: Any) -> Any:
    return float(value) if value.__class__ is int else value


_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "datetime": _datetime,
    "date": _date,
    "time": _time,
    **dict.fromkeys(_NUMBERS, _number),
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
    """Return a time as the REST API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}+0000"


def time_of(text: str | None) -> datetime | None:
    """Return the time that the REST API wrote; None if the text is not a time."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
