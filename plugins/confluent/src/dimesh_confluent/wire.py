"""The frames of Confluent's serializers, byte for byte.

In the prefix form a payload begins with a zero byte and the id of its schema, four bytes, big-endian. In the header form the
payload is bare, and a header of the message has a byte 1 and the 16 bytes of the schema's GUID. In both forms the path to a
Protobuf message follows: the index of the message in the file, then that of each nested one.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dimesh.errors import CodecError

VALUE_HEADER: Final = "__value_schema_id"
KEY_HEADER: Final = "__key_schema_id"
ID_SIZE: Final = 5
GUID_SIZE: Final = 17
MAX_ID: Final = 2**31 - 1
"""Some clients read an id as a signed number."""
MAX_DEPTH: Final = 100
"""The greatest number of indexes: Protobuf allows no deeper nesting."""
MAX_INDEX: Final = 2**31 - 1
FIRST_MESSAGE: Final = (0,)


@dataclass(frozen=True, slots=True)
class Frame:
    """The schema that a payload was written with."""

    schema_id: int | None
    """The id; None in the form with a GUID."""
    guid: str | None
    """The GUID; None in the form with an id."""
    indexes: tuple[int, ...] = FIRST_MESSAGE
    """The path to the Protobuf message."""
    size: int = 0
    """The number of bytes in front of the body."""


def prefix(schema_id: int, indexes: Sequence[int] | None = None) -> bytes:
    """Return what is put in front of a payload.

    Args:
        schema_id: the id of the schema.
        indexes: the path to the Protobuf message; None: the schema is in another language.

    Raises:
        CodecError: a number is out of range.
    """
    if not 0 < schema_id <= MAX_ID:
        raise CodecError(f"{schema_id} is no id that can be framed: it must be from 1 to {MAX_ID}")
    head = b"\0" + schema_id.to_bytes(4, "big")
    return head if indexes is None else head + write_indexes(indexes)


def header(guid: str, indexes: Sequence[int] | None = None) -> bytes:
    """Return the value of the header; like :func:`prefix`."""
    try:
        head = b"\1" + uuid.UUID(guid).bytes
    except ValueError:
        raise CodecError(
            f"{guid!r:.60} is no GUID: does the registry give one? The prefix form needs none"
        ) from None
    return head if indexes is None else head + write_indexes(indexes)


def read_prefix(payload: bytes, *, indexed: bool = False) -> Frame:
    """Return the frame in front of a payload: an id, or a GUID, which is legal there, too.

    Args:
        payload: the framed payload.
        indexed: whether the indexes of a Protobuf message follow.

    Raises:
        CodecError: there is no such frame.
    """
    return _read(payload, "the payload", indexed)


def read_header(value: bytes, *, indexed: bool = False) -> Frame:
    """Return the frame in a header: a GUID, or an id, which some serializers write there; like :func:`read_prefix`."""
    found = _read(value, "the header", indexed)
    if found.size != len(value) and indexed:
        raise CodecError(f"the header {value[:40].hex()} has bytes behind its frame")
    return Frame(found.schema_id, found.guid, found.indexes)


def _read(data: bytes, where: str, indexed: bool) -> Frame:
    magic = data[0] if data else -1
    size = {0: ID_SIZE, 1: GUID_SIZE}.get(magic)
    if size is None or len(data) < size:
        raise CodecError(
            f"{where} has no frame of a schema registry: it begins with {data[:20].hex() or 'nothing'}, and must begin with 00 "
            "and four bytes, or 01 and sixteen"
        )
    indexes, end = read_indexes(data, size) if indexed else (FIRST_MESSAGE, size)
    if magic == 1:
        return Frame(None, str(uuid.UUID(bytes=bytes(data[1:size]))), indexes, end)
    schema_id = int.from_bytes(data[1:size], "big")
    if not 0 < schema_id <= MAX_ID:
        raise CodecError(f"{where} names the schema id {schema_id}, which no registry gives")
    return Frame(schema_id, None, indexes, end)


# -- message indexes -----------------------------------------------------------------------------------


def write_indexes(indexes: Sequence[int]) -> bytes:
    """Return the path to a Protobuf message: its length and the indexes, zig-zag; the first message of a file is one zero byte.

    Raises:
        CodecError: the path is empty or too long, or an index is out of range.
    """
    if tuple(indexes) == FIRST_MESSAGE:
        return b"\0"
    if not 0 < len(indexes) <= MAX_DEPTH or not all(0 <= index <= MAX_INDEX for index in indexes):
        raise CodecError(f"{list(indexes)[:10]} is no path to a Protobuf message")
    return b"".join(map(_varint, (len(indexes), *indexes)))


def read_indexes(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Return the path to a Protobuf message at a position, and the position behind it.

    Raises:
        CodecError: there is none.
    """
    count, at = _number(data, at)
    if count == 0:
        return FIRST_MESSAGE, at
    if not 0 < count <= MAX_DEPTH:
        raise _no_path(data)
    found = []
    for _ in range(count):
        index, at = _number(data, at)
        if not 0 <= index <= MAX_INDEX:
            raise _no_path(data)
        found.append(index)
    return tuple(found), at


def _varint(number: int) -> bytes:
    number <<= 1  # zig-zag of a number that is not negative
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise _no_path(data)


def _no_path(data: bytes) -> CodecError:
    return CodecError(
        f"the frame {data[:40].hex()} has no path to a Protobuf message: it was written by an old or another serializer"
    )
