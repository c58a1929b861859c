"""JSON Schema keeps the contract of schema languages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.spi.schema import SchemaLanguage
from dimesh_contracts.schema import Change, Example, Examples, SchemaLanguageContract


def text(**keywords: Any) -> str:
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **keywords})


INTEGER, NAME = {"type": "integer"}, {"type": "string", "maxLength": 5}
ORDER = text(type="object", properties={"id": INTEGER, "name": NAME}, required=["id"])
TREE = text(
    type="object",
    properties={"value": INTEGER, "children": {"type": "array", "items": {"$ref": "#"}}},
    required=["value"],
    additionalProperties=False,
)
CLOSED = {"type": "object", "additionalProperties": False}

SCHEMAS = [
    Example(
        ORDER,
        [{"id": 1}, {"id": 2**70, "name": "ключ", "more": [None, 0.5]}],
        [{"name": "x"}, {"id": "1"}, {"id": 1, "name": "too long"}, []],
        [json.dumps(dict(reversed(json.loads(ORDER).items())), indent=2)],
        [
            text(type="object", properties={"id": INTEGER, "name": NAME}, required=["name"]),
            text(type="object", properties={"id": {**INTEGER, "default": 1}, "name": NAME}, required=["id"]),
        ],
    ),
    Example(TREE, [{"value": 1, "children": [{"value": 2}]}], [{"value": 1, "children": [{"x": 2}]}]),
    Example(text(enum=["a", None, 1]), ["a", None, 1], ["b", True]),
    Example(text(type="string", pattern="^[0-9]+$"), ["12"], ["x", 12]),
]
CHANGES = [
    Change(
        text(properties={"a": INTEGER}, required=["a"], **CLOSED),
        text(properties={"a": {"type": "number"}, "b": NAME}, required=["a"], **CLOSED),
        [{"a": 1}],
        True,
    ),
    Change(text(enum=["a"]), text(enum=["a", "b"]), ["a"], True),
    Change(text(type="integer", minimum=3), text(type="integer", minimum=1), [3, 9], True),
    Change(text(type="integer"), text(type="string"), [1], False),
    Change(text(type="object"), text(type="object", required=["a"]), [{}, {"a": 1}], False),
    Change(text(enum=["a", "b"]), text(enum=["a"]), ["a", "b"], False),
    Change(text(type="integer"), text(type="integer", maximum=10), [3, 11], False),
    Change(text(type="array", items=INTEGER), text(type="array", items=NAME), [[], [1]], False),
    Change(
        text(definitions={"a": INTEGER}, properties={"x": {"$ref": "#/definitions/a"}}),
        text(definitions={"a": NAME}, properties={"x": {"$ref": "#/definitions/a"}}),
        [{"x": 1}, {}],
        False,
    ),
]


def doubled(levels: int) -> str:
    definitions = {f"d{n}": {"allOf": [{"$ref": f"#/definitions/d{n + 1}"}] * 2} for n in range(levels)} | {
        f"d{levels}": {"type": "integer"}
    }
    return text(definitions=definitions, allOf=[{"$ref": "#/definitions/d0"}])


HOSTILE = [
    "[" * 50_000,
    doubled(40),
    text(pattern="(a+)+$"),
    text(pattern="(" * 20_000 + ")" * 20_000),
    text(pattern="a{1000}{1000}{1000}"),
    text(definitions={"a": {"$ref": "#/definitions/a"}}, allOf=[{"$ref": "#/definitions/a"}]),
    text(enum=list(range(20_000))),
]
UNRESOLVED = [
    text(**{"$ref": target})
    for target in ("http://169.254.169.254/x", "file:///etc/hostname", "other.json", "#/definitions/none")
]


class TestJsonSchema(SchemaLanguageContract):
    @pytest.fixture
    def language(self) -> SchemaLanguage:
        return JsonSchema()

    @pytest.fixture
    def examples(self) -> Examples:
        return Examples(SCHEMAS, CHANGES, HOSTILE, UNRESOLVED)
