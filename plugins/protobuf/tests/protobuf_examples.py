"""Schemas, values and changes in Protobuf, for the contract of schema languages."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from google.protobuf import descriptor_pb2

from dimesh_contracts.schema import Change, Example, Examples


def proto3(body: str) -> str:
    return f'syntax = "proto3"; {body}'


def message(fields: str, name: str = "M") -> str:
    """Return a schema of proto3 with one message."""
    return proto3(f"message {name} {{ {fields} }}")


def proto2(fields: str, more: str = "") -> str:
    """Return a schema of proto2 with one message."""
    return f'syntax = "proto2"; message M {{ {fields} }} {more}'


ORDER = """
syntax = "proto3";
package shop;

// An order.
message Order {
  int64 id = 1;
  Kind kind = 2;
  optional string note = 3;
  repeated Line lines = 4;
  message Line { int32 n = 1; }
}
enum Kind { NEW = 0; PAID = 1; }
"""
ORDER_SPELLED = """syntax="proto3";package shop;
message Order{repeated .shop.Order.Line lines=4 [deprecated=false];optional string note=3 [json_name="note"];;
Kind kind=2;int64 id=1;message Line{int32 n=0x1;}}
enum Kind{NEW=0;PAID=1;} /* the end */"""
LINE = 'syntax = "proto3"; package shop; message Line { int32 n = 1; }'


def descriptor() -> str:
    """Return a descriptor in base64, as clients of Confluent's registry send it."""
    proto = descriptor_pb2.FileDescriptorProto(name="any/name.proto", syntax="proto3", package="shop")
    field = proto.message_type.add(name="Line").field.add(name="n", number=1, type=5, label=1)
    field.json_name = "n"
    return base64.b64encode(proto.SerializeToString()).decode()


def many_in_a_descriptor(what: str) -> str:
    """Return a descriptor with very many parts that take few bytes."""
    proto = descriptor_pb2.FileDescriptorProto(
        syntax="proto2", dependency=["google/protobuf/descriptor.proto"]
    )
    proto.extension.add(name="o", number=50_001, type=5, label=3, extendee=".google.protobuf.MessageOptions")
    one = proto.message_type.add(name="M")
    if what == "options":
        one.options.MergeFromString(b"\x88\xb5\x18\x01" * 300_000)
    elif what == "ranges":
        for n in range(150_000):
            one.extension_range.add(start=2 * n + 1, end=2 * n + 2)
    else:
        one.reserved_name.extend(["x"] * 300_000)
    return base64.b64encode(proto.SerializeToString()).decode()


TIMES = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/any.proto";
message M {
  google.protobuf.Timestamp at = 1;
  google.protobuf.Duration took = 2;
  google.protobuf.Struct extra = 3;
  google.protobuf.Value any = 4;
  google.protobuf.ListValue list = 5;
  google.protobuf.Int64Value count = 6;
  google.protobuf.Any packed = 7;
}
"""
SCHEMAS = [
    Example(
        ORDER,
        [
            {"id": 1, "kind": "PAID", "note": "x", "lines": [{"n": 1}, {"n": 0}]},
            {"id": -(2**63), "kind": "NEW", "lines": []},
            {"id": 0, "kind": 7, "note": "", "lines": []},
        ],
        [
            {"id": 2**63},
            {"kind": "GONE", "note": 1},
            {"id": "1"},
            {"id": True},
            {"note": None},
            {"note": b"x"},
            {"lines": {"n": 1}},
            {"lines": [{"m": 1}]},
            {"more": 1},
            7,
            None,
        ],
        [ORDER_SPELLED, ORDER.replace("An order", "Another comment")],
        [
            ORDER.replace("optional string note = 3", "string note = 3"),
            ORDER.replace("note = 3", "note = 5"),
            ORDER.replace("int64 id", "sint64 id"),
            ORDER.replace("package shop", "package store"),
            ORDER.replace("PAID = 1", "PAID = 2"),
            ORDER.replace("note", "notes"),
            ORDER.replace("int64 id = 1;", "int64 id = 1; reserved 9;"),
            ORDER.replace("int64 id = 1;", "int64 id = 1 [deprecated = true];"),
            ORDER.replace("int64 id = 1;", "int64 id = 1 [(shop.secret) = true];"),
        ],
    ),
    Example(
        LINE,
        [{"n": 2**31 - 1}],
        [{"n": 2**31}],
        [descriptor()],
        [proto3("package shop; message First {} message Line { int32 n = 1; }")],
    ),
    Example(
        message(
            "double d = 1; float f = 2; uint32 u = 3; uint64 v = 4; sint32 s = 5; sint64 t = 6; fixed32 a = 7; fixed64 b = 8; "
            "sfixed32 c = 9; sfixed64 e = 10; bool g = 11; string h = 12; bytes i = 13; repeated int32 from = 14;"
        ),
        [
            {
                "d": 0.1,
                "f": 0.5,
                "u": 2**32 - 1,
                "v": 2**64 - 1,
                "s": -(2**31),
                "t": -(2**63),
                "a": 1,
                "b": 2,
                "c": -3,
                "e": -4,
                "g": True,
                "h": "ü🙂",
                "i": b"\x00\xff",
                "from": [1, -2],
            }
        ],
        [{"f": 1e300}, {"u": -1}, {"g": 1}, {"h": "\ud800"}, {"i": "x"}, {"d": 10**400}, {"from": 1}],
    ),
    Example(
        proto3(
            "message M { oneof pay { string card = 1; int64 cash = 2; M gift = 3; } map<string, int32> tags = 4; "
            "map<int64, M> parts = 5; }"
        ),
        [
            {"card": "", "tags": {}, "parts": {}},
            {"cash": 5, "tags": {"a/~": 1, "ü": 0}, "parts": {-1: {"tags": {}, "parts": {}}}},
        ],
        [{"card": "x", "cash": 1}, {"tags": {1: 1}}, {"parts": {"1": {}}}, {"tags": {"a": None}}],
        (),
        [
            proto3(
                "message M { string card = 1; int64 cash = 2; M gift = 3; map<string, int32> tags = 4; map<int64, M> parts = 5; }"
            )
        ],
    ),
    Example(
        proto2(
            'required int32 a = 1; optional string b = 2 [default = "x"]; repeated E e = 3 [packed = true]; extensions 100 to max;',
            "enum E { option allow_alias = true; A = 5; B = -1; C = -1; } extend M { optional int32 more = 100; }",
        ),
        [{"a": 1, "e": []}, {"a": 0, "b": "", "e": ["A", "B"]}],
        [{}, {"b": "x"}, {"a": 1, "e": [7]}, {"a": 1, "more": 1}],
        [
            "message M { repeated E e = 3 [packed = true]; extensions 100 to 536870911; extend M { } "
            "optional string b = 2 [default = '\\170']; required int32 a = 1; }"
            "enum E { A = 5; option allow_alias = true; B = -1; C = -1; } extend M { optional int32 more = 100; }"
        ],
        [
            proto2(
                'required int32 a = 1; optional string b = 2 [default = "y"]; repeated E e = 3 [packed = true]; extensions 100 to max;',
                "enum E { option allow_alias = true; A = 5; B = -1; C = -1; } extend M { optional int32 more = 100; }",
            )
        ],
    ),
    Example(
        TIMES,
        [
            {
                "at": datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC),
                "took": timedelta(days=-1, microseconds=1),
                "extra": {"a": [1.5, None, {"b": True}], "c": "x"},
                "any": None,
                "list": [[], {}],
                "count": 0,
                "packed": {"type_url": "x", "value": b"y"},
            },
            {"at": {"seconds": 2**62, "nanos": 7}, "took": {"seconds": 1, "nanos": -1}},
        ],
        [
            {"at": 1},
            {"at": datetime.fromisoformat("2026-01-01")},
            {"took": 1.5},
            {"extra": []},
            {"any": b"x"},
            {"count": "1"},
        ],
    ),
    Example(
        'syntax = "proto3"; package shop; import "shop/line.proto"; message Basket { repeated Line lines = 1; }',
        [{"lines": [{"n": 1}]}],
        [{"lines": [{"n": "x"}]}],
        references={"shop/line.proto": LINE},
    ),
]

A = "int32 a = 1;"
CHANGES = [
    Change(message(A), message(A + "string b = 2;"), [{"a": 1}], True),
    Change(message(A + "string b = 2;"), message(A + "reserved 2;"), [{"a": 1, "b": "x"}], True),
    Change(message(A), message("int64 a = 1;"), [{"a": -(2**31)}], True),
    Change(message(A), message("int32 renamed = 1;"), [{"a": 1}], True),
    Change(message("string a = 1;"), message("bytes a = 1;"), [{"a": "ü"}], True),
    Change(message(A), message("repeated int32 a = 1;"), [{"a": 1}], True),
    Change(message(A), message("oneof o { int32 a = 1; string b = 2; }"), [{"a": 1}], True),
    Change(
        message("M m = 1; int32 a = 2;"), message("M m = 1; int64 a = 2;"), [{"m": {"m": {"a": 1}}}], True
    ),
    Change(
        message("E e = 1; enum E { Z = 0; A = 1; }"),
        message("E e = 1; enum E { Z = 0; }"),
        [{"e": "A"}],
        True,
    ),
    Change(message("int64 a = 1;"), message(A), [{"a": 1}, {"a": 2**40}], False),
    Change(message(A), message("string a = 1;"), [{"a": 1}, {}], False),
    Change(message(A), message("uint64 a = 1;"), [{"a": -1}, {"a": 1}], False),
    Change(message("bytes a = 1;"), message("string a = 1;"), [{"a": b"\xff"}, {"a": b"x"}], False),
    Change(message("repeated int32 a = 1;"), message(A), [{"a": [1, 2]}, {"a": [1]}], False),
    Change(
        message("repeated string a = 1;"), message("string a = 1;"), [{"a": ["1", "2"]}, {"a": ["x"]}], False
    ),
    Change(
        message(A + "string b = 2;"),
        message("oneof o { int32 a = 1; string b = 2; }"),
        [{"a": 1, "b": "x"}, {"a": 1}],
        False,
    ),
    Change(proto2("optional int32 a = 1;"), proto2("required int32 a = 1;"), [{"a": 1}, {}], False),
    Change(
        proto2("optional E e = 1; enum E { A = 1; B = 2; }"),
        proto2("optional E e = 1; enum E { A = 1; }"),
        [{"e": "A"}, {"e": "B"}],
        False,
    ),
    Change(
        message("map<string, int64> m = 1;"),
        message("map<string, int32> m = 1;"),
        [{"m": {"a": 2**40}}, {}],
        False,
    ),
    Change(message(A), message(A, "Other"), [{"a": 1}], False),
]

HOSTILE = [
    "{" * 50_000,
    "/*" * 100_000,
    "message M {" * 200 + "}" * 200,
    message("".join(f"int32 f{n} = {n + 1};" for n in range(18_000))),
    message("x" * 2_000_000),
    proto3(
        "message M0 {}"
        + "".join(f"message M{n} {{ M{n - 1} a = 1; M{n - 1} b = 2; }}" for n in range(1, 1_000))
    ),
    proto3(
        "".join(f"message M{n} {{ M{n + 1} a = 1; string b = 2; }}" for n in range(1_500))
        + "message M1500 {}"
    ),
    proto3(
        "message M {"
        + "".join(f"M{n} f{n} = {n + 1};" for n in range(1_000))
        + "}"
        + "".join(f"message M{n} {{ M m = 1; }}" for n in range(1_000))
    ),
    proto2("required M m = 1;"),
    'syntax = "proto2";'
    + "message M40 { optional int32 a = 1; }"
    + "".join(f"message M{n} {{ required M{n + 1} a = 1; required M{n + 1} b = 2; }}" for n in range(40)),
    'syntax = "proto2";'
    + "".join(f"message M{n} {{ required M{n + 1} a = 1; }}" for n in range(1_500))
    + "message M1500 {}",
    message("reserved " + ", ".join(str(n) for n in range(1, 9_000)) + ";"),
    message("reserved 1 to max; int32 a = 1;"),
    proto3(f"package {'a.' * 400}b; message M {{ {'a.' * 400}b.M m = 1; }}"),
    proto3("message M {} option (x) = " + "{a:" * 5_000 + "1" + "}" * 5_000 + ";"),
    proto3(
        "enum E { Z = 0; " + "".join(f"V{n} = {n};" for n in range(1, 15_000)) + "} message M { E e = 1; }"
    ),
    proto2("optional int32 a = 1 [default = " + "9" * 100_000 + "];"),
    "QUJD" * 100_000,
    proto3(
        'import "google/protobuf/descriptor.proto"; extend google.protobuf.MessageOptions { repeated string o = 50001; } message M { '
        + 'option (o) = "x"; ' * 15_000
        + "}"
    ),
    many_in_a_descriptor("options"),
    many_in_a_descriptor("ranges"),
    many_in_a_descriptor("reserved"),
    base64.b64encode(b"\x22\x80\x80\x80\x80\x08" * 1_000).decode(),
    proto3('option java_package = "' + "\\" * 100_000 + '";'),
]
UNRESOLVED = [
    proto3('import "unknown.proto"; message M {}'),
    proto3('import "/etc/hostname"; message M {}'),
    proto3('import "http://169.254.169.254/latest"; message M {}'),
    proto3('import "google/protobuf/../../secret.proto"; message M {}'),
    message("Unknown u = 1;"),
    message("google.protobuf.Timestamp at = 1;"),
    message(".shop.Line line = 1;"),
]
EXAMPLES = Examples(SCHEMAS, CHANGES, HOSTILE, UNRESOLVED)
