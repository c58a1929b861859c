"""Checks values against a message type, with the locations of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from struct import pack
from typing import Any, Final

from dimesh.spi.schema import Problem
from dimesh_protobuf.limits import MAX_DEPTH, MOST_PROBLEMS
from dimesh_protobuf.nodes import RANGES, Field, Message
from dimesh_protobuf.special import parts_of_duration, parts_of_time


class _EnoughError(Exception):
    """Ends a check that has enough problems."""


class Check:
    """One check of one value."""

    def __init__(self, limit: int = MOST_PROBLEMS) -> None:
        self.problems: list[Problem] = []
        self._limit = limit

    def run(self, message: Message, value: Any, depth: int = 0) -> list[Problem]:
        """Return the problems of a value at a depth, sorted by path."""
        try:
            self._message(message, value, "", depth)
        except _EnoughError:
            pass
        return sorted(self.problems, key=lambda problem: problem.path)

    def _report(self, path: str, keyword: str, message: str) -> None:
        self.problems.append(Problem(path, message, "", keyword))
        if len(self.problems) >= self._limit:
            raise _EnoughError

    def _deep(self, path: str, depth: int) -> bool:
        """Report a value that is nested too deeply, and return whether it is."""
        if depth > MAX_DEPTH:
            self._report(path, "depth", f"messages are nested more than {MAX_DEPTH} deep")
        return depth > MAX_DEPTH

    # -- messages --------------------------------------------------------------------------------

    def _message(self, message: Message, value: Any, path: str, depth: int) -> None:
        if self._deep(path, depth):
            return
        if message.special and self._special(message, value, path, depth):
            return
        if not isinstance(value, Mapping):
            self._report(path, "type", f"the value is of the type {_type(value)}, not {message}")
            return
        for key in value:
            if key not in message.by_name:
                self._report(
                    f"{path}/{_pointer(str(key))[:200]}", "unknown-field", f"{message} has no such field"
                )
        for field in message.fields:
            if field.name in value:
                self._field(field, value[field.name], f"{path}/{field.name}", depth)
            elif field.required:
                self._report(f"{path}/{field.name}", "required", "the field is missing, and it is required")
        for name, members in message.oneofs.items():
            given = [field.name for field in members if field.name in value]
            for extra in given[1:]:
                self._report(f"{path}/{extra}", "oneof", f"the oneof {name!r} already has {given[0]!r}")

    def _field(self, field: Field, value: Any, path: str, depth: int) -> None:
        if value is None and not (field.message is not None and field.message.special == "value"):
            self._report(path, "type", "the value is None: leave the field out")
        elif field.kind == "map":
            self._map(field, value, path, depth)
        elif field.repeated:
            if not isinstance(value, (list, tuple)):
                self._report(path, "type", f"the value is of the type {_type(value)}, not a list of {field}")
                return
            for n, item in enumerate(value):
                self._item(field, item, f"{path}/{n}", depth)
        else:
            self._item(field, value, path, depth)

    def _map(self, field: Field, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, Mapping):
            self._report(path, "type", f"the value is of the type {_type(value)}, not {field}")
            return
        key, of = field.entry
        if value and self._deep(path, depth + 1):
            return
        for name, item in value.items():
            place = f"{path}/{_pointer(str(name))[:200]}"
            reason = scalar_problem(key, name)
            if reason:
                self._report(place, "key", f"the key is not valid: {reason}")
            else:
                self._item(of, item, place, depth + 1)

    def _item(self, field: Field, value: Any, path: str, depth: int) -> None:
        if field.message is not None:
            self._message(field.message, value, path, depth + 1)
            return
        reason = scalar_problem(field, value)
        if reason:
            self._report(path, field.kind, reason)

    # -- well-known types ------------------------------------------------------------------------

    def _special(self, message: Message, value: Any, path: str, depth: int) -> bool:
        """Check the value of a special type; return False if the value is to be a dictionary of its fields."""
        kind = message.special
        if kind in ("timestamp", "duration"):
            return self._moment(message, value, path)
        if kind == "wrapper":
            reason = scalar_problem(message.fields[0], value)
            if reason:
                self._report(path, message.fields[0].kind, reason)
        elif kind == "struct":
            self._struct(value, path, depth)
        elif kind == "list":
            self._list(value, path, depth)
        else:
            self._json(value, path, depth)
        return True

    def _moment(self, message: Message, value: Any, path: str) -> bool:
        try:
            if message.special == "timestamp" and isinstance(value, datetime):
                parts_of_time(value)
            elif message.special == "duration" and isinstance(value, timedelta):
                parts_of_duration(value)
            elif isinstance(value, Mapping):
                return False
            else:
                python = "datetime" if message.special == "timestamp" else "timedelta"
                self._report(path, "type", f"the value is of the type {_type(value)}, not {python}")
        except ValueError as error:
            self._report(path, message.special, str(error))
        return True

    def _json(self, value: Any, path: str, depth: int) -> None:
        if self._deep(path, depth):
            return
        if isinstance(value, Mapping):
            self._struct(value, path, depth + 1)
        elif isinstance(value, (list, tuple)):
            self._list(value, path, depth + 1)
        elif isinstance(value, str):
            if not _encodable(value):
                self._report(path, "value", _SURROGATE)
        elif isinstance(value, (int, float)):
            if not isinstance(value, bool) and not _exact(value):
                self._report(path, "value", "the number has more digits than a double")
        elif value is not None:
            self._report(path, "value", f"the value is of the type {_type(value)}, which JSON does not have")

    def _struct(self, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, Mapping):
            self._report(path, "type", f"the value is of the type {_type(value)}, not an object of JSON")
            return
        if self._deep(path, depth):
            return
        for key, item in value.items():
            if not isinstance(key, str) or not _encodable(key):
                self._report(path, "key", "a key of an object is text of valid Unicode")
            else:
                self._json(item, f"{path}/{_pointer(key)[:200]}", depth + 2)

    def _list(self, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, (list, tuple)):
            self._report(path, "type", f"the value is of the type {_type(value)}, not a list of JSON")
            return
        if self._deep(path, depth):
            return
        for n, item in enumerate(value):
            self._json(item, f"{path}/{n}", depth + 1)


_SURROGATE: Final = "the text is not valid Unicode: it has a lone surrogate"


def scalar_problem(field: Field, value: Any) -> str:
    """Return why a value is no value of a scalar type or enum; empty if it is one."""
    kind = field.kind
    if kind == "enum":
        return _enum_problem(field, value)
    if kind in RANGES:
        if not isinstance(value, int) or isinstance(value, bool):
            return f"the value is of the type {_type(value)}, not {kind}"
        low, high = RANGES[kind]
        return "" if low <= value <= high else f"the number is outside the range of {kind}"
    if kind in ("float", "double"):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f"the value is of the type {_type(value)}, not {kind}"
        if not _exact(value):
            return "the number has more digits than a double"
        try:
            pack("<f" if kind == "float" else "<d", value)
        except OverflowError:
            return f"the number is outside the range of {kind}"
        return ""
    python = {"bool": bool, "string": str, "bytes": (bytes, bytearray)}[kind]
    if not isinstance(value, python):  # type: ignore[arg-type]
        return f"the value is of the type {_type(value)}, not {kind}"
    return _SURROGATE if kind == "string" and not _encodable(value) else ""


def _enum_problem(field: Field, value: Any) -> str:
    enum = field.of
    if isinstance(value, str):
        return "" if value in enum.numbers else f"the enum {enum.name} has no value of this name"
    if not isinstance(value, int) or isinstance(value, bool):
        return f"the value is of the type {_type(value)}, not the name of a value of the enum {enum.name}"
    if enum.closed and value not in enum.names:
        return f"the enum {enum.name} has no value of this number"
    return "" if -(2**31) <= value < 2**31 else "the number is outside the range of int32"


def _exact(value: int | float) -> bool:
    """Return whether a double has the value of a number."""
    try:
        return isinstance(value, float) or int(float(value)) == value
    except OverflowError:
        return False


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type(value: Any) -> str:
    return type(value).__name__


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
