"""The proof that no value is allowed by two schemas at once."""

from __future__ import annotations

from typing import Final, Protocol

from dimesh.registry.jsonschema.compatibility.nodes import ANYTHING, Node, both, same
from dimesh.registry.jsonschema.compatibility.values import allows

MAX_DEPTH: Final = 6


class Expands(Protocol):
    """The part of a proof that is needed here."""

    def alternatives(self, w: Node) -> list[Node] | None:
        """Return schemas without combinations that together allow at least what ``w`` allows; None: there are too many."""
        ...


def disjoint(one: Node, two: Node, proof: Expands, depth: int = 0) -> bool:
    """Return whether it is certain that no value is allowed by both."""
    if one.never or two.never:
        return True
    if depth > MAX_DEPTH:
        return False
    mine, theirs = proof.alternatives(one), proof.alternatives(two)
    if mine is None or theirs is None:
        return False
    return all(_disjoint(a, b, proof, depth) for a in mine for b in theirs)


def _disjoint(a: Node, b: Node, proof: Expands, depth: int) -> bool:
    joined = both(a.with_(extra=None, patterns=None), b.with_(extra=None, patterns=None))
    if joined is None or a.never or b.never:
        return a.never or b.never
    if joined.never or not joined.types:
        return True
    if any(_negates(x, y) for x, y in ((a, b), (b, a))):
        return True
    if "enum" in joined.keywords:
        return all(allows(a, v) is False or allows(b, v) is False for v in joined.keywords["enum"])
    low, high = joined.get("low"), joined.get("high")
    if joined.types <= {"number", "integer"} and low is not None and high is not None:
        return bool(low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1])))
    if joined.types == {"string"}:
        return bool(joined.get("minLength", 0) > joined.get("maxLength", 10**12))
    if joined.types == {"object"}:
        return any(
            _property(a, name).never
            or _property(b, name).never
            or disjoint(_property(a, name), _property(b, name), proof, depth + 1)
            for name in joined.get("required", ())
        )
    if joined.types == {"array"}:
        return bool(joined.get("minItems", 0) > joined.get("maxItems", 10**12)) or (
            joined.get("minItems", 0) > 0 and disjoint(a.at(0), b.at(0), proof, depth + 1)
        )
    return False


def _negates(a: Node, b: Node) -> bool:
    """Return whether one schema excludes exactly what the other one is."""
    return any(same(excluded, b) for excluded in a.get("not", ()))


def _property(node: Node, name: str) -> Node:
    declared: Node | None = node.get("properties", {}).get(name)
    if declared is not None:
        return declared
    extra: Node | None = node.get("extra")
    return ANYTHING if extra is None or node.get("patterns") else extra
