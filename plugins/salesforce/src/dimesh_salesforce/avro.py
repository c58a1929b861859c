"""Decodes Avro's binary encoding (https://avro.apache.org/docs/1.12.0/specification/#binary-encoding) for change events.

Most fields of a change event have no value. A compiled decoder for any schema (fastavro) reads each of them through a file
object; this one steps over their bytes, and leaves out fields without a value. The schemas themselves are parsed by fastavro.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads the value at a place; returns it with the place after it. Malformed data raises some error, such as IndexError."""
_NOT_NULL: Final = re.compile(rb"[^\0]")
_FLOAT: Final = struct.Struct("<f")
_DOUBLE: Final = struct.Struct("<d")


def reader_of(schema: Any) -> Reader:
    """Return the reader of a schema.

    Raises:
        Exception: the schema is not one.
    """
    return _compiled(schema, {}, "")


def _compiled(schema: Any, named: dict[str, Reader], space: str) -> Reader:
    if isinstance(schema, list):
        return _union([_compiled(branch, named, space) for branch in schema])
    if isinstance(schema, str):
        return _PLAIN.get(schema) or named.get(schema) or named[f"{space}.{schema}"]
    kind = schema["type"]
    if kind == "record":
        return _record(schema, named, space)
    if kind == "array" and schema["items"] == "string":
        return _strings
    if kind == "array":
        return _array(_compiled(schema["items"], named, space))
    if kind == "map":
        return _map(_compiled(schema["values"], named, space))
    if kind in ("enum", "fixed"):
        made = _enum(schema["symbols"]) if kind == "enum" else _fixed(schema["size"])
        _name(schema, named, space, made)
        return made
    return _compiled(kind, named, space)


def _name(schema: Mapping[str, Any], named: dict[str, Reader], space: str, reader: Reader) -> str:
    """Let later parts of the schema refer to a type by its name; return its namespace."""
    space = schema.get("namespace") or space
    named[schema["name"]] = named[f"{space}.{schema['name']}"] = reader
    return space


def _record(schema: Mapping[str, Any], named: dict[str, Reader], space: str) -> Reader:
    first: list[tuple[str, Reader]] = []
    rest: list[
        tuple[str, Reader]
    ] = []  # the fields at the end that may be null: all fields of an event but its header

    def read(data: bytes, at: int) -> tuple[Any, int]:
        row: dict[str, Any] = {}
        for name, inner in first:
            row[name], at = inner(data, at)
        place, count = 0, len(rest)
        while place < count:
            if not data[at]:  # the first branch of the union, which is null
                following = _NOT_NULL.search(data, at)
                nulls = (following.start() if following else len(data)) - at
                if nulls > count - place:
                    nulls = count - place
                place += nulls
                at += nulls
            else:
                name, inner = rest[place]
                row[name], at = inner(data, at)
                place += 1
        return row, at

    space = _name(schema, named, space, read)
    for field in schema["fields"]:
        kind = field["type"]
        made = (field["name"], _compiled(kind, named, space))
        if isinstance(kind, list) and kind and kind[0] == "null":
            rest.append(made)
        else:
            first += [*rest, made]
            rest.clear()
    return read


def _union(branches: list[Reader]) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] == 2:
            return branches[1](data, at + 1)
        branch, at = _long(data, at)
        if branch < 0:
            raise ValueError("a union has a negative branch")
        return branches[branch](data, at)

    return read


def _blocks(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of items in the next block of an array or map, and the place of the first one."""
    count, at = _long(data, at)
    if count < 0:
        _, at = _long(data, at)
        count = -count
    if count > len(data):  # items that take no bytes would cost memory only
        raise ValueError("an array has more items than the event has bytes")
    return count, at


def _strings(data: bytes, at: int) -> tuple[list[str], int]:
    """Read an array of strings; the header of an event has four, most of them short."""
    found: list[str] = []
    while byte := data[at]:
        if byte < 0x80 and not byte & 1:
            count, at = byte >> 1, at + 1
        else:
            count, at = _blocks(data, at)
        for _ in range(count):
            value, at = _string(data, at)
            found.append(value)
    return found, at + 1


def _array(item: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        found: list[Any] = []
        while True:
            count, at = _blocks(data, at)
            if not count:
                return found, at
            for _ in range(count):
                value, at = item(data, at)
                found.append(value)

    return read


def _map(item: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        found: dict[str, Any] = {}
        while True:
            count, at = _blocks(data, at)
            if not count:
                return found, at
            for _ in range(count):
                key, at = _string(data, at)
                found[key], at = item(data, at)

    return read


def _enum(symbols: list[str]) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        byte = data[at]
        if byte < 0x80 and not byte & 1:
            return symbols[byte >> 1], at + 1
        index, at = _long(data, at)
        if index < 0:
            raise ValueError("an enum has a negative index")
        return symbols[index], at

    return read


def _fixed(size: int) -> Reader:
    return lambda data, at: (_slice(data, at, size), at + size)


def _slice(data: bytes, at: int, size: int) -> bytes:
    if size < 0 or at + size > len(data):
        raise ValueError("the event is cut off")
    return data[at : at + size]


def _long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    found, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
    return (found >> 1) ^ -(found & 1), at


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(data, at)
    return _slice(data, at, size), at + size


def _string(data: bytes, at: int) -> tuple[str, int]:
    byte = data[at]
    if byte < 0x80 and not byte & 1:
        size, at = byte >> 1, at + 1
    else:
        size, at = _long(data, at)
    end = at + size
    if size < 0 or end > len(data):
        raise ValueError("the event is cut off")
    return data[at:end].decode(), end


_PLAIN: Final[Mapping[str, Reader]] = {
    "null": lambda data, at: (None, at),
    "boolean": lambda data, at: (data[at] != 0, at + 1),
    "int": _long,
    "long": _long,
    "float": lambda data, at: (_FLOAT.unpack_from(data, at)[0], at + 4),
    "double": lambda data, at: (_DOUBLE.unpack_from(data, at)[0], at + 8),
    "bytes": _bytes,
    "string": _string,
}
