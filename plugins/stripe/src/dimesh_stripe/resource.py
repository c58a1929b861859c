"""The description of one type of Stripe object: where its rows are listed and read, and which events tell about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from dimesh.spi.cdc import Operation

_HOLE: Final = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Way:
    """One list of rows. Some objects have several, and no single one of them has all rows."""

    path: str
    """The path below ``/v1/``; ``{}`` stands for the id of the parent. It may be the path of a single row."""
    params: Mapping[str, str] = field(default_factory=dict)
    """The parameters of each request; ``{}`` stands for the id of the parent."""
    under: str = ""
    """The name of the object whose rows are the parents, one list each; empty: there is one list."""

    def request(self, parent: str) -> tuple[str, dict[str, str]]:
        """Return the path and the parameters of the list of a parent. Ids are quoted: some are chosen by users."""
        path = self.path.replace("{}", quote(parent, safe=""))
        return path, {name: value.replace("{}", parent) for name, value in self.params.items()}


@dataclass(frozen=True, slots=True)
class Inside:
    """The rows of an object that are entries of a list in the events of another object."""

    field: str
    """The name of the list."""
    types: tuple[str, ...]
    """The types of those events."""
    gone: tuple[str, ...] = ()
    """The types among them that report the delete of the other object, and so of its entries."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One type of object."""

    name: str
    """The value of the field ``object``, or a name of our own for a list of several types."""
    ways: tuple[Way, ...]
    """The lists that are read for a snapshot."""
    item: str = ""
    """The path of a single row below ``/v1/``, with the names of the key's fields in braces; empty: there is none."""
    key: tuple[str, ...] = ("id",)
    """The fields of the primary key. Ids of some objects repeat in other parents."""
    first: tuple[str, ...] = ()
    """The types of the events by which a new row is heard of."""
    later: tuple[str, ...] = ()
    """The types of the events of changes. Some changes have none: those of a payment intent's metadata are silent, say."""
    gone: tuple[str, ...] = ()
    """The types of the events of deletes."""
    inside: Inside | None = None
    """The events of another object that contain rows of this one."""
    nested: tuple[str, ...] = ()
    """The fields that hold a list of which rows contain the first page only."""
    expand: tuple[str, ...] = ()
    """The fields that a row has only if a request asks for them. Events cannot be asked (airbytehq/airbyte #85087)."""
    final: tuple[str, ...] = ()
    """The field and its values that end silent changes, which have no event; without values, any but null does. Rows that are
    not final are read again at an interval. Empty: events report all changes."""
    relist: bool = False
    """Whether all rows are listed again at an interval, since events report few changes or none."""
    follows: bool = False
    """Whether the stream reads new rows from the object's own list, since there are no events."""
    family: str = ""
    """The beginning of all event types of a v2 object, whose events name it: ``created`` and ``deleted`` are what they say, and
    any other verb is a change."""

    @property
    def path(self) -> str:
        """The path of the first list."""
        return self.ways[0].path

    @property
    def types(self) -> tuple[str, ...]:
        """The types of all events of the object. Stripe lists the events of exact names only (reference, *List all events*)."""
        other = self.inside.types if self.inside is not None else ()
        return tuple(dict.fromkeys((*self.first, *self.later, *self.gone, *other)))

    @property
    def never_deleted(self) -> bool:
        """Whether ``….deleted`` means ended, and the object stays readable."""
        return any(kind.endswith(".deleted") for kind in self.later)

    @property
    def single(self) -> bool:
        """Whether an account, or a parent, has exactly one row, which has no id."""
        return "id" not in self.key

    def matches(self, event_type: str) -> bool:
        """Return whether events of this type are about this object."""
        return event_type in self.types or bool(self.family and event_type.startswith(self.family))

    def operation(self, event_type: str) -> Operation:
        """Return the operation that an event of this type reports."""
        verb = event_type.rpartition(".")[2] if self.family else ""
        if event_type in self.first or verb == "created":
            return Operation.INSERT
        return Operation.DELETE if event_type in self.gone or verb == "deleted" else Operation.UPDATE

    def key_of(self, row: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
        """Return the primary key of a row; ``parent`` is the id of the row that it was listed under."""
        if self.key == ("id",):
            return {"id": row.get("id")}
        return {name: row.get(name) or parent or None if name != "id" else row.get("id") for name in self.key}

    def address(self, key: Mapping[str, Any]) -> str | None:
        """Return the path of the row with a key; None if it cannot be read alone. Ids are quoted: some are chosen by users."""
        if not self.item or any(value in (".", "..") for value in key.values()):
            return None  # such an id would be a step of the path
        return _HOLE.sub(lambda hole: quote(str(key[hole[1]]), safe=""), self.item)

    def is_final(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row changes no more without an event."""
        if not self.final:
            return True
        name, *values = self.final
        found = row.get(name)
        return found in values if values else found is not None
