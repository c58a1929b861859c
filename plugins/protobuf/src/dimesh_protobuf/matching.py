"""The rules by which a reader's field reads what a writer's field of the same number wrote. Reading and comparing both ask here.

Protobuf's runtimes convert silently: they cut a number to fewer bits, and leave out what they do not expect. Here, a field reads
a value only if the value keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from dimesh_protobuf.nodes import RANGES, Field, Message

_GROUPS: Final = (
    frozenset(("int32", "int64", "uint32", "uint64", "bool", "enum")),
    frozenset(("sint32", "sint64")),
    frozenset(("fixed32", "sfixed32")),
    frozenset(("fixed64", "sfixed64")),
)
"""The types whose values have the same bytes, as long as both have the value."""
_INT32: Final = RANGES["int32"]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The reason for which some values of one type are not read as the other one."""

    code: str
    message: str
    misread: Callable[[Any], bool] = lambda value: True
    """Whether a value, as the runtime has it, is one of those."""
    example: Any = None
    """A value of the writer, as schemas of dimesh take it, that is misread; None: every value is."""


def match_values(writer: Field, reader: Field) -> Mismatch | None:
    """Return which single values are not read; None: all are. Of messages, only the kinds are compared, not the fields."""
    if writer.message is not None or reader.message is not None:
        if writer.message is None or reader.message is None or not _alike(writer.message, reader.message):
            return _changed(writer, reader)
        return None
    if writer.kind == "string" and reader.kind == "bytes":
        return None
    if writer.kind == "bytes" and reader.kind == "string":
        return Mismatch("narrowed", "not every value of bytes is text in UTF-8", _is_no_text, b"\xff")
    if any(writer.kind in group and reader.kind in group for group in _GROUPS):
        return _match_numbers(writer, reader)
    return None if writer.kind == reader.kind else _changed(writer, reader)


def _alike(writer: Message, reader: Message) -> bool:
    """Return whether two messages have values of the same form: the well-known types are only like themselves."""
    return writer.name == reader.name if writer.special or reader.special else True


def _changed(writer: Field, reader: Field) -> Mismatch:
    return Mismatch("type-changed", f"{writer} is not read as {reader}")


def _is_no_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return True
    return False


def _match_numbers(writer: Field, reader: Field) -> Mismatch | None:
    if {writer.kind, reader.kind} == {"bool", "enum"}:
        return _changed(writer, reader)

    def misread(value: int) -> bool:
        return not _has(reader, value)

    lost = next(filter(misread, _extremes(writer, reader)), None)
    if lost is None:
        return None
    example: Any = lost
    if writer.kind == "enum":
        example = writer.of.names.get(lost, lost)
    elif writer.kind == "bool":
        example = bool(lost)
    if writer.enum is not None and reader.enum is not None:
        message = f"the enum {reader.enum.name} does not have the value {example}, and leaves out what it does not have"
        return Mismatch("value-removed", message, misread, example)
    return Mismatch("narrowed", f"{reader} does not have every value of {writer}", misread, example)


def _has(field: Field, value: int) -> bool:
    if field.kind == "bool":
        return value in (0, 1)
    if field.kind == "enum" and field.of.closed:
        return value in field.of.names
    low, high = RANGES.get(field.kind, _INT32)
    return low <= value <= high


def _extremes(writer: Field, reader: Field) -> Iterator[int]:
    """Return values of the writer, among them one that the reader does not have if there is any."""
    if writer.kind == "enum" and writer.of.closed:
        yield from writer.of.names
        return
    if writer.kind == "bool":
        yield from (0, 1)
        return
    low, high = RANGES.get(writer.kind, _INT32)
    yield from (low, high, *(n for n in (2, -1) if low <= n <= high))
    if reader.kind == "enum" and reader.of.closed:
        yield from range(max(low, 0), len(reader.of.names) + 1)
    elif reader.kind in RANGES or reader.kind == "enum":
        least, greatest = RANGES.get(reader.kind, _INT32)
        yield from (n for n in (least - 1, greatest + 1) if low <= n <= high)


def match_labels(writer: Field, reader: Field) -> Mismatch | None:
    """Return for which lists, maps or single values the reader's field has no place; None: for none of them."""
    if (writer.kind == "map") != (reader.kind == "map"):
        return Mismatch("type-changed", f"{writer} is not read as {reader}", _is_filled)
    if writer.repeated and not reader.repeated and reader.kind != "map":
        message = f"{writer} may have more than one value, and {reader} has one"
        least = 0 if writer.packed else 1  # a single field does not read the packed form
        return Mismatch("repeated-removed", message, lambda value: len(value) > least)
    return None


def _is_filled(value: Any) -> bool:
    return not hasattr(value, "__len__") or len(value) > 0


def rivals(writer: Message, reader: Message) -> Iterator[tuple[str, Field, Field]]:
    """Return the oneofs of the reader of which the writer may set two fields at once, with two such fields each."""
    for name, members in reader.oneofs.items():
        known = [writer.by_number[field.number] for field in members if field.number in writer.by_number]
        for other in known[1:]:
            if not other.oneof or other.oneof != known[0].oneof:
                yield name, known[0], other
                break


def is_missing(writer: Message, required: Field) -> bool:
    """Return whether the writer may leave out a field that the reader requires."""
    known = writer.by_number.get(required.number)
    return known is None or not known.required


def names_differ(writer: Message, reader: Message) -> bool:
    """Return whether two messages are not the same one; the package does not count."""
    return writer.relative != reader.relative
