"""The parts of a parsed Avro schema, with named types resolved: a graph, since types may refer to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

PRIMITIVES: Final = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAMED: Final = ("record", "enum", "fixed")

DEEP: Final = 100
"""The nesting of types up to which fastavro, which does not check its stack, encodes and decodes."""

RANGES: Final = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""The default of a field that has none: null is a default, too."""


@dataclass(frozen=True, slots=True)
class Logical:
    """A logical type that dimesh converts. Others are ignored, as the specification of Avro requires."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal({self.precision}, {self.scale})" if self.name == "decimal" else self.name


@dataclass(slots=True, eq=False)
class Node:
    """One type of a schema. Only parsing changes it."""

    kind: str
    """A primitive type, ``record``, ``enum``, ``fixed``, ``array``, ``map`` or ``union``."""
    name: str = ""
    """The full name of a record, enum or fixed."""
    aliases: tuple[str, ...] = ()
    """The full names under which the reader also accepts a writer's type."""
    logical: Logical | None = None
    fields: tuple[Field, ...] = ()
    symbols: tuple[str, ...] = ()
    default: str | None = None
    """The symbol that a reader's enum uses for those that it does not know."""
    size: int = 0
    """The number of bytes of a fixed."""
    items: Node | None = None
    """The type of an array's items, or of a map's values."""
    branches: tuple[Node, ...] = ()
    cost: float = float("inf")
    """The number of parts and bytes of the smallest value; infinite until parsing has computed it."""
    nesting: int = 0
    """The nesting of the records in the smallest value."""
    empty: bool = False
    """Whether values take no bytes at all."""
    by_name: dict[str, Field] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    """The names of the fields that have no default."""
    positions: dict[str, int] = field(default_factory=dict)
    """The position of each symbol."""

    @property
    def of(self) -> Node:
        """The type of the items or values."""
        assert self.items is not None
        return self.items

    @property
    def short(self) -> str:
        """The name without its namespace."""
        return self.name.rpartition(".")[2]

    @property
    def label(self) -> str:
        """The name of the type in messages, and in the form ``(name, value)`` of a value of a union."""
        return self.name or self.kind

    def children(self) -> Iterator[Node]:
        """Return the types of which this one consists."""
        if self.items is not None:
            yield self.items
        yield from self.branches
        for part in self.fields:
            yield part.node

    def __str__(self) -> str:
        if self.kind == "union":
            return ("[" + ", ".join(str(branch) for branch in self.branches[:20]) + "]")[:200]
        kind = f"{self.kind} {self.name}" if self.name else self.kind
        return f"{kind} ({self.logical})" if self.logical else kind


@dataclass(slots=True, eq=False)
class Field:
    """A field of a record."""

    name: str
    node: Node
    aliases: tuple[str, ...] = ()
    default: Any = MISSING
    """The default as the schema's JSON has it."""


def reachable(root: Node) -> list[Node]:
    """Return all types of a schema, each once."""
    found = {id(root): root}
    waiting = [root]
    while waiting:
        for child in waiting.pop().children():
            if id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())


def height(root: Node) -> float:
    """Return how deeply values may be nested; infinite if a type contains itself, or if the nesting exceeds ``DEEP``."""
    heights: dict[int, float] = {}
    path: set[int] = set()

    def visit(node: Node) -> float:
        if id(node) in path or len(path) > DEEP:
            return float("inf")
        if id(node) not in heights:
            path.add(id(node))
            heights[id(node)] = 1 + max(map(visit, node.children()), default=0)
            path.discard(id(node))
        return heights[id(node)]

    return visit(root)
