"""What a schema implies without saying it."""

from __future__ import annotations

from typing import Any

from dimesh.registry.jsonschema.compatibility.nodes import Node
from dimesh.registry.jsonschema.compatibility.values import FORMAT_LENGTHS, allows


def branches_of(key: str, rule: Any, where: str) -> list[Node]:
    """Return schemas of which every value satisfies exactly one, or with ``anyOf`` at least one."""
    if key == "allOf":
        return [rule]
    if key == "if":
        condition, then, otherwise = rule
        return [
            Node({"allOf": [condition, then]}, where),
            Node({"allOf": [otherwise], "not": [condition]}, where),
        ]
    if key == "anyOf" or len(rule) == 1:
        return list(rule)
    return [
        Node({"allOf": [branch], "not": [other for other in rule if other is not branch]}, branch.where)
        for branch in rule
    ]


def with_needs(w: Node) -> Node:
    """Return a schema that requires what its required properties need."""
    required = w.get("required", frozenset())
    needs: dict[str, frozenset[str]] = w.get("needs", {})
    waiting = [name for name in required if name in needs]
    while waiting:
        more = needs[waiting.pop()] - required
        required |= more
        waiting += [name for name in more if name in needs]
    return w if required == w.get("required", frozenset()) else w.with_(required=required)


def with_formats(w: Node) -> Node:
    """Return a schema with the limits of the length that its formats imply."""
    for name in w.get("format", ()):
        least, most = FORMAT_LENGTHS.get(name, (0, 10**12))
        w = w.with_(
            minLength=max(least, w.get("minLength", 0)), maxLength=min(most, w.get("maxLength", most))
        )
    return w


def without_excluded_types(w: Node) -> Node:
    """Return a schema without the types that a ``not`` with nothing but types excludes."""
    plain = [rule for rule in w.get("not", ()) if rule.keywords.keys() == {"type"} and not rule.never]
    if not plain:
        return w
    gone = frozenset(kind for rule in plain for kind in rule.types)
    gone |= {"integer"} if "number" in gone else frozenset()
    return w.with_(type=w.types - gone)


def filled(node: Node) -> bool:
    """Return whether a property has a default that is valid itself."""
    holder = node
    for _ in range(10):
        if holder.default is not None:
            return allows(node, holder.default[0]) is not False and not (
                allows(node, holder.default[0]) is None and not node.get("format")
            )
        parts = holder.get("allOf", ())
        if len(parts) != 1:
            return False
        holder = parts[0]
    return False


def is_full(w: Node) -> bool:
    """Return whether objects have room for the required properties only."""
    most: int | None = w.get("maxProperties")
    return most is not None and len(w.get("required", frozenset())) >= most
