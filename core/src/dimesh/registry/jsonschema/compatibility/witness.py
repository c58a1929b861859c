"""The search for a witness: a value that the writer may write and the reader refuses.

For each location at which the proof failed, values are made that the writer's part allows and that lie just beyond what the
reader's part asks for; each is set into a value of the whole writer's schema. A value counts only when the validators of both
sides agree.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from dimesh.events.strictjson import canonical
from dimesh.registry.jsonschema.compatibility.nodes import ANYTHING, Node
from dimesh.registry.jsonschema.compatibility.proof import Failure, Proof, Step
from dimesh.registry.jsonschema.compatibility.values import allows

MAX_TRIES: Final = 400
"""The number of values that are tried for one comparison."""
_DEPTH: Final = 8

_FORMATS: Final = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T09:30:00Z",
    "time": "09:30:00Z",
    "email": "a@b.example",
    "hostname": "b.example",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://b.example/a",
    "uri-reference": "/a",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "json-pointer": "/a",
    "regex": "a",
}


class UnsatisfiableError(Exception):
    """No value could be made."""


class Values:
    """Makes values of a schema.

    Args:
        proof: the comparison, which knows the alternatives of a schema.
        seed: of the choices; equal seeds make equal values.
    """

    def __init__(self, proof: Proof, seed: int) -> None:
        self._proof = proof
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._lean = seed == 0
        """Whether objects have only what they need: a short witness says more."""

    def value(self, node: Node, way: Sequence[Step] = (), leaf: Any = None, depth: int = 0) -> Any:
        """Return a value of a schema.

        Args:
            node: the schema.
            way: the way to a part of the value that is given.
            leaf: that part.
            depth: how deep the value is in the whole.

        Raises:
            UnsatisfiableError: none could be made.
        """
        alternatives = self._proof.alternatives(node)
        if node.never or not alternatives or depth > 2 * _DEPTH:
            raise UnsatisfiableError
        possible = [a for a in alternatives if not a.never]
        if not possible:
            raise UnsatisfiableError
        chosen = self._random.choice(possible)
        if not way and depth and leaf is not None:
            return leaf[0]
        if way:
            return self._through(chosen, way, leaf, depth)
        return self._plain(chosen, depth)

    def _through(self, node: Node, way: Sequence[Step], leaf: Any, depth: int) -> Any:
        step, *rest = way
        if isinstance(step, str):
            made = self._object(node, depth, {step})
            inner = self._proof.allowed(node, step)
            made[step] = leaf[0] if not rest else self.value(inner, rest, leaf, depth + 1)
            return made
        length = max(step + 1, node.get("minItems", 0))
        items = [self.value(node.at(n), depth=depth + 1) if n != step else None for n in range(length)]
        items[step] = leaf[0] if not rest else self.value(node.at(step), rest, leaf, depth + 1)
        return items

    def _plain(self, node: Node, depth: int) -> Any:
        if "enum" in node.keywords:
            fitting = [v for v in node.keywords["enum"] if allows(node.with_(enum=None), v) is not False]
            if not fitting:
                raise UnsatisfiableError
            return self._random.choice(fitting)
        kinds = sorted(node.types)
        if depth > _DEPTH:
            kinds = [k for k in kinds if k not in ("array", "object")] or kinds
        kind = self._random.choice(kinds)
        if kind == "null":
            return None
        if kind == "boolean":
            return self._random.choice([True, False])
        if kind in ("integer", "number"):
            return self._random.choice(numbers(node, kind == "integer") or [0])
        if kind == "string":
            return self._random.choice(texts(node))
        if kind == "array":
            return self._array(node, depth)
        return self._object(node, depth, set())

    def _array(self, node: Node, depth: int) -> list[Any]:
        least = node.get("minItems", 0)
        most = min(node.get("maxItems", least + 2), least + 2)
        wanted = node.get("contains", [])
        length = max(self._random.randint(least, max(most, least)), len(wanted) if wanted else 0)
        made: list[Any] = []
        for n in range(length):
            if n < len(wanted):
                try:
                    made.append(self.value(Node({"allOf": [node.at(n), wanted[n]]}), depth=depth + 1))
                    continue
                except UnsatisfiableError:
                    pass
            for _ in range(4):
                try:
                    item = self.value(node.at(n), depth=depth + 1)
                except UnsatisfiableError:
                    return made
                if not node.get("uniqueItems") or canonical(item) not in {canonical(i) for i in made}:
                    break
            made.append(item)
        return made

    def _object(self, node: Node, depth: int, without: set[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        names = set(node.get("required", frozenset()))
        share = 0.0 if self._lean or depth > _DEPTH else self._random.choice((0.0, 0.5, 1.0))
        names |= {n for n in node.get("properties", {}) if self._random.random() < share}
        for name, needs in node.get("needs", {}).items():
            names |= needs if name in names else set()
        for name in sorted(names - without):
            try:
                made[name] = self.value(self._proof.allowed(node, name), depth=depth + 1)
            except UnsatisfiableError:
                if name in node.get("required", frozenset()):
                    raise
        extra = self._proof.allowed(node, "extra")
        n = 0
        while len(made) < node.get("minProperties", 0) and not extra.never and n < 20:
            made[f"extra{n}"] = self.value(extra, depth=depth + 1)
            n += 1
        return made


def numbers(node: Node, whole: bool) -> list[int | float]:
    """Return numbers at and near the bounds of a schema."""
    steps = node.get("multipleOf", ())
    step = steps[0] if steps else Decimal(1)
    found: list[Decimal] = []
    for bound in (node.get("low"), node.get("high")):
        if bound is not None:
            start = (bound[0] / step).to_integral_value() * step
            found += [start + k * step for k in (-2, -1, 0, 1, 2)]
            if not whole and not steps:
                found += [bound[0] + Decimal(f) for f in ("0.5", "-0.5")]
    found += [k * step for k in (0, 1, -1, 7, 1000)]
    if not whole and not steps:
        found += [Decimal("0.5"), Decimal("-2.25")]
    plain = [int(n) if n == n.to_integral_value() else float(n) for n in found]
    return [n for n in plain if allows(node, n) is not False and not (whole and isinstance(n, float))]


def texts(node: Node) -> list[str]:
    """Return texts at and near the limits of a schema."""
    least, most = node.get("minLength", 0), node.get("maxLength")
    found = [s for p in sorted(node.get("pattern", ())) for s in samples(p)]
    found += [_FORMATS.get(name, "a") for name in sorted(node.get("format", ()))]
    if found:
        # A text that is too short for the other limits may fit with more of the same before or behind it.
        sizes = {least, least + 1, *(() if most is None else (most,))}
        for text in tuple(found):
            for size in sorted(sizes):
                more = min(size, 10_000) - len(text)
                if more > 0:
                    fill = [*{text[:1] or "a", text[-1:] or "a", "a", "1"}]
                    found += [made for c in sorted(fill) for made in (text + c * more, c * more + text)]
    else:
        lengths = {least, least + 1, *(() if most is None else (most, max(0, most - 1)))}
        found = ["a" * n for n in sorted(lengths) if n <= 100_000 and (most is None or n <= most)]
        found += [
            t
            for t in ("", "a", "1", "A b", "none", _FORMATS["uuid"])
            if least <= len(t) <= (len(t) if most is None else most)
        ]
    fitting = [t for t in found if allows(node, t) is not False]
    return fitting or found or [""]


def samples(pattern: str) -> list[str]:
    """Return a few texts that match a pattern, for patterns that Python can parse."""
    try:
        from re import _parser  # type: ignore[attr-defined]

        parsed = _parser.parse(pattern)
    except (ImportError, re.error, RecursionError, OverflowError):
        return []
    found = []
    for style in range(3):
        try:
            found.append(_sample(parsed, style, 0))
        except (ValueError, RecursionError):
            continue
    return [text for text in dict.fromkeys(found) if len(text) <= 10_000]


def _sample(parsed: Any, style: int, depth: int) -> str:
    if depth > 20:
        raise ValueError("too deep")
    made = []
    for operation, argument in parsed:
        name = str(operation)
        if name == "LITERAL":
            made.append(chr(argument))
        elif name == "NOT_LITERAL":
            made.append("b" if chr(argument) == "a" else "a")
        elif name == "ANY":
            made.append("a")
        elif name == "IN":
            made.append(_one_of(argument, style))
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            count = least if style == 0 else min(int(most), least + style)
            made += [_sample(inner, style, depth + 1) for _ in range(count)]
        elif name == "SUBPATTERN":
            made.append(_sample(argument[3], style, depth + 1))
        elif name == "BRANCH":
            branches = argument[1]
            made.append(_sample(branches[style % len(branches)], style, depth + 1))
        elif name != "AT":
            raise ValueError(name)
    return "".join(made)


def _one_of(choices: Any, style: int) -> str:
    candidates = []
    for operation, argument in choices:
        name = str(operation)
        if name == "LITERAL":
            candidates.append(chr(argument))
        elif name == "RANGE":
            candidates += [chr(argument[0]), chr(argument[1])]
        elif name == "CATEGORY":
            candidates.append(
                {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}.get(str(argument), "-")
            )
        elif name == "NEGATE":
            excluded = {chr(a) for o, a in choices[1:] if str(o) == "LITERAL"}
            ranges = [a for o, a in choices[1:] if str(o) == "RANGE"]
            return next(
                (
                    c
                    for c in "aA1 -_.~"
                    if c not in excluded and not any(lo <= ord(c) <= hi for lo, hi in ranges)
                ),
                "é",
            )
    return candidates[style % len(candidates)]


def leaves(failure: Failure, proof: Proof) -> Iterator[Any]:
    """Yield values that the writer's part of a failure may allow, those that the reader's part most likely refuses first."""
    w, r = failure.writer, failure.reader
    maker = Values(proof, 0)
    if w.types & {"integer", "number"}:
        whole = "number" not in w.types
        beyond = [Node({k: v}) for k, v in r.keywords.items() if k in ("low", "high", "multipleOf")]
        for node in beyond:
            for bound in (node.get("low"), node.get("high")):
                if bound is not None:
                    near = [bound[0] + Decimal(d) for d in ("-1", "0", "1", "-0.5", "0.5")]
                    yield from (int(n) if n == n.to_integral_value() else float(n) for n in near)
        yield from numbers(w, whole)
        for step in r.get("multipleOf", ()):
            yield from (float(step / 2), float(step * 3 / 2))
        if not whole:
            yield from (0.5, 1.25)
    if "string" in w.types:
        for limit in ("minLength", "maxLength"):
            size = r.get(limit)
            if size is not None and size < 100_000:
                yield from ("a" * max(0, size - 1), "a" * (size + 1))
        yield from ("", "a", "1", "zz zz", "not-a-date", "é", "\x00")
        yield from texts(w.with_(type=frozenset({"string"})))
    if "array" in w.types:
        yield from _arrays(w, r, maker)
    if "object" in w.types:
        yield from _objects(w, r, maker, proof)
    if "null" in w.types:
        yield None
    if "boolean" in w.types:
        yield from (True, False)
    for n in range(12):
        try:
            yield Values(proof, n).value(w)
        except UnsatisfiableError:
            continue


def _arrays(w: Node, r: Node, maker: Values) -> Iterator[Any]:
    for length in {r.get("minItems", 1) - 1, r.get("maxItems", 1) + 1, 0, 2}:
        if 0 <= length <= 2_000:
            try:
                yield [maker.value(w.at(n), depth=1) for n in range(length)]
                item = maker.value(w.at(0), depth=1)
                yield [item] * length
            except UnsatisfiableError:
                continue


def _objects(w: Node, r: Node, maker: Values, proof: Proof) -> Iterator[Any]:
    declared = sorted(w.get("properties", {}))
    for without in [set(declared), *({name} for name in sorted(r.get("required", ()))[:10]), set()]:
        try:
            made = maker._object(w, 0, without - w.get("required", frozenset()))
        except UnsatisfiableError:
            continue
        yield {k: v for k, v in made.items() if k not in without or k in w.get("required", frozenset())}
        chosen = [t for rule in w.get("names", ()) for t in texts(rule.with_(type=frozenset({"string"})))]
        for name in [
            *chosen,
            *sorted(r.get("needs", {})),
            *sorted(r.get("follow", {})),
            *declared,
            "extra",
            "Extra 1",
        ]:
            inner = proof.allowed(w, name)
            if name in made or inner.never:
                continue
            for value in _foreign(inner, proof):
                yield {**made, name: value}


def _foreign(inner: Node, proof: Proof) -> Iterator[Any]:
    if inner is ANYTHING:
        yield from ({}, "a", 1.5, None)
        return
    for seed in (1, 2):
        try:
            yield Values(proof, seed).value(inner)
        except UnsatisfiableError:
            return


def search(root: Node, failures: Sequence[Failure], proof: Proof, is_witness: Callable[[Any], bool]) -> Any:
    """Return a witness in a tuple of its own; None if none was found within the budget.

    Args:
        root: the writer's schema.
        failures: where the proof failed.
        proof: the comparison.
        is_witness: whether the validators confirm a value.
    """
    tries = 0
    seen: set[str] = set()
    share = max(40, MAX_TRIES // max(1, len(failures)))
    for failure in failures:
        spent = 0
        for leaf in leaves(failure, proof):
            if allows(failure.writer, leaf) is False:
                continue
            if allows(failure.reader, leaf) is True and not failure.reader.get("opaque"):
                continue
            for seed in range(3 if failure.at else 1):
                try:
                    value = Values(proof, seed).value(root, failure.at, (leaf,)) if failure.at else leaf
                    key = canonical(value)
                except (UnsatisfiableError, ValueError, TypeError):
                    continue
                if key in seen:
                    continue
                seen.add(key)
                tries += 1
                spent += 1
                if is_witness(value):
                    return (value,)
            if spent >= share or tries >= MAX_TRIES:
                break
    for seed in range(60):
        try:
            value = Values(proof, 100 + seed).value(root)
        except UnsatisfiableError:
            continue
        if is_witness(value):
            return (value,)
    return None
