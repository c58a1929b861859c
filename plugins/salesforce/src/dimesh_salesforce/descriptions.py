"""The fields of objects as Salesforce describes them, and conversions of their types.

Most conversions of a field's type make no event (Change Data Capture Developer Guide, *Field Type Conversions*), so the rows have
to be read again. A position keeps a digest of the types: a conversion while nothing runs is found when the stream is opened.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from dimesh.errors import SourceObjectError
from dimesh_salesforce.fields import Fields

_OBJECT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")


class Descriptions:
    """The descriptions of the objects of one source.

    Args:
        describe: requests the fields of an object from Salesforce.
    """

    def __init__(self, describe: Callable[[str], Awaitable[Fields]]) -> None:
        self._describe = describe
        self._fields: dict[str, Fields] = {}
        self._converted: dict[str, str] = {}
        """The fields whose types changed since a reading began or a stream reported it, by object."""
        self._read: dict[str, str] = {}
        """The digests of the types with which all rows were read, or are being read, by object."""

    async def get(self, object: str, refresh: bool = False) -> Fields:
        """Return the fields of an object.

        Args:
            object: the API name of the object.
            refresh: whether to request the fields although they are known.

        Raises:
            SourceObjectError: no object has that name, or this user cannot see it.
        """
        if not _OBJECT.fullmatch(object):
            raise SourceObjectError(
                f"{object!r:.80} is not the API name of an object, such as Account or Invoice__c"
            )
        found = self._fields.get(object)
        if found is None or refresh:
            before, found = found, await self._describe(object)
            self._fields[object] = found
            if before is not None and (converted := found.converted(before)):
                self._converted[object] = converted
                self._read.pop(object, None)
        return found

    async def begin_reading(self, object: str) -> Fields:
        """Return the fields of an object as they are now: all of its rows will be read with these types."""
        fields = await self.get(object, refresh=True)
        self._converted.pop(object, None)
        self._read[object] = fields.digest
        return fields

    def digest(self, objects: Iterable[str]) -> str:
        """Return a digest of the types of all fields of objects that are known."""
        return "".join(self._fields[name].digest for name in objects)

    def are_read(self, objects: Iterable[str]) -> bool:
        """Return whether all rows of objects were read with the types that are known now."""
        return all(self._read.get(name) == self._fields[name].digest for name in objects)

    def take_converted(self, objects: Iterable[str]) -> list[str]:
        """Return the conversions of types that were not reported yet, as causes of a new reading."""
        found = {name: self._converted.pop(name) for name in objects if name in self._converted}
        return [f"the type of fields of {name} changed: {fields}"[:500] for name, fields in found.items()]
