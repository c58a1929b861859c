"""Where the parts of a schema stand in its text."""

from __future__ import annotations

from typing import NoReturn

from dimesh.errors import InvalidSchemaError

Path = tuple[int, ...]
"""The place of a part in a file descriptor: numbers of fields and positions in lists, as in Protobuf's ``SourceCodeInfo``."""


class Places:
    """The offsets of the parts of one text; empty for a schema that was given as a descriptor."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._offsets: dict[Path, int] = {}

    def note(self, path: Path, offset: int) -> None:
        """Remember where a part begins."""
        self._offsets[path] = offset

    def refuse(self, path: Path, message: str) -> NoReturn:
        """Refuse the schema because of the part at a path, or of the closest part around it that has a place.

        Raises:
            InvalidSchemaError: always, with the line and the column.
        """
        while path and path not in self._offsets:
            path = path[:-1]
        if path in self._offsets:
            self.refuse_at(self._offsets[path], message)
        raise InvalidSchemaError(message)

    def refuse_at(self, offset: int, message: str) -> NoReturn:
        """Refuse the schema because of the text at an offset.

        Raises:
            InvalidSchemaError: always, with the line and the column.
        """
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1) + 1
        raise InvalidSchemaError(f"line {line:,}, column {column:,}: {message}")
