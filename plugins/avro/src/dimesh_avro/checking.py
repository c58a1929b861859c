"""Checks values against a schema, with the locations of what is wrong, and chooses the branches of unions."""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack
from typing import Any, Final

from dimesh.spi.schema import Problem
from dimesh_avro.logical import takes, to_raw
from dimesh_avro.nodes import RANGES, Node

MOST_PROBLEMS: Final = 50
DEEPEST: Final = 100
"""The nesting of values that is accepted."""
MOST_STEPS: Final = 1_000_000
"""The number of comparisons for choosing branches of unions after which a check gives up: nested unions multiply them."""
MOST_EMPTY: Final = 65_536
"""The number of items of an array or map whose items take no bytes: a payload of ten bytes could announce any number."""

_PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (float, int),
    "double": (float, int),
    "bytes": (bytes, bytearray),
    "fixed": (bytes, bytearray),
    "string": (str,),
    "enum": (str,),
    "array": (list,),
    "map": (Mapping,),
    "record": (Mapping,),
    "union": (object,),
}


class _EnoughError(Exception):
    """Ends a check that has enough problems, or too much work."""


class Check:
    """One check of one value."""

    def __init__(self, limit: int = MOST_PROBLEMS, steps: list[int] | None = None) -> None:
        self.problems: list[Problem] = []
        self._limit = limit
        self._trial = steps is not None
        self._steps = [MOST_STEPS] if steps is None else steps

    def run(self, node: Node, value: Any) -> list[Problem]:
        """Return the problems of a value, sorted by path."""
        try:
            self._walk(node, value, "", 0)
        except _EnoughError:
            pass
        return sorted(self.problems, key=lambda problem: problem.path)

    def _report(self, path: str, keyword: str, message: str) -> None:
        self.problems.append(Problem(path, message, "", keyword))
        if len(self.problems) >= self._limit:
            raise _EnoughError

    def _walk(self, node: Node, value: Any, path: str, depth: int) -> None:
        self._steps[0] -= self._trial
        if depth > DEEPEST or self._steps[0] < 0:
            keyword, message = (
                ("depth", f"values are nested more than {DEEPEST} deep")
                if depth > DEEPEST
                else ("work", "the value has too many possible branches of unions")
            )
            self._report(path, keyword, message)
            raise _EnoughError
        if node.kind == "union":
            self._union(node, value, path, depth)
        elif not fits(node, value):
            self._report(path, "type", f"the value is of the type {_name_of(value)}, not {node}")
        elif node.kind == "record":
            self._record(node, value, path, depth)
        elif node.kind == "array":
            self._check_empty(node, value, path)
            for n, item in enumerate(value):
                self._walk(node.of, item, f"{path}/{n}", depth + 1)
        elif node.kind == "map":
            self._check_empty(node, value, path)
            for key, item in value.items():
                if not isinstance(key, str) or not _encodable(key):
                    self._report(path, "key", "a key of a map is text of valid Unicode")
                else:
                    self._walk(node.of, item, f"{path}/{_pointer(key)}", depth + 1)
        else:
            reason = _scalar(node, value)
            if reason:
                self._report(path, node.logical.name if node.logical else node.kind, reason)

    def _check_empty(self, node: Node, value: Any, path: str) -> None:
        if len(value) > MOST_EMPTY and node.of.empty:
            self._report(path, "size", f"{node} has more than {MOST_EMPTY:,} items, which take no bytes")

    def _record(self, node: Node, value: Mapping[Any, Any], path: str, depth: int) -> None:
        for field in node.fields:
            if field.name in value:
                self._walk(field.node, value[field.name], f"{path}/{field.name}", depth + 1)
            elif field.name in node.required:
                self._report(
                    f"{path}/{field.name}", "required", "the field is missing, and it has no default"
                )
        for key in value:
            if key not in node.by_name:
                name = _pointer(str(key))[:200]
                self._report(f"{path}/{name}", "unknown-field", f"{node} has no such field")

    def _union(self, node: Node, value: Any, path: str, depth: int) -> None:
        named = named_branch(node, value)
        if named is not None:
            self._walk(named, value[1], path, depth)
            return
        possible = candidates(node, value)
        if len(possible) == 1:
            self._walk(possible[0], value, path, depth)
        elif not any(self._is_valid(branch, value, depth) for branch in possible):
            self._report(path, "union", f"the value fits no branch of {node}"[:500])

    def _is_valid(self, node: Node, value: Any, depth: int) -> bool:
        trial = Check(1, self._steps)
        try:
            trial._walk(node, value, "", depth)
        except _EnoughError:
            return False
        return not trial.problems

    def choose(self, node: Node, value: Any, depth: int) -> tuple[Node, Any]:
        """Return the branch of a union for a value that was checked, and the value without the branch's name."""
        named = named_branch(node, value)
        if named is not None:
            return named, value[1]
        possible = candidates(node, value)
        if len(possible) == 1:
            return possible[0], value
        return next(branch for branch in possible if self._is_valid(branch, value, depth)), value


def named_branch(node: Node, value: Any) -> Node | None:
    """Return the branch that a pair of a branch's name and a value means."""
    if isinstance(value, tuple) and len(value) == 2:
        return next((branch for branch in node.branches if branch.label == value[0]), None)
    return None


def candidates(node: Node, value: Any) -> list[Node]:
    """Return the branches of a union that a value may belong to, the best first: exact types before those that numbers are
    converted to, double before float, and of records the one with the most fields.
    """
    found = [branch for branch in node.branches if fits(branch, value)]
    return sorted(found, key=lambda branch: _rank(branch, value)) if len(found) > 1 else found


def _rank(node: Node, value: Any) -> int:
    if node.kind == "record":
        return -sum(name in value for name in node.by_name)
    if node.kind in ("float", "double"):
        return (node.kind == "float") + 2 * isinstance(value, int)
    return 0


def fits(node: Node, value: Any) -> bool:
    """Return whether a value has the Python type of a schema's type."""
    if node.logical is not None:
        if takes(node.logical, value):
            return True
        if node.kind not in RANGES:
            return False
    if isinstance(value, bool) and node.kind not in ("boolean", "union"):
        return False
    return isinstance(value, _PYTHON[node.kind])


def _scalar(node: Node, value: Any) -> str:
    """Return why a scalar of the right Python type is no value of its type; empty if it is one."""
    kind = node.kind
    try:
        if node.logical is not None:
            value = to_raw(node, value)
        if kind in RANGES:
            low, high = RANGES[kind]
            return "" if low <= value <= high else f"the number is outside the range of {kind}"
        if kind in ("float", "double"):
            if isinstance(value, int) and int(float(value)) != value:
                return "the number has more digits than a double"
            pack("<f" if kind == "float" else "<d", value)
        elif kind == "string":
            return "" if _encodable(value) else "the text is not valid Unicode: it has a lone surrogate"
        elif kind == "enum" and value not in node.positions:
            return f"the value is not one of the symbols of {node.name}"
        elif kind == "fixed" and len(value) != node.size:
            return f"the value has {len(value):,} bytes, not {node.size:,}"
    except OverflowError:
        return f"the number is outside the range of {kind}"
    except ValueError as error:
        return str(error)
    return ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_of(value: Any) -> str:
    return type(value).__name__


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
