"""Looks for what a reader would misread in a message of another version, before the reader reads the payload."""

from __future__ import annotations

from typing import Any

from dimesh_protobuf.matching import match_labels, match_values
from dimesh_protobuf.nodes import Field, Message


def misreading(writer: Message, reader: Message, message: Any, path: str = "") -> str:
    """Return what the reader would misread in a message that was parsed with the writer's type; empty: nothing.

    Required fields that the reader misses are left to the reader.
    """
    if writer is reader:
        return ""
    chosen: dict[str, str] = {}
    for descriptor, value in message.ListFields():
        field = writer.by_number.get(descriptor.number)
        target = reader.by_number.get(descriptor.number)
        if field is None or target is None:
            continue
        place = f"{path}/{field.name}"
        if target.oneof:
            other = chosen.setdefault(target.oneof, field.name)
            if other != field.name:
                return f"{place}: the reader keeps only one of it and {other!r}"
        reason = _field(field, target, value, place)
        if reason:
            return reason
    return ""


def _field(writer: Field, reader: Field, value: Any, path: str) -> str:
    label = match_labels(writer, reader)
    if label is not None and label.misread(value):
        return f"{path}: {label.message}"
    if label is not None and label.code == "type-changed":
        return ""
    if writer.kind == "map":
        key, of = writer.entry
        reader_key, reader_of = reader.entry
        for name in value:
            place = f"{path}/{name}"
            reason = _value(key, reader_key, name, place) or _value(of, reader_of, value[name], place)
            if reason:
                return reason
        return ""
    if not writer.repeated:
        return _value(writer, reader, value, path)
    for n, item in enumerate(value):
        reason = _value(writer, reader, item, f"{path}/{n}")
        if reason:
            return reason
    return ""


def _value(writer: Field, reader: Field, value: Any, path: str) -> str:
    mismatch = match_values(writer, reader)
    if mismatch is not None:
        return f"{path}: {mismatch.message}" if mismatch.misread(value) else ""
    if writer.message is None or reader.message is None or writer.message.special:
        return ""
    return misreading(writer.message, reader.message, value, path)
