"""The language Protobuf: values, payloads, reading other versions, verdicts, and hostile input."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from protobuf_examples import ORDER, message, proto2, proto3

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import POLICIES, Outcome
from dimesh_protobuf import ProtobufSchema, language

OWN_POLICIES = ("strict", "defaults", "tolerant")
MIB = 1_048_576


def parse(text: str) -> ProtobufSchema:
    return language.parse(text)


def well_known(kind: str) -> ProtobufSchema:
    name = {"Timestamp": "timestamp", "Duration": "duration", "Any": "any", "FieldMask": "field_mask"}.get(
        kind
    )
    name = name or ("wrappers" if kind in ("StringValue", "BoolValue", "BytesValue") else "struct")
    return parse(
        proto3(
            f'import "google/protobuf/{name}.proto"; message M {{ google.protobuf.{kind} v = 1; repeated google.protobuf.{kind} w = 2; map<string, google.protobuf.{kind}> x = 3; }}'
        )
    )


# -- messages of a file ----------------------------------------------------------------------------


def test_a_message_is_chosen_by_name_or_position() -> None:
    schema = parse(
        proto3(
            "package p; message A { map<int32, int32> m = 1; message B { message C { int32 c = 1; } } } message D { int32 d = 1; }"
        )
    )
    assert schema.record_name == "p.A"
    assert schema.messages == ("p.A", "p.A.B", "p.A.B.C", "p.D")
    assert schema.message_indexes() == (0,)
    assert schema.message_indexes("p.A.B.C") == (0, 1, 0)  # the hidden message of the map is [0, 0]
    assert schema.message_indexes("D") == (1,)
    chosen = schema.message_at([0, 1, 0])
    assert (chosen.record_name, chosen.canonical, chosen.text) == ("p.A.B.C", schema.canonical, schema.text)
    assert chosen.decode(chosen.encode({"c": 5})) == {"c": 5}
    assert schema.message("A.B.C") is chosen
    for wrong in ([], [0, 0], [7], [-1]):
        with pytest.raises(InvalidSchemaError, match="has no message at the position"):
            schema.message_at(wrong)
    with pytest.raises(InvalidSchemaError, match=r"has no message 'X'; it has: p\.A, p\.A\.B"):
        schema.message("X")


def test_a_file_without_messages_has_no_values() -> None:
    schema = parse(proto3("enum E { A = 0; }"))
    assert schema.record_name is None
    assert not schema.is_valid({})
    assert schema.problems({})
    for call in (lambda: schema.encode({}), lambda: schema.decode(b"")):
        with pytest.raises(SchemaValidationError, match="defines no message"):
            call()
    with pytest.raises(InvalidSchemaError, match="defines no message"):
        schema.message_indexes()


# -- values ----------------------------------------------------------------------------------------


def test_fields_without_presence_have_their_default_and_others_are_left_out() -> None:
    schema = parse(
        message(
            "int32 a = 1; optional int32 b = 2; repeated int32 c = 3; map<int32, int32> d = 4; oneof o { int32 e = 5; } M f = 6; string g = 7;"
        )
    )
    assert schema.decode(b"") == {"a": 0, "c": [], "d": {}, "g": ""}
    assert schema.decode(schema.encode({"b": 0, "e": 0, "f": {}})) == {
        "a": 0, "b": 0, "c": [], "d": {}, "e": 0, "f": {"a": 0, "c": [], "d": {}, "g": ""}, "g": "",
    }  # fmt: skip


def test_numbers_of_an_open_enum_are_kept_and_those_of_a_closed_one_are_not() -> None:
    newer = parse(message("repeated E e = 1; enum E { Z = 0; A = 1; B = 2; }"))
    payload = newer.encode({"e": ["A", "B", 77]})
    assert parse(message("repeated E e = 1; enum E { Z = 0; A = 1; }")).decode(payload) == {"e": ["A", 2, 77]}
    assert parse(proto2("repeated E e = 1;", "enum E { Z = 0; A = 1; }")).decode(payload) == {"e": ["A"]}


def test_aliases_are_written_by_any_name_and_read_by_the_first() -> None:
    schema = parse(message("E e = 1; enum E { option allow_alias = true; Z = 0; OLD = 1; NEW = 1; }"))
    assert schema.decode(schema.encode({"e": "NEW"})) == {"e": "OLD"}


def test_problems_have_a_path_and_a_rule() -> None:
    schema = parse(
        message(
            "int32 id = 1; repeated L lines = 2; message L { string n_a = 1; } map<string, bool> tags = 3; E kind = 4; "
            "enum E { A = 0; } oneof o { int32 x = 5; int32 y = 6; } bytes raw = 7; float f = 8;"
        )
    )
    found = schema.problems(
        {
            "id": 2**31,
            "lines": [{"n_a": "x"}, {"n_a": b"x"}, None],
            "tags": {"a/b": 1},
            "kind": "Z",
            "x": 1,
            "y": 1,
            "raw": "text",
            "f": 1e39,
            "more": 1,
        }
    )
    assert [(p.path, p.keyword) for p in found] == [
        ("/f", "float"),
        ("/id", "int32"),
        ("/kind", "enum"),
        ("/lines/1/n_a", "string"),
        ("/lines/2", "type"),
        ("/more", "unknown-field"),
        ("/raw", "bytes"),
        ("/tags/a~1b", "bool"),
        ("/y", "oneof"),
    ]
    assert len(schema.problems({"lines": [7] * 1_000})) == 50


@pytest.mark.parametrize(
    "value",
    [{"s": b"x"}, {"n": True}, {"n": 1.0}, {"b": 1}, {"s": None}, {"f": True}, {"r": None}, {"r": "ab"}],
)
def test_the_runtime_would_write_what_the_schema_does_not_allow(value: Any) -> None:
    schema = parse(message("string s = 1; int32 n = 2; bool b = 3; float f = 4; repeated string r = 5;"))
    with pytest.raises(SchemaValidationError):
        schema.encode(value)


def test_unusual_values_are_written_as_ordinary_ones() -> None:
    class Text(str):
        __slots__ = ()

    schema = parse(
        message(
            "string s = 1; double d = 2; bytes b = 3; repeated int32 r = 4; E e = 5; enum E { A = 0; B = 1; } M m = 6;"
        )
    )
    unusual = {"s": Text("x"), "d": 5, "b": bytearray(b"y"), "r": (1, 2), "e": 1, "m": {"d": 1}}
    assert schema.decode(schema.encode(unusual)) == {
        "s": "x", "d": 5.0, "b": b"y", "r": [1, 2], "e": "B",
        "m": {"s": "", "d": 1.0, "b": b"", "r": [], "e": "A"},
    }  # fmt: skip


def test_names_of_fields_may_be_words_of_python_and_of_the_runtime() -> None:
    names = (
        "class",
        "self",
        "def",
        "HasField",
        "SerializeToString",
        "FromString",
        "IsInitialized",
        "__init__",
        "fields",
        "None",
    )
    schema = parse(message("".join(f"optional int32 {name} = {n + 1};" for n, name in enumerate(names))))
    value = {name: n for n, name in enumerate(names)}
    assert schema.decode(schema.encode(value)) == value
    nested = parse(message("HasField h = 1; message HasField { optional int32 a = 1; }"))
    assert nested.decode(nested.encode({"h": {"a": 1}})) == {"h": {"a": 1}}


@pytest.mark.parametrize(
    ("kind", "value", "theirs"),
    [
        (
            "Timestamp",
            datetime(1969, 12, 31, 23, 59, 59, 5, UTC),
            timestamp_pb2.Timestamp(seconds=-1, nanos=5_000),
        ),
        ("Timestamp", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), None),
        ("Timestamp", {"seconds": 2**60, "nanos": -1}, timestamp_pb2.Timestamp(seconds=2**60, nanos=-1)),
        ("Duration", timedelta(seconds=-1.5), duration_pb2.Duration(seconds=-1, nanos=-500_000_000)),
        ("Duration", timedelta(days=3_652_500), None),
        ("Duration", {"seconds": 1, "nanos": -1}, duration_pb2.Duration(seconds=1, nanos=-1)),
        ("Value", None, struct_pb2.Value(null_value=0)),
        ("Value", [1.5, "x", None, True, {"a": {}}], None),
        ("Struct", {"a": {"b": [1.0]}, "c": ""}, None),
        ("ListValue", [[], {}], None),
        ("StringValue", "", None),
        ("BytesValue", b"x", None),
        ("BoolValue", False, None),
        ("Any", {"type_url": "a/b", "value": b"x"}, None),
        ("FieldMask", {"paths": ["a.b"]}, None),
    ],
)
def test_well_known_types_are_values_of_python(kind: str, value: Any, theirs: Any) -> None:
    schema = well_known(kind)
    everywhere = {"v": value, "w": [value, value], "x": {"k": value}}
    payload = schema.encode(everywhere)
    assert schema.decode(payload) == everywhere
    if theirs is not None:
        raw = theirs.SerializeToString()
        assert payload.startswith(b"\x0a" + bytes([len(raw)]) + raw)


def test_nanoseconds_are_cut_to_microseconds() -> None:
    raw = timestamp_pb2.Timestamp(seconds=1, nanos=1_999).SerializeToString()
    payload = b"\x0a" + bytes([len(raw)]) + raw
    assert well_known("Timestamp").decode(payload)["v"] == datetime(1970, 1, 1, 0, 0, 1, 1, UTC)
    assert well_known("Duration").decode(payload)["v"] == timedelta(seconds=1, microseconds=1)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("Timestamp", datetime.fromisoformat("2026-01-01"), "the time has no zone"),
        ("Duration", timedelta(days=4_000_000), "the duration has more than"),
        ("Struct", {1: 2}, "a key of an object is text"),
        ("Value", {"a": 2**70 + 1}, "more digits than a double"),
        ("Value", object(), "JSON does not have"),
        ("StringValue", 5, "not string"),
    ],
)
def test_values_that_well_known_types_do_not_have_are_refused(kind: str, value: Any, says: str) -> None:
    schema = well_known(kind)
    with pytest.raises(SchemaValidationError, match=says):
        schema.encode({"v": value})


# -- damaged and hostile payloads ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "payload", "says"),
    [
        (message("string a = 1;"), b"\x0a\x05x", "cannot be read"),
        (message("string a = 1;"), b"\x0a\x01\xff", "cannot be read"),
        (proto2("optional string a = 1;"), b"\x0a\x01\xff", "is not valid UTF-8"),
        (proto2("map<string, string> a = 1;"), b"\x0a\x03\x12\x01\xff", "is not valid UTF-8"),
        (proto2("repeated string a = 1;"), b"\x0a\x01\xff", "is not valid UTF-8"),
        (proto2("required int32 a = 1; optional int32 b = 2;"), b"\x10\x01", "/a: the field is missing"),
        (
            proto2("map<int32, M> m = 1; required int32 a = 2;"),
            b"\x10\x01\x0a\x04\x08\x01\x12\x00",
            "/m/1/a: the field is missing",
        ),
        (message("M m = 1;"), b"\x0a\x02" * 100_000, "cannot be read"),
        (message("int32 a = 1;"), b"\xff" * 40, "cannot be read"),
        (message("int32 a = 1;"), b"\x00", "cannot be read"),
        (message("repeated int64 a = 1;"), b"\x0a\xff\xff\xff\xff\x07" + b"\x01" * 100, "cannot be read"),
    ],
)
def test_damaged_payloads_are_quick_errors(text: str, payload: bytes, says: str) -> None:
    schema = parse(text)
    begin = time.process_time()
    with pytest.raises(SchemaValidationError, match=says):
        schema.decode(payload)
    assert time.process_time() - begin < 2


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"m": value}
    return value


def test_values_are_nested_as_deeply_as_the_runtime_reads_them() -> None:
    schema = parse(message("M m = 1; map<string, M> n = 2;"))
    payload = schema.encode(nested(100))
    assert schema.is_valid(schema.decode(payload))
    assert [p.keyword for p in schema.problems(nested(101))] == ["depth"]
    deep: Any = {}
    for _ in range(50):
        deep = {"n": {"k": deep}}  # an entry counts, too
    assert schema.is_valid(schema.decode(schema.encode(deep)))
    with pytest.raises(SchemaValidationError, match="nested more than 100 deep"):
        schema.encode({"m": deep})
    assert not schema.is_valid(nested(50_000))


@pytest.mark.parametrize("levels", [32, 33])
def test_json_is_nested_as_deeply_as_the_runtime_reads_it(levels: int) -> None:
    schema = well_known("Value")
    deep: Any = {}
    for _ in range(levels):
        deep = {"k": deep}
    if schema.is_valid({"v": deep}):
        assert schema.decode(schema.encode({"v": deep}))["v"] == deep
    else:
        assert levels == 33


# -- reading other versions ------------------------------------------------------------------------

A = "int32 a = 1;"


@pytest.mark.parametrize(
    ("writer", "reader", "value", "read"),
    [
        (message(A), message(A + "optional string b = 2;"), {"a": 1}, {"a": 1}),
        (message(A + "string b = 2;"), message(A), {"a": 1, "b": "x"}, {"a": 1}),
        (message(A), message("int64 z = 1;"), {"a": -1}, {"z": -1}),
        (message("bool a = 1;"), message("uint64 a = 1;"), {"a": True}, {"a": 1}),
        (message("uint32 a = 1;"), message("int64 a = 1;"), {"a": 2**32 - 1}, {"a": 2**32 - 1}),
        (message("sint32 a = 1;"), message("sint64 a = 1;"), {"a": -5}, {"a": -5}),
        (message("string a = 1;"), message("bytes a = 1;"), {"a": "ü"}, {"a": "ü".encode()}),
        (message("E a = 1; enum E { Z = 0; A = 1; }"), message(A), {"a": "A"}, {"a": 1}),
        (message(A), message("E a = 1; enum E { Z = 0; A = 1; }"), {"a": 7}, {"a": 7}),
        (message("E a = 1; enum E { Z = 0; A = 1; }"), message("E a = 1; enum E { Z = 0; B = 1; }"), {"a": "A"}, {"a": "B"}),
        (message(A), message("repeated int32 a = 1;"), {"a": 1}, {"a": [1]}),
        (message("repeated int32 a = 1;"), message("repeated int64 a = 1 [packed = false];"), {"a": [1, 2]}, {"a": [1, 2]}),
        (message("oneof o { int32 a = 1; int32 b = 2; }"), message("optional int32 a = 1; int32 b = 2;"), {"a": 0}, {"a": 0, "b": 0}),
        (message(A), message("oneof o { int32 a = 1; int32 b = 2; }"), {"a": 1}, {"a": 1}),
        (proto2("required int32 a = 1;"), message(A), {"a": 5}, {"a": 5}),
        (message("map<int32, int32> a = 1;"), message("map<int64, int64> a = 1;"), {"a": {1: 2}}, {"a": {1: 2}}),
        (proto3("package old; message M { int32 a = 1; }"), proto3("package new; message M { int32 a = 1; }"), {"a": 1}, {"a": 1}),
        (
            proto3("message M { Old o = 1; message Old { int32 n = 1; } }"),
            proto3("message M { New o = 1; } message New { int64 n = 1; }"),
            {"o": {"n": 1}},
            {"o": {"n": 1}},
        ),
    ],
)  # fmt: skip
def test_what_the_reader_can_read(writer: str, reader: str, value: Any, read: Any) -> None:
    before, after = parse(writer), parse(reader)
    for policy in OWN_POLICIES:
        assert language.compare(before, after, policy).outcome is Outcome.PROVED
    found = after.decode(before.encode(value), before)
    assert found == read
    assert repr(found) == repr(read)


@pytest.mark.parametrize(
    ("writer", "reader", "code", "path"),
    [
        (message("int64 a = 1;"), message(A), "narrowed", "M.a"),
        (message(A), message("uint32 a = 1;"), "narrowed", "M.a"),
        (message(A), message("uint64 a = 1;"), "narrowed", "M.a"),
        (message("uint32 a = 1;"), message(A), "narrowed", "M.a"),
        (message("uint64 a = 1;"), message("int64 a = 1;"), "narrowed", "M.a"),
        (message(A), message("bool a = 1;"), "narrowed", "M.a"),
        (message("sint64 a = 1;"), message("sint32 a = 1;"), "narrowed", "M.a"),
        (message("fixed32 a = 1;"), message("sfixed32 a = 1;"), "narrowed", "M.a"),
        (message("sfixed64 a = 1;"), message("fixed64 a = 1;"), "narrowed", "M.a"),
        (message("bytes a = 1;"), message("string a = 1;"), "narrowed", "M.a"),
        (message(A), message("sint32 a = 1;"), "type-changed", "M.a"),
        (message(A), message("fixed32 a = 1;"), "type-changed", "M.a"),
        (message(A), message("string a = 1;"), "type-changed", "M.a"),
        (message("float a = 1;"), message("double a = 1;"), "type-changed", "M.a"),
        (message("float a = 1;"), message("fixed32 a = 1;"), "type-changed", "M.a"),
        (message("M a = 1;"), message("bytes a = 1;"), "type-changed", "M.a"),
        (message("E a = 1; enum E { Z = 0; A = 1; }"), message("bool a = 1;"), "type-changed", "M.a"),
        (message("map<int32, int32> a = 1;"), message("repeated int32 a = 1;"), "type-changed", "M.a"),
        (message("map<int32, int32> a = 1;"), message("repeated N a = 1; message N { int32 k = 1; }"), "type-changed", "M.a"),
        (message("map<int64, int32> a = 1;"), message("map<int32, int32> a = 1;"), "narrowed", "M.a{key}"),
        (message("map<int32, int64> a = 1;"), message("map<int32, int32> a = 1;"), "narrowed", "M.a{}"),
        (message("repeated int32 a = 1;"), message(A), "repeated-removed", "M.a"),
        (message("repeated M a = 1;"), message("M a = 1;"), "repeated-removed", "M.a"),
        (message(A + "int32 b = 2;"), message("oneof o { int32 a = 1; int32 b = 2; }"), "oneof-joined", "M.o"),
        (
            message("oneof o { int32 a = 1; } int32 b = 2;"),
            message("oneof o { int32 a = 1; int32 b = 2; }"),
            "oneof-joined",
            "M.o",
        ),
        (
            message("oneof o { int32 a = 1; } oneof p { int32 b = 2; }"),
            message("oneof o { int32 a = 1; int32 b = 2; }"),
            "oneof-joined",
            "M.o",
        ),
        (proto2(""), proto2("required int32 a = 1;"), "required-added", "M.a"),
        (message(A), proto2("required int32 a = 1;"), "required-added", "M.a"),
        (
            proto2("optional E a = 1;", "enum E { A = 1; B = 2; }"),
            proto2("optional E a = 1;", "enum E { A = 1; }"),
            "value-removed",
            "M.a",
        ),
        (message(A), proto2("optional E a = 1;", "enum E { A = 1; B = 2; }"), "narrowed", "M.a"),
        (message("M m = 1; int64 a = 2;"), message("M m = 1; int32 a = 2;"), "narrowed", "M.a"),
        (message(A, "M"), message(A, "N"), "message-removed", "M"),
        (proto3("message M {} message N {}"), proto3("message N {} message M {}"), "message-moved", "M"),
        (
            proto3('import "google/protobuf/timestamp.proto"; message M { google.protobuf.Timestamp a = 1; }'),
            message("T a = 1; message T { int64 seconds = 1; int32 nanos = 2; }"),
            "type-changed",
            "M.a",
        ),
    ],
)  # fmt: skip
def test_what_the_reader_cannot_read_has_a_witness(writer: str, reader: str, code: str, path: str) -> None:
    before, after = parse(writer), parse(reader)
    for policy in OWN_POLICIES:
        verdict = language.compare(before, after, policy)
        assert verdict.outcome is Outcome.REFUTED
        assert [(d.code, d.path) for d in verdict.differences] == [(code, path)]
        assert verdict.witness is not None
        payload = before.encode(verdict.witness.value)
        with pytest.raises(SchemaValidationError):
            after.decode(payload, before)


def test_a_value_that_keeps_its_meaning_is_read_though_others_would_not() -> None:
    before = parse(message("int64 a = 1; repeated string b = 2; string c = 3; string d = 4;"))
    after = parse(message("int32 a = 1; string b = 2; oneof o { string c = 3; string d = 4; }"))
    value = {"a": 5, "b": ["x"], "c": "y"}
    assert after.decode(before.encode(value), before) == {"a": 5, "b": "x", "c": "y"}
    for wrong, says in (
        ({"a": 2**31}, "/a: int32 does not have every value of int64"),
        ({"b": ["x", "y"]}, "/b: repeated string may have more than one value"),
        ({"c": "x", "d": "y"}, "/d: the reader keeps only one of it and 'c'"),
    ):
        with pytest.raises(SchemaValidationError, match=says):
            after.decode(before.encode(wrong), before)


def test_packed_numbers_are_not_read_as_a_single_one() -> None:
    """The runtime would silently leave them out."""
    before, after = parse(message("repeated int32 a = 1;")), parse(message(A))
    payload = before.encode({"a": [5]})
    assert after.decode(payload) == {"a": 0}
    with pytest.raises(SchemaValidationError):
        after.decode(payload, before)


def test_other_messages_of_the_file_leave_a_verdict_undecided() -> None:
    """A value does not say of which message it is, so that there is no witness."""
    before = parse(proto3("message M { int32 a = 1; } message N { int64 b = 1; message O {} } message P {}"))
    after = parse(proto3("message M { int32 a = 1; } message N { int32 b = 1; }"))
    verdict = language.compare(before, after, "strict")
    assert verdict.outcome is Outcome.UNDECIDED
    assert [(d.code, d.path) for d in verdict.differences] == [("narrowed", "N.b"), ("message-removed", "P")]
    assert language.compare(before.message("M"), after.message("M"), "strict")
    chosen = language.compare(before.message("N"), after.message("N"), "strict")
    assert chosen.outcome is Outcome.REFUTED
    assert chosen.witness is not None
    assert chosen.witness.value == {"b": 2**63 - 1} or chosen.witness.value == {"b": -(2**63)}


def test_the_reader_chooses_the_message_of_the_writer() -> None:
    before = parse(proto3("message M { int32 a = 1; } message N { int32 b = 1; }"))
    after = parse(proto3("message N { int32 b = 1; } message M { int32 a = 1; }"))
    payload = before.message("N").encode({"b": 5})
    assert after.decode(payload, before.message("N")) == {"b": 5}
    with pytest.raises(SchemaValidationError, match="choose the message of the reader"):
        before.decode(payload, before.message("N"))
    assert before.message("N").decode(payload, after) == {"b": 5}


# -- Confluent's verdicts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "reader", "codes"),
    [
        (message("int64 a = 1;"), message("bool b = 1;"), []),
        (message("repeated int32 a = 1;"), message("E a = 1; enum E { Z = 0; }"), []),
        (message("bytes a = 1;"), message("string a = 1;"), []),
        (message("fixed32 a = 1;"), message("sfixed32 a = 1;"), []),
        (message(A), message(""), []),
        (proto3("message M {} message N {}"), proto3("message N {} message M {}"), []),
        (message("oneof o { int32 a = 1; int32 b = 2; }"), message(""), []),
        (message("oneof o { int32 a = 1; int32 b = 2; }"), message("int32 a = 1; int32 b = 2;"), []),
        (message(A), message("oneof o { int32 a = 1; int32 b = 2; }"), []),
        (message("optional int32 a = 1; optional int32 b = 2;"), message(A + "int32 b = 2;"), []),
        (message(A), message("sint32 a = 1;"), ["type-changed"]),
        (message(A), message("string a = 1;"), ["type-changed"]),
        (message(A), message("map<int32, int32> a = 1;"), ["type-changed"]),
        (message("map<int32, int32> a = 1;"), message("map<int64, string> a = 1;"), ["type-changed"]),
        (proto3("package a; message M {}"), proto3("package b; message M {}"), ["package-changed"]),
        (proto3("message M {} message N { message O {} }"), message(""), ["message-removed"]),
        (message("message N {}"), message(""), ["message-removed"]),
        (
            message("N n = 1; message N {}"),
            message("O n = 1; message N {} message O {}"),
            ["named-type-changed"],
        ),
        (proto2("required int32 a = 1;"), proto2(""), ["required-removed"]),
        (proto2(""), proto2("required int32 a = 1;"), ["required-added"]),
        (message("oneof o { int32 a = 1; int32 b = 2; }"), message("oneof o { int32 a = 1; }"), ["oneof-field-removed"]),
        (message(A + "int32 b = 2;"), message("oneof o { int32 a = 1; int32 b = 2; }"), ["fields-moved-to-oneof"]),
        (
            message("oneof o { int32 a = 1; } int32 b = 2;"),
            message("oneof o { int32 a = 1; int32 b = 2; }"),
            ["field-moved-to-existing-oneof"],
        ),
    ],
)  # fmt: skip
def test_the_verdicts_of_confluents_server(writer: str, reader: str, codes: list[str]) -> None:
    for policy in ("confluent", "confluent-lenient"):
        verdict = language.compare(parse(writer), parse(reader), policy)
        assert [d.code for d in verdict.differences] == codes
        assert bool(verdict) is not bool(codes)


def test_confluents_server_compares_what_is_imported() -> None:
    text = proto3('import "line.proto"; message M { x.Line a = 1; }')
    one = language.parse(text, {"line.proto": parse(proto3("package x; message Line { int32 a = 1; }"))})
    two = language.parse(text, {"line.proto": parse(proto3("package x; message Line { string a = 1; }"))})
    verdict = language.compare(one, two, "confluent")
    assert [d.code for d in verdict.differences] == ["type-changed", "named-type-changed"]
    assert language.compare(one, two, "strict").outcome is Outcome.REFUTED


# -- limits ----------------------------------------------------------------------------------------


def test_a_comparison_of_many_messages_is_bounded() -> None:
    def text(kind: str) -> str:
        fields = "".join(f"M{k} f{k} = {k + 1};" for k in range(0, 320, 8))
        return proto3("".join(f"message M{n} {{ {fields} {kind} z = 500; }}" for n in range(330)))

    before, after = parse(text("int32")), parse(text("int64"))
    begin = time.process_time()
    assert language.compare(before, after, "strict").outcome in (Outcome.PROVED, Outcome.UNDECIDED)
    assert language.compare(after, before, "strict").outcome is Outcome.REFUTED
    assert time.process_time() - begin < 5


def test_a_long_chain_of_messages_is_compared_as_deeply_as_values_are_nested() -> None:
    def chain(kind: str, length: int) -> str:
        links = "".join(f"message M{n} {{ M{n + 1} a = 1; M0 first = 2; }}" for n in range(length))
        return proto3(f"{links} message M{length} {{ {kind} z = 1; }}")

    def first(kind: str, length: int) -> ProtobufSchema:
        return parse(chain(kind, length)).message("M0")

    near = language.compare(first("int64", 90), first("int32", 90), "strict")
    assert near.outcome is Outcome.REFUTED
    assert near.witness is not None
    assert first("int64", 90).is_valid(near.witness.value)
    assert language.compare(
        first("int64", 1_000), first("int32", 1_000), "strict"
    )  # no value reaches the end
    value = {"a": {"a": {"first": {}}}}
    assert parse(chain("int32", 1_000)).decode(parse(chain("int32", 1_000)).encode(value)) == value


def test_schemas_with_the_same_names_do_not_see_each_other() -> None:
    one, two = parse(message("int32 a = 1;")), parse(message("string a = 1;"))
    assert one.decode(one.encode({"a": 1})) == {"a": 1}
    assert two.decode(two.encode({"a": "x"})) == {"a": "x"}
    with pytest.raises(InvalidSchemaError):
        parse(message("Order o = 1;"))
    assert parse(ORDER).record_name == "shop.Order"


def test_an_unknown_policy_and_a_foreign_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="is no policy"):
        language.compare(parse(ORDER), parse(ORDER), "loose")
    assert all(language.compare(parse(ORDER), parse(ORDER), policy) for policy in POLICIES)
