"""JSON Schema as a language: drafts, references, limits of the cost, messages, identity, defaults."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.registry.jsonschema.cost import MAX_COST
from dimesh.registry.jsonschema.engines import Engine
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.registry.jsonschema.matching import Matcher
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema

LANGUAGE = JsonSchema()
ENGINES: tuple[Engine, ...] = ("rust", "python")
D2019 = "https://json-schema.org/draft/2019-09/schema"
D2020 = "https://json-schema.org/draft/2020-12/schema"


def parse(
    schema: Any, references: dict[str, ParsedJsonSchema] | None = None, engine: Engine | None = None
) -> ParsedJsonSchema:
    return ParsedJsonSchema(json.dumps(schema), schema, references, engine)


def refused(schema: Any, says: str) -> None:
    for engine in ENGINES:
        with pytest.raises(InvalidSchemaError, match=says):
            parse(schema, engine=engine)


# -- drafts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_each_schema_is_read_as_its_draft_says(engine: Engine) -> None:
    pair = {"prefixItems": [{"type": "string"}], "items": False}
    assert parse(pair, engine=engine).is_valid([]), "Draft 7 knows no prefixItems"
    assert not parse(pair, engine=engine).is_valid([1])
    newest = parse({"$schema": D2020, **pair}, engine=engine)
    assert newest.is_valid(["a"])
    assert not newest.is_valid([1])
    needs = {"dependentRequired": {"a": ["b"]}}
    assert parse(needs, engine=engine).is_valid({"a": 1})
    assert not parse({"$schema": D2019, **needs}, engine=engine).is_valid({"a": 1})
    beside = {"definitions": {"s": {"type": "string"}}, "$ref": "#/definitions/s", "maxLength": 1}
    assert parse(beside, engine=engine).is_valid("abc"), "Draft 7 ignores what is beside a $ref"
    assert not parse({"$schema": D2019, **beside}, engine=engine).is_valid("abc")


def test_other_drafts_are_refused() -> None:
    for other in ("http://json-schema.org/draft-04/schema#", "https://example.com/own", 5):
        refused({"$schema": other}, "supports Draft 7")
    refused({"type": "strin"}, "#/type: not a Draft 7 schema")
    refused({"$schema": D2020, "properties": {"a": 5}}, "#/properties/a: not a 2020-12 schema")


# -- references --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_references_inside_the_document(engine: Engine) -> None:
    anchors = parse(
        {"$schema": D2020, "$ref": "#name", "$defs": {"x": {"$anchor": "name", "type": "string"}}},
        engine=engine,
    )
    assert anchors.is_valid("a")
    assert not anchors.is_valid(1)
    embedded = parse(
        {
            "$id": "https://example.com/root",
            "definitions": {"x": {"$id": "inner", "definitions": {"y": {"type": "integer"}}}},
            "$ref": "inner#/definitions/y",
        }
        | {"properties": {}},
        engine=engine,
    )
    assert embedded.documents.size
    tree = {
        "$schema": D2020,
        "$dynamicAnchor": "node",
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
    }
    nodes = parse(tree, engine=engine)
    assert nodes.is_valid({"children": [{"children": []}]})
    assert not nodes.is_valid({"children": [{"children": [1]}]})


@pytest.mark.parametrize("engine", ENGINES)
def test_references_to_given_schemas(engine: Engine) -> None:
    money = parse({"definitions": {"amount": {"type": "number"}}}, engine=engine)
    order = parse(
        {"properties": {"total": {"$ref": "money.json#/definitions/amount"}}}, {"money.json": money}, engine
    )
    event = parse(
        {"items": {"$ref": "https://example.com/order.json"}},
        {"https://example.com/order.json": order},
        engine,
    )
    assert event.is_valid([{"total": 1.5}])
    assert not event.is_valid([{"total": "1.5"}])
    other = parse({"definitions": {"amount": {"type": "string"}}}, engine=engine)
    with pytest.raises(InvalidSchemaError, match=r"two different schemas are referred to as 'money\.json'"):
        parse({"$ref": "order.json"}, {"order.json": order, "money.json": other}, engine)


def test_a_given_schema_of_another_draft_keeps_its_draft() -> None:
    needs = parse({"$schema": D2019, "dependentRequired": {"a": ["b"]}})
    for engine in ENGINES:
        assert not parse({"allOf": [{"$ref": "needs"}]}, {"needs": needs}, engine).is_valid({"a": 1})
    pair = parse({"items": [{"type": "string"}]})
    for engine in ENGINES:
        assert not parse({"$schema": D2020, "$ref": "pair"}, {"pair": pair}, engine).is_valid([1])


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://169.254.169.254/latest/meta-data"},
        {"definitions": {"unused": {"$ref": "file:///etc/passwd"}}},
        {"$id": "http://127.0.0.1:9/", "items": {"$ref": "other"}},
        {"$schema": D2020, "$dynamicRef": "https://example.com/x#node"},
        {"$schema": D2019, "$recursiveRef": "https://example.com/x"},
        {"allOf": [{"$id": "ftp://example.com/"}, {"$ref": "ftp://example.com/y"}]},
    ],
)
def test_nothing_outside_is_ever_opened(schema: Any, no_openings: list[str]) -> None:
    refused(schema, "leads out of the document: register its target")
    assert no_openings == []


@pytest.fixture
def no_openings() -> Any:
    """Collect each file, socket and name that this thread opens or resolves while a test runs."""
    import sys

    import jsonschema  # noqa: F401
    import jsonschema_rs  # noqa: F401
    import jsonschema_specifications

    import dimesh.registry.jsonschema.fallback  # noqa: F401

    list(jsonschema_specifications.REGISTRY)
    opened: list[str] = []
    on, me = True, threading.get_ident()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            on
            and threading.get_ident() == me
            and event in ("open", "socket.connect", "socket.getaddrinfo", "socket.__new__")
        ):
            opened.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    yield opened
    on = False


def test_references_without_a_target() -> None:
    refused({"$ref": "#/definitions/no"}, "has no target in the document")
    refused({"definitions": {"a": {"$ref": "#nobody"}}}, "#/definitions/a: .* no such anchor")
    refused({"$ref": "#/enum/0", "enum": ["text"]}, "not a schema")


# -- cost --------------------------------------------------------------------------------------------------


def chain(link: Any, size: int = 40) -> dict[str, Any]:
    """Return a schema of a few kilobytes whose definitions each use the next one twice."""
    steps = {f"d{n}": link({"$ref": f"#/definitions/d{n + 1}"}) for n in range(size)}
    return {"definitions": {**steps, f"d{size}": {"type": "string"}}, "$ref": "#/definitions/d0"}


@pytest.mark.parametrize(
    "link",
    [
        lambda next_: {"allOf": [next_, next_]},
        lambda next_: {"anyOf": [next_, {"not": next_}]},
        lambda next_: {"oneOf": [{"properties": {"x": next_}}, {"properties": {"x": next_}}]},
        lambda next_: {"properties": {"x": next_}, "patternProperties": {"x": next_}},
        lambda next_: {"items": next_, "contains": next_},
        lambda next_: {"dependencies": {"a": next_, "b": next_}},
        lambda next_: {"if": next_, "then": next_},
    ],
)
def test_a_schema_that_stands_for_billions_is_refused_at_once(link: Any) -> None:
    began = time.process_time()
    refused(chain(link), "more than 20,000 schemas would apply to one value")
    assert time.process_time() - began < 1


def test_a_schema_that_applies_itself_to_the_same_value_is_refused() -> None:
    refused({"$ref": "#"}, "validation would never end")
    refused(
        {
            "definitions": {
                "a": {"anyOf": [{"$ref": "#/definitions/b"}]},
                "b": {"not": {"$ref": "#/definitions/a"}},
            }
        },
        "validation would never end",
    )
    refused(
        {"$schema": D2020, "$dynamicAnchor": "n", "allOf": [{"$dynamicRef": "#n"}]},
        "validation would never end",
    )
    refused(
        {"$schema": D2019, "$recursiveAnchor": True, "allOf": [{"$recursiveRef": "#"}]},
        "validation would never end",
    )


def test_a_long_chain_is_refused_before_it_overflows_the_stack() -> None:
    refused(chain(lambda next_: {"allOf": [next_]}, 5_000), "more than 200 schemas in a chain")


def test_recursive_schemas_have_a_limit_of_depth_only_if_they_multiply() -> None:
    tree = parse({"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}})
    value: Any = {}
    for _ in range(199):
        value = {"l": value, "r": {}}
    assert tree.is_valid(value)
    twice = {"$ref": "#"}
    multiplies = parse({"allOf": [{"properties": {"x": twice}}, {"properties": {"x": twice}}]})
    assert multiplies.max_depth is not None
    assert 2**multiplies.max_depth <= MAX_COST
    deep: Any = 1
    for _ in range(multiplies.max_depth):
        deep = {"x": deep}
    assert multiplies.is_valid(deep)
    began = time.process_time()
    for _ in range(30):
        deep = {"x": deep}
    assert not multiplies.is_valid(deep)
    assert "nested deeper than" in multiplies.problems(deep)[0].message
    assert time.process_time() - began < 1


def test_what_is_deeper_than_the_stack_is_no_crash() -> None:
    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    assert not parse({"items": {"$ref": "#"}}).is_valid(deep)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a" * 2_001, "2,001 characters"),
        ("(?:a{100}){101}", "10,000 elements"),
        ("(?:(?:a{9999}){9999}){9999}", "10,000 elements"),
        ("a{99999999999}", "10,000 elements"),
        ("^(?=x)(a+)+$", "a quantifier inside a quantifier"),
        ("(a)(?:b*\\1)*", "a quantifier inside a quantifier"),
        ("(" * 101 + ")" * 101, "groups are nested"),
    ],
)
def test_costly_patterns_are_refused(pattern: str, says: str) -> None:
    refused({"pattern": pattern}, f"#/pattern: .*{says}")
    refused({"items": {"patternProperties": {pattern: True}}}, f"#/items/patternProperties: .*{says}")


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "^(.*a){12}$", "^(?:[a-z]+-?)*$", "(?!b)a*a*a*a*b"]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_catastrophic_patterns_are_matched_in_no_time(pattern: str, engine: Engine) -> None:
    for named in ({}, {"$schema": "http://json-schema.org/draft-07/schema#"}, {"$schema": D2020}):
        schema = parse({**named, "pattern": pattern}, engine=engine)
        began = time.process_time()
        assert not schema.is_valid("a" * 5_000 + "!")
        assert time.process_time() - began < 3


SMALL = st.text(alphabet="ab1\n", max_size=6)
PIECES = st.sampled_from(
    ["a", "b", "[^a]", "(?:a|ab)", "(?:ab)*", "a{1,2}", "b?", "a+?", "(?!b)", "(?=a)", "^", "\\Z", "[0-9]"]
)


@given(st.lists(PIECES, max_size=5), SMALL)
def test_the_matcher_agrees_with_pythons_own(pieces: list[str], text: str) -> None:
    import re

    pattern = "".join(pieces)
    assert Matcher(pattern).search(text) == bool(re.search(pattern, text))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_spellings_of_a_pattern_both_count(engine: Engine) -> None:
    schema = parse(
        {"patternProperties": {"^\\d+$": {"type": "integer"}, "^[0-9]+$": {"minimum": 10}}}, engine=engine
    )
    assert not schema.is_valid({"1": "a"})
    assert not schema.is_valid({"1": 5})
    assert schema.is_valid({"1": 10})


# -- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_problems_say_where_and_which_rule(engine: Engine) -> None:
    schema = parse(
        {
            "definitions": {"n": {"minimum": 3}},
            "properties": {"a/b": {"items": {"$ref": "#/definitions/n"}}},
            "required": ["c"],
        },
        engine=engine,
    )
    found = {(p.path, p.keyword) for p in schema.problems({"a/b": [5, 1]})}
    assert found == {("/a~1b/1", "minimum"), ("", "required")}
    rule = next(p for p in schema.problems({"a/b": [1], "c": 0}))
    assert rule.schema_path.endswith("/minimum")
    assert "1" in rule.message


@pytest.mark.parametrize("mark", ["writeOnly", "sensitive", "x-sensitive"])
@pytest.mark.parametrize("engine", ENGINES)
def test_sensitive_values_are_in_no_message(mark: str, engine: Engine) -> None:
    card = {"type": "string", "pattern": "^[0-9]{16}$", "maxLength": 16, "enum": ["1"], mark: True}
    inner = parse({"properties": {"card": card}, "required": ["id"]}, engine=engine)
    outer = parse(
        {"oneOf": [{"$ref": "inner"}, {"type": "string"}], "not": {"type": "object"}},
        {"inner": inner},
        engine,
    )
    for schema in (inner, outer):
        problems = schema.problems({"card": "hunter2-hunter2-hunter2"})
        assert problems
        with pytest.raises(SchemaValidationError) as caught:
            schema.encode({"card": "hunter2-hunter2-hunter2"})
        assert "hunter2" not in f"{problems}{caught.value}{caught.value.problems}"


# -- identity, encoding, reading -------------------------------------------------------------------------------


def test_the_identity_is_the_meaning() -> None:
    one = LANGUAGE.parse('{"minimum": 1, "type": "integer"}')
    same = LANGUAGE.parse('{ "type":"integer","minimum":1.0 }')
    assert one.canonical == same.canonical
    assert one.text != same.text
    others = [
        '{"minimum":1}',
        '{"minimum":true,"type":"integer"}',
        '{"minimum":1.5,"type":"integer"}',
        "true",
        "{}",
        '{"enum":[1,2]}',
    ]
    others += [
        '{"enum":[2,1]}',
        '{"minimum":9007199254740993}',
        '{"minimum":9007199254740992}',
        '{"const":"1"}',
        '{"const":1}',
    ]
    seen = [ParsedJsonSchemaIdentity(text) for text in others]
    assert len({*seen, one.canonical}) == len(others) + 1


def ParsedJsonSchemaIdentity(text: str) -> str:
    from dimesh.events import strictjson

    return strictjson.canonical(strictjson.loads(text))


def test_encode_is_strict() -> None:
    anything = parse(True)
    assert anything.encode({"a": (1, 2)}) == b'{"a":[1,2]}'
    assert parse({"properties": {"a": {"type": "array"}}}).encode({"a": (1, 2)}) == b'{"a":[1,2]}'
    for value in ({"a": float("nan")}, {1: 2}, {"a": b"x"}, "\ud800", {"a": object()}):
        with pytest.raises(SchemaValidationError, match="not JSON"):
            anything.encode(value)
        assert anything.problems(value)
    with pytest.raises(SchemaValidationError, match=r"/a: .*integer"):
        parse({"properties": {"a": {"type": "integer"}}}).encode({"a": "x"})


WRITER = parse(
    {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "old": {"type": "string"}},
        "required": ["id"],
    }
)


def test_a_reader_fills_in_defaults_and_keeps_what_it_does_not_know() -> None:
    reader = parse(
        {
            "type": "object",
            "definitions": {"currency": {"type": "string", "default": "EUR"}},
            "properties": {
                "id": {"type": "integer"},
                "currency": {"$ref": "#/definitions/currency"},
                "note": {"type": "string"},
                "lines": {"items": {"properties": {"count": {"type": "integer", "default": 1}}}},
            },
            "required": ["id", "currency"],
            "additionalProperties": False,
        }
    )
    assert reader.decode(b'{"id":1,"old":"x"}', WRITER) == {"id": 1, "old": "x", "currency": "EUR"}
    loose = parse({"type": "object"})
    assert reader.decode(b'{"id":1,"lines":[{},{"count":2}],"currency":"USD"}', loose) == {
        "id": 1,
        "currency": "USD",
        "lines": [{"count": 1}, {"count": 2}],
    }
    assert reader.decode(b'{"id":1,"currency":"EUR"}') == {"id": 1, "currency": "EUR"}
    with pytest.raises(SchemaValidationError, match="id"):
        WRITER.decode(b"{}", WRITER)
    with pytest.raises(SchemaValidationError, match=r"reader's schema.*/id"):
        parse({"properties": {"id": {"type": "string"}}}).decode(b'{"id":1}', WRITER)
    with pytest.raises(SchemaValidationError, match="not JSON"):
        reader.decode(b'{"id":NaN}')


def test_defaults_of_a_recursive_schema_end_and_are_not_shared() -> None:
    reader = parse({"properties": {"next": {"$ref": "#"}, "tags": {"default": []}}, "default": {}})
    filled = reader.decode(b"{}", WRITER.__class__("true", True))
    assert filled == {"next": {}, "tags": []}
    filled["tags"].append(1)
    assert reader.decode(b"{}", WRITER.__class__("true", True))["tags"] == []


def test_a_default_that_breaks_a_rule_about_the_document_is_left_out() -> None:
    """Only it: the default of a required property is filled in all the same."""
    reader = JsonSchema().parse(
        json.dumps(
            {
                "type": "object",
                "properties": {"a": {"default": 3}, "n": {"default": 0}},
                "required": ["n"],
                "dependencies": {"a": ["b"]},
            }
        )
    )
    writer = JsonSchema().parse('{"type": "object"}')
    assert reader.decode(b"{}", writer) == {"n": 0}
    assert reader.decode(b'{"b": 1}', writer) == {"b": 1, "a": 3, "n": 0}
