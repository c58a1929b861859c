"""Compares two schemas by the rules of resolution, with a value that the reader cannot read for each difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID

from dimesh.spi.schema import Difference
from dimesh_avro.nodes import MISSING, Node
from dimesh_avro.rules import match, pick, reading_names

MOST_DIFFERENCES: Final = 50
_MOST_PAIRS: Final = 100_000
_DEEPEST: Final = 150

Make = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A difference, and the function that makes a value of the writer for it."""

    difference: Difference
    make: Make


class Comparison:
    """Compares one pair of schemas."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.unfinished = ""
        """Why the comparison is not complete; empty: it is."""
        self._seen: set[tuple[int, int]] = set()

    def run(self, writer: Node, reader: Node) -> None:
        """Compare two schemas."""
        self.found = list(self._walk(writer, reader, reader.label, 0))[:MOST_DIFFERENCES]

    def _walk(self, writer: Node, reader: Node, path: str, depth: int) -> list[Found]:
        """Return the differences of a pair of types; a pair that was seen adds none, so that recursive types end."""
        pair = (id(writer), id(reader))
        if pair in self._seen or self.unfinished:
            return []
        self._seen.add(pair)
        if depth > _DEEPEST or len(self._seen) > _MOST_PAIRS:
            self.unfinished = (
                f"types refer to each other more than {_DEEPEST} deep"
                if depth > _DEEPEST
                else f"more than {_MOST_PAIRS:,} pairs of types would have to be compared"
            )
            return []
        if writer.kind == "union":
            return self._branches(writer, reader, path, depth)
        if reader.kind == "union":
            chosen = pick(writer, reader)
            if chosen is not None:
                return self._walk(writer, chosen, f"{path}|{chosen.label}", depth + 1)
            message = f"{writer} fits no branch of {reader}"
            return [_found("branch-removed", path, message, lambda: sample(writer))]
        mismatch = match(writer, reader)
        if mismatch is not None:
            return [_found(mismatch.code, path, mismatch.message, lambda: sample(writer))]
        if writer.kind == "record":
            return self._record(writer, reader, path, depth)
        if writer.kind == "array":
            inner = self._walk(writer.of, reader.of, f"{path}[]", depth + 1)
            return [_wrapped(found, lambda value: [value]) for found in inner]
        if writer.kind == "map":
            inner = self._walk(writer.of, reader.of, f"{path}{{}}", depth + 1)
            return [_wrapped(found, lambda value: {"key": value}) for found in inner]
        return list(_scalars(writer, reader, path))

    def _branches(self, writer: Node, reader: Node, path: str, depth: int) -> list[Found]:
        results = []
        for branch in writer.branches:
            inner = self._walk(branch, reader, path, depth + 1)
            results += [_wrapped(found, partial(_pair, branch.label)) for found in inner]
        return results[:MOST_DIFFERENCES]

    def _record(self, writer: Node, reader: Node, path: str, depth: int) -> list[Found]:
        results = []
        names = reading_names(writer, reader)
        read = set(names.values())
        for field in reader.fields:
            if field.name not in read and field.default is MISSING:
                message = "the writer has no such field, and the reader has no default for it"
                results.append(
                    _found("field-without-default", f"{path}.{field.name}", message, lambda: sample(writer))
                )
        for name, target in names.items():
            inner = self._walk(
                writer.by_name[name].node, reader.by_name[target].node, f"{path}.{target}", depth + 1
            )
            results += [_wrapped(found, partial(_replaced, writer, name)) for found in inner]
        return results[:MOST_DIFFERENCES]


def _found(code: str, path: str, message: str, make: Make) -> Found:
    return Found(Difference(code, path, message), make)


def _wrapped(found: Found, wrap: Callable[[Any], Any]) -> Found:
    return Found(found.difference, lambda: wrap(found.make()))


def _pair(label: str, value: Any) -> tuple[str, Any]:
    return label, value


def _replaced(record: Node, name: str, value: Any) -> dict[str, Any]:
    return {**sample(record), name: value}


def _scalars(writer: Node, reader: Node, path: str) -> Iterator[Found]:
    """Return the differences for which some values can be read, and others cannot."""
    if writer.kind == "enum" and reader.default is None:
        for symbol in writer.symbols:
            if symbol not in reader.positions:
                yield _found(
                    "symbol-removed",
                    path,
                    f"the enum {reader.name} has neither the symbol {symbol!r} nor a default",
                    lambda symbol=symbol: symbol,  # type: ignore[misc]
                )
    after, before = reader.logical, writer.logical
    if after is None:
        return
    if before is None and after.name == "uuid":
        raw = b"no uuid" if writer.kind == "bytes" else "no uuid"
        yield _found("narrowed", path, f"not every {writer} is a UUID", lambda: raw)
    elif after.name == "decimal" and before is None:
        size = writer.size or after.precision + 1
        if 2 ** (8 * size - 1) > 10**after.precision:
            large = b"\x7f" + bytes(size - 1)
            value = large.decode() if writer.kind == "string" else large
            yield _found(
                "narrowed", path, f"not every {writer} has at most {after.precision} digits", lambda: value
            )
    elif after.name == "decimal" and before is not None and after.precision < before.precision:
        many = Decimal((0, (9,) * before.precision, -before.scale))
        yield _found("precision-reduced", path, f"{before} has more digits than {after}", lambda: many)


def sample(node: Node) -> Any:
    """Return a small value of a type. Its unions name the branch."""
    kind, logical = node.kind, node.logical
    if kind == "record":
        return {field.name: sample(field.node) for field in node.fields}
    if kind == "union":
        branch = min(node.branches, key=lambda branch: branch.cost)
        return (branch.label, sample(branch))
    if logical is not None and logical.name == "uuid":
        return UUID(int=0)
    if logical is not None and logical.name == "decimal":
        return Decimal(0)
    if kind == "enum":
        return node.symbols[0]
    if kind == "fixed":
        return bytes(node.size)
    return _SAMPLES[kind]()


_SAMPLES: Final[dict[str, Callable[[], Any]]] = {
    "null": lambda: None,
    "boolean": bool,
    "int": int,
    "long": int,
    "float": float,
    "double": float,
    "bytes": bytes,
    "string": str,
    "array": list,
    "map": dict,
}
