"""Schemas, values and changes in Avro, for the contract of schema languages."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from dimesh_contracts.schema import Change, Example, Examples


def record(*fields: tuple[Any, ...], name: str = "R", **more: Any) -> str:
    made = [{"name": field[0], "type": field[1]} | (field[2] if len(field) > 2 else {}) for field in fields]
    return json.dumps({"type": "record", "name": name, "fields": made, **more})


KIND = {"type": "enum", "name": "Kind", "symbols": ["NEW", "PAID"]}
AT = {"type": "long", "logicalType": "timestamp-millis"}
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
ORDER = record(
    ("id", "long"),
    ("kind", KIND),
    ("note", ["null", "string"], {"default": None}),
    name="Order",
    namespace="shop",
)
ORDER_VALUE = {"id": 1, "kind": "PAID", "note": "x"}

SCHEMAS = [
    Example(
        ORDER,
        [ORDER_VALUE, {"id": -(2**63), "kind": "NEW", "note": None}],
        [
            {"id": 2**63, "kind": "NEW", "note": None},
            {"id": 1, "kind": "GONE", "note": 1},
            {"id": 1},
            7,
            {**ORDER_VALUE, "x": 1},
        ],
        [
            json.dumps(dict(reversed(json.loads(ORDER).items())), indent=2),
            ORDER.replace('"Order"', '"shop.Order"'),
            ORDER.replace('"long"', '{"type": "long"}'),
        ],
        [
            ORDER.replace(', "default": null', ""),
            ORDER.replace('"NEW", "PAID"', '"PAID", "NEW"'),
            ORDER.replace("shop", "store"),
        ],
    ),
    Example(
        record(("f", "float"), ("b", "bytes"), ("i", "int"), ("t", "boolean"), name="All"),
        [{"f": 0.5, "b": b"\x00\xff", "i": 2**31 - 1, "t": True}],
        [{"f": 1e300, "b": "x", "i": 2**31, "t": 1}],
    ),
    Example(
        record(
            ("at", AT),
            ("day", {"type": "int", "logicalType": "date"}),
            ("u", {"type": "string", "logicalType": "uuid"}),
            ("of", {"type": "int", "logicalType": "time-millis"}),
        ),
        [
            {
                "at": datetime(2026, 1, 1, tzinfo=UTC),
                "day": date(2026, 1, 1),
                "u": UUID(int=7),
                "of": time(1, 2),
            }
        ],
        [{"at": "now", "day": 0, "u": UUID(int=7), "of": time(1, 2)}],
        (),
        [record(("at", "long"), ("day", "int"), ("u", "string"), ("of", "int"))],
    ),
    Example(
        record(("amount", CENTS)),
        [{"amount": Decimal("-9999.99")}, {"amount": Decimal("0.00")}],
        [{"amount": Decimal("1.234")}, {"amount": Decimal(10) ** 9}],
    ),
    Example(
        record(("value", "int"), ("next", ["null", "Node"]), name="Node"),
        [{"value": 1, "next": {"value": 2, "next": None}}],
        [{"value": 1, "next": {"value": 2}}],
    ),
    Example(
        '{"type": "map", "values": {"type": "array", "items": ["string", "long", "double"]}}',
        [{"a": ["x", 1, 0.5], "ü/~": []}, {}],
        [{"a": None}, {"a": [None]}, []],
        ['{"values": {"items": ["string", "long", "double"], "type": "array"}, "type": "map"}'],
        ['{"type": "map", "values": {"type": "array", "items": ["long", "string", "double"]}}'],
    ),
    Example('"bytes"', [b"", b"abc"], ["abc", None], ['{"type": "bytes"}'], ['"string"']),
    Example(
        record(("lines", {"type": "array", "items": "shop.Line"}), name="Basket"),
        [{"lines": [{"n": 1}]}],
        [{"lines": [{"n": "x"}]}],
        references={"shop.Line": record(("n", "int"), name="Line", namespace="shop")},
    ),
]

A, B = ("a", "int"), ("b", "string", {"default": "none"})
TAGS = ("tags", {"type": "array", "items": "string"}, {"default": ["x"]})


def kinds(*symbols: str, **more: Any) -> str:
    return json.dumps({"type": "enum", "name": "Kind", "symbols": symbols, **more})


CHANGES = [
    Change(record(A), record(A, B), [{"a": 1}], True),
    Change(record(A), record(A, TAGS), [{"a": 1}], True),
    Change(record(A, B), record(A), [{"a": 1, "b": "x"}], True),
    Change(record(A), record(("z", "double", {"aliases": ["a"]})), [{"a": 2**31 - 1}], True),
    Change('["int", "null"]', '["null", "string", "long"]', [5, None], True),
    Change(kinds("A", "B"), kinds("A", "X", default="X"), ["A", "B"], True),
    Change(record(A), record(A, ("b", "string")), [{"a": 1}], False),
    Change(record(A), record(("a", "string")), [{"a": 1}], False),
    Change('"double"', '"float"', [0.5], False),
    Change('["int", "null"]', '["int", "string"]', [None, 1], False),
    Change(kinds("A", "B"), kinds("A"), ["A", "B"], False),
    Change('{"type": "array", "items": "long"}', '{"type": "array", "items": "int"}', [[], [1]], False),
    Change(record(A), record(A, name="Other"), [{"a": 1}], False),
    Change(
        record(("at", AT)),
        record(("at", {**AT, "logicalType": "timestamp-micros"})),
        [{"at": datetime(2026, 1, 1, tzinfo=UTC)}],
        False,
    ),
    Change(
        record(("amount", CENTS)),
        record(("amount", {**CENTS, "precision": 5})),
        [{"amount": Decimal("9999.99")}, {"amount": Decimal(1)}],
        False,
    ),
]


def doubled(levels: int) -> str:
    data: Any = "int"
    for n in range(levels):
        data = {
            "type": "record",
            "name": f"R{n}",
            "fields": [{"name": "a", "type": data}, {"name": "b", "type": f"R{n - 1}" if n else "int"}],
        }
    return json.dumps(data)


HOSTILE = [
    "[" * 50_000,
    '{"type": "array", "items": ' * 200 + '"int"' + "}" * 200,
    '"' + "x" * 2_000_000 + '"',
    doubled(15),
    doubled(40),
    json.dumps([{"type": "fixed", "name": f"F{n}", "size": n} for n in range(900)]),
    '{"type": "fixed", "name": "F", "size": 99999999999}',
    '{"type": "bytes", "logicalType": "decimal", "precision": 999999999}',
    record(("a", {"type": "array", "items": "R"}, {"default": [{}, {}]})),
    record(("a", "R")),
    record(*((f"f{n}", ["null", "R"]) for n in range(2_000))),
]
UNRESOLVED = [
    '"Unknown"',
    '"http://169.254.169.254/latest"',
    '"file:///etc/hostname"',
    '"/etc/hostname"',
    record(("a", "shop.Line")),
]
EXAMPLES = Examples(SCHEMAS, CHANGES, HOSTILE, UNRESOLVED)
