"""Whether a node allows a value: for values that a schema lists, and for parts of a witness."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from dimesh.events.strictjson import canonical
from dimesh.registry.jsonschema.compatibility.nodes import ANYTHING, Node

MAX_DEPTH: Final = 40
_SAFE: Final = re.compile(r"[\w \-:;,@#%&=/!<>~^$.*+?|()\[\]{}\\]*", re.ASCII)
_NESTED: Final = re.compile(r"[*+}]\)[*+{]")

FORMAT_LENGTHS: Final = {
    "date": (10, 10),
    "date-time": (20, 10**12),
    "time": (9, 10**12),
    "ipv4": (7, 15),
    "ipv6": (2, 45),
    "uuid": (36, 36),
    "email": (3, 10**12),
    "uri": (2, 10**12),
}
"""The least and greatest number of characters of texts in a format (RFC 3339, RFC 4122, RFC 4291, RFC 3986)."""


def allows(node: Node, value: Any, depth: int = 0) -> bool | None:
    """Return whether a node allows a value; None: that is not decided here, for example because of a format."""
    if node.never:
        return False
    if depth > MAX_DEPTH:
        return None
    answers: list[bool | None] = []
    for check in _CHECKS:
        answer = check(node, value, depth)
        if answer is False:
            return False
        answers.append(answer)
    return None if None in answers else True


def type_of(value: Any) -> str:
    """Return the type of a JSON value; ``integer`` for whole numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


@lru_cache(1_000)
def matches(pattern: str, text: str) -> bool | None:
    """Return whether a pattern is found in a text; None: Python might read the pattern in another way, or take long."""
    if not _SAFE.fullmatch(pattern) or _NESTED.search(pattern) or len(pattern) > 200 or len(text) > 1_000:
        return None
    if re.search(r"\\[^dswDSW.\-+*?()\[\]{}|/^$\\]|\(\?|\$.", pattern) or not text.isascii() or "\n" in text:
        return None
    try:
        return re.search(pattern, text, re.ASCII) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def _all(answers: list[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _any(answers: list[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False


def _plain(node: Node, value: Any, depth: int) -> bool | None:
    kind = type_of(value)
    if kind not in node.types and not (kind == "integer" and "number" in node.types):
        return False
    if "enum" in node.keywords:
        text = canonical(value)
        if all(canonical(v) != text for v in node.keywords["enum"]):
            return False
    return None if node.get("opaque") else True


def _number(node: Node, value: Any, depth: int) -> bool | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    exact = Decimal(str(value))
    low, high = node.get("low"), node.get("high")
    if low is not None and (exact < low[0] or (low[1] and exact == low[0])):
        return False
    if high is not None and (exact > high[0] or (high[1] and exact == high[0])):
        return False
    return all(exact % step == 0 for step in node.get("multipleOf", ()) if abs(exact) < Decimal(10) ** 20)


def _string(node: Node, value: Any, depth: int) -> bool | None:
    if not isinstance(value, str):
        return True
    if not node.get("minLength", 0) <= len(value) <= node.get("maxLength", len(value)):
        return False
    lengths = [FORMAT_LENGTHS[name] for name in node.get("format", ()) if name in FORMAT_LENGTHS]
    if any(not least <= len(value) <= most for least, most in lengths):
        return False
    found = _all([matches(pattern, value) for pattern in node.get("pattern", ())])
    return found if not node.get("format") or found is False else None


def _array(node: Node, value: Any, depth: int) -> bool | None:
    if not isinstance(value, list):
        return True
    if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value)):
        return False
    if node.get("uniqueItems") and len({canonical(item) for item in value}) < len(value):
        return False
    answers = [allows(node.at(n), item, depth + 1) for n, item in enumerate(value)]
    answers += [_any([allows(c, item, depth + 1) for item in value]) for c in node.get("contains", ())]
    return _all(answers)


def _object(node: Node, value: Any, depth: int) -> bool | None:
    if not isinstance(value, dict):
        return True
    if not node.get("minProperties", 0) <= len(value) <= node.get("maxProperties", len(value)):
        return False
    if not node.get("required", frozenset()) <= value.keys():
        return False
    if any(name in value and not needs <= value.keys() for name, needs in node.get("needs", {}).items()):
        return False
    answers: list[bool | None] = []
    patterns = node.get("patterns", {})
    for name, item in value.items():
        hits = {pattern: matches(pattern, name) for pattern in patterns}
        declared = node.get("properties", {}).get(name)
        if declared is not None:
            answers.append(allows(declared, item, depth + 1))
        answers += [allows(patterns[p], item, depth + 1) for p, hit in hits.items() if hit]
        if None in hits.values():
            answers.append(None)
        elif declared is None and True not in hits.values():
            answers.append(allows(node.get("extra", ANYTHING), item, depth + 1))
        answers += [allows(rule, name, depth + 1) for rule in node.get("names", ())]
    answers += [
        allows(rule, value, depth + 1) for name, rule in node.get("follow", {}).items() if name in value
    ]
    return _all(answers)


def _combined(node: Node, value: Any, depth: int) -> bool | None:
    answers = [allows(part, value, depth + 1) for part in node.get("allOf", ())]
    answers += [
        _any([allows(branch, value, depth + 1) for branch in group]) for group in node.get("anyOf", ())
    ]
    for group in node.get("oneOf", ()):
        found = [allows(branch, value, depth + 1) for branch in group]
        answers.append(None if None in found else found.count(True) == 1)
    for excluded in node.get("not", ()):
        found_one = allows(excluded, value, depth + 1)
        answers.append(None if found_one is None else not found_one)
    for condition, then, otherwise in node.get("if", ()):
        holds = allows(condition, value, depth + 1)
        answers.append(None if holds is None else allows(then if holds else otherwise, value, depth + 1))
    return _all(answers)


_CHECKS: Final[tuple[Callable[[Node, Any, int], bool | None], ...]] = (
    _plain,
    _number,
    _string,
    _array,
    _object,
    _combined,
)
