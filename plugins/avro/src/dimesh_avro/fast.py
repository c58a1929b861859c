"""The quick way through fastavro, for schemas and values on which fastavro does exactly as dimesh does.

fastavro writes numbers that are too large, missing fields and wrong types without an error, and checks neither its stack nor
counts. So a schema is only given to fastavro if none of that can matter, and a value only after a function that was compiled for
the schema has checked it. Of damaged payloads fastavro reads some that the careful way refuses, such as the branch -1 of a union;
the result is a value of the schema in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from io import BytesIO
from typing import Any, Final
from uuid import UUID

import fastavro

from dimesh_avro.nodes import DEEP, RANGES, Node, height, reachable

# Types between which fastavro may choose another one than dimesh where a union has both.
_GROUPS: Final = {
    "int": "number",
    "long": "number",
    "float": "number",
    "double": "number",
    "string": "text",
    "enum": "text",
    "bytes": "bytes",
    "fixed": "bytes",
    "array": "bytes",  # to fastavro, bytes are an array of integers
    "record": "object",
    "map": "object",
}

_LOGICAL: Final = {
    "date": ("date", "False"),
    "time-millis": ("time", "{v}.tzinfo is not None"),
    "time-micros": ("time", "{v}.tzinfo is not None"),
    "timestamp-millis": ("datetime", "{v}.tzinfo is None"),
    "timestamp-micros": ("datetime", "{v}.tzinfo is None"),
    "local-timestamp-millis": ("datetime", "{v}.tzinfo is not None"),
    "local-timestamp-micros": ("datetime", "{v}.tzinfo is not None"),
    "uuid": ("UUID", "False"),
}
"""The Python type of each logical type, and the condition under which its values are left to the careful way."""
UNDECIDED: Final = object()
"""What :meth:`Fast.decode` returns when it has no value."""


def is_plain(root: Node) -> bool:
    """Return whether fastavro treats all values of a schema that the compiled check accepts as dimesh does."""
    if height(root) > DEEP:
        return False
    for node in reachable(root):
        if (
            node.logical is not None and node.logical.name == "decimal"
        ):  # fastavro rounds, and its limit is the payload's
            return False
        if node.kind in ("array", "map") and node.of.empty:
            return False
        if node.kind == "union":
            groups = [_GROUPS.get(branch.kind, branch.kind) for branch in node.branches]
            if len(set(groups)) < len(groups):
                return False
    return True


def fastavro_schema(root: Node) -> Any:
    """Return a plain schema for fastavro, with names of its own: they need no namespaces."""
    defined: dict[str, str] = {}

    def of(node: Node) -> Any:
        if node.kind == "union":
            return [of(branch) for branch in node.branches]
        if node.kind == "array":
            return {"type": "array", "items": of(node.of)}
        if node.kind == "map":
            return {"type": "map", "values": of(node.of)}
        if node.logical is not None:
            return {"type": node.kind, "logicalType": node.logical.name}
        if not node.name:
            return node.kind
        if node.name in defined:
            return defined[node.name]
        defined[node.name] = f"Type{len(defined)}"
        found: dict[str, Any] = {"type": node.kind, "name": defined[node.name]}
        if node.kind == "record":
            found["fields"] = [{"name": field.name, "type": of(field.node)} for field in node.fields]
        elif node.kind == "enum":
            found["symbols"] = list(node.symbols)
        else:
            found["size"] = node.size
        return found

    return fastavro.parse_schema(of(root))


class _Compiler:
    """Writes the source of the check. Names of the schema are only used as literals, and they are letters, digits and '_'."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"date": date, "datetime": datetime, "time": time, "UUID": UUID}
        self._functions: dict[int, str] = {}
        self._source: list[str] = []
        self._count = 0

    def compile(self, root: Node) -> Callable[[Any], bool]:
        name = self._function(root)
        exec(compile("\n".join(self._source), "<avro check>", "exec"), self.names)  # noqa: S102
        check: Callable[[Any], bool] = self.names[name]
        return check

    def _new(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _function(self, node: Node) -> str:
        """Return the name of the function that checks a type; a type that is used twice has one."""
        if id(node) not in self._functions:
            name = self._functions[id(node)] = self._new("check")
            body = self._lines(node, "v")
            self._source += [f"def {name}(v):", *(f"    {line}" for line in body), "    return True"]
        return self._functions[id(node)]

    def _lines(self, node: Node, v: str) -> list[str]:
        kind = node.kind
        if kind == "record":
            lines = [f"if type({v}) is not dict or len({v}) != {len(node.fields)}: return False"]
            for field in node.fields:
                x = self._new("x")
                lines += [f"{x} = {v}[{field.name!r}]", *self._part(field.node, x)]
            return lines
        if kind == "array":
            x = self._new("x")
            inner = self._part(node.of, x)
            return [
                f"if type({v}) is not list: return False",
                f"for {x} in {v}:",
                *(f"    {line}" for line in inner),
            ]
        if kind == "map":
            x, k = self._new("x"), self._new("k")
            return [
                f"if type({v}) is not dict: return False",
                f"for {k}, {x} in {v}.items():",
                f"    if type({k}) is not str: return False",
                *(f"    {line}" for line in self._part(node.of, x)),
            ]
        if kind == "union":
            return self._union(node, v)
        return [f"if {self._fails(node, v)}: return False"]

    def _part(self, node: Node, v: str) -> list[str]:
        if node.kind in ("record", "array", "map"):
            return [f"if not {self._function(node)}({v}): return False"]
        return self._lines(node, v)

    def _union(self, node: Node, v: str) -> list[str]:
        tests = [
            f"not {self._function(branch)}({v})"
            if branch.kind in ("record", "array", "map")
            else self._fails(branch, v)
            for branch in node.branches
        ]
        return [f"if {' and '.join(f'({test})' for test in tests)}: return False"]

    def _fails(self, node: Node, v: str) -> str:
        kind = node.kind
        if node.logical is not None:
            python, condition = _LOGICAL[node.logical.name]
            return f"type({v}) is not {python} or {condition.format(v=v)}"
        if kind == "null":
            return f"{v} is not None"
        if kind in RANGES:
            low, high = RANGES[kind]
            return f"type({v}) is not int or not {low} <= {v} <= {high}"
        if kind == "double":
            return f"type({v}) is not float"
        if kind == "float":
            return f"type({v}) is not float or not -3.4e38 <= {v} <= 3.4e38"
        if kind == "enum":
            symbols = self._new("symbols")
            self.names[symbols] = frozenset(node.symbols)
            return f"type({v}) is not str or {v} not in {symbols}"
        if kind == "fixed":
            return f"type({v}) is not bytes or len({v}) != {node.size}"
        python = {"boolean": "bool", "string": "str", "bytes": "bytes"}[kind]
        return f"type({v}) is not {python}"


class Fast:
    """Encodes and decodes the values of one plain schema with fastavro.

    ``encode`` returns None, and ``decode`` raises, for what the careful way has to judge.
    """

    def __init__(self, root: Node) -> None:
        self._schema = fastavro_schema(root)
        self.check = _Compiler().compile(root)

    def encode(self, value: Any) -> bytes | None:
        """Return the payload of a value; None: the careful way decides about it."""
        try:
            if self.check(value):
                out = BytesIO()
                fastavro.schemaless_writer(out, self._schema, value)
                return out.getvalue()
        except (KeyError, ValueError, TypeError):  # a missing field; a lone surrogate; an odd time zone
            pass
        return None

    def decode(self, payload: bytes) -> Any:
        """Return the value of a payload; :data:`UNDECIDED`: the careful way decides about it."""
        source = BytesIO(payload)
        try:
            value = fastavro.schemaless_reader(source, self._schema, None)
            if source.tell() == len(payload) and self.check(value):
                return value
        except (EOFError, ValueError, LookupError, TypeError, OverflowError):
            pass
        return UNDECIDED
