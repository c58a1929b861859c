"""Two validation engines, one verdict; and a compatibility answer of yes is never wrong. Shown on random schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dimesh.errors import InvalidSchemaError
from dimesh.registry.compatibility import reasons_against
from dimesh.registry.evolution import SchemaEvolutionHelper
from dimesh.registry.validation import Validator

NAMES = st.sampled_from(["a", "b", "c", "x-1", "ü"])
PATTERNS = st.sampled_from(
    [
        "^a",
        "b$",
        r"^\d+$",
        r"\w",
        "[^a-c]",
        "a{2,3}",
        "(ab|c)+",
        "^.$",
        r"\u00fc",
        r"^\s*$",
        "",
        "(?!x)a",
        r"\D",
    ]
)
FORMATS = st.sampled_from(
    ["date", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "hostname", "time", "made-up"]
)
TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        [
            "a",
            "ab",
            "aab",
            "7",
            "12\n",
            "\u0663",
            "2026-01-31",
            "2026-02-30",
            "2026-01-31T10:00:00Z",
            "a@b.example",
        ]
        + [
            "10.0.0.1",
            "::1",
            "http://x/y",
            "x",
            " ",
            "\u2028",
            "ü",
            "10:00:00Z",
            "00000000-0000-0000-0000-000000000000",
        ]
    ),
)
NUMBERS = st.one_of(st.integers(-5, 5), st.sampled_from([0.5, -0.5, 1.0, 2**70, 19.99, 0.01, 1e10, 3]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


KEYWORDS = [
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "items",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependencies",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
]
BOUNDS = st.integers(-3, 3)
SIZES = st.integers(0, 3)
SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), BOUNDS),
    "multipleOf": st.sampled_from([1, 2, 0.01, 0.5, 3]),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), SIZES
    ),
    "pattern": PATTERNS,
    "format": FORMATS,
    "uniqueItems": st.booleans(),
    "required": st.lists(NAMES, max_size=2, unique=True),
}


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> Any:
    if depth == 0 or draw(st.integers(0, 9)) == 0:
        return draw(st.booleans())
    inner = schemas(depth - 1)
    schema: dict[str, Any] = {}
    for keyword in draw(st.lists(st.sampled_from(KEYWORDS), max_size=4, unique=True)):
        if keyword in SIMPLE:
            schema[keyword] = draw(SIMPLE[keyword])
        elif keyword in ("allOf", "anyOf", "oneOf"):
            schema[keyword] = draw(st.lists(inner, min_size=1, max_size=2))
        elif keyword == "properties":
            schema[keyword] = draw(st.dictionaries(NAMES, inner, max_size=3))
        elif keyword == "patternProperties":
            schema[keyword] = draw(st.dictionaries(PATTERNS, inner, max_size=1))
        elif keyword == "items":
            schema[keyword] = draw(st.one_of(inner, st.lists(inner, max_size=2)))
        elif keyword == "dependencies":
            names = st.lists(NAMES, unique=True, max_size=2)
            schema[keyword] = draw(st.dictionaries(NAMES, st.one_of(inner, names), max_size=1))
        else:
            schema[keyword] = draw(inner)
    return schema


SCHEMAS = schemas()


def compiled(schema: Any, engine: Any) -> Validator | None:
    try:
        return Validator(schema, engine=engine)
    except InvalidSchemaError:
        return None


@example({"items": False, "additionalItems": False}, [[]])
@example({"items": [{}], "additionalItems": False}, [[1], [1, 2]])
@settings(max_examples=400, deadline=None)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=6))
def test_both_engines_give_the_same_verdict(schema: Any, values: list[Any]) -> None:
    rust, python = compiled(schema, "rust"), compiled(schema, "python")
    assert (rust is None) == (python is None), schema
    if rust is None or python is None:
        return
    for value in values:
        assert rust.is_valid(value) == python.is_valid(value), (schema, value)
        assert bool(rust.problems(value)) == (not rust.is_valid(value))
        assert bool(python.problems(value)) == (not python.is_valid(value))


@settings(max_examples=400, deadline=None)
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=8))
def test_strict_yes_is_never_wrong(writer: Any, reader: Any, values: list[Any]) -> None:
    own, other = compiled(writer, None), compiled(reader, None)
    assume(own is not None and other is not None)
    assert own is not None
    assert other is not None
    if not reasons_against(writer, reader, "strict"):
        for value in values:
            assert not own.is_valid(value) or other.is_valid(value), (writer, reader, value)


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.sampled_from(["strict", "tolerant"]))
def test_a_schema_is_compatible_with_itself(schema: Any, policy: Any) -> None:
    assume(compiled(schema, None) is not None)
    assert reasons_against(schema, schema, policy) == []


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, SCHEMAS, max_size=3), SCHEMAS, st.sampled_from(["n1", "n2"]))
def test_the_helper_keeps_what_it_says(properties: dict[str, Any], field: Any, name: str) -> None:
    schema = {"type": "object", "properties": properties}
    assume(isinstance(field, dict))
    assume(compiled(schema, None) is not None and compiled(field, None) is not None)
    wider = SchemaEvolutionHelper.add_optional_field(schema, name, field)
    assert reasons_against(schema, wider) == []
    assert reasons_against(wider, schema) == []
    deprecated = SchemaEvolutionHelper.deprecate_field(wider, name, "old")
    assert reasons_against(wider, deprecated) == []
    assert reasons_against(deprecated, wider) == []


RECURSIVE = {
    "definitions": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/definitions/node"}},
        }
    },
    "$ref": "#/definitions/node",
}


def test_recursion_ends() -> None:
    assert reasons_against(RECURSIVE, RECURSIVE) == []
    import copy

    narrower = copy.deepcopy(RECURSIVE)
    narrower["definitions"]["node"]["properties"]["value"] = {"type": "integer", "maximum": 3}  # type: ignore[index]
    assert "maximum" in reasons_against(RECURSIVE, narrower)[0]
    assert reasons_against(narrower, RECURSIVE) == []
    endless = {
        "$ref": "#/definitions/a",
        "definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}},
    }
    reasons_against(endless, endless)


def test_what_is_no_json_is_refused_by_both() -> None:
    from datetime import datetime
    from enum import Enum

    class Colour(str, Enum):
        RED = "red"

    for engine in ("rust", "python"):
        validator = Validator(True, engine=engine)  # type: ignore[arg-type]
        for value in ((1, 2), {1: 2}, {"a": b"x"}, datetime(2026, 1, 1), float("nan"), Colour.RED, "\ud800"):  # noqa: DTZ001
            assert not validator.is_valid(value)
            assert validator.problems(value)
        deep: Any = []
        for _ in range(5_000):
            deep = [deep]
        assert not validator.is_valid(deep)
