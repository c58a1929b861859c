"""The rules of Protobuf for messages, fields, enums and extensions, beside names and types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from dimesh_protobuf.limits import MAX_NUMBER, MAX_PARTS
from dimesh_protobuf.nodes import RANGES, Field
from dimesh_protobuf.places import Path, Places
from dimesh_protobuf.protos import Type
from dimesh_protobuf.tokens import unescaped

_OWN: Final = range(19_000, 20_000)
"""The field numbers that Protobuf keeps for itself."""
_OPTIONS: Final = "google.protobuf."


def check_message(proto: Any, proto3: bool, places: Places, path: Path) -> None:
    """Check the numbers, ranges and reservations of a message.

    Raises:
        InvalidSchemaError: a rule is violated.
    """
    name = proto.name
    if proto.options.message_set_wire_format:
        places.refuse(path, "the option 'message_set_wire_format' is not supported")
    _check_size(proto.reserved_range, proto.reserved_name, proto.extension_range, places=places, path=path)
    if proto3 and proto.extension_range:
        places.refuse((*path, 5, 0), "proto3 has no extensions of messages")
    ranges = [(r.start, r.end, (*path, 9, n), "reserved") for n, r in enumerate(proto.reserved_range)]
    ranges += [(r.start, r.end, (*path, 5, n), "for extensions") for n, r in enumerate(proto.extension_range)]
    ranges.sort(key=lambda one: one[:2])
    _check_ranges([(a, b - 1, place) for a, b, place, _ in ranges], 1, MAX_NUMBER, places)
    reserved = set(proto.reserved_name)
    if len(reserved) < len(proto.reserved_name):
        places.refuse((*path, 10), f"a name is reserved twice in {name!r:.100}")
    numbers: dict[int, str] = {}
    for n, field in enumerate(proto.field):
        place = (*path, 2, n)
        check_number(field, places, place)
        if field.number in numbers:
            other = numbers[field.number]
            places.refuse(
                place, f"the fields {other!r:.100} and {field.name!r:.100} have the number {field.number}"
            )
        numbers[field.number] = field.name
        if field.name in reserved:
            places.refuse(place, f"the name {field.name!r:.100} is reserved")
    for number, (_, kind) in _covered(numbers, [(a, b - 1, kind) for a, b, _, kind in ranges]):
        n = next(n for n, field in enumerate(proto.field) if field.number == number)
        places.refuse((*path, 2, n), f"the number {number} of {numbers[number]!r:.100} is {kind}")
    _check_json_names(proto, proto3, places, path)
    members = {field.oneof_index for field in proto.field if field.HasField("oneof_index")}
    for n, oneof in enumerate(proto.oneof_decl):
        if n not in members:
            places.refuse((*path, 8, n), f"the oneof {oneof.name!r:.100} has no field")


def _check_size(*parts: Any, places: Places, path: Path) -> None:
    """Check the number of parts, which a descriptor may state in a few bytes."""
    if sum(map(len, parts)) > MAX_PARTS:
        places.refuse(path, f"there are more than {MAX_PARTS:,} reservations and ranges")


def _check_json_names(proto: Any, proto3: bool, places: Places, path: Path) -> None:
    """Check that no two fields have one name in Protobuf's JSON; in proto2, only names that were chosen count."""
    seen: dict[str, str] = {}
    for n, field in enumerate(proto.field):
        chosen = field.HasField("json_name") and field.json_name != json_name(field.name)
        name = field.json_name if chosen else json_name(field.name)
        if chosen and ("\0" in name or (name.startswith("[") and name.endswith("]"))):
            places.refuse((*path, 2, n), f"{name!a:.100} is not a name for JSON")
        if name in seen and (proto3 or chosen):
            message = (
                f"the fields {seen[name]!r:.100} and {field.name!r:.100} have the name {name!r:.100} in JSON"
            )
            places.refuse((*path, 2, n), message)
        if proto3 or chosen:
            seen[name] = field.name


def json_name(name: str) -> str:
    """Return the name that Protobuf's JSON gives to a field that states none."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _covered(numbers: Iterable[int], ranges: list[tuple[int, int, str]]) -> list[tuple[int, tuple[int, str]]]:
    """Return the numbers that are in a range; ranges are sorted and apart."""
    found = []
    at = 0
    for number in sorted(numbers):
        while at < len(ranges) and ranges[at][1] < number:
            at += 1
        if at < len(ranges) and ranges[at][0] <= number:
            found.append((number, (ranges[at][0], ranges[at][2])))
    return found


def _check_ranges(ranges: list[tuple[int, int, Path]], low: int, high: int, places: Places) -> None:
    """Check sorted ranges, whose ends belong to them."""
    last = low - 1
    for start, end, place in ranges:
        if start < low or end > high or end < start:
            places.refuse(place, f"a range is from {low:,} to {high:,} and not empty")
        if start <= last:
            places.refuse(place, f"two ranges have the number {start}")
        last = end


def check_number(proto: Any, places: Places, path: Path) -> None:
    """Check the number of a field.

    Raises:
        InvalidSchemaError: it is out of range, or Protobuf keeps it.
    """
    if not 1 <= proto.number <= MAX_NUMBER:
        places.refuse(
            path, f"the number of {proto.name!r:.100} is from 1 to {MAX_NUMBER:,}, not {proto.number}"
        )
    if proto.number in _OWN:
        places.refuse(path, f"Protobuf keeps the numbers from {_OWN[0]:,} to {_OWN[-1]:,} for itself")


def check_field(proto: Any, node: Field, proto3: bool, places: Places, path: Path) -> None:
    """Check the label, default and options of a field.

    Raises:
        InvalidSchemaError: a rule is violated.
    """
    name = proto.name
    if proto.label not in (Type.LABEL_OPTIONAL, Type.LABEL_REQUIRED, Type.LABEL_REPEATED):
        places.refuse(path, f"the field {name!r:.100} has no label")
    if node.oneof and (node.repeated or node.required or node.kind == "map"):
        places.refuse(path, f"the field {name!r:.100} of a oneof has no label, and is no map")
    if proto.proto3_optional and not (proto3 and proto.HasField("oneof_index") and not node.repeated):
        places.refuse(path, f"the field {name!r:.100} is not optional as proto3 means it")
    if proto3 and node.required:
        places.refuse(path, "proto3 has no required fields")
    if proto3 and node.enum is not None and node.enum.closed:
        places.refuse(path, f"proto3 does not use the enum {node.enum.name!r:.200} of proto2")
    if proto.options.HasField("packed") and proto.options.packed:
        if not node.repeated or node.kind in ("string", "bytes", "message"):
            places.refuse(path, "only repeated numbers, bools and values of enums are packed")
    if proto.HasField("default_value"):
        if proto3:
            places.refuse(path, "proto3 has no defaults")
        if node.repeated or node.kind in ("message", "map"):
            places.refuse(path, "only a single number, bool, text, bytes or value of an enum has a default")
        if not _is_default(node, proto.default_value):
            places.refuse(path, f"the default {proto.default_value!a:.100} is no value of {node}")


def _is_default(node: Field, text: str) -> bool:
    kind = node.kind
    if kind == "enum":
        return text in node.of.numbers
    if kind == "bool":
        return text in ("true", "false")
    if kind == "string":
        return True
    try:
        if kind == "bytes":
            return len(unescaped(text)) >= 0
        if kind in RANGES:
            low, high = RANGES[kind]
            return len(text) <= 30 and low <= int(text) <= high
        float(text)
    except ValueError:
        return False
    return True


def check_extension(proto: Any, extendee: str, of: Any, proto3: bool, places: Places, path: Path) -> None:
    """Check an extension.

    Raises:
        InvalidSchemaError: a rule is violated.
    """
    if proto.number < 1 or not any(r.start <= proto.number < r.end for r in of.extension_range):
        places.refuse(path, f"{extendee!r:.200} has no extensions of the number {proto.number}")
    check_number(proto, places, path)
    if proto.label == Type.LABEL_REQUIRED:
        places.refuse(path, "an extension is not required")
    if proto.HasField("oneof_index"):
        places.refuse(path, "an extension is not in a oneof")
    if proto3 and not extendee.startswith(_OPTIONS):
        places.refuse(path, "proto3 extends only the options of google/protobuf/descriptor.proto")
    if proto3 and proto.HasField("default_value"):
        places.refuse(path, "proto3 has no defaults")


def check_enum(proto: Any, proto3: bool, places: Places, path: Path) -> None:
    """Check the values and reservations of an enum.

    Raises:
        InvalidSchemaError: a rule is violated.
    """
    _check_size(proto.reserved_range, proto.reserved_name, places=places, path=path)
    if not proto.value:
        places.refuse(path, f"the enum {proto.name!r:.100} has no value")
    if proto3 and proto.value[0].number != 0:
        places.refuse((*path, 2, 0), "the first value of an enum of proto3 is 0")
    numbers: dict[int, str] = {}
    aliases = proto.options.allow_alias
    for n, value in enumerate(proto.value):
        if value.number in numbers and not aliases:
            message = (
                f"the values {numbers[value.number]!r:.100} and {value.name!r:.100} have the number {value.number}: "
                "set the option allow_alias"
            )
            places.refuse((*path, 2, n), message)
        numbers.setdefault(value.number, value.name)
    if aliases and len(numbers) == len(proto.value):
        places.refuse(path, f"the enum {proto.name!r:.100} allows aliases and has none")
    ranges = sorted((r.start, r.end, (*path, 4, n)) for n, r in enumerate(proto.reserved_range))
    _check_ranges(ranges, -(2**31), 2**31 - 1, places)
    reserved = set(proto.reserved_name)
    find: Callable[[int], int] = lambda number: next(  # noqa: E731 - used twice, below
        n for n, value in enumerate(proto.value) if value.number == number
    )
    for number, _ in _covered(numbers, [(a, b, "reserved") for a, b, _ in ranges]):
        places.refuse((*path, 2, find(number)), f"the number {number} is reserved")
    for n, value in enumerate(proto.value):
        if value.name in reserved:
            places.refuse((*path, 2, n), f"the name {value.name!r:.100} is reserved")
