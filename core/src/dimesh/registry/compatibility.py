"""Whether every document of one schema (the writer's) is a document of another (the reader's).

Conservative: the answer is yes only when a rule shows it. What no rule decides is reported as "cannot be decided" and
counts as no. The walk compares the two schemas place by place; recursion through ``$ref`` is followed once for each pair
and assumed meanwhile (if there were a counter-example, a smaller one would have been found first).

Two policies:

* ``strict``: JSON Schema to the letter. An object that says nothing of other properties allows them, so even a new
  optional property may be one that a writer already sends with another type, and is refused.
* ``tolerant`` (the default): writers send only the properties they declare, readers ignore properties they do not know,
  and a required property that has a ``default`` is filled in by the reader. Under these three habits, adding an optional
  property, or a required one with a default, is a compatible change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from dimesh.registry.dialect import ANNOTATIONS, resolve, translate
from dimesh.registry.validation import Validator

Policy = Literal["tolerant", "strict"]

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
MAX_STEPS: Final = 20_000
MAX_REASONS: Final = 20

_NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_STRING = frozenset({"minLength", "maxLength", "pattern", "format"})
_ARRAY = frozenset({"items", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"})
_OBJECT = frozenset(
    {"properties", "patternProperties", "additionalProperties", "required", "minProperties"}
    | {"maxProperties", "dependencies", "propertyNames"}
)
_COMBINED = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else"})


def reasons_against(writer: Any, reader: Any, policy: Policy = "tolerant") -> list[str]:
    """Why the reader may not read what the writer writes; empty if it reads all of it.

    Each reason begins with the place in the reader's schema (a JSON Pointer).
    """
    walk = _Walk(writer, reader, policy)
    try:
        found = list(dict.fromkeys(walk.compare(writer, reader, "#")))
    except RecursionError:
        return ["#: cannot be decided: the schemas are nested too deep"]
    return found[:MAX_REASONS]


class _Walk:
    def __init__(self, writer: Any, reader: Any, policy: Policy) -> None:
        self._writer = writer
        self._reader = reader
        self._tolerant = policy == "tolerant"
        self._assumed: set[tuple[str, str]] = set()
        self._steps = 0

    def compare(self, w: Any, r: Any, path: str) -> Iterator[str]:
        """Reasons why not every instance of ``w`` is one of ``r``."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            yield f"{path}: cannot be decided within {MAX_STEPS:,} steps"
            return
        refers = _refers(w) or _refers(r)
        w, r = self._resolved(w, self._writer), self._resolved(r, self._reader)
        if r is True or w is False:
            return
        if r is False:
            yield f"{path}: nothing is allowed here any more"
            return
        if w is True:
            w = {}
        if not r:
            return
        if refers:
            pair = (_text(w), _text(r))
            if pair in self._assumed:
                return
            self._assumed.add(pair)
        elif not _has_refs(w) and not _has_refs(r) and _text(w) == _text(r):
            return
        yield from self._compare(w, r, path)

    def _resolved(self, schema: Any, root: Any) -> Any:
        for _ in range(100):
            if not _refers(schema):
                break
            schema = resolve(root, schema["$ref"])
        else:
            return {"not": {"$comment": "a $ref that leads to itself"}}
        if isinstance(schema, bool):
            return schema
        return {k: v for k, v in schema.items() if k not in ANNOTATIONS}

    def _compare(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        # The reader's combinations first: each is a question of its own.
        for n, part in enumerate(r.get("allOf", ())):
            yield from self.compare(w, part, f"{path}/allOf/{n}")
        for key in ("not", "if"):
            if key in r and any(_text(w.get(k)) != _text(r.get(k)) for k in (key, "then", "else")):
                yield f"{path}/{key}: cannot be decided: {key!r} was added or changed"
        plain = {k: v for k, v in r.items() if k not in _COMBINED}
        branches = r.get("anyOf")
        exactly = r.get("oneOf")
        values = _finite(w)
        if values is not None:
            yield from self._values(w, values, r, path)
            return
        alternatives = list(self._alternatives(w))
        if alternatives != [w]:
            for alternative in alternatives:
                yield from self.compare(alternative, _without(r, "allOf"), path)
            return
        if branches is not None and _text(w.get("anyOf")) != _text(branches):
            if not any(self._included(w, branch) for branch in branches):
                yield f"{path}/anyOf: what was allowed fits none of the alternatives for certain"
        if exactly is not None and _text(w.get("oneOf")) != _text(exactly):
            yield f"{path}/oneOf: cannot be decided: 'oneOf' was added or changed"
        if "enum" in plain or "const" in plain:
            yield f"{path}: only certain values are allowed now ({_text(plain.get('enum', [plain.get('const')]))[:80]})"
            return
        yield from self._by_type(w, plain, path)

    def _included(self, w: Any, r: Any) -> bool:
        assumed = set(self._assumed)
        if next(self.compare(w, r, "#"), None) is None:
            return True
        self._assumed = assumed
        return False

    def _alternatives(self, w: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The writer's schema as alternatives without allOf, anyOf and oneOf, where they can be multiplied out."""
        for key in ("allOf", "anyOf", "oneOf"):
            parts = w.get(key)
            if parts is None:
                continue
            rest = _without(w, key)
            resolved = [self._resolved(part, self._writer) for part in parts]
            if key == "allOf":
                merged: Any = rest
                for part in resolved:
                    merged = _merged(merged, part)
                    if merged is None:
                        break
                if merged is not None:
                    yield from self._alternatives(merged)
                    return
                # Not to be merged: an instance satisfies each part, so the strongest single one will do.
                yield max((p for p in [rest, *resolved] if isinstance(p, dict)), key=len)
                return
            for part in resolved:
                if part is False:
                    continue
                both = _merged(rest, part)
                yield from self._alternatives(
                    both if both is not None else (part if part is not True else rest)
                )
            return
        yield w

    def _values(self, w: dict[str, Any], values: list[Any], r: dict[str, Any], path: str) -> Iterator[str]:
        own = Validator({k: v for k, v in w.items() if not _has_refs(v)})
        root = self._reader if isinstance(self._reader, Mapping) else {}
        target = Validator(
            {**r, "definitions": root.get("definitions", {})} if not _outside_refs(r) else True
        )
        if _outside_refs(r):
            yield f"{path}: cannot be decided: values against a $ref outside definitions"
            return
        for value in values:
            if own.is_valid(value) and not target.is_valid(value):
                yield f"{path}: the value {_text(value)[:60]} is not allowed any more"

    # -- by type ---------------------------------------------------------------------------------

    def _by_type(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        mine, theirs = _types(w), _types(r)
        gone = [t for t in mine if t not in theirs and not (t == "integer" and "number" in theirs)]
        if gone:
            yield f"{path}/type: {', '.join(gone)} is not allowed any more"
        left = [t for t in mine if t not in gone]
        if any(t in left for t in ("number", "integer")) and _NUMBER & r.keys():
            yield from self._number(w, r, path, "number" not in left)
        if "string" in left and _STRING & r.keys():
            yield from self._string(w, r, path)
        if "array" in left and _ARRAY & r.keys():
            yield from self._array(w, r, path)
        if "object" in left and _OBJECT & r.keys():
            yield from self._object(w, r, path)

    def _number(self, w: dict[str, Any], r: dict[str, Any], path: str, whole: bool) -> Iterator[str]:
        for limit, exclusive, sign in (
            ("minimum", "exclusiveMinimum", 1),
            ("maximum", "exclusiveMaximum", -1),
        ):
            have, need = _bound(w, limit, exclusive, sign, whole), _bound(r, limit, exclusive, sign, whole)
            if need is not None and (have is None or have < need):
                yield f"{path}/{limit}: the range became narrower"
        step = r.get("multipleOf")
        if step is not None and step != w.get("multipleOf"):
            from decimal import Decimal

            own = w.get("multipleOf", 1 if whole else None)
            if own is None or Decimal(str(own)) % Decimal(str(step)) != 0:
                yield f"{path}/multipleOf: only multiples of {step} are allowed now"

    def _string(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        yield from _limits(w, r, path, "minLength", "maxLength", "the length")
        if "pattern" in r and r["pattern"] != w.get("pattern"):
            yield f"{path}/pattern: cannot be decided: the pattern was added or changed"
        if "format" in r and r["format"] != w.get("format"):
            yield f"{path}/format: the format {r['format']!r} was added or changed"

    def _array(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        yield from _limits(w, r, path, "minItems", "maxItems", "the number of items")
        if r.get("uniqueItems") and not w.get("uniqueItems") and not w.get("maxItems", 2) <= 1:
            yield f"{path}/uniqueItems: items must be unique now"
        if "contains" in r and _text(r["contains"]) != _text(w.get("contains")):
            yield f"{path}/contains: cannot be decided: 'contains' was added or changed"
        mine, theirs = _Items(w), _Items(r)
        longest = w.get("maxItems")
        for n in range(max(len(mine.first), len(theirs.first)) + 1):
            if longest is not None and n >= longest:
                break
            at = "items" if n >= len(theirs.first) and not theirs.is_tuple else f"items/{n}"
            yield from self.compare(mine.at(n), theirs.at(n), f"{path}/{at}")

    def _object(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        mine, theirs = w.get("properties", {}), r.get("properties", {})
        required = set(w.get("required", ()))
        for name in r.get("required", ()):
            if name not in required and not (self._tolerant and _has_default(theirs.get(name))):
                yield f"{path}/required: {name!r} is required now"
        for name, schema in theirs.items():
            if name in mine:
                yield from self.compare(self._allowed(w, name), schema, f"{path}/properties/{name}")
            elif not self._tolerant:
                other = self._allowed(w, name)
                if next(self.compare(other, schema, "#"), None) is not None:
                    yield (
                        f"{path}/properties/{name}: was allowed with any value before, since other properties were not "
                        "excluded"
                    )
        yield from self._undeclared(w, r, path)
        yield from self._other_object_rules(w, r, path, required)

    def _allowed(self, schema: dict[str, Any], name: str) -> Any:
        """What a schema says of one property: several rules may apply at once."""
        rules = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        rules += [
            sub for pattern, sub in schema.get("patternProperties", {}).items() if _matches(pattern, name)
        ]
        if not rules:
            return schema.get("additionalProperties", True)
        return rules[0] if len(rules) == 1 else {"allOf": rules}

    def _undeclared(self, w: dict[str, Any], r: dict[str, Any], path: str) -> Iterator[str]:
        """Properties that the reader does not declare, but has rules for all the same."""
        theirs = r.get("properties", {})
        patterns = r.get("patternProperties", {})
        additional = r.get("additionalProperties", True)
        for name in w.get("properties", {}):
            if name in theirs:
                for pattern, schema in patterns.items():
                    if _matches(pattern, name):
                        yield from self.compare(self._allowed(w, name), schema, f"{path}/patternProperties")
                continue
            rule = self._allowed(r, name)
            if rule is False and self._tolerant:
                continue  # a reader ignores what it does not know
            yield from self.compare(self._allowed(w, name), rule, f"{path}/properties/{name}")
        if _text(w.get("patternProperties", {})) == _text(patterns):
            pass
        elif patterns and not self._tolerant and w.get("additionalProperties", True) is not False:
            yield f"{path}/patternProperties: cannot be decided: the patterns were added or changed"
        elif patterns and w.get("patternProperties"):
            yield f"{path}/patternProperties: cannot be decided: the patterns were changed"
        elif (
            w.get("patternProperties")
            and additional is not True
            and not (self._tolerant and additional is False)
        ):
            yield f"{path}/additionalProperties: cannot be decided: patterns were removed"
        if not self._tolerant or isinstance(w.get("additionalProperties"), Mapping):
            open_ = w.get("additionalProperties", True)
            if not (self._tolerant and additional is False):
                yield from self.compare(open_, additional, f"{path}/additionalProperties")

    def _other_object_rules(
        self, w: dict[str, Any], r: dict[str, Any], path: str, required: set[str]
    ) -> Iterator[str]:
        closed = self._tolerant or (
            w.get("additionalProperties", True) is False and not w.get("patternProperties")
        )
        least = max(w.get("minProperties", 0), len(required))
        most = w.get("maxProperties")
        if (
            closed
            and not isinstance(w.get("additionalProperties"), Mapping)
            and not w.get("patternProperties")
        ):
            declared = len(w.get("properties", {}))
            most = declared if most is None else min(most, declared)
        if r.get("minProperties", 0) > least:
            yield f"{path}/minProperties: more properties are needed now"
        if "maxProperties" in r and (most is None or most > r["maxProperties"]):
            yield f"{path}/maxProperties: fewer properties are allowed now"
        for key in ("dependencies", "propertyNames"):
            if key in r and _text(r[key]) != _text(w.get(key)):
                yield f"{path}/{key}: cannot be decided: {key!r} was added or changed"


class _Items:
    """The rules for the items of an array, by place."""

    def __init__(self, schema: dict[str, Any]) -> None:
        items = schema.get("items", True)
        self.is_tuple = isinstance(items, list)
        self.first: list[Any] = items if isinstance(items, list) else []
        self._rest = schema.get("additionalItems", True) if self.is_tuple else items

    def at(self, place: int) -> Any:
        return self.first[place] if place < len(self.first) else self._rest


def _types(schema: dict[str, Any]) -> tuple[str, ...]:
    found = schema.get("type")
    if found is None:
        return TYPES
    listed = (found,) if isinstance(found, str) else tuple(found)
    return tuple(t for t in listed if not (t == "integer" and "number" in listed))


def _bound(
    schema: dict[str, Any], limit: str, exclusive: str, sign: int, whole: bool
) -> tuple[float, bool] | None:
    """The tightest bound as (value times sign, exclusive): greater is tighter."""
    found = []
    if limit in schema:
        found.append((schema[limit] * sign, False))
    if exclusive in schema:
        value = schema[exclusive]
        # For whole numbers, above 4 is 5 and more.
        found.append((value * sign + 1, False) if whole and value == int(value) else (value * sign, True))
    return max(found, default=None)


def _limits(
    w: dict[str, Any], r: dict[str, Any], path: str, least: str, most: str, what: str
) -> Iterator[str]:
    if r.get(least, 0) > w.get(least, 0):
        yield f"{path}/{least}: {what} must be greater now"
    if most in r and (most not in w or w[most] > r[most]):
        yield f"{path}/{most}: {what} must be smaller now"


def _finite(schema: dict[str, Any]) -> list[Any] | None:
    """All values that a schema allows at most, where it lists them."""
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    types = schema.get("type")
    listed = {types} if isinstance(types, str) else set(types or TYPES)
    if listed <= {"null", "boolean"}:
        return [
            value
            for t, values in (("null", [None]), ("boolean", [True, False]))
            if t in listed
            for value in values
        ]
    return None


def _merged(one: Any, two: Any) -> dict[str, Any] | None:
    """Both at once as one schema object, where no keyword stands in both with different values."""
    if one is False or two is False:
        return {"enum": []}
    if two is True or not two:
        return dict(one) if isinstance(one, dict) else {}
    if one is True or not one:
        return dict(two)
    for key in one.keys() & two.keys():
        if key == "required":
            continue
        if _text(one[key]) != _text(two[key]):
            return None
    objects = {"properties", "patternProperties", "additionalProperties"}
    if (
        (objects & one.keys())
        and (objects & two.keys())
        and {k: one.get(k) for k in objects} != {k: two.get(k) for k in objects}
    ):
        return None  # additionalProperties looks at its neighbours
    arrays = {"items", "additionalItems"}
    if (
        (arrays & one.keys())
        and (arrays & two.keys())
        and {k: one.get(k) for k in arrays} != {k: two.get(k) for k in arrays}
    ):
        return None
    merged = {**one, **two}
    if "required" in one and "required" in two:
        merged["required"] = sorted({*one["required"], *two["required"]})
    return merged


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k != key}


def _refers(schema: Any) -> bool:
    return isinstance(schema, Mapping) and "$ref" in schema


def _has_refs(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "$ref" in value or any(_has_refs(v) for v in value.values())
    return isinstance(value, list) and any(_has_refs(v) for v in value)


def _outside_refs(value: Any) -> bool:
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#/definitions/"):
            return True
        return any(_outside_refs(v) for v in value.values())
    return isinstance(value, list) and any(_outside_refs(v) for v in value)


def _has_default(schema: Any) -> bool:
    return isinstance(schema, Mapping) and "default" in schema


def _matches(pattern: str, name: str) -> bool:
    return re.search(translate(pattern).python, name) is not None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
