"""Gives options that authors define one form, whether a text spells them or a compiler has put them into a descriptor.

An option is interpreted if its extension is in the file or in an imported one, as compilers demand. Others stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from dimesh.errors import InvalidSchemaError
from dimesh_protobuf.cursor import Cursor
from dimesh_protobuf.limits import MAX_OPTIONS
from dimesh_protobuf.options import read_option
from dimesh_protobuf.parsing import escaped
from dimesh_protobuf.pool import Pool
from dimesh_protobuf.protos import FileDescriptorProto, Type


def normalized(proto: Any, pool: Pool) -> Any:
    """Return a linked file descriptor in which all options of authors are interpreted; the descriptor itself if it has none.

    Args:
        proto: the file descriptor; it is not changed.
        pool: the classes of the file and of those that it imports.

    Raises:
        InvalidSchemaError: there are too many options.
    """
    _check_count(sum(len(options.uninterpreted_option) for options in _all_options(proto)))
    if not pool.has_message("google.protobuf.FileOptions"):
        return proto
    found = FileDescriptorProto()
    found.CopyFrom(proto)
    left = MAX_OPTIONS
    for options in _all_options(found):
        left -= _interpret(options, pool, found.package, left)
    return found


def _check_count(count: int) -> None:
    if count > MAX_OPTIONS:
        raise InvalidSchemaError(f"the file has more than {MAX_OPTIONS:,} options of authors")


def _all_options(file: Any) -> Iterator[Any]:
    """Return the options in a file descriptor that are set."""
    yield file.options
    for service in file.service:
        yield service.options
        yield from (method.options for method in service.method)
    yield from (field.options for field in file.extension)
    yield from _of_enums(file.enum_type)
    for message in file.message_type:
        yield from _of_message(message)


def _of_message(message: Any) -> Iterator[Any]:
    for part in (message, *message.field, *message.extension, *message.oneof_decl, *message.extension_range):
        if part.HasField("options"):
            yield part.options
    yield from _of_enums(message.enum_type)
    for nested in message.nested_type:
        yield from _of_message(nested)


def _of_enums(enums: Any) -> Iterator[Any]:
    for enum in enums:
        for part in (enum, *enum.value):
            if part.HasField("options"):
                yield part.options


def _interpret(options: Any, pool: Pool, package: str, most: int) -> int:
    """Replace what an extension of the pool describes by one option in the form of a text for each value; return their number."""
    given = list(options.uninterpreted_option)
    plain = type(options)()
    plain.CopyFrom(options)
    plain.ClearField("uninterpreted_option")
    try:
        known = pool.message_class(options.DESCRIPTOR.full_name).FromString(plain.SerializePartialToString())
    except DecodeError:
        return 0
    rest = [option for option in given if not _merge(option, known, pool, package)]
    extensions = [(field, value) for field, value in known.ListFields() if field.is_extension]
    if not extensions and len(rest) == len(given):
        return 0
    values = [
        (field, item)
        for field, value in extensions
        for item in (value if field.default_value == [] else [value])
    ]
    _check_count(len(values) + MAX_OPTIONS - most)
    for field, _ in extensions:
        known.ClearExtension(field)
    options.Clear()
    options.MergeFromString(known.SerializePartialToString(deterministic=True))
    for field, value in values:
        read_option(Cursor(f"(.{field.full_name}) = {_spelled(field, value)}"), options)
    options.uninterpreted_option.extend(rest)
    return len(values)


def _merge(option: Any, known: Any, pool: Pool, package: str) -> bool:
    """Merge an option that a text spells into the options as the runtime knows them; return whether its extension is known."""
    first, *inner = option.name
    if not first.is_extension:
        return False
    full = _resolved(first.name_part, known, pool, package)
    if not full:
        return False
    path = [f"[{full}]"]
    path += [f"[{part.name_part.lstrip('.')}]" if part.is_extension else part.name_part for part in inner]
    text = " { ".join(path) + _value(option) + " }" * len(inner)
    scratch = type(known)()
    try:
        text_format.Parse(text, scratch)
    except (text_format.ParseError, ValueError, TypeError):
        return False
    known.MergeFrom(scratch)
    return True


def _resolved(name: str, known: Any, pool: Pool, package: str) -> str:
    """Return the full name of an extension of the options; empty if there is none."""
    candidates = [name.lstrip(".")]
    if not name.startswith("."):
        parts = package.split(".") if package else []
        candidates = [".".join((*parts[:n], name)) for n in range(len(parts), -1, -1)]
    return next((full for full in candidates if pool.extends(full, known.DESCRIPTOR.full_name)), "")


def _value(option: Any) -> str:
    """Return the value of an option as the text format of Protobuf has it."""
    if option.HasField("aggregate_value"):
        return f" {{ {option.aggregate_value} }}"
    if option.HasField("string_value"):
        return f': "{escaped(option.string_value)}"'
    for field in ("identifier_value", "positive_int_value", "negative_int_value"):
        if option.HasField(field):
            return f": {getattr(option, field)}"
    return f": {option.double_value!r}"


def _spelled(field: Any, value: Any) -> str:
    """Return the value of an extension as a text has it."""
    if field.message_type is not None:
        return f"{{ {text_format.MessageToString(value, as_one_line=True)} }}"
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else str(named.name)
    if field.type in (Type.TYPE_STRING, Type.TYPE_BYTES):
        return f'"{escaped(value.encode() if isinstance(value, str) else value)}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)
