"""From nodes back to a document, as a policy sees it: for the validators that confirm a witness.

A policy is a transformation of schemas in front of strict inclusion: the writer's schema is closed, the reader's is opened, and
required properties with a valid default are no longer required. Inside ``not``, ``if``, ``oneOf`` and ``contains`` the reader is
taken to the letter, since there a wider schema may allow less, or decides between alternatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dimesh.registry.jsonschema.compatibility.implied import filled
from dimesh.registry.jsonschema.compatibility.nodes import Node

_DRAFT: Final = "https://json-schema.org/draft/2019-09/schema"
_PLAIN: Final = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
)


_PARTS: Final = frozenset(
    {
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "first",
        "rest",
        "contains",
        "properties",
        "patterns",
        "extra",
        "names",
        "follow",
    }
)
"""The keywords that have schemas. A node without them is written where it is used."""


class CannotEmitError(Exception):
    """The schema has a keyword that depends on its neighbours."""


class Emission:
    """Writes a document.

    Args:
        close: let objects have only the properties that are declared.
        open_: let objects have properties that are not declared.
        fill: do not require properties with a valid default.
    """

    def __init__(self, *, close: bool = False, open_: bool = False, fill: bool = False) -> None:
        self._close = close
        self._open = open_
        self._fill = fill
        self._names: dict[tuple[int, bool, bool], str] = {}
        self._definitions: dict[str, Any] = {}
        self._kept: list[Node] = []

    def document(self, root: Node) -> dict[str, Any]:
        """Return the document.

        Raises:
            CannotEmitError: a keyword cannot be written.
        """
        reference = self._location(root, True)
        return {"$schema": _DRAFT, "$defs": self._definitions, **reference}

    def _location(self, node: Node, policy: bool) -> dict[str, Any]:
        """Return the schema of a value, which a closed object begins and ends with."""
        reference = self._reference(node, policy)
        if not (self._close and policy) or "object" not in node.types or self._is_map(node, 0):
            return reference
        # An object with a rule for undeclared properties has nothing unevaluated.
        return {**reference, "unevaluatedProperties": False}

    def _is_map(self, node: Node, depth: int) -> bool:
        """Return whether a schema has a rule for all names or all other properties, which declares them.

        ``unevaluatedProperties`` beside such a rule adds nothing, and not every validator sees the rule through a reference.
        """
        if depth > 30:
            return True
        parts = [
            *node.get("allOf", ()),
            *(b for key in ("anyOf", "oneOf") for g in node.get(key, ()) for b in g),
        ]
        parts += [part for rule in node.get("if", ()) for part in rule]
        extra = node.get("extra")
        return (
            (extra is not None and not extra.never)
            or "names" in node.keywords
            or any(self._is_map(part, depth + 1) for part in parts)
        )

    def _reference(self, node: Node, policy: bool) -> dict[str, Any]:
        if _PARTS.isdisjoint(node.keywords):
            return self._written(node, policy)
        key = (id(node), policy, True)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"n{len(self._names)}"
            self._kept.append(node)
            self._definitions[name] = {}
            self._definitions[name].update(self._written(node, policy))
        return {"$ref": f"#/$defs/{name}"}

    def _written(self, node: Node, policy: bool) -> dict[str, Any]:
        if node.never:
            return {"not": {}}
        made: dict[str, Any] = {}
        groups: list[dict[str, Any]] = []
        for key, value in node.keywords.items():
            if key == "opaque":
                raise CannotEmitError
            if key == "type":
                made["type"] = sorted(value)
            elif key in ("enum", *_PLAIN):
                made[key] = value
            elif key in ("low", "high"):
                word = {"low": "Minimum", "high": "Maximum"}[key]
                number = int(value[0]) if value[0] == value[0].to_integral_value() else float(value[0])
                made[f"exclusive{word}" if value[1] else word.lower()] = number
            elif key == "multipleOf":
                groups += [{"multipleOf": int(s) if s == s.to_integral_value() else float(s)} for s in value]
            elif key in ("pattern", "format"):
                groups += [{key: text} for text in sorted(value)]
            elif key in ("not", "contains", "names", "if", "allOf", "anyOf", "oneOf", "needs", "follow"):
                groups += self._combined(key, value, policy)
        self._items(node, made, policy)
        self._members(node, made, policy)
        if groups:
            made["allOf"] = groups
        return made

    def _combined(self, key: str, value: Any, policy: bool) -> Iterable[dict[str, Any]]:
        letter = policy and self._close  # a writer is closed inside oneOf, too
        for one in value if key not in ("needs", "follow") else ():
            if key == "not":
                yield {"not": self._reference(one, False)}
            elif key == "contains":
                yield {"contains": self._location(one, letter)}
            elif key == "names":
                yield {"propertyNames": self._reference(one, False)}
            elif key == "if":
                condition, then, otherwise = one
                yield {
                    "if": self._reference(condition, False),
                    "then": self._reference(then, policy),
                    "else": self._reference(otherwise, policy),
                }
            elif key == "allOf":
                yield self._reference(one, policy)
            else:
                inner = letter if key == "oneOf" else policy
                yield {key: [self._reference(branch, inner) for branch in one]}
        if key == "needs":
            yield {"dependentRequired": {name: sorted(needs) for name, needs in value.items()}}
        elif key == "follow":
            yield {"dependentSchemas": {name: self._reference(n, policy) for name, n in value.items()}}

    def _items(self, node: Node, made: dict[str, Any], policy: bool) -> None:
        rest = node.get("rest")
        if "first" in node.keywords:
            made["items"] = [self._location(n, policy) for n in node.keywords["first"]]
            if rest is not None:
                made["additionalItems"] = self._location(rest, policy)
        elif rest is not None:
            made["items"] = self._location(rest, policy)

    def _members(self, node: Node, made: dict[str, Any], policy: bool) -> None:
        declared: dict[str, Node] = node.get("properties", {})
        required = node.get("required", frozenset())
        if self._fill and policy:
            required = {n for n in required if n not in declared or not filled(declared[n])}
        if required:
            made["required"] = sorted(required)
        if declared:
            made["properties"] = {name: self._location(n, policy) for name, n in declared.items()}
        if self._close:
            # A name that is required is declared, if only there.
            made.setdefault("properties", {})
            for name in required:
                if name not in declared and "extra" not in node.keywords:
                    made["properties"][name] = True
            if not made["properties"]:
                del made["properties"]
        if "patterns" in node.keywords:
            made["patternProperties"] = {
                pattern: self._location(n, policy) for pattern, n in node.keywords["patterns"].items()
            }
        extra: Node | None = node.get("extra")
        if extra is not None and not (extra.never and self._open and policy):
            made["additionalProperties"] = False if extra.never else self._location(extra, policy)
