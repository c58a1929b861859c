"""Reads payloads, and resolves what a writer's schema wrote to a reader's schema.

Readers are functions, made once for each pair of types. A damaged payload is an error: lengths, counts, positions and nesting are
checked before anything is read or allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack
from typing import Any, Final

from dimesh_avro.checking import DEEPEST, MOST_EMPTY
from dimesh_avro.defaults import build_default
from dimesh_avro.logical import to_python
from dimesh_avro.nodes import MISSING, Node
from dimesh_avro.rules import match, pick, reading_names

MOST_EMPTY_ITEMS: Final = 1_000_000
"""The number of items without bytes in one payload."""


class DamagedError(ValueError):
    """The payload does not belong to the schema."""


class UnresolvedError(ValueError):
    """The reader's schema has no place for the value."""


class Source:
    """The bytes of a payload, and the position in it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.depth = 0
        self._empty = MOST_EMPTY_ITEMS

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise DamagedError(f"{count:,} bytes are announced at byte {self.at:,} of {len(self.data):,}")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def long(self, bits: int = 64) -> int:
        """Return the next number."""
        number = shift = 0
        data, at = self.data, self.at
        while True:
            if at >= len(data):
                raise DamagedError("the payload ends inside a number")
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise DamagedError(f"the number before byte {at:,} is too long")
        if number >> bits:
            raise DamagedError(f"the number before byte {at:,} is too large")
        self.at = at
        return (number >> 1) ^ -(number & 1)

    def items(self, empty: bool, keys: bool) -> int:
        """Return the number of items in the next block of an array or map; 0: there are no more."""
        count = self.long()
        if count < 0:
            count = -count
            self.long()  # the block's size in bytes, which is only for those that skip it
        if count > len(self.data) - self.at and (keys or not empty):
            raise DamagedError(f"{count:,} items are announced before byte {self.at:,} of {len(self.data):,}")
        if empty:
            self._empty -= count
            if count > MOST_EMPTY or self._empty < 0:
                raise DamagedError(f"{count:,} items that take no bytes are announced")
        return count

    def enter(self) -> None:
        """Count one more level of nesting."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise DamagedError(f"values are nested more than {DEEPEST} deep")


Read = Callable[[Source], Any]
_CONTAINERS: Final = ("union", "record", "array", "map")


class Readers:
    """Makes the readers for one pair of schemas."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Read] = {}
        self._kept: list[tuple[Node, Node]] = []

    def reader(self, writer: Node, reader: Node) -> Read:
        """Return the function that reads a writer's value as the reader's type."""
        key = (id(writer), id(reader))
        found = self._made.get(key)
        if found is None:
            self._kept.append((writer, reader))  # so that no other type gets their ids
            if writer.kind in _CONTAINERS or reader.kind == "union":
                found = self._later(writer, reader)
            else:
                found = self._make(writer, reader)
            found = self._made.setdefault(key, found)
        return found

    def _later(self, writer: Node, reader: Node) -> Read:
        """Return a function that makes the reader when it is used: types may contain themselves, or a thousand others."""
        made: Read | None = None

        def read(source: Source) -> Any:
            nonlocal made
            if made is None:
                made = self._make(writer, reader)
            return made(source)

        return read

    def _make(self, writer: Node, reader: Node) -> Read:
        if writer.kind == "union":
            branches = [self.reader(branch, reader) for branch in writer.branches]

            def union(source: Source) -> Any:
                index = source.long()
                if not 0 <= index < len(branches):
                    raise DamagedError(f"the union {writer!s:.200} has no branch {index}")
                return branches[index](source)

            return union
        if reader.kind == "union":
            chosen = pick(writer, reader)
            if chosen is not None:
                return self.reader(writer, chosen)
            return _refusal(f"{writer} fits no branch of the reader's {reader}")
        reason = match(writer, reader)
        if reason is not None:
            return _refusal(reason.message)
        if writer.kind == "record":
            return self._record(writer, reader)
        if writer.kind in ("array", "map"):
            return self._collection(writer, reader)
        if writer.kind == "enum":
            return _enum(writer, reader)
        return _scalar(writer, reader)

    def _record(self, writer: Node, reader: Node) -> Read:
        names = reading_names(writer, reader)
        steps: list[tuple[str | None, Read]] = []
        for field in writer.fields:
            name = names.get(field.name)
            if name is None:
                steps.append((None, self.reader(field.node, field.node)))
            else:
                steps.append((name, self.reader(field.node, reader.by_name[name].node)))
        filled = set(names.values())
        defaults = [field for field in reader.fields if field.name not in filled]
        for field in defaults:
            if field.default is MISSING:
                return _refusal(
                    f"the writer's {writer.name} has no field {field.name!r}, and the reader's has no default for it"
                )

        def record(source: Source) -> dict[str, Any]:
            source.enter()
            found = {}
            for name, read in steps:
                value = read(source)
                if name is not None:
                    found[name] = value
            for field in defaults:
                found[field.name] = build_default(field.node, field.default)
            source.depth -= 1
            return found

        return record

    def _collection(self, writer: Node, reader: Node) -> Read:
        item = self.reader(writer.of, reader.of)
        empty = writer.of.empty

        def array(source: Source) -> list[Any]:
            source.enter()
            found: list[Any] = []
            while count := source.items(empty, False):
                found += [item(source) for _ in range(count)]
            source.depth -= 1
            return found

        def mapping(source: Source) -> dict[str, Any]:
            source.enter()
            found = {}
            while count := source.items(empty, True):
                for _ in range(count):
                    key = str(source.take(source.long()), "utf-8")
                    found[key] = item(source)
            source.depth -= 1
            return found

        return array if writer.kind == "array" else mapping


def _refusal(message: str) -> Read:
    def refuse(source: Source) -> Any:
        raise UnresolvedError(message)

    return refuse


def _enum(writer: Node, reader: Node) -> Read:
    symbols = [s if s in reader.positions else reader.default for s in writer.symbols]

    def enum(source: Source) -> str:
        index = source.long()
        if not 0 <= index < len(symbols):
            raise DamagedError(f"the enum {writer.name} has no symbol {index}")
        symbol = symbols[index]
        if symbol is None:
            raise UnresolvedError(
                f"the reader's enum {reader.name} has neither the symbol {writer.symbols[index]!r} nor a default"
            )
        return symbol

    return enum


def _boolean(source: Source) -> bool:
    byte = source.take(1)[0]
    if byte > 1:
        raise DamagedError(f"a boolean is 0 or 1, not {byte}")
    return byte == 1


_RAW: Final[dict[str, Read]] = {
    "null": lambda source: None,
    "boolean": _boolean,
    "int": lambda source: source.long(32),
    "long": lambda source: source.long(),
    "float": lambda source: unpack("<f", source.take(4))[0],
    "double": lambda source: unpack("<d", source.take(8))[0],
    "bytes": lambda source: source.take(source.long()),
    "string": lambda source: str(source.take(source.long()), "utf-8"),
}

_PROMOTE: Final[dict[str, Callable[[Any], Any]]] = {
    "float": float,
    "double": float,
    "string": lambda data: str(data, "utf-8", "replace"),  # as Java does
    "bytes": lambda text: text.encode(),
}


def _scalar(writer: Node, reader: Node) -> Read:
    size = writer.size
    raw = _RAW[writer.kind] if writer.kind != "fixed" else lambda source: source.take(size)
    promote = None if writer.kind == reader.kind else _PROMOTE.get(reader.kind)
    if promote is None and reader.logical is None:
        return raw

    def scalar(source: Source) -> Any:
        value = raw(source)
        if promote is not None:
            value = promote(value)
        try:
            return to_python(reader, value)
        except ValueError as error:
            raise UnresolvedError(f"{reader}: {error}") from None

    return scalar
