"""The Avro encoding of change events: each event is decoded by the schema that it names, including the bitmaps in its header.

A bitmap names the changed fields by their places in the event's own schema, so decoding an event by another schema
yields wrong names without any error. The signs of it that can be noticed are errors here: bits beyond the last field,
and bytes that are left over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import fastavro

from dimesh.errors import CDCError
from dimesh_salesforce.avro import reader_of

HEADER: Final = "ChangeEventHeader"
_BITMAP: Final = re.compile(r"(?:(\d{1,4})-)?0x([0-9a-fA-F]{1,4096})")


class DecodingError(CDCError):
    """An event cannot be decoded."""


class Schema:
    """One version of the schema of an object's events."""

    def __init__(self, id: str, text: str) -> None:
        self.id = id
        try:
            found: Any = json.loads(text)
            self.parsed: Any = fastavro.parse_schema(found)
            self._read = reader_of(found)
            records = _records(found)
            self._fields: list[tuple[str, list[str] | None]] = [
                (field["name"], _members(field["type"], records)) for field in found["fields"]
            ]
        except Exception as error:  # fastavro raises what it meets
            raise DecodingError(f"schema {id} cannot be read: {error}") from error
        if not self._fields or self._fields[0][0] != HEADER:
            raise DecodingError(f"schema {id} is not the schema of a change event")
        self.arrays: frozenset[str] = frozenset(
            field["name"] for field in found["fields"] if _is_array(field["type"])
        )
        """The fields that list names, such as the preferences of a user that are switched on."""

    @property
    def fields(self) -> list[str]:
        """The names of the fields in order, without the header."""
        return [name for name, _ in self._fields[1:]]

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return the event; fields without a value are left out.

        Raises:
            DecodingError: the payload does not have this schema.
        """
        try:
            found, end = self._read(payload, 0)
        except Exception as error:  # malformed data may raise any error
            raise DecodingError(
                f"an event does not have schema {self.id}: {type(error).__name__}: {error}"
            ) from error
        if end != len(payload):
            raise DecodingError(
                f"an event does not have schema {self.id}: {len(payload) - end} bytes are left over"
            )
        return cast(dict[str, Any], found)

    def names(self, bitmaps: Sequence[str]) -> list[str]:
        """Return the fields that bitmaps name; a member of a compound field as ``BillingAddress.Street``.

        Raises:
            DecodingError: the bitmaps do not fit the schema.
        """
        found: list[str] = []
        for bitmap in bitmaps:
            match = _BITMAP.fullmatch(bitmap)
            if match is None:
                raise DecodingError(f"schema {self.id}: {bitmap[:80]!r} is not a bitmap of fields")
            parent, bits = match[1], int(match[2], 16)
            if parent is None:
                names, prefix = [name for name, _ in self._fields], ""
            else:
                place = int(parent)
                name, members = self._fields[place] if place < len(self._fields) else ("", None)
                if members is None:
                    raise DecodingError(
                        f"schema {self.id}: {bitmap[:80]!r} names members of field {place}, which has none"
                    )
                names, prefix = members, f"{name}."
            if bits.bit_length() > len(names):
                raise DecodingError(
                    f"schema {self.id}: {bitmap[:80]!r} names field {bits.bit_length() - 1} of {len(names)}"
                )
            found += [f"{prefix}{name}" for n, name in enumerate(names) if bits >> n & 1]
        return found


class Schemas:
    """Fetches schemas by id. A schema never changes, so each is fetched once.

    Args:
        fetch: returns the text of a schema by its id.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[str]]) -> None:
        self._fetch = fetch
        self._known: dict[str, Schema] = {}

    async def get(self, id: str) -> Schema:
        """Return a schema.

        Raises:
            DecodingError: the id is empty, or the schema cannot be read.
        """
        found = self._known.get(id)
        if found is None:
            if not id:
                raise DecodingError("an event does not name its schema")
            found = self._known[id] = Schema(id, await self._fetch(id))
        return found


def _branches(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _is_array(kind: Any) -> bool:
    return any(isinstance(branch, dict) and branch.get("type") == "array" for branch in _branches(kind))


def _records(kind: Any) -> dict[str, Any]:
    """Return all records that are defined inside, by their short and full names."""
    return {
        key: record
        for record in _walk(kind)
        for key in (record["name"], f"{record.get('namespace') or 'com.sforce.eventbus'}.{record['name']}")
    }


def _walk(kind: Any) -> Iterator[Mapping[str, Any]]:
    for branch in _branches(kind):
        if isinstance(branch, dict):
            if branch.get("type") == "record":
                yield branch
                for field in branch["fields"]:
                    yield from _walk(field["type"])
            elif isinstance(branch.get("items"), dict | list):
                yield from _walk(branch["items"])


def _members(kind: Any, records: Mapping[str, Any]) -> list[str] | None:
    """Return the members of a compound field: the fields of the record among the branches."""
    for branch in _branches(kind):
        record = records.get(branch) if isinstance(branch, str) else branch
        if isinstance(record, dict) and record.get("type") == "record":
            return [field["name"] for field in record["fields"]]
    return None
