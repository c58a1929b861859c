"""Turns the text of a schema into nodes, and into the canonical form. All limits of schemas are checked here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dimesh.errors import InvalidSchemaError
from dimesh_avro.defaults import check_default
from dimesh_avro.nodes import MISSING, NAMED, PRIMITIVES, Field, Logical, Node

MAX_TEXT: Final = 1_048_576
MAX_DEPTH: Final = 64
MAX_NODES: Final = 20_000
MAX_NESTING: Final = 80
MAX_NAME: Final = 1_000
MAX_FIXED: Final = 1_048_576
MAX_PRECISION: Final = 1_000
MAX_BRANCHES: Final = 1_000
MAX_COST: Final = 100_000
"""The largest number of parts of the smallest value of a schema (100 bytes of a fixed are one). Records that double each other
exceed it."""

_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FULL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_OWN = {"type", "name", "namespace", "aliases", "fields", "symbols", "items", "values", "size", "default"}
_LOGICAL: Final = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "uuid": ("string",),
    "decimal": ("bytes", "fixed"),
}


def load(text: str) -> Any:
    """Return the JSON of a schema's text.

    Raises:
        InvalidSchemaError: the text is too long or no strict JSON.
    """
    if len(text) > MAX_TEXT:
        raise InvalidSchemaError(
            f"the schema has {len(text):,} characters; at most {MAX_TEXT:,} are accepted"
        )

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r:.100} stands twice in one object")
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidSchemaError(f"the schema is not valid JSON: {reason}") from error


class Parser:
    """Parses one text.

    Args:
        known: the named types that the text may refer to, by full name.
    """

    def __init__(self, known: Mapping[str, Node]) -> None:
        self._known = known
        self._own: dict[str, Node] = {}
        self._finished: list[Node] = []
        self._count = 0
        self._defaults: list[tuple[Field, str]] = []

    def parse(self, data: Any) -> tuple[Node, Any, dict[str, Node]]:
        """Return the root of the graph, the canonical form as JSON data, and the named types that the text defines.

        Raises:
            InvalidSchemaError: the data are no Avro schema.
        """
        root, canonical = self._type(data, "", "#", 0)
        self._measure()
        for field, path in self._defaults:
            reason = check_default(field.node, field.default)
            if reason:
                raise InvalidSchemaError(f"{path}/default: {reason}")
        return root, canonical, self._own

    # -- types -----------------------------------------------------------------------------------

    def _type(self, data: Any, namespace: str, path: str, depth: int) -> tuple[Node, Any]:
        node, canonical = self._any(data, namespace, path, depth)
        if not node.name:  # a type with a name is finished once, where it is defined
            self._finished.append(node)
        return node, canonical

    def _any(self, data: Any, namespace: str, path: str, depth: int) -> tuple[Node, Any]:
        self._count += 1
        if depth > MAX_DEPTH:
            _refuse(path, f"types are nested more than {MAX_DEPTH} deep")
        if self._count > MAX_NODES:
            _refuse(path, f"the schema has more than {MAX_NODES:,} types")
        if isinstance(data, str):
            return self._named(data, namespace, path)
        if isinstance(data, list):
            return self._union(data, namespace, path, depth)
        if not isinstance(data, dict):
            _refuse(path, f"a type is a name, an object or a list, not {_short(data)}")
        if "type" not in data:
            _refuse(path, "the type has no 'type'")
        kind = data["type"]
        if isinstance(kind, (dict, list)):  # a type in another object, which parsers accept
            if set(data) == {"type"}:
                return self._type(kind, namespace, f"{path}/type", depth + 1)
            _refuse(f"{path}/type", "attributes stand in the object that they describe, not around it")
        if kind == "error":
            kind = "record"
        if kind in NAMED:
            return self._definition(kind, data, namespace, path, depth)
        if kind == "array" or kind == "map":
            key = "items" if kind == "array" else "values"
            if key not in data:
                _refuse(path, f"the {kind} has no {key!r}")
            child, canonical = self._type(data[key], namespace, f"{path}/{key}", depth + 1)
            return Node(kind, items=child), {**_extras(data, path), "type": kind, key: canonical}
        node, canonical = self._named(kind, namespace, f"{path}/type")
        extras = _extras(data, path)
        if kind not in PRIMITIVES:
            if extras:
                _refuse(path, f"attributes of {kind!r:.100} stand where that type is defined")
            return node, canonical
        node.logical = _logical(data, node, path)
        return node, {**extras, "type": kind} if extras else kind

    def _named(self, name: Any, namespace: str, path: str) -> tuple[Node, Any]:
        if not isinstance(name, str):
            _refuse(path, f"the name of a type is text, not {_short(name)}")
        if name in PRIMITIVES:
            return Node(name), name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        node = self._own.get(full) or self._known.get(full)
        if node is None:
            _refuse(
                path,
                f"the type {full!r:.200} is neither defined before this place nor among the references",
            )
        return node, full

    def _union(self, data: list[Any], namespace: str, path: str, depth: int) -> tuple[Node, Any]:
        if not 0 < len(data) <= MAX_BRANCHES:
            _refuse(path, f"a union has from 1 to {MAX_BRANCHES:,} branches")
        pairs = [self._type(item, namespace, f"{path}/{n}", depth + 1) for n, item in enumerate(data)]
        seen: set[str] = set()
        for n, (branch, _) in enumerate(pairs):
            if branch.kind == "union":
                _refuse(f"{path}/{n}", "a union does not directly contain another union")
            if branch.label in seen:
                _refuse(f"{path}/{n}", f"the union has two branches {branch.label!r}")
            seen.add(branch.label)
        return Node("union", branches=tuple(b for b, _ in pairs)), [canonical for _, canonical in pairs]

    # -- named types -----------------------------------------------------------------------------

    def _definition(
        self, kind: str, data: dict[str, Any], namespace: str, path: str, depth: int
    ) -> tuple[Node, Any]:
        full, space = self._full_name(data, namespace, path)
        if full in self._own or full in self._known:
            _refuse(path, f"the type {full!r:.200} is already defined")
        node = self._own[full] = Node(kind, name=full, aliases=_aliases(data, space, path))
        canonical: dict[str, Any] = {**_extras(data, path), "type": kind, "name": full}
        if namespace and not space:  # else the name would belong to the namespace around it
            canonical["namespace"] = ""
        if node.aliases:
            canonical["aliases"] = list(node.aliases)
        if kind == "record":
            canonical["fields"] = self._fields(node, data, space, path, depth)
        elif kind == "enum":
            self._enum(node, data, path)
            canonical["symbols"] = list(node.symbols)
            if node.default is not None:
                canonical["default"] = node.default
        else:
            size = data.get("size")
            if type(size) is not int or not 0 <= size <= MAX_FIXED:
                _refuse(f"{path}/size", f"the size of a fixed is a number from 0 to {MAX_FIXED:,}")
            node.size = canonical["size"] = size
            node.logical = _logical(data, node, path)
        self._finished.append(node)
        return node, canonical

    def _full_name(self, data: dict[str, Any], namespace: str, path: str) -> tuple[str, str]:
        name, space = data.get("name"), data.get("namespace", namespace)
        if not isinstance(name, str) or not _FULL.match(name) or len(name) > MAX_NAME:
            _refuse(f"{path}/name", f"{_short(name)} is not a name of letters, digits and '_'")
        if "." in name:
            return name, name.rpartition(".")[0]
        if not isinstance(space, str) or (space and not _FULL.match(space)) or len(space) > MAX_NAME:
            _refuse(f"{path}/namespace", f"{_short(space)} is not a namespace: names joined by dots")
        if name in PRIMITIVES:
            _refuse(f"{path}/name", f"{name!r} is the name of a primitive type")
        return (f"{space}.{name}" if space else name), space

    def _fields(self, node: Node, data: dict[str, Any], space: str, path: str, depth: int) -> list[Any]:
        given = data.get("fields")
        if not isinstance(given, list):
            _refuse(f"{path}/fields", "the fields of a record are a list")
        fields, canonical, taken = [], [], set()
        for n, item in enumerate(given):
            here = f"{path}/fields/{n}"
            if not isinstance(item, dict) or "type" not in item:
                _refuse(here, "a field is an object with 'name' and 'type'")
            name = item.get("name")
            if not isinstance(name, str) or not _SIMPLE.match(name) or len(name) > MAX_NAME:
                _refuse(f"{here}/name", f"{_short(name)} is not a name of letters, digits and '_'")
            aliases = _aliases(item, "", here)
            for one in dict.fromkeys((name, *aliases)):
                if one in taken:
                    _refuse(here, f"two fields of the record have the name or alias {one!r:.100}")
                taken.add(one)
            child, of = self._type(item["type"], space, f"{here}/type", depth + 1)
            made = Field(name, child, aliases, item.get("default", MISSING))
            fields.append(made)
            plain = {**_extras(item, here), "name": name, "type": of}
            if plain.get("order") == "ascending":
                del plain["order"]
            if aliases:
                plain["aliases"] = list(aliases)
            if made.default is not MISSING:
                plain["default"] = made.default
                self._defaults.append((made, here))
            canonical.append(plain)
        node.fields = tuple(fields)
        node.by_name = {field.name: field for field in fields}
        node.required = frozenset(field.name for field in fields if field.default is MISSING)
        return canonical

    @staticmethod
    def _enum(node: Node, data: dict[str, Any], path: str) -> None:
        symbols = data.get("symbols")
        if not isinstance(symbols, list) or not symbols or len(symbols) > MAX_NODES:
            _refuse(f"{path}/symbols", "the symbols of an enum are a list of names")
        for n, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not _SIMPLE.match(symbol) or len(symbol) > MAX_NAME:
                _refuse(f"{path}/symbols/{n}", f"{_short(symbol)} is not a name of letters, digits and '_'")
        node.symbols = tuple(symbols)
        node.positions = {symbol: n for n, symbol in enumerate(symbols)}
        if len(node.positions) != len(symbols):
            _refuse(f"{path}/symbols", "two symbols are the same")
        node.default = data.get("default")
        if node.default is not None and node.default not in node.positions:
            _refuse(f"{path}/default", f"{_short(node.default)} is not one of the symbols")

    # -- size ------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Compute the cost of the smallest value of every type.

        Children were finished before their parents, except for types that contain themselves: each of those may cost a round,
        and no more of them are open at once than types are nested.
        """
        nodes = self._finished
        changed = True
        while changed:
            changed = False
            for node in nodes:
                cost = _cost(node)
                if cost < node.cost:
                    node.cost, changed = cost, True
        for node in nodes:
            parts = (field.node for field in node.fields)
            node.empty = node.kind == "null" or (node.kind == "fixed" and not node.size)
            node.empty = node.empty or (node.kind == "record" and all(part.empty for part in parts))
        for node in nodes:
            if math.isinf(node.cost):
                raise InvalidSchemaError(
                    f"#: {node} always contains itself, so that it has no finite value: make a field optional"
                )
            if node.cost > MAX_COST:
                raise InvalidSchemaError(f"#: the smallest value of {node} has more than {MAX_COST:,} parts")
        for node in sorted(nodes, key=lambda node: node.cost):
            if node.kind == "record":
                node.nesting = 1 + max((field.node.nesting for field in node.fields), default=0)
            elif node.kind == "union":
                node.nesting = min(node.branches, key=lambda branch: branch.cost).nesting
            if node.nesting > MAX_NESTING:
                raise InvalidSchemaError(
                    f"#: the smallest value of {node} is nested more than {MAX_NESTING} deep"
                )


def _cost(node: Node) -> float:
    if node.kind == "record":
        cost = 1 + sum(field.node.cost for field in node.fields)
        return cost if math.isinf(cost) else min(cost, MAX_COST + 1)
    if node.kind == "union":
        return 1 + min(branch.cost for branch in node.branches)
    return 1 + node.size // 100


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidSchemaError(f"{path}: {message}")


def _short(value: Any) -> str:
    return f"{value!r:.100}"


def _extras(data: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the attributes that are kept as they are: documentation, logical types, and those of users."""
    for name, value in data.items():
        if name not in _OWN:
            _check_finite(value, f"{path}/{name:.100}", 0)
    return {name: value for name, value in data.items() if name not in _OWN}


def _check_finite(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        _refuse(path, f"the attribute is nested more than {MAX_DEPTH} deep")
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(path, "the number is too large")
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(child, path, depth + 1)


def _aliases(data: Mapping[str, Any], space: str, path: str) -> tuple[str, ...]:
    given = data.get("aliases", [])
    if not isinstance(given, list):
        _refuse(f"{path}/aliases", "aliases are a list of names")
    for alias in given:
        if not isinstance(alias, str) or not _FULL.match(alias) or len(alias) > MAX_NAME:
            _refuse(f"{path}/aliases", f"{_short(alias)} is not a name of letters, digits and '_'")
    return tuple(alias if "." in alias or not space else f"{space}.{alias}" for alias in given)


def _logical(data: Mapping[str, Any], node: Node, path: str) -> Logical | None:
    name = data.get("logicalType")
    if not isinstance(name, str) or node.kind not in _LOGICAL.get(name, ()):
        return None
    if name != "decimal":
        return Logical(name)
    precision, scale = data.get("precision"), data.get("scale", 0)
    if type(precision) is not int or not 1 <= precision <= MAX_PRECISION:
        _refuse(f"{path}/precision", f"the precision of a decimal is a number from 1 to {MAX_PRECISION:,}")
    if type(scale) is not int or not 0 <= scale <= precision:
        _refuse(f"{path}/scale", "the scale of a decimal is a number from 0 to its precision")
    if node.kind == "fixed" and precision > math.floor(math.log10(2) * (8 * node.size - 1)):
        _refuse(f"{path}/precision", f"{precision} digits do not fit into {node.size} bytes")
    return Logical(name, precision, scale)
