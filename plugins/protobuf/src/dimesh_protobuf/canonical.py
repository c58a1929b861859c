"""Writes a linked file descriptor as text, always in the same way: the identity of a schema.

Comments, white space, the order of fields, imports, options, services and extensions, the file's own name, and options that
state what holds anyway do not count. The order of messages does: it numbers them in Confluent's frames, and the first one is the
message of the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf import text_format

from dimesh.errors import InvalidSchemaError
from dimesh_protobuf.cursor import Cursor
from dimesh_protobuf.limits import MAX_NUMBER
from dimesh_protobuf.options import read_option
from dimesh_protobuf.parsing import SCALARS, escaped
from dimesh_protobuf.protos import FileOptions, Type
from dimesh_protobuf.rules import json_name
from dimesh_protobuf.tokens import unescaped

_KINDS: Final = {number: name for name, number in SCALARS.items()}


def canonical(proto: Any) -> str:
    """Return the text of a linked file descriptor; parsing the text gives the same schema."""
    proto3 = proto.syntax == "proto3"
    lines = [f'syntax = "{proto.syntax or "proto2"}";']
    if proto.package:
        lines.append(f"package {proto.package};")
    public, weak = set(proto.public_dependency), set(proto.weak_dependency)
    imports = [
        (path, "public " if n in public else "weak " if n in weak else "")
        for n, path in enumerate(proto.dependency)
    ]
    lines += [f"import {kind}{_quoted(path)};" for path, kind in sorted(imports)]
    lines += _statements(proto.options)
    for message in proto.message_type:
        lines += _message(message, proto3)
    for enum in sorted(proto.enum_type, key=lambda one: one.name):
        lines += _enum(enum)
    lines += _extensions(proto.extension, proto3)
    for service in sorted(proto.service, key=lambda one: one.name):
        lines += _service(service)
    return "\n".join(lines) + "\n"


def _quoted(text: str | bytes) -> str:
    return f'"{escaped(text.encode() if isinstance(text, str) else text)}"'


# -- options -------------------------------------------------------------------------------------


def _options(options: Any, skip: Iterable[str] = ()) -> list[str]:
    """Return the options as ``name = value``, without those that state the default."""
    found = []
    for field, value in options.ListFields():
        if field.name == "uninterpreted_option" or field.name in skip:
            continue
        repeated = field.default_value == []
        if field.message_type is not None or repeated:
            items = value if repeated else [value]
            found += [f"{field.name} = {_item(field, item)}" for item in items]
        elif value != field.default_value:
            found.append(f"{field.name} = {_item(field, value)}")
    found += [_kept(option) for option in options.uninterpreted_option]
    known = type(options)()
    known.CopyFrom(options)
    for field, _ in options.ListFields():
        known.ClearField(field.name)
    unknown = known.SerializeToString(deterministic=True)
    if unknown:  # options of the author's, in a descriptor that does not say their names
        found.append(f"(unknown_options) = {_quoted(unknown)}")
    return sorted(found, key=lambda option: option.partition(" = ")[0])


def _item(field: Any, value: Any) -> str:
    if field.message_type is not None:
        return f"{{ {text_format.MessageToString(value, as_one_line=True)} }}"
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if field.type == Type.TYPE_STRING:
        return _quoted(value)
    return str(value).lower()


def _kept(option: Any) -> str:
    text = _written(option)
    cursor = Cursor(text)
    options = FileOptions()
    read_option(cursor, options)
    again = options.uninterpreted_option
    if cursor.here.kind != "end" or len(again) != 1 or _written(again[0]) != text:
        raise InvalidSchemaError("the descriptor has an option that is not written as options are")
    return text


def _written(option: Any) -> str:
    name = ".".join(f"({part.name_part})" if part.is_extension else part.name_part for part in option.name)
    if option.HasField("aggregate_value"):
        return f"{name} = {{ {option.aggregate_value} }}"
    if option.HasField("string_value"):
        return f"{name} = {_quoted(option.string_value)}"
    for field in ("identifier_value", "positive_int_value", "negative_int_value"):
        if option.HasField(field):
            return f"{name} = {getattr(option, field)}"
    return f"{name} = {option.double_value!r}"


def _statements(options: Any, indent: str = "", skip: Iterable[str] = ()) -> list[str]:
    return [f"{indent}option {option};" for option in _options(options, skip)]


def _brackets(options: Iterable[str]) -> str:
    text = ", ".join(options)
    return f" [{text}]" if text else ""


# -- messages ------------------------------------------------------------------------------------


def _message(proto: Any, proto3: bool, indent: str = "") -> Iterator[str]:
    inner = f"{indent}  "
    yield f"{indent}message {proto.name} {{"
    yield from _statements(proto.options, inner)
    yield from _ranges("reserved", [(r.start, r.end - 1) for r in proto.reserved_range], inner, MAX_NUMBER)
    if proto.reserved_name:
        yield f"{inner}reserved {', '.join(map(_quoted, sorted(proto.reserved_name)))};"
    yield from _extension_ranges(proto, inner)
    entries = {nested.name: nested for nested in proto.nested_type if nested.options.map_entry}
    fields = sorted(proto.field, key=lambda field: field.number)
    maps = [field for field in fields if _entry_of(field) in entries]
    for field in fields:
        if _entry_of(field) not in entries and (field.proto3_optional or not field.HasField("oneof_index")):
            yield f"{inner}{_field(field, proto3)}"
    slots = iter(maps)
    for nested in proto.nested_type:  # entries take positions among the messages: each slot gets the next map
        if nested.options.map_entry:
            field = next(slots)
            key, value = entries[_entry_of(field)].field
            yield f"{inner}map<{_type(key)}, {_type(value)}> {_named(field, proto3)}"
        else:
            yield from _message(nested, proto3, inner)
    for enum in sorted(proto.enum_type, key=lambda one: one.name):
        yield from _enum(enum, inner)
    members = {field.oneof_index for field in fields if not field.proto3_optional}
    for n, oneof in sorted(enumerate(proto.oneof_decl), key=lambda pair: pair[1].name):
        own = [field for field in fields if field.HasField("oneof_index") and field.oneof_index == n]
        if n in members and own and not own[0].proto3_optional:
            yield f"{inner}oneof {oneof.name} {{"
            yield from _statements(oneof.options, f"{inner}  ")
            yield from (f"{inner}  {_type(field)} {_named(field, proto3)}" for field in own)
            yield f"{inner}}}"
    yield from _extensions(proto.extension, proto3, inner)
    yield f"{indent}}}"


def _entry_of(field: Any) -> str:
    return str(field.type_name.rpartition(".")[2]) if field.type == Type.TYPE_MESSAGE else ""


def _ranges(word: str, ranges: list[tuple[int, int]], indent: str, high: int) -> Iterator[str]:
    """Write ranges whose ends belong to them, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start == joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    if joined:
        yield f"{indent}{word} {', '.join(_range(start, end, high) for start, end in joined)};"


def _range(start: int, end: int, high: int) -> str:
    return str(start) if start == end else f"{start} to {'max' if end == high else end}"


def _extension_ranges(proto: Any, indent: str) -> Iterator[str]:
    plain = []
    for one in sorted(proto.extension_range, key=lambda one: one.start):
        options = _options(one.options)
        if options:
            yield f"{indent}extensions {_range(one.start, one.end - 1, MAX_NUMBER)}{_brackets(options)};"
        else:
            plain.append((one.start, one.end - 1))
    yield from _ranges("extensions", plain, indent, MAX_NUMBER)


def _field(proto: Any, proto3: bool) -> str:
    if proto.label == Type.LABEL_REPEATED:
        label = "repeated "
    elif proto.label == Type.LABEL_REQUIRED:
        label = "required "
    else:
        label = "" if proto3 and not proto.proto3_optional else "optional "
    return f"{label}{_type(proto)} {_named(proto, proto3)}"


def _type(proto: Any) -> str:
    return str(proto.type_name) or _KINDS[proto.type]


def _named(proto: Any, proto3: bool) -> str:
    options = _options(proto.options, ("packed",))
    if proto.options.HasField("packed") and proto.options.packed is not proto3:
        options.append(f"packed = {str(proto.options.packed).lower()}")
    if proto.HasField("default_value"):
        options.append(f"default = {_default(proto)}")
    if proto.HasField("json_name") and proto.json_name != json_name(proto.name):
        options.append(f"json_name = {_quoted(proto.json_name)}")
    return f"{proto.name} = {proto.number}{_brackets(options)};"


def _default(proto: Any) -> str:
    text = str(proto.default_value)
    if proto.type == Type.TYPE_STRING:
        return _quoted(text)
    if proto.type == Type.TYPE_BYTES:
        return _quoted(unescaped(text))
    if proto.type in (Type.TYPE_DOUBLE, Type.TYPE_FLOAT):
        return repr(float(text))
    return text if proto.type in (Type.TYPE_ENUM, Type.TYPE_BOOL) else str(int(text))


def _enum(proto: Any, indent: str = "") -> Iterator[str]:
    inner = f"{indent}  "
    yield f"{indent}enum {proto.name} {{"
    yield from _statements(proto.options, inner)
    first, *rest = proto.value  # the first one is the default
    for value in (first, *sorted(rest, key=lambda value: value.number)):
        yield f"{inner}{value.name} = {value.number}{_brackets(_options(value.options))};"
    yield from _ranges("reserved", [(r.start, r.end) for r in proto.reserved_range], inner, 2**31 - 1)
    if proto.reserved_name:
        yield f"{inner}reserved {', '.join(map(_quoted, sorted(proto.reserved_name)))};"
    yield f"{indent}}}"


def _extensions(extensions: Any, proto3: bool, indent: str = "") -> Iterator[str]:
    key: Callable[[Any], Any] = lambda one: (one.extendee, one.number)  # noqa: E731
    for one in sorted(extensions, key=key):
        yield f"{indent}extend {one.extendee} {{"
        yield f"{indent}  {_field(one, proto3)}"
        yield f"{indent}}}"


def _service(proto: Any) -> Iterator[str]:
    yield f"service {proto.name} {{"
    yield from _statements(proto.options, "  ")
    for method in sorted(proto.method, key=lambda one: one.name):
        sides = [
            f"({'stream ' if stream else ''}{name})"
            for stream, name in (
                (method.client_streaming, method.input_type),
                (method.server_streaming, method.output_type),
            )
        ]
        options = _statements(method.options, "    ")
        line = f"  rpc {method.name} {sides[0]} returns {sides[1]}"
        if options:
            yield from (f"{line} {{", *options, "  }")
        else:
            yield f"{line};"
    yield "}"
