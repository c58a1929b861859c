"""The proof that a reader's schema allows every value of a writer's schema, location by location.

Each rule is sound: it answers yes only if the yes follows. What no rule decides is a :class:`Failure`, for which a witness is
looked for afterwards. A pair of schemas that is reached again through a reference is assumed to hold: if there were a
counter-example, the first comparison would find a smaller one (co-induction); a pair that failed takes what was assumed below
it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from dimesh.events.names import show
from dimesh.registry.jsonschema.compatibility.disjoint import disjoint
from dimesh.registry.jsonschema.compatibility.implied import (
    branches_of,
    filled,
    is_full,
    with_formats,
    with_needs,
    without_excluded_types,
)
from dimesh.registry.jsonschema.compatibility.nodes import (
    ANYTHING,
    COMBINED,
    NOTHING,
    Node,
    both,
    same,
)
from dimesh.registry.jsonschema.compatibility.values import allows, matches

MAX_STEPS: Final = 20_000
MAX_ALTERNATIVES: Final = 64
MAX_LISTED: Final = 100
"""A range of whole numbers with at most this many is compared number by number."""
MAX_EMPTY_DEPTH: Final = 4
Step = str | int
"""A step into a value: the name of a property, or the index of an item."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be assumed about writers and readers."""

    fills: bool
    """The reader fills in a required property whose default is valid."""
    tolerant: bool
    """Writers send only what they declare, and readers ignore what they do not know."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A location at which the proof failed."""

    code: str
    message: str
    writer: Node
    reader: Node
    at: tuple[Step, ...]
    """The way into the value."""


class OutOfStepsError(Exception):
    """The schemas are too large to compare."""


class Proof:
    """One comparison.

    Args:
        policy: what may be assumed.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._assumed: set[tuple[int, int, bool, bool]] = set()
        self._kept: list[Node] = []  # the identity of a node must not be used again while it is in a pair
        self._steps = 0
        self._alternatives: dict[int, list[Node]] = {}
        self._negated = 0
        """How many ``not`` and ``if`` there are around: inside, the assumptions would point in the wrong direction."""
        self._exact = 0
        """How many ``oneOf`` of the reader there are around: a wider branch would overlap with the others."""

    @property
    def closed(self) -> bool:
        """Whether the writer sends only what it declares, here."""
        return self._policy.tolerant and not self._negated

    @property
    def opened(self) -> bool:
        """Whether the reader ignores what it does not know, here."""
        return self._policy.tolerant and not self._negated and not self._exact

    @property
    def fills(self) -> bool:
        """Whether the reader fills in defaults, here."""
        return self._policy.fills and not self._negated and not self._exact

    # -- the relation ----------------------------------------------------------------------------

    def failures(self, w: Node, r: Node, at: tuple[Step, ...] = ()) -> list[Failure]:
        """Return why it is not proved that every value of ``w`` is allowed by ``r``; empty: it is proved."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise OutOfStepsError
        if w.never or not (r.keywords or r.never) or same(w, r):
            return []
        pair = (id(w), id(r), self._negated > 0, self._exact > 0)
        if pair in self._assumed:
            return []
        before = set(self._assumed)
        self._assumed.add(pair)
        self._kept += (w, r)
        found = self._failures(w, r, at)
        if found:
            self._assumed = before
        return found

    def _holds(self, w: Node, r: Node) -> bool:
        return not self.failures(w, r)

    def _failures(self, w: Node, r: Node, at: tuple[Step, ...]) -> list[Failure]:
        alternatives = self.alternatives(w)
        if alternatives is None:
            return [Failure("too-many-alternatives", "the schema has too many alternatives", w, r, at)]
        if alternatives != [w]:
            found: list[Failure] = []
            for alternative in alternatives:
                found += self.failures(alternative, r, at)
                if len(found) > 5:
                    break
            return found
        w = without_excluded_types(with_needs(w))
        if self._empty(w) or self._excluded(w):
            return []
        w = w.with_(type=frozenset(kind for kind in w.types if not self._empty_kind(w, kind, 0)))
        if r.never:
            return [Failure("nothing-allowed", "no value is allowed here any more", w, r, at)]
        found = []
        for part in r.get("allOf", ()):
            found += self.failures(w, part, at)
        values = self._finite(w)
        if values is not None:
            return found + list(self._listed(w, values, r, at))
        found += self._branches(w, r, at)
        found += self._negations(w, r, at)
        if not r.get("opaque", frozenset()) <= w.get("opaque", frozenset()):
            found.append(
                Failure(
                    "not-compared", "a keyword that is compared only as text was added or changed", w, r, at
                )
            )
        if "enum" in r.keywords:
            found.append(Failure("values-limited", "only listed values are allowed now", w, r, at))
            return found
        return found + list(self._by_type(w, r, at))

    # -- the writer's alternatives ---------------------------------------------------------------

    def alternatives(self, w: Node) -> list[Node] | None:
        """Return schemas without combinations that together allow at least what ``w`` allows; None: there are too many."""
        known = self._alternatives.get(id(w))
        if known is None:
            if not any(key in w.keywords for key in COMBINED):
                return [w]
            expanded = self._expanded(w, 0)
            if expanded is None:
                return None
            known = self._alternatives[id(w)] = expanded
            self._kept.append(w)
        return known

    def _expanded(self, w: Node, depth: int) -> list[Node] | None:
        if depth > 30:
            return None
        key = next((k for k in COMBINED if w.keywords.get(k)), None)
        if key is None:
            return [w]
        first, *others = w.keywords[key]
        rest = w.with_(**{key: others or None})
        branches = branches_of(key, first, w.where)
        made: list[Node] = []
        for branch in branches:
            one = self._conjunction(rest, branch)
            more = self._expanded(one, depth + 1) if one is not None else None
            if more is None or len(made) + len(more) > MAX_ALTERNATIVES:
                return None
            made += more
        return made

    def _conjunction(self, rest: Node, branch: Node) -> Node | None:
        joined = both(rest, branch)
        if joined is not None:
            return joined
        if self._policy.tolerant:
            return None  # leaving a part out would also leave out what it declares
        return branch  # a value satisfies each part, so one part alone allows at least as much

    def _empty(self, w: Node, depth: int = 0) -> bool:
        """Return whether it is certain that ``w`` allows nothing."""
        if w.never or not w.types:
            return True
        if any(not excluded.keywords and not excluded.never for excluded in w.get("not", ())):
            return True
        values = self._finite(w)
        if values is not None:
            own = w.with_(enum=None)
            return all(allows(own, value) is False for value in values)
        if depth > MAX_EMPTY_DEPTH:
            return False
        return all(self._empty_kind(w, kind, depth) for kind in w.types)

    def _empty_kind(self, w: Node, kind: str, depth: int) -> bool:
        if kind in ("integer", "number"):
            low, high = w.get("low"), w.get("high")
            return (
                low is not None
                and high is not None
                and (low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1])))
            )
        if kind == "string":
            w = with_formats(w)
            return bool(w.get("minLength", 0) > w.get("maxLength", 10**12))
        if kind == "array":
            if w.get("minItems", 0) > w.get("maxItems", 10**12) or (
                w.get("contains") and w.get("maxItems") == 0
            ):
                return True
            return any(
                self._nothing(w.at(n), depth)
                for n in range(min(w.get("minItems", 0), len(w.get("first", ())) + 1))
            ) or any(
                all(disjoint(wanted, w.at(n), self) for n in range(len(w.get("first", ())) + 1))
                for wanted in w.get("contains", ())
            )
        if kind == "object":
            if w.get("minProperties", 0) > w.get("maxProperties", 10**12):
                return True
            required = w.get("required", frozenset())
            most = w.get("maxProperties", 10**12)
            if not self._open(w) and not w.get("patterns"):
                most = min(most, len({*w.get("properties", {}), *required}))
            if max(len(required), w.get("minProperties", 0)) > most:
                return True
            return any(self._nothing(self.allowed(w, name), depth) for name in required)
        return False

    def _excluded(self, w: Node) -> bool:
        """Return whether ``not`` excludes everything that the rest of the schema allows."""
        if not w.get("not"):
            return False
        rest = w.with_(**{"not": None})
        self._negated += 1
        try:
            return any(self._holds(rest, excluded) for excluded in w.keywords["not"])
        finally:
            self._negated -= 1

    def _nothing(self, w: Node, depth: int) -> bool:
        alternatives = self.alternatives(w)
        return alternatives is not None and all(self._empty(part, depth + 1) for part in alternatives)

    # -- listed values ---------------------------------------------------------------------------

    @staticmethod
    def _finite(w: Node) -> list[Any] | None:
        """Return all values that a schema can allow, if it lists them."""
        if "enum" in w.keywords:
            return list(w.keywords["enum"])
        if w.types <= {"null", "boolean"}:
            found: list[Any] = [None] if "null" in w.types else []
            return found + ([True, False] if "boolean" in w.types else [])
        low, high = w.get("low"), w.get("high")
        if low is not None and low == high and not low[1] and w.types <= {"integer", "number"}:
            return [int(low[0]) if low[0] == low[0].to_integral_value() else float(low[0])]
        if w.types == {"integer"} and low is not None and high is not None:
            first, last = (_tighter(bound, sign, True)[0] * sign for bound, sign in ((low, 1), (high, -1)))
            if last - first < MAX_LISTED:
                return list(range(int(first), int(last) + 1))
        return None

    def _listed(self, w: Node, values: list[Any], r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        own = w.with_(enum=None)
        for value in values:
            if allows(own, value) is False:
                continue
            answer = allows(r, value)
            if answer is True:
                continue
            single = Node({"enum": [value]}, w.where)
            if answer is False:
                yield Failure(
                    "value-removed", f"the value {show(value)} is not allowed any more", single, r, at
                )
            else:
                yield Failure("value-unknown", f"the value {show(value)} cannot be checked", single, r, at)

    # -- the reader's combinations ---------------------------------------------------------------

    def _branches(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        groups = [(group, False) for group in r.get("anyOf", ())] + [
            (group, True) for group in r.get("oneOf", ())
        ]
        for group, exactly in groups:
            for part in self._by_kind(w):
                self._exact += exactly
                try:
                    chosen = [branch for branch in group if self._holds(part, branch)]
                finally:
                    self._exact -= exactly
                if not chosen:
                    yield Failure(
                        "no-branch", "no branch allows everything that was allowed before", part, r, at
                    )
                elif exactly and not any(
                    all(other is branch or disjoint(part, other, self) for other in group)
                    for branch in chosen
                ):
                    yield Failure(
                        "two-branches", "a value may satisfy more than one branch of oneOf", part, r, at
                    )

    @staticmethod
    def _by_kind(w: Node) -> list[Node]:
        """Return a schema for each type of a schema."""
        if len(w.types) == 1:
            return [w]
        return [w.with_(type=frozenset({kind})) for kind in sorted(w.types)]

    def _negations(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        for excluded in r.get("not", ()):
            self._negated += 1
            try:
                proved = (
                    self._nothing(excluded, 0)
                    or disjoint(w, excluded, self)
                    or any(self._holds(excluded, mine) for mine in w.get("not", ()))
                )
            finally:
                self._negated -= 1
            if not proved:
                yield Failure(
                    "excluded", "values that were allowed before may be excluded by 'not'", w, r, at
                )
        for condition, then, otherwise in r.get("if", ()):
            if self._holds(w, then) and self._holds(w, otherwise):
                continue
            self._negated += 1
            try:
                always = self._holds(w, condition)
                never = disjoint(w, condition, self)
            finally:
                self._negated -= 1
            if (always and self._holds(w, then)) or (never and self._holds(w, otherwise)):
                continue
            yield Failure("condition", "the condition 'if' asks for more than before", w, r, at)

    # -- by type ---------------------------------------------------------------------------------

    def _by_type(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        whole = all(step == step.to_integral_value() for step in w.get("multipleOf", ())) and bool(
            w.get("multipleOf")
        )
        gone = [
            kind
            for kind in sorted(w.types)
            if kind not in r.types
            and not (kind == "integer" and "number" in r.types)
            and not (kind == "number" and "integer" in r.types and whole)
        ]
        if gone:
            message = f"the type {' or '.join(gone)} is not allowed any more"
            yield Failure("type-removed", message, w.with_(type=frozenset(gone)), r, at)
        left = w.types - set(gone)
        if left & {"number", "integer"}:
            yield from self._number(w, r, at, whole or "number" not in left)
        if "string" in left:
            yield from self._string(w, r, at)
        if "array" in left:
            yield from self._array(w.with_(type=frozenset({"array"})), r, at)
        if "object" in left:
            yield from self._object(w.with_(type=frozenset({"object"})), r, at)

    @staticmethod
    def _number(w: Node, r: Node, at: tuple[Step, ...], whole: bool) -> Iterator[Failure]:
        numbers = w.with_(type=w.types & {"number", "integer"})
        for key, sign, word in (("low", 1, "minimum"), ("high", -1, "maximum")):
            need = r.get(key)
            if need is None:
                continue
            have = w.get(key)
            if have is None or _tighter(need, sign, whole) > _tighter(have, sign, whole):
                yield Failure(f"{word}-tightened", f"the {word} became stricter", numbers, r, at)
        for step in r.get("multipleOf", ()):
            own = (*w.get("multipleOf", ()), *((Decimal(1),) if whole else ()))
            if not any(mine % step == 0 for mine in own):
                yield Failure("multiple-of", f"only multiples of {step} are allowed now", numbers, r, at)

    @staticmethod
    def _string(w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        texts = w.with_(type=frozenset({"string"}))
        texts = with_formats(texts)
        yield from _limits(texts, r, at, "Length", "the length")
        for pattern in sorted(r.get("pattern", frozenset()) - w.get("pattern", frozenset())):
            if pattern not in _ANY_TEXT:
                yield Failure("pattern", f"the pattern {show(pattern)} was added or changed", texts, r, at)
        for name in sorted(r.get("format", frozenset()) - w.get("format", frozenset())):
            yield Failure("format", f"the format {show(name)} was added or changed", texts, r, at)

    def _array(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        longest = w.get("maxItems")
        for n in range(len(w.get("first", ())) + 1):
            if self._nothing(w.at(n), 2):
                longest = n if longest is None else min(n, longest)
                break
        w = w if longest is None else w.with_(maxItems=longest)
        yield from _limits(w, r, at, "Items", "the number of items")
        if r.get("uniqueItems") and not w.get("uniqueItems") and (longest is None or longest > 1):
            yield Failure("unique-items", "items must be unique now", w, r, at)
        positions = max(len(w.get("first", ())), len(r.get("first", ()))) + 1
        for n in range(positions if longest is None else min(positions, longest)):
            yield from self.failures(w.at(n), r.at(n), (*at, n))
        for wanted in r.get("contains", ()):
            self._exact += 1
            try:
                surely = range(min(w.get("minItems", 0), positions))
                proved = any(self._holds(mine, wanted) for mine in w.get("contains", ())) or any(
                    self._holds(w.at(n), wanted) for n in surely
                )
            finally:
                self._exact -= 1
            if proved:
                continue
            yield Failure("contains", "an item that satisfies 'contains' is needed now", w, r, at)

    # -- objects ---------------------------------------------------------------------------------

    def allowed(self, w: Node, name: str) -> Node:
        """Return the schema of a property of the writer's objects."""
        if any(allows(rule, name) is False for rule in w.get("names", ())) or (
            is_full(w) and name not in w.get("required", frozenset())
        ):
            return NOTHING
        rules = [w.get("properties", {})[name]] if name in w.get("properties", {}) else []
        undecided = False
        for pattern, node in w.get("patterns", {}).items():
            hit = matches(pattern, name)
            undecided |= hit is None
            if hit:
                rules.append(node)
        if not rules and not undecided:
            extra: Node | None = w.get("extra")
            if extra is None:
                # A name that is required is declared, if only there.
                return ANYTHING if self._open(w) or name in w.get("required", frozenset()) else NOTHING
            return extra
        return _joined(rules)

    def _open(self, w: Node) -> bool:
        """Return whether the writer may send properties that it does not declare."""
        extra: Node | None = w.get("extra")
        if extra is not None:
            return not extra.never
        # A rule for names declares a map. What the other two declare is not known here.
        return not self.closed or not {"names", "follow", "opaque"}.isdisjoint(w.keywords)

    def _object(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        declared, patterns = r.get("properties", {}), r.get("patterns", {})
        rest: Node | None = r.get("extra")
        if rest is not None and rest.never and self.opened:
            rest = None  # what the reader does not know, it ignores
        required = w.get("required", frozenset())
        for name in sorted({*w.get("properties", {}), *declared, *required}):
            mine = self.allowed(w, name)
            if self._nothing(mine, 2):
                continue
            for theirs in self._rules(name, declared, patterns, rest):
                yield from self.failures(mine, theirs, (*at, name))
        known = w.get("patterns", {})
        others = [*known.items(), *((("", w.get("extra", ANYTHING)),) if self._open(w) else ())]
        for pattern, mine in others if not is_full(w) else ():
            # A name of "" is any that matches none of the writer's patterns.
            rules = [(p, node) for p, node in patterns.items() if pattern or p not in known]
            rules += [("", rest)] if rest is not None and pattern not in patterns else []
            for p, theirs in rules:
                yield from self.failures(mine, theirs, (*at, _example((pattern, p), w, r)))
        yield from self._required(w, r, at)
        yield from self._sizes(w, r, at)
        yield from self._names(w, r, at)
        yield from self._dependencies(w, r, at)

    @staticmethod
    def _rules(
        name: str, declared: dict[str, Node], patterns: dict[str, Node], rest: Node | None
    ) -> Iterable[Node]:
        """Yield what a reader asks of a property, or might ask where a pattern is not understood."""
        if name in declared:
            yield declared[name]
        hits = {pattern: matches(pattern, name) for pattern in patterns}
        yield from (patterns[pattern] for pattern, hit in hits.items() if hit is not False)
        if name not in declared and True not in hits.values() and rest is not None:
            yield rest

    def _required(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        for name in sorted(r.get("required", frozenset()) - w.get("required", frozenset())):
            theirs: Node | None = r.get("properties", {}).get(name)
            if self.fills and theirs is not None and filled(theirs):
                continue
            yield Failure("required-added", f"{name!a} is required now", w, r, at)

    def _sizes(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        least = max(w.get("minProperties", 0), len(w.get("required", ())))
        most = w.get("maxProperties")
        if not self._open(w) and not w.get("patterns"):
            names = {*w.get("properties", {}), *w.get("required", ())}
            most = len(names) if most is None else min(most, len(names))
        if r.get("minProperties", 0) > least:
            yield Failure("min-properties-tightened", "more properties are needed now", w, r, at)
        if "maxProperties" in r.keywords and (most is None or most > r.get("maxProperties")):
            yield Failure("max-properties-tightened", "fewer properties are allowed now", w, r, at)

    def _names(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        for rule in r.get("names", ()):
            if any(self._holds(mine, rule) for mine in w.get("names", ())):
                continue
            if self._open(w) or w.get("patterns"):
                mine = _joined([Node({"type": frozenset({"string"})}), *w.get("names", ())])
                proved = self._holds(mine, rule)
            else:
                names = {*w.get("properties", {}), *w.get("required", ())}
                proved = all(self.allowed(w, name).never or allows(rule, name) for name in names)
            if not proved:
                yield Failure("names", "names of properties are limited now", w, r, at)

    def _dependencies(self, w: Node, r: Node, at: tuple[Step, ...]) -> Iterator[Failure]:
        required = w.get("required", frozenset())
        for name, needs in r.get("needs", {}).items():
            have = required | w.get("needs", {}).get(name, frozenset())
            if not self.allowed(w, name).never and not needs <= have:
                missing = ", ".join(show(n) for n in sorted(needs - have))
                yield Failure("dependency", f"{show(name)} needs {missing} now", w, r, at)
        for name, rule in r.get("follow", {}).items():
            if self.allowed(w, name).never:
                continue
            mine = w.get("follow", {}).get(name)
            if mine is not None and self._holds(mine, rule):
                continue
            with_name = w.with_(required=required | {name})
            for failure in self.failures(with_name, rule, at):
                yield Failure("dependency", f"with {show(name)}: {failure.message}", with_name, r, at)


_ANY_TEXT: Final = frozenset({"", ".*", "^", "$", "^.*"})
"""Patterns that every text matches."""


def _joined(rules: list[Node]) -> Node:
    if not rules:
        return ANYTHING
    return rules[0] if len(rules) == 1 else Node({"allOf": rules}, rules[0].where)


def _tighter(bound: tuple[Decimal, bool], sign: int, whole: bool) -> tuple[Decimal, bool]:
    """Return a bound so that a greater one is stricter. For whole numbers, "greater than 4" is "at least 5"."""
    value, excluded = bound[0] * sign, bound[1]
    if whole:
        up = value.to_integral_value(rounding="ROUND_CEILING")
        return (up + 1 if excluded and up == value else up, False)
    return (value, excluded)


def _limits(w: Node, r: Node, at: tuple[Step, ...], what: str, word: str) -> Iterator[Failure]:
    least, most = f"min{what}", f"max{what}"
    if r.get(least, 0) > w.get(least, 0):
        yield Failure(f"min-{what.lower()}-tightened", f"{word} must be greater now", w, r, at)
    if most in r.keywords and w.get(most, 10**12) > r.get(most):
        yield Failure(f"max-{what.lower()}-tightened", f"{word} must be smaller now", w, r, at)


def _example(patterns: tuple[str, str], w: Node, r: Node) -> str:
    """Return the name of a property that neither side declares; one that matches the patterns and the rules for names where that
    is easy.
    """
    taken = {*w.get("properties", {}), *r.get("properties", {})}
    cores = [core for pattern in patterns if (core := pattern.strip("^$")).isalnum()] or ["extra"]
    bases = [*cores, "".join(cores), "".join(reversed(cores)), *_LETTERS]
    names = [name for base in bases for name in (base, f"x{base}", f"{base}x", f"{base}{base}")]
    names += [f"{cores[0]}{n}" for n in range(len(taken) + 1)]
    free = [name for name in names if name not in taken]
    return next(
        (
            name
            for name in free
            if all(not pattern or matches(pattern, name) for pattern in patterns)
            and all(allows(rule, name) is not False for rule in w.get("names", ()))
        ),
        free[0],
    )


_LETTERS: Final = ("a", "b", "c", "d", "z", "A", "1", "")
