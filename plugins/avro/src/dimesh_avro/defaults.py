"""Defaults of fields: from the JSON of the schema to values."""

from __future__ import annotations

import math
from typing import Any, Final

from dimesh_avro.logical import to_python
from dimesh_avro.nodes import MISSING, RANGES, Node

_DEEPEST: Final = 64
_LARGEST: Final = 100_000


class _Builder:
    """Builds one default, whose own defaults may have defaults."""

    def __init__(self) -> None:
        self._left = _LARGEST

    def build(self, node: Node, data: Any, depth: int) -> Any:
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise ValueError("the default is too large, counting the defaults in it")
        kind = node.kind
        if kind == "union":
            return self._union(node, data, depth)
        if kind == "array" and isinstance(data, list):
            return [self.build(node.of, item, depth + 1) for item in data]
        if kind == "map" and isinstance(data, dict):
            return {key: self.build(node.of, item, depth + 1) for key, item in data.items()}
        if kind == "record" and isinstance(data, dict):
            return self._record(node, data, depth)
        return to_python(node, _scalar(node, data))

    def _union(self, node: Node, data: Any, depth: int) -> Any:
        """Return the default by the first branch that fits, as of Avro 1.12; earlier, only the first branch counted."""
        for branch in node.branches:
            try:
                return self.build(branch, data, depth + 1)
            except ValueError:
                continue
        raise ValueError(f"{data!r:.100} fits no branch of {node}")

    def _record(self, node: Node, data: dict[str, Any], depth: int) -> dict[str, Any]:
        unknown = next((key for key in data if key not in node.by_name), None)
        if unknown is not None:
            raise ValueError(f"{node} has no field {unknown!r:.100}")
        found = {}
        for field in node.fields:
            value = data.get(field.name, field.default)
            if value is MISSING:
                raise ValueError(f"the field {field.name!r} of {node} is missing, and it has no default")
            found[field.name] = self.build(field.node, value, depth + 1)
        return found


def _scalar(node: Node, data: Any) -> Any:
    kind = node.kind
    number = isinstance(data, (int, float)) and not isinstance(data, bool)
    if kind == "null" and data is None:
        return None
    if kind == "boolean" and isinstance(data, bool):
        return data
    if kind in RANGES and number and isinstance(data, int):
        low, high = RANGES[kind]
        if low <= data <= high:
            return data
    if kind in ("float", "double") and number:
        try:
            value = float(data)
        except OverflowError:
            value = math.inf
        if math.isfinite(value) and (kind == "double" or abs(value) <= 3.4028234663852886e38):
            return value
    if kind in ("bytes", "fixed") and isinstance(data, str) and all(ord(c) < 256 for c in data):
        raw = data.encode("latin-1")
        if kind == "bytes" or len(raw) == node.size:
            return raw
    if kind == "string" and isinstance(data, str):
        data.encode()  # lone surrogates are refused: UnicodeEncodeError is a ValueError
        return data
    if kind == "enum" and isinstance(data, str) and data in node.positions:
        return data
    raise ValueError(f"{data!r:.100} is no value of {node}")


def build_default(node: Node, data: Any) -> Any:
    """Return the value of a default that was checked. Each call returns a new one: callers may change lists and maps."""
    return _Builder().build(node, data, 0)


def check_default(node: Node, data: Any) -> str:
    """Return why a default is no value of its type; empty if it is one."""
    try:
        build_default(node, data)
    except ValueError as error:
        return f"the default is not valid: {error}"
    return ""
