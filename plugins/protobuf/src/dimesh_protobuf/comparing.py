"""Compares two message types by numbers, with a value that the reader misreads for each difference."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from dimesh.spi.schema import Difference
from dimesh_protobuf.limits import MAX_DEPTH
from dimesh_protobuf.matching import Mismatch, is_missing, match_labels, match_values, rivals
from dimesh_protobuf.nodes import RANGES, Field, Message

MOST_DIFFERENCES: Final = 50
_MOST_PAIRS: Final = 100_000

Make = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A difference, and the function that makes a value of the writer for it."""

    difference: Difference
    make: Make


@dataclass(frozen=True, slots=True)
class _Pair:
    """A pair of message types to compare, and how a value of the writer's becomes a value of the first pair's."""

    writer: Message
    reader: Message
    path: str
    depth: int
    lift: Callable[[Any], Any]


class Comparison:
    """Compares pairs of message types; a pair that was compared adds no difference again.

    Pairs that are close to the first one come first: a witness is small, and what lies deeper than values are nested is left out.
    """

    def __init__(self) -> None:
        self.unfinished = ""
        """Why the comparison is not complete; empty: it is."""
        self._seen: set[tuple[int, int]] = set()
        self._waiting: deque[_Pair] = deque()

    def run(self, writer: Message, reader: Message) -> list[Found]:
        """Return the differences of a pair."""
        found: list[Found] = []
        self._waiting.clear()
        self._add(_Pair(writer, reader, reader.name, 0, lambda value: value))
        while self._waiting and len(found) < MOST_DIFFERENCES:
            pair = self._waiting.popleft()
            found += [_wrapped(one, pair.lift) for one in self._messages(pair)]
        return found[:MOST_DIFFERENCES]

    def _add(self, pair: _Pair) -> None:
        key = (id(pair.writer), id(pair.reader))
        if pair.writer is pair.reader or key in self._seen or pair.depth > MAX_DEPTH:
            return
        if len(self._seen) >= _MOST_PAIRS:
            self.unfinished = f"more than {_MOST_PAIRS:,} pairs of messages would have to be compared"
            return
        self._seen.add(key)
        self._waiting.append(pair)

    def _messages(self, pair: _Pair) -> list[Found]:
        """Return the differences of the fields of a pair, and add the pairs of messages in them to those that wait."""
        writer, reader, path = pair.writer, pair.reader, pair.path
        found: list[Found] = []
        for required in reader.required:
            if is_missing(writer, required):
                message = "the reader requires the field, and the writer may leave it out"
                make = partial(sample, writer)
                found.append(_found("required-added", f"{path}.{required.name}", message, make))
        for name, one, other in rivals(writer, reader):
            message = (
                f"the reader keeps one of {one.name!r} and {other.name!r}, of which the writer may set both"
            )
            make = partial(_both, writer, one, other)
            found.append(_found("oneof-joined", f"{path}.{name}", message, make))
        for field in writer.fields:
            target = reader.by_number.get(field.number)
            if target is not None:
                inner = self._fields(field, target, f"{path}.{target.name}", pair)
                found += [_wrapped(one, partial(_with, writer, field)) for one in inner]
        return found

    def _fields(self, writer: Field, reader: Field, path: str, pair: _Pair) -> list[Found]:
        """Return the differences of two fields, with values of the writer's field."""
        label = match_labels(writer, reader)
        found: list[Found] = []
        if label is not None:
            found.append(_found(label.code, path, label.message, partial(_many, writer)))
            if label.code == "type-changed":
                return found
        if writer.kind == "map":
            (key, of), (reader_key, reader_of) = writer.entry, reader.entry
            keys = self._values(key, reader_key, f"{path}{{key}}")
            found += [_wrapped(one, partial(_entry, of=of)) for one in keys]
            self._follow(
                of,
                reader_of,
                f"{path}{{}}",
                pair,
                lambda value: _with(pair.writer, writer, _entry(example(key), value)),
            )
            values = self._values(of, reader_of, f"{path}{{}}")
            return found + [_wrapped(one, lambda value: _entry(example(key), value)) for one in values]
        wrap: Callable[[Any], Any] = (lambda value: [value]) if writer.repeated else lambda value: value
        self._follow(writer, reader, path, pair, lambda value: _with(pair.writer, writer, wrap(value)))
        return found + [_wrapped(one, wrap) for one in self._values(writer, reader, path)]

    def _follow(
        self, writer: Field, reader: Field, path: str, pair: _Pair, wrap: Callable[[Any], Any]
    ) -> None:
        """Add the messages in two fields to the pairs that wait."""
        if (
            writer.message is None
            or reader.message is None
            or writer.message.special
            or reader.message.special
        ):
            return
        lift = pair.lift
        self._add(
            _Pair(writer.message, reader.message, path, pair.depth + 1, lambda value: lift(wrap(value)))
        )

    @staticmethod
    def _values(writer: Field, reader: Field, path: str) -> list[Found]:
        mismatch = match_values(writer, reader)
        if mismatch is None:
            return []
        return [_found(mismatch.code, path, mismatch.message, partial(_example_of, writer, mismatch))]


def _entry(key: Any, value: Any = None, of: Field | None = None) -> dict[Any, Any]:
    return {key: value if of is None else example(of)}


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
