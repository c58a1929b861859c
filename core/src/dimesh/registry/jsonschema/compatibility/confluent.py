"""The verdicts of Confluent's registry about JSON Schemas: a difference of two schemas, each change allowed or not.

Confluent compares no sets of values. It walks through both schemas and looks each change up in a list of allowed ones, so that it
accepts some changes that break readers (a tightened ``patternProperties``, ``propertyNames``, ``contains``, ``format`` or ``if``
is not compared at all) and refuses some that do not (``const`` to ``enum``, ``enum`` to ``type``, any changed pattern). A refusal
therefore has no witness. The lenient policy also allows optional properties that are added to open objects, properties that are
removed from closed ones, and a narrower rule for additional properties.

Source: the description of the algorithm in Confluent's schema-registry (``SchemaDiff`` and its rules), as of August 2026.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dimesh.events.names import show
from dimesh.events.strictjson import canonical
from dimesh.registry.jsonschema.compatibility.nodes import ANYTHING, Node, same
from dimesh.registry.jsonschema.compatibility.values import matches
from dimesh.spi.schema import PROVED, Difference, Outcome, Verdict

CONFLUENT: Final = {"confluent": False, "confluent-lenient": True}
"""The policies, and whether each is lenient."""
MAX_DIFFERENCES: Final = 20


def confluent_verdict(original: Node, update: Node, *, lenient: bool) -> Verdict:
    """Return Confluent's verdict about an update of a schema.

    Args:
        original: the schema of the data.
        update: the schema of the one who reads the data.
        lenient: whether the policy is ``LENIENT``.
    """
    found = list(dict.fromkeys(_Differ(lenient).compare(original, update)))[:MAX_DIFFERENCES]
    return Verdict(Outcome.REFUTED, tuple(found)) if found else PROVED


class _Differ:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient
        self._seen: set[tuple[int, int]] = set()

    def compare(self, old: Node, new: Node) -> Iterator[Difference]:
        """Yield the changes that are not allowed."""
        old, new = _plain(old), _plain(new)
        pair = (id(old), id(new))
        if pair in self._seen or same(old, new) or not (new.keywords or new.never):
            return
        self._seen.add(pair)
        if new.never:
            yield _difference("nothing-allowed", new, "no value is allowed here any more")
            return
        if self._combined(old) or self._combined(new):
            yield from self._combinations(old, new)
            return
        yield from self._types(old, new)
        yield from self._values(old, new)
        yield from self._limits(old, new)
        if "object" in old.types & new.types:
            yield from self._objects(old, new)
        if "array" in old.types & new.types:
            yield from self._arrays(old, new)

    @staticmethod
    def _combined(node: Node) -> bool:
        return any(node.get(key) for key in ("allOf", "anyOf", "oneOf", "not"))

    def _holds(self, old: Node, new: Node) -> bool:
        seen, self._seen = self._seen, set(self._seen)
        try:
            return next(self.compare(old, new), None) is None
        finally:
            self._seen = seen

    def _combinations(self, old: Node, new: Node) -> Iterator[Difference]:
        for key in ("allOf", "anyOf", "oneOf"):
            before, after = (list(_flat(node.get(key))) for node in (old, new))
            if before and after:
                # Each branch of the smaller side needs a partner of its own.
                ways = [[n for n, b in enumerate(after) if self._holds(a, b)] for a in before]
                if _matched(ways) < min(len(before), len(after)) or (
                    key != "allOf" and len(after) < len(before)
                ):
                    yield _difference(
                        "combination-changed", new, f"a branch of {key} has no compatible partner"
                    )
            elif after and (key == "allOf" or not any(self._holds(old, branch) for branch in after)):
                yield _difference("combination-added", new, f"{key} was added")
            elif before and not all(self._holds(branch, new.with_(**{key: None})) for branch in before):
                yield _difference("combination-removed", new, f"{key} was removed")
        for mine, theirs in zip(old.get("not", ()), new.get("not", ()), strict=False):
            if not self._holds(theirs, mine):
                yield _difference("not-extended", new, "'not' excludes more than before")
        if new.get("not") and not old.get("not"):
            yield _difference("not-extended", new, "'not' was added")

    def _types(self, old: Node, new: Node) -> Iterator[Difference]:
        gone = [
            k
            for k in sorted(old.types)
            if k not in new.types and not (k == "integer" and "number" in new.types)
        ]
        if gone:
            yield _difference("type-narrowed", new, f"the type {' or '.join(gone)} is not allowed any more")

    def _values(self, old: Node, new: Node) -> Iterator[Difference]:
        mine, theirs = old.get("enum"), new.get("enum")
        if theirs is not None and mine is None:
            yield _difference("enum-added", new, "only listed values are allowed now")
        elif theirs is not None and not {canonical(v) for v in mine} <= {canonical(v) for v in theirs}:
            yield _difference("enum-narrowed", new, "fewer values are allowed now")
        elif theirs is None and mine is not None and "type" not in old.keywords and new.keywords.get("type"):
            yield _difference("type-changed", new, "listed values became a type")

    def _limits(self, old: Node, new: Node) -> Iterator[Difference]:
        for key, sign in (("low", 1), ("high", -1)):
            mine, theirs = old.get(key), new.get(key)
            if theirs is not None and (
                mine is None or (theirs[0] * sign, theirs[1]) > (mine[0] * sign, mine[1])
            ):
                yield _difference("bound-tightened", new, "a bound became stricter")
        for what in ("Length", "Items", "Properties"):
            if new.get(f"min{what}", 0) > old.get(f"min{what}", 0):
                yield _difference(f"min-{what.lower()}-increased", new, f"min{what} became greater")
            if f"max{what}" in new.keywords and old.get(f"max{what}", 10**12) > new.get(f"max{what}"):
                yield _difference(f"max-{what.lower()}-decreased", new, f"max{what} became smaller")
        steps = old.get("multipleOf", ())
        if any(not any(mine % step == 0 for mine in steps) for step in new.get("multipleOf", ())):
            yield _difference("multiple-of-changed", new, "multipleOf became stricter")
        if new.get("pattern", frozenset()) - old.get("pattern", frozenset()):
            yield _difference("pattern-changed", new, "the pattern was added or changed")
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield _difference("unique-items-added", new, "items must be unique now")

    def _objects(self, old: Node, new: Node) -> Iterator[Difference]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, node in after.items():
            required = name in new.get("required", ())
            if name in before:
                yield from self.compare(before[name], node)
                if required and name not in old.get("required", ()) and node.default is None:
                    yield _difference("required-added", node, f"{show(name)} is required now")
                continue
            cover = _cover(old, name)
            open_ = cover is not None and not cover.never
            if required and node.default is None:
                yield _difference(
                    "required-property-added", node, f"the required property {show(name)} was added"
                )
            elif (
                open_
                and not self._lenient
                and not (cover is not ANYTHING and cover and self._holds(cover, node))
            ):
                if node.keywords or node.never:
                    yield _difference(
                        "property-added",
                        node,
                        f"{show(name)} was added, but any value of it was allowed before",
                    )
        for name, node in before.items():
            if name in after:
                continue
            cover = _cover(new, name)
            if cover is None or (self._lenient and cover.never):
                continue
            if not self._holds(node, cover):
                yield _difference(
                    "property-removed", new, f"{show(name)} was removed, and is not allowed any more"
                )
        mine, theirs = old.get("extra", ANYTHING), new.get("extra", ANYTHING)
        if not self._lenient and not mine.never and not self._holds(mine, theirs):
            yield _difference(
                "additional-properties-narrowed", new, "fewer additional properties are allowed now"
            )

    def _arrays(self, old: Node, new: Node) -> Iterator[Difference]:
        length = max(len(old.get("first", ())), len(new.get("first", ())))
        for n in range(length + 1):
            if not old.at(n).never:
                yield from self.compare(old.at(n), new.at(n))


def _plain(node: Node) -> Node:
    """Return what a reference leads to."""
    for _ in range(100):
        parts = node.get("allOf", ())
        if len(parts) != 1 or len(node.keywords) != 1:
            break
        node = parts[0]
    return node


def _cover(node: Node, name: str) -> Node | None:
    """Return the rule for a property that an object does not declare."""
    for pattern, rule in node.get("patterns", {}).items():
        if matches(pattern, name):
            found: Node = rule
            return found
    extra: Node = node.get("extra", ANYTHING)
    return extra


def _flat(rules: Any) -> Iterator[Node]:
    for rule in rules or ():
        if isinstance(rule, Node):
            yield rule
        else:
            yield from rule


def _matched(ways: list[list[int]]) -> int:
    """Return the size of a maximum matching; ``ways`` has the possible partners of each item."""
    partner: dict[int, int] = {}

    def place(item: int, seen: set[int]) -> bool:
        for other in ways[item]:
            if other not in seen:
                seen.add(other)
                if other not in partner or place(partner[other], seen):
                    partner[other] = item
                    return True
        return False

    return sum(place(item, set()) for item in range(len(ways)))


def _difference(code: str, node: Node, message: str) -> Difference:
    return Difference(code, node.where, message)
