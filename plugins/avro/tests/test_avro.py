"""The language Avro: identity, values, bytes, resolution, verdicts, and hostile input."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
import pytest
from avro_random import SchemaMaker, edited, plain, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.plugins import PluginManager
from dimesh.spi.schema import POLICIES, Outcome, SchemaLanguage
from dimesh_avro import AvroSchema, language
from dimesh_avro.fast import Fast
from dimesh_avro.language import _run
from dimesh_avro.reading import Readers
from dimesh_avro.writing import Writer


def parse(data: Any, *references: AvroSchema) -> AvroSchema:
    return language.parse(json.dumps(data), {r.record_name or "": r for r in references})


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, type: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


TREE = record(field("value", "int"), field("children", {"type": "array", "items": "R"}, default=[]))
LIST = record(field("next", ["null", "R"]))
SEEDS = st.integers(0, 2**32)


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert PluginManager().schema_language("AVRO") is language
    assert isinstance(language, SchemaLanguage)


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"type": "string"}, "string"),
        (record(field("a", {"type": "int"})), record(field("a", "int"))),
        (record(name="x.R"), record(name="R", namespace="x")),
        (record(name="x.R", namespace="ignored"), record(name="R", namespace="x")),
        (
            record(field("e", enum("A", name="x.E")), name="x.R"),
            record(field("e", enum("A", namespace="x")), name="R", namespace="x"),
        ),
        (record(aliases=["Old"], namespace="x"), record(aliases=["x.Old"], namespace="x")),
        (record(field("a", "int", order="ascending")), record(field("a", "int"))),
        (record(field("a", "int", aliases=[])), record(field("a", "int"))),
    ],
)
def test_spellings_of_one_schema_have_one_identity(one: Any, two: Any) -> None:
    assert parse(one).canonical == parse(two).canonical
    assert parse(one).document == one
    spaced = language.parse(json.dumps(dict(reversed(one.items())), indent=3))
    assert spaced.canonical == parse(one).canonical
    assert language.parse(parse(one).canonical).canonical == parse(one).canonical


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (record(field("a", "int", default=1)), record(field("a", "int"))),
        (record(field("a", "int", default=1)), record(field("a", "int", default=2))),
        (record(field("a", "int"), field("b", "int")), record(field("b", "int"), field("a", "int"))),
        (record(field("a", "int", order="ignore")), record(field("a", "int"))),
        (record(aliases=["Old"]), record()),
        (record(field("a", "int", aliases=["b"])), record(field("a", "int"))),
        ({"type": "int", "logicalType": "date"}, "int"),
        (record(doc="words"), record()),
        (record(owner="sales"), record()),
        (record(name="x.R"), record(name="y.R")),
        (enum("A", "B"), enum("B", "A")),
        (enum("A", default="A"), enum("A")),
        (["null", "int"], ["int", "null"]),
        (
            record(field("e", enum("A", namespace="")), name="x.R"),
            record(field("e", enum("A")), name="x.R"),
        ),
    ],
)
def test_what_changes_the_meaning_changes_the_identity(one: Any, two: Any) -> None:
    assert parse(one).canonical != parse(two).canonical


def test_references_give_named_types_with_their_own_references() -> None:
    money = parse(record(field("cents", "long"), name="x.Money"))
    line = parse(record(field("price", "x.Money"), name="x.Line"), money)
    order = parse(
        record(field("lines", {"type": "array", "items": "Line"}), field("total", "Money"), name="x.Order"),
        line,
        money,
    )
    value = {"lines": [{"price": {"cents": 5}}], "total": {"cents": 5}}
    assert order.decode(order.encode(value)) == value
    assert order.record_name == "x.Order"
    other = parse(record(field("cents", "int"), name="x.Money"))
    with pytest.raises(InvalidSchemaError, match=r"define the type 'x\.Money' differently"):
        parse("x.Line", line, other)
    with pytest.raises(InvalidSchemaError, match=r"#/fields/0/type: the type .* is neither"):
        parse(record(field("price", "x.Money")))


# -- schemas that are refused ----------------------------------------------------------------------


def doubled(levels: int) -> Any:
    """Records of which each holds the next one twice: two to the power of ``levels`` parts."""
    data: Any = "int"
    for n in range(levels):
        data = record(field("a", data), field("b", f"R{n - 1}" if n else "int"), name=f"R{n}")
    return data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type": "array", "items": ' * 80 + '"int"' + "}" * 80, "types are nested more than 64 deep"),
        ('"' + "x" * 1_100_000 + '"', "has 1,100,002 characters"),
        ('{"type": "int", "type": "long"}', "the key 'type' stands twice"),
        ('{"type": "int", "note": NaN}', "NaN is not JSON"),
        ('{"type": "int", "note": 1e999}', "#/note: the number is too large"),
        ("7", "#: a type is a name, an object or a list, not 7"),
        ('"unknown"', "the type 'unknown' is neither defined"),
        ("[]", "from 1 to 1,000 branches"),
        ('["int", "int"]', "#/1: the union has two branches 'int'"),
        ('["int", ["null"]]', "#/1: a union does not directly contain another union"),
        (json.dumps(record(field("a-b", "int"))), "#/fields/0/name: 'a-b' is not a name"),
        (json.dumps(record(field("a", "int"), field("a", "int"))), "#/fields/1: two fields"),
        (json.dumps(record(name="R\nprint()")), "is not a name"),
        (json.dumps(record(name="é")), "is not a name"),
        (json.dumps(record(name="x" * 2000)), "is not a name"),
        (json.dumps(record(field("a", enum("A")), field("b", enum("A")))), "the type 'E' is already defined"),
        (json.dumps(enum("A", "A")), "two symbols are the same"),
        (json.dumps(enum("A", default="B")), "#/default: 'B' is not one of the symbols"),
        ('{"type": "fixed", "name": "F", "size": 2147483648}', "#/size"),
        ('{"type": "fixed", "name": "F", "size": -1}', "#/size"),
        ('{"type": "bytes", "logicalType": "decimal", "precision": 1000000000}', "#/precision"),
        ('{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 5}', "#/scale"),
        (
            '{"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 9}',
            "9 digits do not fit into 2 bytes",
        ),
        (json.dumps(record(field("a", "R"))), "always contains itself"),
        (json.dumps(doubled(30)), "more than 100,000 parts"),
        (json.dumps(record(field("a", "int", default="x"))), "#/fields/0/default: the default is not valid"),
        (json.dumps(record(field("a", "int", default=2**31))), "#/fields/0/default"),
        (json.dumps(record(field("a", "bytes", default="ключ"))), "#/fields/0/default"),
        (json.dumps(record(field("a", enum("A"), default="B"))), "#/fields/0/default"),
        (json.dumps(record(field("a", ["null", "int"], default="x"))), "fits no branch"),
        (
            json.dumps(record(field("a", {"type": "array", "items": "R"}, default=[{}, {}]))),
            "the default is too large",
        ),
    ],
)
def test_a_schema_that_is_refused_says_where(text: str, says: str) -> None:
    begin = time.process_time()
    with pytest.raises(InvalidSchemaError) as raised:
        language.parse(text)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1_000
    assert time.process_time() - begin < 2


def test_references_to_files_and_addresses_are_only_unknown_names() -> None:
    for name in ("http://169.254.169.254/", "file:///etc/passwd", "../x.avsc"):
        with pytest.raises(InvalidSchemaError, match="neither defined"):
            parse(name)


# -- values and bytes ------------------------------------------------------------------------------


def test_problems_have_a_path_and_a_rule() -> None:
    schema = parse(
        record(
            field("id", "int"),
            field("lines", {"type": "array", "items": record(field("n_a", "string"), name="L")}),
            field("tags", {"type": "map", "values": "boolean"}),
            field("kind", ["null", enum("A")]),
            field("at", {"type": "long", "logicalType": "timestamp-millis"}),
            field("price", {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}),
        )
    )
    found = schema.problems(
        {
            "id": 2**31,
            "lines": [{"n_a": "x"}, {"n_a": b"x"}, {}],
            "tags": {"a/b": 1},
            "kind": "Z",
            "at": datetime(2026, 1, 1),  # noqa: DTZ001 - the mistake
            "price": Decimal("123.45"),
            "more": 1,
        }
    )
    assert [(p.path, p.keyword) for p in found] == [
        ("/at", "timestamp-millis"),
        ("/id", "int"),
        ("/kind", "enum"),
        ("/lines/1/n_a", "type"),
        ("/lines/2/n_a", "required"),
        ("/more", "unknown-field"),
        ("/price", "decimal"),
        ("/tags/a~1b", "type"),
    ]
    assert len(schema.problems({"lines": [{}] * 1_000})) == 50


@pytest.mark.parametrize("value", [2**31, True, 1.0, "1", None])
def test_fastavro_would_write_what_the_schema_does_not_allow(value: Any) -> None:
    with pytest.raises(SchemaValidationError):
        parse(record(field("a", "int"))).encode({"a": value})


def test_a_field_with_a_default_may_be_left_out() -> None:
    schema = parse(record(field("a", ["int", "null"], default=5), field("b", "bytes", default="\u00ff")))
    assert schema.decode(schema.encode({})) == {"a": 5, "b": b"\xff"}


def test_bytes_at_the_top_have_no_length() -> None:
    schema = parse("bytes")
    assert schema.encode(b"abc") == b"abc"
    assert schema.decode(b"abc") == b"abc"
    assert parse(["bytes", "string"]).decode(b"abc", schema) == b"abc"
    assert parse("string").encode("abc") == b"\x06abc"


@pytest.mark.parametrize(
    ("schema", "value", "payload"),
    [
        ({"type": "int", "logicalType": "date"}, date(1970, 1, 3), b"\x04"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
            b"\xd0\x0f",
        ),
        ({"type": "string", "logicalType": "uuid"}, UUID(int=1), b"\x48" + str(UUID(int=1)).encode()),
        (
            record(field("d", {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2})),
            {"d": Decimal("-1.00")},
            b"\x02\x9c",
        ),
    ],
)
def test_logical_types(schema: Any, value: Any, payload: bytes) -> None:
    parsed = parse(schema)
    assert parsed.encode(value) == payload
    assert parsed.decode(payload) == value
    assert type(parsed.decode(payload)) is type(value)


def test_times_that_python_does_not_have_stay_numbers() -> None:
    schema = parse({"type": "long", "logicalType": "timestamp-millis"})
    payload = schema.encode(2**62)
    assert schema.decode(payload) == 2**62


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_random_values_of_random_schemas_return(seed: int) -> None:
    """Both ways agree, the bytes are fastavro's, and damaged payloads are errors or values of the schema."""
    rng = random.Random(seed)
    schema = parse(SchemaMaker(rng).record())
    assert language.parse(schema.canonical).canonical == schema.canonical
    for _ in range(3):
        value = value_of(rng, schema.root)
        assert schema.is_valid(value), schema.problems(value)
        payload = schema.encode(value)
        assert payload == Writer().run(schema.root, value)
        found = schema.decode(payload)
        assert repr(found) == repr(_run(Readers().reader(schema.root, schema.root), payload, schema.root))
        assert {key: item for key, item in found.items() if key in value and _flat(item)} == {
            key: item for key, item in plain(value).items() if _flat(item)
        }
        for _ in range(3):
            damaged = bytearray(payload[: rng.randint(0, len(payload))])
            if damaged and rng.random() < 0.8:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            try:
                read = schema.decode(bytes(damaged))
            except SchemaValidationError:
                continue
            assert schema.is_valid(read)


def _flat(value: Any) -> bool:
    return not isinstance(value, (dict, list))


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_plain_payloads_are_those_of_fastavro(seed: int) -> None:
    rng = random.Random(seed)
    data = SchemaMaker(rng).record()
    schema = parse(data)
    if schema._fast is None:
        return
    value = plain(schema.decode(schema.encode(value_of(rng, schema.root))))
    ours, reader = schema.encode(value), fastavro.parse_schema(data)
    out = BytesIO()
    try:
        fastavro.schemaless_writer(out, reader, value)
    except ValueError as error:
        # In a union that has a date before a string, fastavro takes every text for a date.
        assert "isoformat" in str(error), error
        assert repr(plain(schema.decode(ours))) == repr(value)
    else:
        assert out.getvalue() == ours


@pytest.mark.parametrize(
    ("union", "value"),
    [
        ([{"type": "int", "logicalType": "date"}, "string"], "a"),
        ([{"type": "array", "items": "int"}, {"type": "fixed", "name": "F", "size": 2}], b"ab"),
    ],
    ids=["text", "bytes"],
)
def test_a_value_in_a_union_keeps_its_type(union: list[Any], value: Any) -> None:
    """fastavro alone takes the text for a date and the bytes for an array."""
    schema = parse(union)
    assert schema.decode(schema.encode(value)) == value


def test_ordinary_schemas_take_the_quick_way() -> None:
    assert isinstance(parse(record(field("a", ["null", "string"]), field("b", enum("A"))))._fast, Fast)
    for careful in (TREE, "bytes", record(field("a", ["int", "double"])), {"type": "array", "items": "null"}):
        assert parse(careful)._fast is None


# -- damaged payloads ------------------------------------------------------------------------------

HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        (record(field("a", "bytes")), HUGE + b"x"),
        (record(field("a", "string")), b"\x01"),
        ({"type": "array", "items": "int"}, HUGE + b"\x00"),
        ({"type": "array", "items": "null"}, HUGE + b"\x00"),
        ({"type": "map", "values": "null"}, HUGE + b"\x00"),
        ({"type": "array", "items": record(name="Empty")}, b"\x80\x80\x80\x80\x10" * 50 + b"\x00"),
        (LIST, b"\x02" * 100_000 + b"\x00"),
        (["null", "int"], b"\x08"),
        (enum("A"), b"\x02"),
        ("int", HUGE),
        ("long", b"\xff" * 40),
        ("boolean", b""),
        ("double", b"\x00"),
        ("string", b"\x02\xff"),
        ("int", b"\x00\x00"),
        ({"type": "string", "logicalType": "uuid"}, b"\x02x"),
        (
            record(field("d", {"type": "bytes", "logicalType": "decimal", "precision": 4})),
            b"\x80\x89\x7a" + b"\x7f" * 1_000_000,
        ),
    ],
)
def test_damaged_payloads_are_quick_errors(schema: Any, payload: bytes) -> None:
    parsed = parse(schema)
    begin = time.process_time()
    with pytest.raises(SchemaValidationError):
        parsed.decode(payload)
    assert time.process_time() - begin < 2


def test_values_that_are_nested_too_deeply_are_refused() -> None:
    schema = parse(LIST)
    value: Any = None
    for _ in range(100_000):
        value = {"next": value}
    assert [p.keyword for p in schema.problems(value)] == ["depth"]
    with pytest.raises(SchemaValidationError):
        schema.encode(value)
    assert not schema.is_valid(value)
    while value is not None:  # else Python frees it recursively
        value = value["next"]


# -- resolution and verdicts -----------------------------------------------------------------------

A, B = field("a", "int"), field("b", "string", default="none")


@pytest.mark.parametrize(
    ("writer", "reader", "value", "read"),
    [
        (record(A), record(A, B), {"a": 1}, {"a": 1, "b": "none"}),
        (record(A, B), record(A), {"a": 1, "b": "x"}, {"a": 1}),
        (record(A), record(field("z", "long", aliases=["a"])), {"a": 1}, {"z": 1}),
        (record(A, name="x.Old"), record(A, name="y.New", aliases=["x.Old"]), {"a": 1}, {"a": 1}),
        (record(A, name="x.R"), record(A, name="y.R"), {"a": 1}, {"a": 1}),
        ("int", "double", 3, 3.0),
        ("long", "float", 3, 3.0),
        ("string", "bytes", "ü", "ü".encode()),
        ("bytes", "string", b"x\xff", "x\ufffd"),
        ("int", ["string", "long", "int"], 3, 3),
        ("int", ["double", "string"], 3, 3.0),
        (["int", "null"], ["null", "long"], 3, 3),
        (enum("A", "B", "C"), enum("A", "X", default="X"), "C", "X"),
        (
            record(field("t", {"type": "map", "values": "int"})),
            record(field("t", {"type": "map", "values": ["null", "long"]})),
            {"t": {"k": 1}},
            {"t": {"k": 1}},
        ),
        (
            record(A),
            record(A, field("o", record(field("x", "bytes"), name="O"), default={"x": "\u00ff"})),
            {"a": 1},
            {"a": 1, "o": {"x": b"\xff"}},
        ),
        (
            record(A),
            record(A, field("d", {"type": "int", "logicalType": "date"}, default=2)),
            {"a": 1},
            {"a": 1, "d": date(1970, 1, 3)},
        ),
        ({"type": "long", "logicalType": "timestamp-millis"}, "long", 5, 5),
        (
            TREE,
            record(field("value", "long"), field("children", {"type": "array", "items": "R"}, default=[])),
            {"value": 1, "children": [{"value": 2, "children": []}]},
            {"value": 1, "children": [{"value": 2, "children": []}]},
        ),
    ],
)
def test_what_the_reader_can_read(writer: Any, reader: Any, value: Any, read: Any) -> None:
    before, after = parse(writer), parse(reader)
    for policy in POLICIES:
        assert language.compare(before, after, policy).outcome is Outcome.PROVED
    found = after.decode(before.encode(value), before)
    assert found == read
    assert type(found) is type(read)


def test_each_reader_gets_lists_of_its_own() -> None:
    before, after = parse(record()), parse(record(field("l", {"type": "array", "items": "int"}, default=[])))
    first = after.decode(b"", before)
    first["l"].append(1)
    assert after.decode(b"", before) == {"l": []}


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}


@pytest.mark.parametrize(
    ("writer", "reader", "code", "path"),
    [
        (record(A), record(A, field("b", "int")), "field-without-default", "R.b"),
        (record(A), record(field("a", "string")), "type-changed", "R.a"),
        ("long", "int", "type-changed", "int"),
        ("double", "float", "type-changed", "float"),
        (["null", "int"], "int", "type-changed", "int"),
        (["null", "int", "string"], ["null", "int"], "branch-removed", "union"),
        (["float", "double"], ["float", "string"], "branch-removed", "union"),
        (enum("A", "B"), enum("A"), "symbol-removed", "E"),
        (record(A), record(A, name="S"), "name-changed", "S"),
        (
            {"type": "fixed", "name": "F", "size": 2},
            {"type": "fixed", "name": "F", "size": 3},
            "size-changed",
            "F",
        ),
        (
            record(field("a", {"type": "array", "items": enum("A", "B")})),
            record(field("a", {"type": "array", "items": enum("B")})),
            "symbol-removed",
            "R.a[]",
        ),
        (
            record(field("m", {"type": "map", "values": "long"})),
            record(field("m", {"type": "map", "values": "int"})),
            "type-changed",
            "R.m{}",
        ),
        (
            TREE,
            record(
                field("value", "int"), field("children", {"type": "array", "items": "R"}), field("x", "int")
            ),
            "field-without-default",
            "R.x",
        ),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            {"type": "long", "logicalType": "timestamp-micros"},
            "logical-type-changed",
            "long",
        ),
        (DECIMAL, {**DECIMAL, "scale": 3}, "logical-type-changed", "bytes"),
        (DECIMAL, {**DECIMAL, "precision": 5}, "precision-reduced", "bytes"),
        ("bytes", DECIMAL, "narrowed", "bytes"),
        ("string", {"type": "string", "logicalType": "uuid"}, "narrowed", "string"),
    ],
)
def test_what_the_reader_cannot_read_has_a_witness(writer: Any, reader: Any, code: str, path: str) -> None:
    before, after = parse(writer), parse(reader)
    for policy in POLICIES:
        verdict = language.compare(before, after, policy)
        assert verdict.outcome is Outcome.REFUTED
        assert [(d.code, d.path) for d in verdict.differences] == [(code, path)]
        assert verdict.witness is not None
        payload = before.encode(verdict.witness.value)
        with pytest.raises(SchemaValidationError):
            after.decode(payload, before)


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_verdicts_of_random_edits_are_true(seed: int) -> None:
    """A yes is attacked by random values, a no has a witness, and nothing is undecided."""
    rng = random.Random(seed)
    data = SchemaMaker(rng).record()
    before = parse(data)
    try:
        after = parse(edited(rng, data))
    except InvalidSchemaError:
        return
    verdict = language.compare(before, after, "strict")
    assert verdict.outcome is not Outcome.UNDECIDED, verdict
    if verdict.witness is not None:
        with pytest.raises(SchemaValidationError):
            after.decode(before.encode(verdict.witness.value), before)
        return
    for _ in range(10):
        assert after.is_valid(after.decode(before.encode(value_of(rng, before.root)), before))


def test_a_comparison_of_large_unions_is_bounded() -> None:
    known = {str(m): parse(record(field("a", "int"), name=f"x{m}.T")) for m in range(300)}
    text = json.dumps(record(*(field(f"f{n}", [f"x{m}.T" for m in range(300)]) for n in range(3))))
    schema, other = language.parse(text, known), language.parse(text, known)
    begin = time.process_time()
    assert language.compare(schema, other, "strict").outcome in (Outcome.PROVED, Outcome.UNDECIDED)
    assert time.process_time() - begin < 5


def test_an_unknown_policy_and_a_foreign_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="is no policy"):
        language.compare(parse("int"), parse("int"), "loose")
