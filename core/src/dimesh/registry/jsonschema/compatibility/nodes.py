"""Schemas as a graph: references resolved, drafts made equal, annotations left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import lcm
from typing import Any, Final

from dimesh.events.strictjson import canonical
from dimesh.registry.jsonschema.documents import Documents, Place
from dimesh.registry.jsonschema.drafts import Draft, escape

TYPES: Final = frozenset({"null", "boolean", "number", "string", "array", "object"})
"""All types; ``integer`` is a kind of ``number``."""
Bound = tuple[Decimal, bool]
"""A bound of a number, and whether the bound itself is excluded."""


class Node:
    """A schema.

    Args:
        keywords: what the schema asks for. The keys are JSON Schema's, with these differences: ``type`` is a set without
            ``integer`` beside ``number``; ``const`` is an ``enum``; ``low`` and ``high`` are bounds; ``pattern`` and
            ``format`` are sets and ``multipleOf`` a tuple, since a conjunction has several; ``first`` and ``rest`` are the
            schemas of items;
            ``patterns`` and ``extra`` those of other properties (no ``extra``: anything); ``names`` those of names; ``anyOf``,
            ``oneOf``,
            ``not`` and ``if`` are lists of all that apply; ``opaque`` has what is compared as text only.
        where: the location in the document.
    """

    __slots__ = ("default", "keywords", "never", "where")

    def __init__(self, keywords: dict[str, Any], where: str = "#", never: bool = False) -> None:
        self.keywords = keywords
        self.where = where
        self.never = never
        """Whether no value is allowed."""
        self.default: tuple[Any] | None = None
        """The default, in a tuple of its own, since it may be null."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what a keyword asks for."""
        return self.keywords.get(key, default)

    @property
    def types(self) -> frozenset[str]:
        """The types that are allowed."""
        found: frozenset[str] = self.keywords.get("type", TYPES)
        return found

    def at(self, index: int) -> Node:
        """Return the schema of an item."""
        first: list[Node] = self.get("first", [])
        return first[index] if index < len(first) else self.get("rest", ANYTHING)

    def with_(self, **changes: Any) -> Node:
        """Return a node with other keywords; None removes a keyword."""
        keywords = {**self.keywords, **changes}
        return Node({k: v for k, v in keywords.items() if v is not None}, self.where, self.never)


ANYTHING: Final = Node({})
NOTHING: Final = Node({}, never=True)
COMBINED: Final = ("allOf", "anyOf", "oneOf", "if")

_SAME: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_KNOWN: Final = frozenset(
    {
        "type",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "pattern",
    }
    | {
        "format",
        "items",
        "prefixItems",
        "additionalItems",
        "contains",
        "uniqueItems",
        "properties",
        "required",
    }
    | {"patternProperties", "additionalProperties", "propertyNames", "dependencies", "dependentRequired"}
    | {"dependentSchemas", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", *_SAME}
)
_OPAQUE: Final = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "unevaluatedItems",
        "unevaluatedProperties",
        "minContains",
        "maxContains",
    }
)


_FORMATS_7: Final = frozenset(
    {
        "date",
        "date-time",
        "email",
        "hostname",
        "idn-email",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "iri",
        "iri-reference",
    }
    | {"json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference", "uri-template"}
)
_ASSERTED: Final = {
    Draft.DRAFT_7: _FORMATS_7,
    Draft.DRAFT_2019_09: _FORMATS_7 | {"duration", "uuid"},
    Draft.DRAFT_2020_12: _FORMATS_7 | {"duration", "uuid"},
}
"""The formats that the validators check; any other one is an annotation."""


class Graph:
    """The nodes of a document.

    Args:
        documents: the document, with where its references lead.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._nodes: dict[int, Node] = {}
        self.root = self._node(documents.root, "#")

    def _node(self, place: Place, where: str) -> Node:
        schema = place.schema
        if schema is True:
            return ANYTHING
        if schema is False:
            return NOTHING
        known = self._nodes.get(id(schema))
        if known is None:
            known = self._nodes[id(schema)] = Node({}, where)
            self._fill(known, place)
        return known

    def _child(self, schema: Any, near: Place, where: str) -> Node:
        return self._node(self._documents.place(schema, near), where)

    def _fill(self, node: Node, place: Place) -> None:
        schema: Mapping[str, Any] = place.schema
        where, keywords = node.where, node.keywords
        if "default" in schema:
            node.default = (schema["default"],)
        parts: list[Node] = []
        if "$ref" in schema:
            target = self._documents.target(place, schema["$ref"])
            parts.append(self._node(target, where))
            if place.draft is Draft.DRAFT_7:  # siblings of a $ref have no meaning
                keywords["allOf"] = parts
                return
        opaque = sorted(f"{key}: {canonical(schema[key])}" for key in _OPAQUE & schema.keys())
        if opaque:
            # Compared as text with the whole neighbourhood, on which these keywords depend; a reference in it makes it unlike any
            # other, since the text does not say where the reference leads.
            text = canonical(dict(schema))
            keywords["opaque"] = frozenset({f"{id(schema)}" if "Ref" in text or "$ref" in text else text})
        self._values(keywords, schema, place.draft)
        self._items(keywords, place, where)
        self._members(keywords, place, where)

        def children(key: str) -> list[Node]:
            return [self._child(s, place, f"{where}/{key}/{n}") for n, s in enumerate(schema[key])]

        if "allOf" in schema:
            parts += children("allOf")
        if parts:
            keywords["allOf"] = parts
        for key in ("anyOf", "oneOf"):
            if key in schema:
                keywords[key] = [children(key)]
        if "not" in schema:
            keywords["not"] = [self._child(schema["not"], place, f"{where}/not")]
        if "if" in schema and ("then" in schema or "else" in schema):
            keywords["if"] = [
                tuple(self._child(schema.get(k, True), place, f"{where}/{k}") for k in ("if", "then", "else"))
            ]

    @staticmethod
    def _values(keywords: dict[str, Any], schema: Mapping[str, Any], draft: Draft) -> None:
        if "type" in schema:
            named = schema["type"]
            types = frozenset([named] if isinstance(named, str) else named)
            if "number" in types:
                types -= {"integer"}
            if types != TYPES:
                keywords["type"] = types
        if "const" in schema:
            keywords["enum"] = [schema["const"]]
        if "enum" in schema:
            values = schema["enum"]
            if "const" in schema:
                values = [v for v in values if canonical(v) == canonical(schema["const"])]
            keywords["enum"] = list(values)
        for bound, limit, exclusive, tightest in (
            ("low", "minimum", "exclusiveMinimum", max),
            ("high", "maximum", "exclusiveMaximum", _lowest),
        ):
            found = [
                (Decimal(str(schema[key])), key == exclusive) for key in (limit, exclusive) if key in schema
            ]
            if found:
                keywords[bound] = tightest(found)
        if "multipleOf" in schema:
            keywords["multipleOf"] = (Decimal(str(schema["multipleOf"])),)
        if "pattern" in schema:
            keywords["pattern"] = frozenset({schema["pattern"]})
        if schema.get("format") in _ASSERTED[draft]:
            keywords["format"] = frozenset({schema["format"]})
        for key in _SAME:
            if key in schema and (schema[key] or not key.startswith("min")):
                keywords[key] = int(schema[key])
        if schema.get("uniqueItems"):
            keywords["uniqueItems"] = True
        if schema.get("required"):
            keywords["required"] = frozenset(schema["required"])

    def _items(self, keywords: dict[str, Any], place: Place, where: str) -> None:
        schema = place.schema
        first, rest = (
            ("prefixItems", "items") if place.draft is Draft.DRAFT_2020_12 else ("items", "additionalItems")
        )
        if isinstance(schema.get(first), list):
            keywords["first"] = [
                self._child(s, place, f"{where}/{first}/{n}") for n, s in enumerate(schema[first])
            ]
        elif first == "items":
            rest = "items"  # additionalItems has no meaning beside one schema for all items
        if rest in schema:
            keywords["rest"] = self._child(schema[rest], place, f"{where}/{rest}")
        if "contains" in schema and not {"minContains", "maxContains"} & schema.keys():
            keywords["contains"] = [self._child(schema["contains"], place, f"{where}/contains")]

    def _members(self, keywords: dict[str, Any], place: Place, where: str) -> None:
        schema = place.schema
        for key, name in (("properties", "properties"), ("patterns", "patternProperties")):
            if schema.get(name):
                keywords[key] = {
                    n: self._child(s, place, f"{where}/{name}/{escape(n)}") for n, s in schema[name].items()
                }
        if "additionalProperties" in schema:
            extra = self._child(schema["additionalProperties"], place, f"{where}/additionalProperties")
            if extra.never or extra.keywords:
                keywords["extra"] = extra
        if "propertyNames" in schema:
            keywords["names"] = [self._child(schema["propertyNames"], place, f"{where}/propertyNames")]
        needs: dict[str, frozenset[str]] = {}
        follow: dict[str, Node] = {}
        for key in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, value in schema.get(key, {}).items() if isinstance(schema.get(key), Mapping) else ():
                if isinstance(value, list):
                    needs[name] = frozenset(value)
                else:
                    follow[name] = self._child(value, place, f"{where}/{key}/{escape(name)}")
        if needs:
            keywords["needs"] = needs
        if follow:
            keywords["follow"] = follow


def _lowest(bounds: Iterable[Bound]) -> Bound:
    return min(bounds, key=lambda bound: (bound[0], not bound[1]))


def same(one: Node, two: Node) -> bool:
    """Return whether two schemas are built alike, references followed: then they allow the same values."""
    return _same(one, two, set())


def _same(one: Any, two: Any, seen: set[tuple[int, int]]) -> bool:
    if one is two:
        return True
    if isinstance(one, Node):
        if not isinstance(two, Node) or one.never != two.never or one.keywords.keys() != two.keywords.keys():
            return False
        pair = (id(one), id(two))
        if pair in seen:
            return True
        seen.add(pair)
        return all(
            canonical(value) == canonical(two.keywords[key])
            if key == "enum"
            else _same(value, two.keywords[key], seen)
            for key, value in one.keywords.items()
        )
    if isinstance(one, dict):
        return (
            isinstance(two, dict)
            and one.keys() == two.keys()
            and all(_same(value, two[key], seen) for key, value in one.items())
        )
    if isinstance(one, (list, tuple)):
        return (
            isinstance(two, (list, tuple))
            and len(one) == len(two)
            and all(_same(a, b, seen) for a, b in zip(one, two, strict=True))
        )
    return bool(one == two)


# -- conjunction -------------------------------------------------------------------------------------


def both(one: Node, two: Node) -> Node | None:
    """Return one schema that asks for what two ask for, without ``allOf``; None: it cannot be written as one."""
    if one.never or two.never:
        return NOTHING
    a, b = one.keywords, two.keywords
    if not a:
        return two
    if not b:
        return one
    made: dict[str, Any] = {}
    for key in a.keys() | b.keys():
        if key in _OBJECT or key in _ARRAY:
            continue
        if key not in a or key not in b:
            made[key] = a.get(key, b.get(key))
            continue
        made[key] = _joined(key, a[key], b[key])
    if _OBJECT & (a.keys() | b.keys()):
        members = _members(one, two)
        if members is None:
            return None
        made |= members
    if _ARRAY & (a.keys() | b.keys()):
        length = max(len(a.get("first", ())), len(b.get("first", ())))
        if length:
            made["first"] = [_conjunction(one.at(n), two.at(n)) for n in range(length)]
        made["rest"] = _conjunction(one.get("rest", ANYTHING), two.get("rest", ANYTHING))
    types = made.get("type")
    node = Node(made, one.where if one.keywords else two.where, never=types is not None and not types)
    node.default = one.default or two.default
    return node


_OBJECT: Final = frozenset({"properties", "patterns", "extra"})
_ARRAY: Final = frozenset({"first", "rest"})


def _joined(key: str, a: Any, b: Any) -> Any:
    if key == "type":
        kept = a & b
        if ("integer" in a and "number" in b) or ("integer" in b and "number" in a):
            kept |= {"integer"}
        return kept
    if key == "enum":
        allowed = {canonical(value) for value in b}
        return [value for value in a if canonical(value) in allowed]
    if key == "low":
        return max(a, b)
    if key == "high":
        return _lowest((a, b))
    if key == "multipleOf":
        if all(step == step.to_integral_value() for step in (*a, *b)):
            return (Decimal(lcm(*(int(step) for step in (*a, *b)))),)
        return tuple(dict.fromkeys((*a, *b)))
    if key in ("pattern", "format", "required", "opaque"):
        return a | b
    if key in ("minLength", "minItems", "minProperties"):
        return max(a, b)
    if key in ("maxLength", "maxItems", "maxProperties"):
        return min(a, b)
    if key == "uniqueItems":
        return True
    if key == "needs":
        return {name: a.get(name, frozenset()) | b.get(name, frozenset()) for name in a.keys() | b.keys()}
    if key == "follow":
        return {
            name: _conjunction(a.get(name, ANYTHING), b.get(name, ANYTHING)) for name in a.keys() | b.keys()
        }
    return [*a, *b]  # allOf, anyOf, oneOf, not, if, contains, names


def _conjunction(a: Node, b: Node) -> Node:
    if a is b or (not b.keywords and not b.never):
        return a
    if not a.keywords and not a.never:
        return b
    return NOTHING if a.never or b.never else Node({"allOf": [a, b]}, a.where)


def _members(one: Node, two: Node) -> dict[str, Any] | None:
    patterns = [node.get("patterns", {}) for node in (one, two)]
    extras = [node.get("extra") for node in (one, two)]
    if (patterns[0] and extras[1] is not None) or (patterns[1] and extras[0] is not None):
        return None  # which names the other's rest applies to depends on the patterns
    made: dict[str, Any] = {}
    names = {**one.get("properties", {}), **two.get("properties", {})}
    if names:
        made["properties"] = {
            name: _conjunction(_declared(one, name), _declared(two, name)) for name in names
        }
    joined = dict(patterns[0])
    for pattern, node in patterns[1].items():
        joined[pattern] = _conjunction(joined[pattern], node) if pattern in joined else node
    if joined:
        made["patterns"] = joined
    extra = [node for node in extras if node is not None]
    if extra:
        made["extra"] = extra[0] if len(extra) == 1 else _conjunction(*extra)
    return made


def _declared(node: Node, name: str) -> Node:
    # Patterns apply to a declared name, too; they stay in the conjunction.
    declared: Node | None = node.get("properties", {}).get(name)
    if declared is not None:
        return declared
    return node.get("extra", ANYTHING) if not node.get("patterns") else ANYTHING
