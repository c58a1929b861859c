"""Verdicts about JSON Schemas: small cases, everyday edits, and an attack on random pairs."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest
from random_schemas import RandomSchemas

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.compatibility.nodes import Graph
from dimesh.registry.jsonschema.compatibility.proof import Proof
from dimesh.registry.jsonschema.compatibility.verdict import POLICIES, _Confirmation
from dimesh.registry.jsonschema.compatibility.witness import UnsatisfiableError, Values
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.spi.schema import Outcome, Verdict

LANGUAGE = JsonSchema()
ALL = tuple(POLICIES)
NUMBER_OF_PAIRS = int(os.environ.get("SCHEMA_PAIRS", "2000"))
"""The pairs of the slow attack: 60,000 take about ten minutes."""


def parse(schema: Any) -> ParsedJsonSchema:
    parsed = LANGUAGE.parse(json.dumps(schema))
    assert isinstance(parsed, ParsedJsonSchema)
    return parsed


def compare(writer: Any, reader: Any, policy: str) -> Verdict:
    w, r = parse(writer), parse(reader)
    verdict = LANGUAGE.compare(w, r, policy)
    if verdict.witness is not None:
        assert w.is_valid(verdict.witness.value)
        assert not r.is_valid(verdict.witness.value)
        assert verdict.witness.problem
    assert (verdict.outcome is Outcome.REFUTED) == (verdict.witness is not None)
    assert bool(verdict.differences) == (verdict.outcome is not Outcome.PROVED)
    return verdict


# -- small cases -------------------------------------------------------------------------------------


def with_definition(x: Any, **schema: Any) -> dict[str, Any]:
    return {"definitions": {"x": x}, **schema}


USE = {"$ref": "#/definitions/x"}
TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
REFUTED = {
    "contains behind a reference": (
        with_definition(TEXT, type="array", contains=USE),
        with_definition(WHOLE, type="array", contains=USE),
        ALL,
    ),
    "then behind a reference": (
        with_definition(TEXT, **{"if": {"required": ["k"]}, "then": {"properties": {"v": USE}}}),
        with_definition(WHOLE, **{"if": {"required": ["k"]}, "then": {"properties": {"v": USE}}}),
        ALL,
    ),
    "names behind a reference": (
        with_definition({"pattern": "^a"}, type="object", propertyNames=USE),
        with_definition({"pattern": "^b"}, type="object", propertyNames=USE),
        ALL,
    ),
    "dependencies behind a reference": (
        with_definition(
            {"required": ["a"]}, type="object", properties={"k": {}, "a": {}}, dependencies={"k": USE}
        ),
        with_definition(
            {"required": ["b"]}, type="object", properties={"k": {}, "a": {}}, dependencies={"k": USE}
        ),
        ALL,
    ),
    "patterns behind a reference": (
        with_definition(TEXT, type="object", patternProperties={"^a": USE}),
        with_definition(WHOLE, type="object", patternProperties={"^a": USE}),
        ALL,
    ),
    "not behind a reference": (
        with_definition(TEXT, **{"not": USE}),
        with_definition(WHOLE, **{"not": USE}),
        ALL,
    ),
    "a map gets a property of another type": (
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "additionalProperties": TEXT, "properties": {"a": WHOLE}},
        ALL,
    ),
    "a pattern forbids a declared property": (
        {"type": "object", "properties": {"a": TEXT}},
        {"type": "object", "patternProperties": {"^a": False}},
        ALL,
    ),
    "a default that is not valid itself": (
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "integer", "default": "none"}}, "required": ["a"]},
        ALL,
    ),
    "a new optional property, to the letter": (
        {"type": "object", "properties": {"a": TEXT}},
        {"type": "object", "properties": {"a": TEXT, "b": WHOLE}},
        ("strict", "defaults"),
    ),
    "a default, to the letter": (
        {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}},
        {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}, "required": ["a"]},
        ("strict",),
    ),
    "overlapping branches": ({"oneOf": [TEXT]}, {"oneOf": [TEXT, {"maxLength": 3}]}, ALL),
    "fewer values": ({"enum": ["a", "b"]}, {"enum": ["a"]}, ALL),
    "a narrower range": ({"type": "integer", "minimum": 0}, {"type": "integer", "exclusiveMinimum": 0}, ALL),
    "shorter texts": ({"type": "string", "maxLength": 10}, {"type": "string", "maxLength": 9}, ALL),
    "a format": ({"type": "string"}, {"type": "string", "format": "email"}, ALL),
    "another pattern": (
        {"type": "string", "pattern": "^[0-9]+$"},
        {"type": "string", "pattern": "^[1-9][0-9]*$"},
        ALL,
    ),
    "items inside of items": (
        {"type": "array", "items": {"type": "array", "items": {"type": ["integer", "null"]}}},
        {"type": "array", "items": {"type": "array", "items": WHOLE}},
        ALL,
    ),
}
PROVED = {
    "an annotation in a branch": (
        {"oneOf": [TEXT, WHOLE]},
        {"oneOf": [{**TEXT, "description": "d", "examples": ["x"]}, WHOLE]},
        ALL,
    ),
    "a second branch with another constant": (
        {"type": "object", "oneOf": [{"properties": {"k": {"const": "a"}}, "required": ["k"]}]},
        {
            "type": "object",
            "oneOf": [
                {"properties": {"k": {"const": "a"}}, "required": ["k"]},
                {"properties": {"k": {"const": "b"}}, "required": ["k"]},
            ],
        },
        ALL,
    ),
    "types as branches": ({"type": ["string", "null"]}, {"anyOf": [TEXT, {"type": "null"}]}, ALL),
    "branches as types": ({"anyOf": [TEXT, {"type": "null"}]}, {"type": ["string", "null"]}, ALL),
    "a range as values": ({"type": "integer", "minimum": 1, "maximum": 3}, {"enum": [1, 2, 3]}, ALL),
    "a constant as values": ({"const": "a"}, {"enum": ["a", "b"]}, ALL),
    "values as a type": ({"enum": ["a", "b"]}, TEXT, ALL),
    "whole numbers above zero": (
        {"type": "integer", "minimum": 1},
        {"type": "number", "exclusiveMinimum": 0},
        ALL,
    ),
    "a new optional property": (
        {"type": "object", "properties": {"a": TEXT}},
        {"type": "object", "properties": {"a": TEXT, "b": WHOLE}},
        ("tolerant",),
    ),
    "a new property with a default": (
        {"type": "object", "properties": {"a": TEXT}},
        {"type": "object", "properties": {"a": TEXT, "b": {**WHOLE, "default": 1}}, "required": ["b"]},
        ("tolerant",),
    ),
    "a property that a closed reader does not know": (
        {"type": "object", "properties": {"a": TEXT, "b": WHOLE}},
        {"type": "object", "properties": {"a": TEXT}, "additionalProperties": False},
        ("tolerant",),
    ),
    "a reference put in place": (
        with_definition(TEXT, properties={"a": USE}),
        {"properties": {"a": TEXT}},
        ALL,
    ),
    "recursion": (
        {"properties": {"next": {"$ref": "#"}, "v": WHOLE}},
        {"properties": {"next": {"$ref": "#"}, "v": {"type": "number"}}},
        ALL,
    ),
    "another draft's words": (
        {"type": "array", "items": [TEXT], "additionalItems": WHOLE},
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "array",
            "prefixItems": [TEXT],
            "items": WHOLE,
        },
        ALL,
    ),
}


@pytest.mark.parametrize(("name", "policy"), [(n, p) for n, (_, _, ps) in REFUTED.items() for p in ps])
def test_refuted_with_a_witness(name: str, policy: str) -> None:
    writer, reader, _ = REFUTED[name]
    assert compare(writer, reader, policy).outcome is Outcome.REFUTED


@pytest.mark.parametrize(("name", "policy"), [(n, p) for n, (_, _, ps) in PROVED.items() for p in ps])
def test_proved(name: str, policy: str) -> None:
    writer, reader, _ = PROVED[name]
    assert compare(writer, reader, policy).outcome is Outcome.PROVED


def test_a_witness_is_short_and_the_difference_says_where() -> None:
    writer = {"type": "object", "properties": {f"p{n}": TEXT for n in range(50)}, "required": ["p7"]}
    reader = {**writer, "properties": {**writer["properties"], "p9": WHOLE}}  # type: ignore[dict-item]
    verdict = compare(writer, reader, "tolerant")
    assert verdict.witness is not None
    assert set(verdict.witness.value) == {"p7", "p9"}
    (difference,) = verdict.differences
    assert (difference.code, difference.path) == ("type-removed", "#/properties/p9")


def test_what_depends_on_its_neighbours_is_proved_only_where_nothing_changed() -> None:
    draft = "https://json-schema.org/draft/2019-09/schema"
    writer = {"$schema": draft, "properties": {"a": TEXT}, "unevaluatedProperties": False}
    assert compare(writer, dict(writer), "strict")
    assert not compare(writer, {**writer, "unevaluatedProperties": TEXT}, "strict")
    hidden = {"$schema": draft, "$defs": {"x": TEXT}, "properties": {"a": {"$ref": "#/$defs/x"}}}
    one, two = (
        {**hidden, "$defs": {"x": x}, "unevaluatedProperties": {"$ref": "#/$defs/x"}} for x in (TEXT, WHOLE)
    )
    assert not compare(one, two, "strict")


def test_a_schema_with_too_many_alternatives_is_undecided_soon() -> None:
    many = {"allOf": [{"anyOf": [{"required": [f"{n}{m}"]} for m in range(8)]} for n in range(8)]}
    verdict = compare(
        many, {**many, "allOf": [*many["allOf"], {"anyOf": [TEXT, {"required": ["z"]}]}]}, "strict"
    )
    assert not verdict


CLOSED = {"additionalProperties": False}
TEXTS = {"type": "object", "properties": {"a": TEXT}}
MORE = {"type": "object", "properties": {"a": TEXT, "b": TEXT}}


@pytest.mark.parametrize(
    ("writer", "reader", "strict", "lenient"),
    [
        (
            TEXTS,
            MORE,
            False,
            True,
        ),  # issue 2927 of its repository: the writer may already send b with another type
        (TEXTS | CLOSED, MORE | CLOSED, True, True),
        (TEXTS | {"additionalProperties": TEXT}, MORE | {"additionalProperties": TEXT}, True, True),
        (MORE, TEXTS, True, True),
        (MORE | CLOSED, TEXTS | CLOSED, False, True),
        (TEXTS | CLOSED, {**MORE, **CLOSED, "required": ["b"]}, False, False),
        (TEXTS, TEXTS | {"additionalProperties": TEXT}, False, True),
        ({"type": "integer"}, {"type": "number"}, True, True),
        ({"type": "number"}, {"type": "integer"}, False, False),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, True, True),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}, False, False),
        ({"enum": ["a"]}, {"type": "string"}, False, False),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 4}, True, True),
        ({"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^a"}, False, False),
        # Never compared, although each of them breaks readers.
        (TEXTS, TEXTS | {"propertyNames": {"pattern": "^a"}}, True, True),
        (TEXTS, TEXTS | {"patternProperties": {"^x": False}}, True, True),
        (TEXTS, TEXTS | {"if": {"required": ["a"]}, "then": {"required": ["c"]}}, True, True),
        ({"type": "array"}, {"type": "array", "contains": TEXT}, True, True),
        ({"type": "string"}, {"type": "string", "format": "date"}, True, True),
        (TEXTS, TEXTS | {"required": ["undeclared"]}, True, True),
        ({"oneOf": [TEXT, WHOLE]}, {"oneOf": [WHOLE, TEXT, {"type": "null"}]}, True, True),
        ({"oneOf": [TEXT, WHOLE]}, {"oneOf": [TEXT]}, False, False),
    ],
)
def test_confluents_verdicts(writer: Any, reader: Any, strict: bool, lenient: bool) -> None:
    for policy, expected in (("confluent", strict), ("confluent-lenient", lenient)):
        verdict = LANGUAGE.compare(parse(writer), parse(reader), policy)
        assert bool(verdict) is expected, (policy, verdict)
        assert bool(verdict.differences) is not expected


# -- everyday edits ----------------------------------------------------------------------------------

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "maxLength": 40},
        "amount": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "placed_at": {"type": ["string", "null"], "format": "date-time"},
        "lines": {"type": "array", "items": {"$ref": "#/definitions/line"}, "minItems": 1},
        "note": {"type": "string"},
    },
    "required": ["id", "amount"],
    "definitions": {
        "line": {
            "type": "object",
            "properties": {"sku": TEXT, "quantity": {"type": "integer", "minimum": 1}},
            "required": ["sku"],
        }
    },
}


def edited(**properties: Any) -> dict[str, Any]:
    kept = {**ORDER["properties"], **properties}
    return {**ORDER, "properties": {k: v for k, v in kept.items() if v is not None}}


def line(**changes: Any) -> dict[str, Any]:
    return {**ORDER, "definitions": {"line": {**ORDER["definitions"]["line"], **changes}}}


EDITS: dict[str, dict[str, Any]] = {
    "add an optional property": edited(channel=TEXT),
    "add an optional object": edited(address={"type": "object", "properties": {"city": TEXT}}),
    "add a required property": {**edited(channel=TEXT), "required": ["id", "amount", "channel"]},
    "add a required property with a default": {
        **edited(channel={**TEXT, "default": "web"}),
        "required": ["id", "amount", "channel"],
    },
    "remove an optional property": edited(note=None),
    "remove a required property": {**edited(amount=None), "required": ["id"]},
    "make a property required": {**ORDER, "required": ["id", "amount", "currency"]},
    "make a property optional": {**ORDER, "required": ["id"]},
    "rename a property": edited(note=None, remark=TEXT),
    "add a value": edited(currency={"enum": ["EUR", "USD", "GBP"]}),
    "remove a value": edited(currency={"enum": ["EUR"]}),
    "values to a type": edited(currency=TEXT),
    "a type to values": edited(note={"enum": ["a", "b"]}),
    "a constant": edited(currency={"const": "EUR"}),
    "widen a type": edited(note={"type": ["string", "null"]}),
    "narrow a type": edited(placed_at={"type": "string", "format": "date-time"}),
    "change a type": edited(amount=TEXT),
    "whole numbers only": edited(amount={"type": "integer", "minimum": 0}),
    "raise a minimum": edited(amount={"type": "number", "minimum": 1}),
    "lower a minimum": edited(amount={"type": "number", "minimum": -1}),
    "add a maximum": edited(amount={"type": "number", "minimum": 0, "maximum": 1000}),
    "lengthen a text": edited(id={"type": "string", "maxLength": 80}),
    "shorten a text": edited(id={"type": "string", "maxLength": 20}),
    "add a pattern": edited(id={"type": "string", "maxLength": 40, "pattern": "^ord_"}),
    "add a format": edited(note={"type": "string", "format": "uri"}),
    "remove a format": edited(placed_at={"type": ["string", "null"]}),
    "multiples": edited(amount={"type": "number", "minimum": 0, "multipleOf": 0.01}),
    "more items": edited(lines={"type": "array", "items": {"$ref": "#/definitions/line"}, "minItems": 2}),
    "fewer items": edited(lines={"type": "array", "items": {"$ref": "#/definitions/line"}}),
    "unique items": edited(lines={**ORDER["properties"]["lines"], "uniqueItems": True}),
    "a definition gets a property": line(
        properties={**ORDER["definitions"]["line"]["properties"], "price": WHOLE}
    ),
    "a definition requires more": line(required=["sku", "quantity"]),
    "a definition in place": edited(
        lines={"type": "array", "items": ORDER["definitions"]["line"], "minItems": 1}
    ),
    "close the object": {**ORDER, "additionalProperties": False},
    "a map beside": {**ORDER, "additionalProperties": TEXT},
    "describe everything": {**ORDER, "title": "an order", "description": "what a customer wants"},
    "at least three properties": {**ORDER, "minProperties": 3},
    "one of two contacts": {**ORDER, "anyOf": [{"required": ["note"]}, {"required": ["placed_at"]}]},
    "a condition": {**ORDER, "if": {"required": ["note"]}, "then": {"required": ["currency"]}},
    "a dependency": {**ORDER, "dependencies": {"note": ["currency"]}},
    "limit the names": {**ORDER, "propertyNames": {"pattern": "^[a-z_]+$"}},
}


def test_everyday_edits_are_decided() -> None:
    """At least 99 % of them; today all."""
    undecided = []
    for policy in ALL:
        for name, schema in EDITS.items():
            for way, (writer, reader) in (("backward", (ORDER, schema)), ("forward", (schema, ORDER))):
                if compare(writer, reader, policy).outcome is Outcome.UNDECIDED:
                    undecided.append((name, way, policy))
    assert undecided == []


# -- the attack --------------------------------------------------------------------------------------


def attack(seed: int, pairs: int) -> Counter[str]:
    """Compare random pairs; attack every yes with values, and check every no. Return how many verdicts there were of each kind."""
    random_schemas = RandomSchemas(seed)
    counts: Counter[str] = Counter()
    while sum(counts.values()) < pairs:
        writer, reader = random_schemas.pair()
        policy = random_schemas.rng.choice(["strict", "strict", "defaults", "tolerant"])
        try:
            w, r = parse(writer), parse(reader)
        except InvalidSchemaError:
            continue
        verdict = compare(writer, reader, policy)
        counts[verdict.outcome.value] += 1
        if verdict.outcome is not Outcome.PROVED:
            continue
        root = Graph(w.documents).root
        confirmation = _Confirmation(w, r, root, Graph(r.documents).root, POLICIES[policy])
        proof = Proof(POLICIES[policy])
        for n in range(40):
            try:
                value = Values(proof, n).value(root) if n < 25 else random_schemas.value()
            except UnsatisfiableError:
                continue
            assert not confirmation._is_witness(value), (policy, writer, reader, value)
    return counts


def test_no_random_verdict_is_wrong() -> None:
    counts = attack(seed=1, pairs=150)
    assert counts["proved"] > 20
    assert counts["refuted"] > 20


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_no_verdict_of_many_is_wrong() -> None:
    counts = attack(seed=2, pairs=NUMBER_OF_PAIRS)
    assert counts["undecided"] < 0.01 * NUMBER_OF_PAIRS, counts


# -- what the first hundred thousand random pairs left undecided ----------------------------------------


@pytest.mark.parametrize(
    ("writer", "reader", "outcome"),
    [
        ({"type": ["boolean", "string"], "maxLength": 1, "format": "date"}, {"type": "boolean"}, "proved"),
        (
            {"type": ["array", "null"], "items": {"type": "null"}, "contains": {"type": "integer"}},
            {"const": None},
            "proved",
        ),
        ({"type": "string", "enum": ["b"], "format": "email"}, {"type": "boolean"}, "proved"),
        ({"type": ["integer", "object"], "not": {"type": "object"}}, {"type": "number"}, "proved"),
        ({"maximum": 3}, {"not": {"type": "boolean", "not": {}}}, "proved"),
        (
            {"type": "object", "required": ["a", "c"], "maxProperties": 2},
            {"type": "object", "required": ["a", "c"], "properties": {"b": {"type": "null"}}},
            "proved",
        ),
        ({"type": "string", "minLength": 2, "pattern": "^b"}, {"type": "boolean"}, "refuted"),
        (
            {"type": "string", "minLength": 1, "pattern": "[0-9]+$", "format": "ipv4"},
            {"type": "integer"},
            "refuted",
        ),
        (
            {"type": "object", "propertyNames": {"pattern": "^[a-z]$"}},
            {"type": "object", "patternProperties": {"^a": {"type": "null"}}},
            "refuted",
        ),
        ({"type": "number", "not": {"type": "integer"}}, {"type": "string"}, "refuted"),
        (
            {"type": "object", "required": ["a"], "maxProperties": 2},
            {"properties": {"b": {"type": "null"}}},
            "refuted",
        ),
    ],
    ids=repr,
)
def test_what_was_undecided(writer: dict[str, Any], reader: dict[str, Any], outcome: str) -> None:
    assert compare(writer, reader, "strict").outcome.value == outcome


# -- laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ALL)
def test_laws(policy: str) -> None:
    """A schema reads itself; allOf narrows and anyOf widens; what reads what reads reads (transitive)."""
    random_schemas = RandomSchemas(3)
    proved = 0
    for _ in range(60):
        one, other = random_schemas.schema(), random_schemas.schema()
        try:
            parse(one), parse(other)
        except InvalidSchemaError:
            continue
        if "definitions" in str(one) + str(other):
            continue  # a part of another document would lose its definitions
        assert compare(one, json.loads(json.dumps(one)), policy)
        if policy == "strict":
            assert compare({"allOf": [one, other]}, one, policy).outcome is not Outcome.REFUTED
            assert compare(one, {"anyOf": [one, other]}, policy).outcome is Outcome.PROVED
            third = random_schemas.changed(other)
            try:
                parse(third)
            except InvalidSchemaError:
                continue
            if compare(one, other, policy) and compare(other, third, policy):
                proved += 1
                assert compare(one, third, policy).outcome is not Outcome.REFUTED
