"""Random schemas, random edits of them, and random values."""

from __future__ import annotations

import copy
import random
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dimesh_avro.nodes import MISSING, Node

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = (
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
)
SYMBOLS = ("A", "B", "C", "D")


class SchemaMaker:
    """Makes one random schema."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.count = 0
        self.records: list[str] = []

    def record(self, depth: int = 0) -> dict[str, Any]:
        self.count += 1
        name = f"R{self.count}"
        self.records.append(name)
        fields = []
        for n in range(self.rng.randint(0 if depth else 1, 4)):
            kind = self.type(depth + 1)
            made: dict[str, Any] = {"name": f"f{n}", "type": kind}
            if kind == "int" and self.rng.random() < 0.5:
                made["default"] = 7
            if isinstance(kind, list) and kind[0] == "null":
                made["default"] = None
            fields.append(made)
        return {"type": "record", "name": name, "namespace": self.rng.choice(("", "com.x")), "fields": fields}

    def type(self, depth: int, in_union: bool = False) -> Any:
        rng, roll = self.rng, self.rng.random()
        if depth > 4 or roll < 0.4:
            return rng.choice(PRIMITIVES)
        if roll < 0.5:
            return dict(rng.choice(LOGICAL))
        if roll < 0.6:
            return {"type": "array", "items": self.type(depth + 1)}
        if roll < 0.7:
            return {"type": "map", "values": self.type(depth + 1)}
        if roll < 0.77:
            self.count += 1
            symbols = rng.sample(SYMBOLS, rng.randint(1, 4))
            made = {"type": "enum", "name": f"E{self.count}", "symbols": symbols}
            return made | ({"default": symbols[0]} if rng.random() < 0.3 else {})
        if roll < 0.82:
            self.count += 1
            return {"type": "fixed", "name": f"F{self.count}", "size": rng.randint(0, 4)}
        if roll < 0.9 and not in_union:
            return self.union(depth)
        return self.record(depth)

    def union(self, depth: int) -> list[Any]:
        branches: dict[str, Any] = {"null": "null"} if self.rng.random() < 0.6 else {}
        for _ in range(self.rng.randint(1, 3)):
            made = self.type(depth + 1, in_union=True)
            label = made["type"] if isinstance(made, dict) and "name" not in made else made
            branches.setdefault(
                made["name"] if isinstance(made, dict) and "name" in made else str(label), made
            )
        return list(branches.values())


def edited(rng: random.Random, schema: Any) -> Any:
    """Return a copy with a few edits, as people make them and as nobody makes them."""
    found = copy.deepcopy(schema)
    parts = [part for part in _parts(found) if isinstance(part, dict)]
    for _ in range(rng.randint(0, 3)):
        part = rng.choice(parts)
        roll = rng.random()
        if part.get("type") == "record" and roll < 0.7:
            fields = part["fields"]
            if fields and roll < 0.2:
                fields.pop(rng.randrange(len(fields)))
            elif roll < 0.35:
                fields.append(
                    {"name": f"new{rng.randint(0, 99)}", "type": "int"}
                    | ({"default": 1} if roll < 0.3 else {})
                )
                if len({field["name"] for field in fields}) < len(fields):
                    fields.pop()
            elif roll < 0.45:
                rng.shuffle(fields)
            elif fields and roll < 0.55:
                field = rng.choice(fields)
                field["aliases"] = [field["name"]]
                field["name"] = f"renamed{rng.randint(0, 99)}"
            else:
                part["aliases"] = [part["name"]]
                part["name"] = f"Renamed{rng.randint(0, 9)}"
        elif part.get("type") == "enum":
            part["symbols"] = rng.sample(SYMBOLS, rng.randint(1, 4))
            part.pop("default", None)
        elif part.get("type") == "fixed":
            part["size"] = rng.randint(0, 4)
        elif "type" in part and "name" in part and roll < 0.6:  # a field
            part.pop("default", None)
            kind = part["type"]
            if isinstance(kind, list):
                rng.shuffle(kind)
                if roll < 0.2 and len(kind) > 1:
                    kind.pop()
            elif roll < 0.4:
                part["type"] = ["null", kind]
            elif isinstance(kind, str):
                part["type"] = rng.choice((*PRIMITIVES, dict(rng.choice(LOGICAL))))
    return found


def _parts(data: Any) -> list[Any]:
    found = [data]
    for child in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        found += _parts(child)
    return found


def value_of(rng: random.Random, node: Node, depth: int = 0) -> Any:
    """Return a random value. Of a union, half of the values name their branch."""
    kind = node.kind
    if node.logical is not None:
        return _logical(rng, node)
    if kind == "record":
        return {
            field.name: value_of(rng, field.node, depth + 1)
            for field in node.fields
            if field.default is MISSING or rng.random() < 0.8
        }
    if kind == "union":
        branch = min(node.branches, key=lambda b: b.cost) if depth > 8 else rng.choice(node.branches)
        value = value_of(rng, branch, depth + 1)
        return (branch.label, value)
    size = 0 if depth > 8 else rng.randint(0, 3)
    if kind == "array":
        return [value_of(rng, node.of, depth + 1) for _ in range(size)]
    if kind == "map":
        return {rng.choice("abcü/~"): value_of(rng, node.of, depth + 1) for _ in range(size)}
    if kind == "enum":
        return rng.choice(node.symbols)
    if kind == "fixed":
        return rng.randbytes(node.size)
    return {
        "null": lambda: None,
        "boolean": lambda: rng.random() < 0.5,
        "int": lambda: rng.choice((0, -1, 2**31 - 1, -(2**31), rng.randint(-1000, 1000))),
        "long": lambda: rng.choice((0, -1, 2**63 - 1, -(2**63), rng.randint(-(10**12), 10**12))),
        "float": lambda: rng.choice((0.0, -1.5, 0.25, float("inf"))),
        "double": lambda: rng.choice((0.0, 1e300, 0.1, float("-inf"))),
        "bytes": lambda: rng.randbytes(rng.randint(0, 5)),
        "string": lambda: rng.choice(("", "a", "ключ🙂", "x" * 100)),
    }[kind]()


def _logical(rng: random.Random, node: Node) -> Any:
    assert node.logical is not None
    name = node.logical.name
    cut = 1_000 if name.endswith("millis") else 1
    micros = timedelta(microseconds=rng.randint(0, 86_399_999_999) // cut * cut)
    if name == "decimal":
        largest = 10**node.logical.precision - 1
        return Decimal(rng.choice((0, largest, -largest, rng.randint(-largest, largest)))).scaleb(
            -node.logical.scale
        )
    if name == "uuid":
        return UUID(int=rng.getrandbits(128))
    if name == "date":
        return date(1970, 1, 1) + timedelta(days=rng.randint(-700_000, 2_000_000))
    if name.startswith("time-"):
        return (datetime(1970, 1, 1, tzinfo=UTC) + micros).time() if rng.random() < 0.9 else time(0)
    start = datetime(1970, 1, 1, tzinfo=None if name.startswith("local") else UTC)
    return start + timedelta(days=rng.randint(-700_000, 2_000_000)) + micros


def plain(value: Any) -> Any:
    """Return a value without the names of branches, as decoding gives it."""
    if isinstance(value, tuple):
        return plain(value[1])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
