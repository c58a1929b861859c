"""Compares two message types by numbers, with a value that the reader misreads for each difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from dimesh.spi.schema import Difference
from dimesh_protobuf.matching import Mismatch, is_missing, match_labels, match_values, rivals
from dimesh_protobuf.nodes import RANGES, Field, Message

MOST_DIFFERENCES: Final = 50
_MOST_PAIRS: Final = 100_000
_DEEPEST: Final = 200

Make = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A difference, and the function that makes a value of the writer for it."""

    difference: Difference
    make: Make


class Comparison:
    """Compares pairs of message types; a pair that was compared adds no difference again."""

    def __init__(self) -> None:
        self.unfinished = ""
        """Why the comparison is not complete; empty: it is."""
        self._seen: set[tuple[int, int]] = set()

    def run(self, writer: Message, reader: Message) -> list[Found]:
        """Return the differences of a pair."""
        return self._messages(writer, reader, reader.name, 0)[:MOST_DIFFERENCES]

    def _messages(self, writer: Message, reader: Message, path: str, depth: int) -> list[Found]:
        pair = (id(writer), id(reader))
        if writer is reader or pair in self._seen or self.unfinished:
            return []
        self._seen.add(pair)
        if depth > _DEEPEST or len(self._seen) > _MOST_PAIRS:
            self.unfinished = (
                f"messages refer to each other more than {_DEEPEST} deep"
                if depth > _DEEPEST
                else f"more than {_MOST_PAIRS:,} pairs of messages would have to be compared"
            )
            return []
        found: list[Found] = []
        for required in reader.required:
            if is_missing(writer, required):
                message = "the reader requires the field, and the writer may leave it out"
                found.append(
                    _found("required-added", f"{path}.{required.name}", message, partial(sample, writer))
                )
        for name, one, other in rivals(writer, reader):
            message = (
                f"the reader keeps one of {one.name!r} and {other.name!r}, of which the writer may set both"
            )
            make = partial(_both, writer, one, other)
            found.append(_found("oneof-joined", f"{path}.{name}", message, make))
        for field in writer.fields:
            target = reader.by_number.get(field.number)
            if target is not None:
                inner = self._fields(field, target, f"{path}.{target.name}", depth)
                found += [_wrapped(one, partial(_with, writer, field)) for one in inner]
        return found

    def _fields(self, writer: Field, reader: Field, path: str, depth: int) -> list[Found]:
        """Return the differences of two fields, with values of the writer's field."""
        label = match_labels(writer, reader)
        found: list[Found] = []
        if label is not None:
            found.append(_found(label.code, path, label.message, partial(_many, writer)))
            if label.code == "type-changed":
                return found
        if writer.kind == "map":
            key, of = writer.entry
            reader_key, reader_of = reader.entry
            keys = self._values(key, reader_key, f"{path}{{key}}", depth)
            found += [_wrapped(one, lambda value: {value: example(of)}) for one in keys]
            values = self._values(of, reader_of, f"{path}{{}}", depth)
            return found + [_wrapped(one, lambda value: {example(key): value}) for one in values]
        inner = self._values(writer, reader, path, depth)
        return found + ([_wrapped(one, lambda value: [value]) for one in inner] if writer.repeated else inner)

    def _values(self, writer: Field, reader: Field, path: str, depth: int) -> list[Found]:
        mismatch = match_values(writer, reader)
        if mismatch is not None:
            return [_found(mismatch.code, path, mismatch.message, partial(_example_of, writer, mismatch))]
        if writer.message is None or reader.message is None or writer.message.special:
            return []
        return self._messages(writer.message, reader.message, path, depth + 1)


def _found(code: str, path: str, message: str, make: Make) -> Found:
    return Found(Difference(code, path, message), make)


def _wrapped(found: Found, wrap: Callable[[Any], Any]) -> Found:
    return Found(found.difference, lambda: wrap(found.make()))


def _with(message: Message, field: Field, value: Any) -> dict[str, Any]:
    return {**sample(message), field.name: value}


def _both(message: Message, one: Field, other: Field) -> dict[str, Any]:
    return {**sample(message), one.name: _many(one, 1), other.name: _many(other, 1)}


def _many(field: Field, count: int = 2) -> Any:
    """Return values of a field: two in a list, else one."""
    if field.kind == "map":
        key, of = field.entry
        return {example(key): example(of)}
    return [example(field)] * count if field.repeated else example(field)


def _example_of(field: Field, mismatch: Mismatch) -> Any:
    return example(field) if mismatch.example is None else mismatch.example


def sample(message: Message) -> Any:
    """Return the smallest value of a message type."""
    if message.special:
        return _SPECIAL[message.special]() if message.special != "wrapper" else example(message.fields[0])
    return {field.name: example(field) for field in message.required}


def example(field: Field) -> Any:
    """Return a single value of a field that is not the default, so that it is written in any case."""
    kind = field.kind
    if field.message is not None:
        return sample(field.message)
    if field.enum is not None and not field.enum.closed and len(field.enum.names) == 1:
        return 1  # a number that the enum does not have: its only name is the default
    if field.enum is not None:
        return next(
            (name for name, number in field.enum.numbers.items() if number), next(iter(field.enum.numbers))
        )
    if kind in RANGES:
        return 1
    return {"bool": True, "string": "x", "bytes": b"x", "float": 1.0, "double": 1.0}[kind]


_SPECIAL: Final[dict[str, Callable[[], Any]]] = {
    "timestamp": lambda: datetime(2000, 1, 1, tzinfo=UTC),
    "duration": lambda: timedelta(seconds=1),
    "value": lambda: "x",
    "struct": dict,
    "list": list,
}
