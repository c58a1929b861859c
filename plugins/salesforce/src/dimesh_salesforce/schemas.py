"""Avro of change events: each event by the schema that it names, and the bitmaps in its header.

A bitmap says which fields changed by their places in the schema of the event itself, so an event that is read by another
one gives wrong names without any error. What can be noticed of that is an error here: bits beyond the last field, and bytes
that are left over.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import fastavro

from dimesh.errors import CDCError

HEADER: Final = "ChangeEventHeader"
_BITMAP: Final = re.compile(r"(?:(\d{1,4})-)?0x([0-9a-fA-F]{1,4096})")


class DecodingError(CDCError):
    """An event cannot be read."""


class Schema:
    """One version of the schema of an object's events."""

    def __init__(self, id: str, text: str) -> None:
        self.id = id
        try:
            found: Any = json.loads(text)
            self.parsed: Any = fastavro.parse_schema(found)
            self._fields: list[tuple[str, list[str] | None]] = [
                (field["name"], _members(field["type"], _records(found))) for field in found["fields"]
            ]
        except Exception as error:  # fastavro raises what it meets
            raise DecodingError(f"schema {id} cannot be read: {error}") from error
        if not self._fields or self._fields[0][0] != HEADER:
            raise DecodingError(f"schema {id} is not of a change event")

    @property
    def fields(self) -> list[str]:
        """Names of the fields but the header, in order."""
        return [name for name, _ in self._fields[1:]]

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The event.

        Raises:
            DecodingError: it is not of this schema.
        """
        stream = io.BytesIO(payload)
        try:
            found: Any = fastavro.schemaless_reader(stream, self.parsed, None)
        except Exception as error:  # fastavro raises what it meets
            raise DecodingError(
                f"an event is not of schema {self.id}: {type(error).__name__}: {error}"
            ) from error
        if stream.tell() != len(payload):
            raise DecodingError(
                f"an event is not of schema {self.id}: {len(payload) - stream.tell()} bytes are left over"
            )
        return dict(found)

    def names(self, bitmaps: Sequence[str]) -> list[str]:
        """The fields that bitmaps name; a member of a compound field as ``BillingAddress.Street``.

        Raises:
            DecodingError: they do not fit the schema.
        """
        found: list[str] = []
        for bitmap in bitmaps:
            match = _BITMAP.fullmatch(bitmap)
            if match is None:
                raise DecodingError(f"schema {self.id}: {bitmap[:80]!r} is no bitmap of fields")
            parent, bits = match[1], int(match[2], 16)
            if parent is None:
                names, prefix = [name for name, _ in self._fields], ""
            else:
                place = int(parent)
                name, members = self._fields[place] if place < len(self._fields) else ("", None)
                if members is None:
                    raise DecodingError(
                        f"schema {self.id}: field {place} has no members, and {bitmap[:80]!r}"
                    )
                names, prefix = members, f"{name}."
            if bits.bit_length() > len(names):
                raise DecodingError(
                    f"schema {self.id}: {bitmap[:80]!r} names field {bits.bit_length() - 1} of {len(names)}"
                )
            found += [f"{prefix}{name}" for n, name in enumerate(names) if bits >> n & 1]
        return found


class Schemas:
    """Schemas by id; they never change, so each is asked for once.

    Args:
        fetch: the text of a schema by id.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[str]]) -> None:
        self._fetch = fetch
        self._known: dict[str, Schema] = {}

    async def get(self, id: str) -> Schema:
        """A schema.

        Raises:
            DecodingError: no id is given, or it cannot be read.
        """
        found = self._known.get(id)
        if found is None:
            if not id:
                raise DecodingError("an event does not say by which schema it is to be read")
            found = self._known[id] = Schema(id, await self._fetch(id))
        return found


def _branches(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _records(kind: Any) -> dict[str, Any]:
    """The records that are defined somewhere inside, by short name and by full one."""
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
    """The members of a compound field: of the record among the branches."""
    for branch in _branches(kind):
        record = records.get(branch) if isinstance(branch, str) else branch
        if isinstance(record, dict) and record.get("type") == "record":
            return [field["name"] for field in record["fields"]]
    return None
