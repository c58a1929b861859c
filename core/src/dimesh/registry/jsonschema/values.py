"""What the engines do not notice by themselves: Python values that are not JSON, and the depth of data."""

from __future__ import annotations

import math
from typing import Any, Final

from dimesh.registry.jsonschema.drafts import escape
from dimesh.spi.schema import Problem

MAX_DEPTH: Final = 200


def not_json(data: Any, path: str = "", depth: int = 1) -> Problem | None:
    """Return the first part of ``data`` that is not JSON, which the engines would treat differently; None if all is JSON."""
    kind = type(data)
    if kind is str or kind is int or kind is bool or data is None:
        if kind is str and not data.isascii():
            try:
                data.encode("utf-8")
            except UnicodeEncodeError:
                return Problem(path, "contains a lone surrogate")
        return None
    if kind is float:
        return None if math.isfinite(data) else Problem(path, f"{data} is not JSON")
    if depth > MAX_DEPTH:
        return Problem(path[:80], f"nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        for key, value in data.items():
            if type(key) is not str:
                return Problem(path, f"has a key that is {type(key).__name__}; keys must be strings")
            found = not_json(key, path, depth) or not_json(value, f"{path}/{escape(key)}", depth + 1)
            if found is not None:
                return found
        return None
    if kind is list:
        for n, value in enumerate(data):
            found = not_json(value, f"{path}/{n}", depth + 1)
            if found is not None:
                return found
        return None
    return Problem(path, f"is {kind.__name__}, which is not JSON: convert the value first")


def depth_of(data: Any) -> int:
    """Return how deep ``data`` is nested: 0 for a string, 1 for a list of strings; at most one more than the greatest depth."""
    depth = 0
    level = [data]
    while depth <= MAX_DEPTH:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
        if not below:
            return depth
        depth += 1
        level = below
    return depth
