"""Options: those of ``descriptor.proto`` are set as such, others are kept as they are written."""

from __future__ import annotations

import math
from typing import Any, Final

from dimesh_protobuf.cursor import Cursor, shown, whole
from dimesh_protobuf.limits import MAX_NESTING
from dimesh_protobuf.protos import Type
from dimesh_protobuf.tokens import Token

_RANGES: Final = {
    Type.TYPE_INT32: (-(2**31), 2**31 - 1),
    Type.TYPE_INT64: (-(2**63), 2**63 - 1),
    Type.TYPE_UINT32: (0, 2**32 - 1),
    Type.TYPE_UINT64: (0, 2**64 - 1),
}
_CLOSING: Final = {"{": "}", "[": "]", "<": ">"}


def read_option(cursor: Cursor, options: Any) -> None:
    """Read ``name = value`` into a message of options.

    Raises:
        InvalidSchemaError: the option is not written correctly, does not exist, or is given twice.
    """
    cursor.count()
    start = cursor.here
    parts: list[tuple[str, bool]] = []
    while True:
        if cursor.accept("("):
            parts.append((cursor.full_name("an option"), True))
            cursor.expect(")")
        else:
            parts.append((cursor.name("an option"), False))
        if len(parts) > MAX_NESTING:
            cursor.refuse(f"the name of the option has more than {MAX_NESTING} parts")
        if not cursor.accept("."):
            break
    cursor.expect("=")
    name, custom = parts[0]
    known = None if custom else options.DESCRIPTOR.fields_by_name.get(name)
    if not custom and (known is None or name == "uninterpreted_option"):
        cursor.refuse(
            f"there is no option {name!r:.100} here; names of your own options are in parentheses", start
        )
    if name == "features" and not custom:
        cursor.refuse("features belong to editions, which are not supported: use proto2 or proto3", start)
    if known is not None and known.message_type is None and known.default_value != [] and len(parts) == 1:
        if options.HasField(name):
            cursor.refuse(f"the option {name!r} is given twice", start)
        setattr(options, name, _known_value(cursor, known))
        return
    _keep(cursor, options, parts)


def _known_value(cursor: Cursor, field: Any) -> Any:
    token = cursor.here
    if field.enum_type is not None:
        value = field.enum_type.values_by_name.get(token.text) if token.kind == "name" else None
        if value is None:
            cursor.refuse(f"{shown(token)} is not a value of the option {field.name!r}")
        cursor.take()
        return value.number
    if field.type == Type.TYPE_STRING:
        return cursor.text(f"the value of the option {field.name!r}")
    if field.type == Type.TYPE_BOOL:
        if token.text not in ("true", "false"):
            cursor.refuse(f"the value of the option {field.name!r} is true or false, not {shown(token)}")
        return cursor.take().text == "true"
    low, high = _RANGES.get(field.type, (0, 0))  # descriptor.proto has no other scalar options
    negative = cursor.accept("-")
    number = cursor.natural(f"the value of the option {field.name!r}", high + negative)
    if negative and -number < low:
        cursor.refuse(f"the value of the option {field.name!r} is a number from {low:,}", token)
    return -number if negative else number


def _keep(cursor: Cursor, options: Any, parts: list[tuple[str, bool]]) -> None:
    """Keep an option that only its author understands."""
    kept = options.uninterpreted_option.add()
    for part, is_extension in parts:
        kept.name.add(name_part=part, is_extension=is_extension)
    token = cursor.here
    if token.text == "{" and token.kind == "symbol":
        kept.aggregate_value = _aggregate(cursor)
    elif token.kind == "string":
        kept.string_value = cursor.string("the value of the option")
    else:
        value = read_number_or_name(cursor)
        if isinstance(value, str):
            kept.identifier_value = value
        elif isinstance(value, float):
            kept.double_value = value
        elif value < 0:
            kept.negative_int_value = value
        else:
            kept.positive_int_value = value


def _aggregate(cursor: Cursor) -> str:
    """Return a value in braces, as its tokens with single spaces."""
    open_: list[str] = []
    found: list[str] = []
    while True:
        token: Token = cursor.here
        if token.kind == "end":
            cursor.refuse("the value in braces does not end")
        if token.kind == "symbol" and token.text in _CLOSING:
            if len(open_) >= MAX_NESTING:
                cursor.refuse(f"braces are nested more than {MAX_NESTING} deep")
            open_.append(_CLOSING[token.text])
        elif token.kind == "symbol" and token.text in _CLOSING.values():
            if open_.pop() != token.text:
                cursor.refuse(f"{token.text!r} closes another bracket than the last one")
        found.append(token.text)
        cursor.count()
        cursor.take()
        if not open_:
            return " ".join(found[1:-1])


def read_number_or_name(cursor: Cursor) -> int | float | str:
    """Read a number, which may be negative, or a name.

    Raises:
        InvalidSchemaError: neither is next, or the number is too large.
    """
    negative = cursor.accept("-")
    token = cursor.take()
    sign = -1 if negative else 1
    if token.kind == "int":
        number = whole(token)
        if number is None or not -(2**63) <= sign * number < 2**64:
            cursor.refuse("the number is too large, or has a digit that it cannot have", token)
        return sign * number
    if token.kind == "float":
        return sign * float(token.text)
    if token.kind == "name" and token.text in ("inf", "nan"):
        return sign * (math.inf if token.text == "inf" else math.nan) if negative else token.text
    if token.kind == "name" and not negative:
        return token.text
    return cursor.refuse(f"a value is expected, not {shown(token)}", token)
