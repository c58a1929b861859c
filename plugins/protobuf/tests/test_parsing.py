"""Schemas: what is accepted, as Google's compiler does, what is refused and where, and what is the same schema."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from protobuf_examples import LINE, ORDER, TIMES, message, proto2, proto3
from protoc import compiled, without_names

from dimesh.errors import InvalidSchemaError
from dimesh.plugins import PluginManager
from dimesh.spi.schema import SchemaLanguage
from dimesh_protobuf import ProtobufSchema, language
from dimesh_protobuf.shared_types import SHARED_TYPES

LARGE = r"""
syntax = "proto2";
package a.b;
import "google/protobuf/timestamp.proto";
import public "other.proto";
option java_package = "x.\101\n\"\x41\u00e9'" ' and more';
option optimize_for = SPEED;
option java_multiple_files = true;
message Outer {
  option deprecated = true;
  required group_ group = 1;
  message group_ { optional Inner inner = 1; message Inner { optional .a.b.Outer outer = 0x2; } }
  optional group_.Inner i = 2;
  optional b.Outer o = 03;
  repeated sint32 numbers = 4 [packed = true, deprecated = true];
  optional string text = 5 [default = "a\tb\"c" "d", json_name = "Text", ctype = CORD];
  optional bytes data = 6 [default = "\001\377\\'"];
  optional double d = 7 [default = -1.5e3];
  optional float f = 8 [default = inf];
  optional float nan = 9 [default = nan];
  optional int64 n = 10 [default = -9223372036854775808];
  optional uint64 u = 11 [default = 0xffffffffffffffff];
  optional bool b = 12 [default = true];
  optional E e = 13 [default = B];
  map<string, Zero> es = 14; enum Zero { ZERO = 0; }
  map<int32, google.protobuf.Timestamp> times = 15;
  optional other.Thing thing = 16;
  oneof choice { option (mine) = 1; string s = 17; Outer again = 18; int32 option_ = 19; }
  extensions 100 to 199, 500;
  extensions 1000 to max;
  reserved 20 to 25, 30, 40 to 50;
  reserved "old", 'older';
  enum E { option allow_alias = true; A = 5; B = -1; C = -1 [deprecated = true]; reserved -10 to -5, 100 to max; reserved "Z"; };
  extend Outer { optional int32 inside = 100; repeated Outer many = 101; }
  ;
}
extend .a.b.Outer { optional string outside = 500; }
service Things {
  option deprecated = true;
  rpc Get (Outer) returns (stream other.Thing);
  rpc Put (stream Outer.group_) returns (Outer) { option idempotency_level = IDEMPOTENT; option (mine).x = { a: 1 } ; }
}
extend google.protobuf.MethodOptions { optional M mine = 50001; }
extend google.protobuf.OneofOptions { optional int32 mine2 = 50001; }
message M { optional V x = 1; }
message V { optional int32 a = 1; }
"""
OTHER = 'syntax = "proto3"; package other; message Thing { optional int32 a = 1; } import public "google/protobuf/descriptor.proto";'


def parse(text: str) -> ProtobufSchema:
    return language.parse(text)


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert PluginManager().schema_language("PROTOBUF") is language
    assert isinstance(language, SchemaLanguage)


# -- what the compiler accepts ---------------------------------------------------------------------


def test_everything_in_a_file_is_read_as_the_compiler_reads_it(tmp_path: Path) -> None:
    text = LARGE.replace("option (mine) = 1; ", "").replace("option (mine).x = { a: 1 } ;", "")
    schema = language.parse(text, {"other.proto": parse(OTHER)})
    proto = compiled(tmp_path, text, {"other.proto": OTHER})
    assert proto is not None
    assert without_names(schema.file.proto) == without_names(proto)
    again = language.parse(schema.canonical, {"other.proto": parse(OTHER)})
    assert again.canonical == schema.canonical
    assert schema.messages[0] == "a.b.Outer"


def test_options_of_the_author_are_kept() -> None:
    schema = language.parse(LARGE, {"other.proto": parse(OTHER)})
    assert "option (.a.b.mine) = { x { a : 1 } };" in schema.canonical
    assert "option (mine) = 1;" in schema.canonical
    assert language.parse(schema.serialized, {"other.proto": parse(OTHER)}).canonical == schema.canonical


ACCEPTED = [
    proto2("optional int32 a_b = 1; optional int32 aB = 2; optional int32 c = 3 [json_name = 'aB'];"),
    ORDER,
    TIMES,
    LINE,
    'syntax = "proto3";',
    "message M { optional int32 message = 1; optional M enum = 2; repeated string optional = 3; }",
    message("optional int32 a = 1; int32 _a = 2; oneof o { int32 b = 3; }"),
    message("map<int32, M> a = 1; message N {} map<string, N> b_c_d = 2; N n = 3;"),
    message("reserved 1 to 5, 1000 to max; reserved 'a', 'b'; int32 c = 6;"),
    proto3("package a.b.c; message M { b.c.M m = 1; c.M n = 2; M o = 3; a.b.c.M p = 4; }"),
    proto3("package a; message M { message a { message M {} } a.M m = 1; .a.M n = 2; }"),
    proto3("enum E { Z = 0; N = -5; } message M { E e = 1; repeated E f = 2 [packed = false]; }"),
    proto3(
        'import "google/protobuf/descriptor.proto"; extend google.protobuf.FieldOptions { string owner = 50000; }'
    ),
    proto3("message M { int32 a = 1 ; ; } ; // the end"),
    '\ufeffsyntax = "proto3"; message M { int32 a = 1; }',
    "/* no syntax */ message M { optional int32 a = 1; }",
    proto2(
        "optional double a = 1 [default = 1]; optional float b = 2 [default = -inf]; optional int32 c = 3 [default = -0x10];"
    ),
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_the_compiler_accepts_is_read_in_the_same_way(tmp_path: Path, text: str) -> None:
    proto = compiled(tmp_path, text)
    assert proto is not None
    schema = parse(text)
    assert without_names(schema.file.proto) == without_names(proto)
    assert parse(schema.canonical).canonical == schema.canonical
    assert parse(schema.serialized).canonical == schema.canonical
    assert parse(base64.b64encode(proto.SerializeToString()).decode()).canonical == schema.canonical


REFUSED = [
    ("{", "line 1, column 1: '{' is not expected here"),
    ("", "the schema is empty"),
    ('syntax = "proto4";', 'line 1, column 10: the syntax is "proto2" or "proto3", not \'proto4\''),
    (proto3("message M {\n  int32 a = 1\n}"), "line 3, column 1: ';' is expected, not '}'"),
    (proto3("message M {"), "the message 'M' does not end"),
    (proto3("/* message"), "the comment does not end"),
    (proto3("option java_package = 'x\n';"), "the text in quotes does not end in its line"),
    (proto3("message M {\n  Foo foo = 1;\n}"), "line 2, column 3: the type 'Foo' is not known"),
    (
        proto3("package a; message M { message a {} a.M m = 1; }"),
        "'a.M' (it means 'a.M.a.M' here) is not known",
    ),
    (message("int32 a = 0;"), "the number of 'a' is from 1 to 536,870,911, not 0"),
    (message("int32 a = 536870912;"), "the number of 'a' is from 1 to"),
    (message("int32 a = 19000;"), "Protobuf keeps the numbers from 19,000 to 19,999"),
    (message("int32 a = 1; int32 b = 1;"), "line 1, column 45: the fields 'a' and 'b' have the number 1"),
    (message("int32 a = 1; int32 a = 2;"), "the name 'M.a' is defined twice"),
    (message("reserved 2 to 4; int32 a = 3;"), "the number 3 of 'a' is reserved"),
    (message("reserved 'a'; int32 a = 3;"), "the name 'a' is reserved"),
    (message("reserved 2 to 4, 4;"), "two ranges have the number 4"),
    (message("reserved 4 to 2;"), "a range ends after its beginning"),
    (message("required int32 a = 1;"), "proto3 has no required fields"),
    (message("int32 a = 1 [default = 5];"), "proto3 has no defaults"),
    (message("extensions 5;"), "proto3 has no extensions"),
    (message("string a = 1 [packed = true];"), "only repeated numbers"),
    (message("int32 a = 1 [unknown = 5];"), "line 1, column 45: there is no option 'unknown' here"),
    (message("int32 a = 1 [deprecated = 5];"), "the value of the option 'deprecated' is true or false"),
    (
        message("int32 a = 1 [deprecated = true, deprecated = true];"),
        "the option 'deprecated' is given twice",
    ),
    (message("map<float, int32> a = 1;"), "the keys of a map are"),
    (message("map<M, int32> a = 1;"), "the keys of a map are"),
    (message("repeated map<int32, int32> a = 1;"), "a map has no label"),
    (
        proto2("map<int32, E> e = 1;", "enum E { A = 1; B = 0; }"),
        "the enum 'E' needs a first value 0 in a map",
    ),
    (message("int32 a_b = 1; int32 aB = 2;"), "the fields 'a_b' and 'aB' have the name 'aB' in JSON"),
    (message("int32 a = 1 [json_name = '[x]'];"), "'[x]' is not a name for JSON"),
    (message("oneof o { }"), "the oneof 'o' has no field"),
    (message("oneof o { repeated int32 a = 1; }"), "a field of a oneof has no label"),
    (message("option map_entry = true;"), "write map<key, value>"),
    (proto3("enum E { A = 1; }"), "the first value of an enum of proto3 is 0"),
    (proto3("enum E { }"), "the enum 'E' has no value"),
    (proto3("enum E { A = 0; B = 0; }"), "set the option allow_alias"),
    (proto3("enum E { A = 0; } enum F { A = 0; }"), "the name 'A' is defined twice"),
    (proto3("enum E { A = 0; reserved 5 to 7; B = 6; }"), "the number 6 is reserved"),
    (proto3("enum E { A = 0; B = 2147483648; }"), "a number is a number up to 2,147,483,647"),
    ("message M { int32 a = 1; }", "a field of proto2 begins with optional, required or repeated"),
    (proto2("optional E e = 1 [default = Z];", "enum E { A = 1; }"), "the default 'Z' is no value of enum E"),
    (proto2("optional int32 e = 1 [default = 3000000000];"), "is no value of int32"),
    (proto2("repeated int32 e = 1 [default = 3];"), "has a default"),
    (proto2("extensions 5; optional int32 a = 5;"), "the number 5 of 'a' is for extensions"),
    (proto2("extensions 5;", "extend M { optional int32 a = 6; }"), "'M' has no extensions of the number 6"),
    (proto2("extensions 5;", "extend M { required int32 a = 5; }"), "an extension is not required"),
    (proto3("service S { rpc A (M) returns (M); }"), "the message 'M' is not known"),
    (proto3('import "a.proto"; import "a.proto";'), "the file 'a.proto' is imported twice"),
    (proto3("package a; package b;"), "the package is given twice"),
    (proto3("message M { int32 a = 1x; }"), "a number and a name need a space"),
    (proto3("message M { int32 a = 09; }"), "the number of the field is a number up to"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_a_schema_that_is_refused_says_where(tmp_path: Path, text: str, says: str) -> None:
    """The compiler refuses all of them, too."""
    begin = time.process_time()
    with pytest.raises(InvalidSchemaError) as raised:
        parse(text)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1_000
    assert time.process_time() - begin < 2
    if text:  # an empty file is a schema without messages to the compiler
        assert compiled(tmp_path, text) is None


OWN_REFUSALS = [
    ('edition = "2023"; message M {}', "editions are not supported"),
    (proto2("optional group G = 1 { optional int32 a = 1; }"), "groups are not supported"),
    (proto2("option message_set_wire_format = true; extensions 4 to max;"), "is not supported"),
    (proto2("required M m = 1;"), "'M' requires itself"),
    (message("reserved 1 to 2;") + "x" * 1_100_000, "the schema has 1,100,"),
    (proto3("message M {" * 33 + "}" * 33), "messages are nested more than 32 deep"),
    (message("x" * 2_000 + " a = 1;"), "the name has more than 1,000 characters"),
    (
        proto3("enum E { Z = 0; " + "".join(f"V{n} = {n};" for n in range(1, 21_000)) + "}"),
        "more than 20,000 parts",
    ),
    ("QUJDREVG", "neither the text of a .proto file nor a file descriptor in base64"),
]


@pytest.mark.parametrize(("text", "says"), OWN_REFUSALS)
def test_what_exceeds_the_limits_of_dimesh_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidSchemaError) as raised:
        parse(text)
    assert says in str(raised.value)


# -- references ------------------------------------------------------------------------------------


def test_references_are_found_by_their_path_with_their_own_references() -> None:
    money = parse(proto3("package x; message Money { int64 cents = 1; }"))
    line = language.parse(
        proto3('package x; import public "money.proto"; message Line { Money price = 1; }'),
        {"money.proto": money},
    )
    order = language.parse(
        proto3('package x; import "line.proto"; message Order { repeated Line lines = 1; Money total = 2; }'),
        {"line.proto": line, "unused.proto": money},
    )
    value = {"lines": [{"price": {"cents": 5}}], "total": {"cents": 5}}
    assert order.decode(order.encode(value)) == value
    assert order.record_name == "x.Order"
    private = language.parse(line.text.replace("import public", "import"), {"money.proto": money})
    with pytest.raises(InvalidSchemaError, match="the type 'Money' is not known"):
        language.parse(order.text, {"line.proto": private})
    other = parse(money.text.replace("cents", "euros"))
    with pytest.raises(
        InvalidSchemaError, match=r"two references have different files at the path 'money\.proto'"
    ):
        language.parse(
            proto3('import "line.proto"; import "money.proto"; message Order { x.Line l = 1; }'),
            {"line.proto": line, "money.proto": other},
        )


def test_the_shared_types_are_those_of_their_authors() -> None:
    """Compared with the descriptors of googleapis-common-protos; their options concern generated code."""
    compared = 0
    for path in SHARED_TYPES:
        schema = language.parse(proto3(f'import "{path}";'))
        if not path.startswith("google/"):
            continue
        module = importlib.import_module(f"{path.removesuffix('.proto').replace('/', '.')}_pb2")
        proto = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        proto.ClearField("options")
        found = without_names(schema.file.imports[0][1].proto)
        theirs = language.parse(base64.b64encode(proto.SerializeToString()).decode()).canonical
        ours = language.parse(base64.b64encode(found.SerializeToString()).decode()).canonical
        assert ours == theirs
        compared += 1
    assert compared >= 15


def test_a_reference_comes_before_a_shared_type() -> None:
    own = parse(proto3("package google.type; message Money { string all = 1; }"))
    text = proto3('import "google/type/money.proto"; message M { google.type.Money m = 1; }')
    assert parse(text).is_valid({"m": {"units": 5, "currency_code": "EUR"}})
    assert language.parse(text, {"google/type/money.proto": own}).is_valid({"m": {"all": "5 EUR"}})


def test_a_name_that_two_files_define_is_refused() -> None:
    one = parse(message("int32 a = 1;", "Thing"))
    with pytest.raises(InvalidSchemaError, match="the name 'Thing' is defined twice"):
        language.parse(proto3('import "one.proto"; message Thing {}'), {"one.proto": one})
    with pytest.raises(InvalidSchemaError, match="'Thing' is defined by two of the files"):
        language.parse(
            proto3('import "one.proto"; import "two.proto"; message M {}'),
            {"one.proto": one, "two.proto": parse(one.text)},
        )


def test_proto3_does_not_use_enums_of_proto2() -> None:
    old = parse('syntax = "proto2"; enum E { A = 0; }')
    with pytest.raises(InvalidSchemaError, match="proto3 does not use the enum 'E' of proto2"):
        language.parse(proto3('import "old.proto"; message M { E e = 1; }'), {"old.proto": old})


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (proto3("package a; message M { M m = 1; }"), proto3("package a; message M { a.M m = 1; }")),
        (message("int32 a = 1; int32 b = 2;"), message("int32 b = 2; int32 a = 1;")),
        (message("repeated int32 a = 1;"), message("repeated int32 a = 1 [packed = true];")),
        (message("int32 a_b = 1;"), message("int32 a_b = 1 [json_name = 'aB'];")),
        (message("reserved 1 to 3, 4, 9;"), message("reserved 9, 1 to 4;")),
        (
            proto3("message M {} enum E { A = 0; C = 2; B = 1; }"),
            proto3("enum E { A = 0; B = 1; C = 2; } message M {}"),
        ),
        (proto2("optional int32 a = 1 [default = 16];"), proto2("optional int32 a = 1 [default = 0x10];")),
        (
            proto2("optional bytes a = 1 [default = 'A'];"),
            proto2("optional bytes a = 1 [default = '\\x41'];"),
        ),
        (
            proto2("optional double a = 1 [default = 1e3];"),
            proto2("optional double a = 1 [default = 1000.0];"),
        ),
        ("message M {}", 'syntax = "proto2"; message M {}'),
        (message("map<int32, int32> b = 2; int32 a = 1;"), message("int32 a = 1; map<int32, int32> b = 2;")),
        (message("int32 a = 1; // comment"[:-10]), "/* x */" + message("int32 a = 1;") + "// y"),
    ],
)
def test_spellings_of_one_schema_have_one_identity(one: str, two: str) -> None:
    assert parse(one).canonical == parse(two).canonical
    assert parse(one).document == one


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (proto3("message A {} message B {}"), proto3("message B {} message A {}")),
        (message("map<int32, int32> a = 1; message N {}"), message("message N {} map<int32, int32> a = 1;")),
        (message("int32 a = 1;"), message("optional int32 a = 1;")),
        (message("repeated int32 a = 1;"), message("repeated int32 a = 1 [packed = false];")),
        (message("int32 a = 1;"), message("int32 a = 1 [json_name = 'b'];")),
        (message("int32 a = 1; int32 b = 2;"), message("oneof o { int32 a = 1; int32 b = 2; }")),
        (message("oneof o { int32 a = 1; }"), message("oneof p { int32 a = 1; }")),
        (message("reserved 1;"), message("reserved '1';")),
        (proto2("", "enum E { A = 1; B = 0; }"), proto2("", "enum E { B = 0; A = 1; }")),
        (
            proto3("enum E { option allow_alias = true; Z = 0; A = 1; B = 1; }"),
            proto3("enum E { option allow_alias = true; Z = 0; B = 1; A = 1; }"),
        ),
        (proto2("optional int32 a = 1;"), proto2("optional int32 a = 1 [default = 0];")),
        (proto3("message M {} option (x) = 1;"), proto3("message M {} option (x) = 2;")),
        (proto3("message M {}"), proto3("message M {} service S {}")),
        (proto3("message M {}"), "message M {}"),
    ],
)
def test_what_changes_the_meaning_changes_the_identity(one: str, two: str) -> None:
    assert parse(one).canonical != parse(two).canonical


# -- options of authors ----------------------------------------------------------------------------

OPTIONS = """
syntax = "proto3";
package shop.rules;
import "google/protobuf/descriptor.proto";
message Rule { int32 most = 1; repeated string tags = 2; Rule inner = 3; Kind kind = 4; map<string, double> weights = 5; bytes raw = 6; }
enum Kind { NONE = 0; SOFT = 1; }
extend google.protobuf.FieldOptions {
  Rule rule = 50001;
  repeated string owners = 50002;
  optional Kind kind = 50003;
  optional double share = 50004;
  optional bool secret = 50005;
  optional sint64 shift = 50006;
  optional bytes mask = 50007;
}
extend google.protobuf.MessageOptions { string title = 50001; }
extend google.protobuf.EnumValueOptions { string label = 50001; }
extend google.protobuf.FileOptions { Rule all = 50001; }
option (all) = { most: 7, tags: ["x", 'y' "z"] inner < kind: SOFT raw: "\\001" > weights { key: "b" value: 1 } weights: { key: "a" } };
message M {
  option (title) = "a \\"title\\"";
  int32 a = 1 [(rule).inner.most = 0x10, (.shop.rules.rule).tags = "t", (owners) = "x", (owners) = "y" "z", deprecated = true];
  int32 b = 2 [(kind) = SOFT, (rules.share) = 1e3, (shop.rules.secret) = true, (shift) = -5, (mask) = "\\377"];
  Color c = 3 [(unknown.option) = { a: 1 }];
}
enum Color { RED = 0 [(label) = "red"]; }
"""
SAME_OPTIONS = (
    OPTIONS.replace('tags: ["x", \'y\' "z"]', "tags: 'x' tags: \"yz\";")
    .replace("0x10", "16")
    .replace("1e3", "1000.0")
)
SAME_OPTIONS = SAME_OPTIONS.replace(
    '(rule).inner.most = 16, (.shop.rules.rule).tags = "t"', "(rule) = { inner { most: 16 } tags: 't' }"
)


def test_options_of_authors_are_the_same_in_a_text_and_in_a_descriptor(tmp_path: Path) -> None:
    schema = parse(OPTIONS)
    assert parse(SAME_OPTIONS).canonical == schema.canonical
    assert SAME_OPTIONS != OPTIONS
    assert parse(schema.canonical).canonical == schema.canonical
    assert parse(schema.serialized).canonical == schema.canonical
    known = OPTIONS.replace(" [(unknown.option) = { a: 1 }]", "")
    proto = compiled(tmp_path, known)
    assert proto is not None
    descriptor = base64.b64encode(proto.SerializeToString()).decode()
    assert parse(descriptor).canonical == parse(known).canonical
    assert parse(parse(descriptor).serialized).canonical == parse(known).canonical


@pytest.mark.parametrize(
    ("old", "new"), [("most: 7", "most: 8"), ("-5", "-6"), ('"red"', '"green"'), ("{ a: 1 }", "{ a: 2 }")]
)
def test_another_value_of_an_option_is_another_schema(old: str, new: str) -> None:
    assert parse(OPTIONS.replace(old, new)).canonical != parse(OPTIONS).canonical


def test_what_a_process_imports_does_not_change_a_schema() -> None:
    """Google's APIs register an option of methods when they are imported."""
    proto = descriptor_pb2.FileDescriptorProto(name="x.proto", syntax="proto3")
    proto.message_type.add(name="M")
    method = proto.service.add(name="S").method.add(name="Get", input_type=".M", output_type=".M")
    method.options.MergeFromString(b"\x82\x7d\x01x\x82\xd3\xe4\x93\x02\x03\x12\x01/")
    text = base64.b64encode(proto.SerializeToString()).decode()
    program = f"""
import sys
if sys.argv[1] == "imported":
    from google.api import annotations_pb2
from dimesh_protobuf import language
print(language.parse({text!r}).canonical)
"""
    plain, imported = (
        subprocess.run(
            [sys.executable, "-c", program, how], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for how in ("plain", "imported")
    )
    assert plain == imported
    assert "unknown_options" in plain


def test_the_runtime_in_python_is_refused() -> None:
    """It reads text that is no UTF-8, and other damage."""
    found = subprocess.run(
        [sys.executable, "-c", "import dimesh_protobuf"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )
    assert "ImportError: dimesh-protobuf needs the compiled runtime of Protobuf" in found.stderr


# -- descriptors -----------------------------------------------------------------------------------


def descriptor(change: str = "") -> str:
    proto = descriptor_pb2.FileDescriptorProto(name="x.proto", syntax="proto3")
    one = proto.message_type.add(name="M")
    field = one.field.add(name="a", number=1, type=5, label=1)
    if change == "name":
        field.name = "a = 1; int32 b"
    elif change == "package":
        proto.package = "a;b"
    elif change == "number":
        field.number = -1
    elif change == "type":
        field.type = 10
    elif change == "no type":
        field.ClearField("type")
    elif change == "both types":
        field.type_name = ".M"
    elif change == "label":
        field.label = 2
    elif change == "default":
        proto.syntax = "proto2"
        field.type, field.default_value = 12, 'x"]; optional int32 c = 3 [default = "'
    elif change == "escape":
        proto.syntax = "proto2"
        field.type, field.default_value = 12, "\\"
    elif change == "number default":
        proto.syntax = "proto2"
        field.default_value = "1; x"
    elif change == "entry":
        one.nested_type.add(name="AEntry").options.map_entry = True
    elif change == "entry on top":
        one.options.map_entry = True
    elif change == "oneof":
        field.oneof_index = 3
    elif change == "option":
        kept = field.options.uninterpreted_option.add(identifier_value="x]; int32 b = 2 [(y) = z")
        kept.name.add(name_part="o", is_extension=True)
    elif change == "option name":
        kept = field.options.uninterpreted_option.add(identifier_value="x")
        kept.name.add(name_part="o) = 1, (p", is_extension=True)
    elif change == "import":
        proto.public_dependency.append(4)
    elif change == "editions":
        proto.syntax = "editions"
    elif change == "value":
        proto.enum_type.add(name="E").value.add(name="1A", number=0)
    elif change == "method":
        proto.service.add(name="S").method.add(name="a", input_type=".M) x (", output_type=".M")
    return base64.b64encode(proto.SerializeToString()).decode()


@pytest.mark.parametrize(
    "change",
    [
        "name",
        "package",
        "number",
        "type",
        "no type",
        "both types",
        "label",
        "number default",
        "escape",
        "entry",
        "entry on top",
        "oneof",
        "option",
        "option name",
        "import",
        "editions",
        "value",
        "method",
    ],
)
def test_a_descriptor_is_checked_as_a_text_is(change: str) -> None:
    parse(descriptor())
    with pytest.raises(InvalidSchemaError):
        parse(descriptor(change))


def test_a_descriptor_with_text_that_is_no_utf8_is_refused() -> None:
    raw = base64.b64decode(descriptor()).replace(b"\x01M", b"\x01\xff")
    with pytest.raises(InvalidSchemaError, match="not valid UTF-8"):
        parse(base64.b64encode(raw).decode())


def test_text_in_a_descriptor_stays_text() -> None:
    schema = parse(descriptor("default"))
    assert schema.root is not None
    assert [field.name for field in parse(schema.canonical).root.fields] == ["a"]  # type: ignore[union-attr]


def test_descriptors_with_the_same_fields_have_another_identity_if_their_options_differ() -> None:
    proto = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(descriptor()))
    plain = parse(descriptor()).canonical
    proto.message_type[0].options.MergeFromString(b"\x82\x7d\x01x")  # an extension that only its author knows
    assert parse(base64.b64encode(proto.SerializeToString()).decode()).canonical != plain


def test_the_schemas_that_real_clients_send() -> None:
    """Recorded requests of confluent-kafka, franz-go and kafkajs; text and descriptor of a schema are the same one."""
    folder = os.environ.get("CONFORMANCE_DATA")
    if not folder:
        pytest.skip("CONFORMANCE_DATA is not set")
    data = json.loads((Path(folder) / "registry-vectors.json").read_text(encoding="utf-8"))
    found: set[str] = set()

    def walk(item: object) -> None:
        if isinstance(item, dict):
            if "PROTOBUF" in (item.get("schemaType"), item.get("kind")) and isinstance(
                item.get("schema"), str
            ):
                found.add(item["schema"])
            item = list(item.values())
        if isinstance(item, list):
            for part in item:
                walk(part)
        elif isinstance(item, str) and item.startswith("{") and "PROTOBUF" in item:
            walk(json.loads(item))

    walk(data)
    money = next(
        language.parse(text) for text in found if " " not in text and b"currency" in base64.b64decode(text)
    )
    read = {text: language.parse(text, {"shop/types/money.proto": money}) for text in found}
    texts = {schema.canonical for text, schema in read.items() if " " in text}
    descriptors = {schema.canonical for text, schema in read.items() if " " not in text}
    assert len(texts & descriptors) == 2, "two schemas were sent in both forms"
