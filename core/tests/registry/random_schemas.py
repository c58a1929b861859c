"""Random pairs of small schemas, and values to attack them with. The schemas are odd on purpose: contradictions, empty types, overlaps."""

from __future__ import annotations

import random
from typing import Any

Schema = Any
NAMES = ("a", "b", "c")


class RandomSchemas:
    """Makes schemas.

    Args:
        seed: of the choices.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def scalar(self) -> Any:
        return self.rng.choice([None, True, False, 0, 1, 2, 3, "a", "b", "", 1.5, [], {}])

    def value(self) -> Any:
        """Return some value, whatever the schema."""
        kind = self.rng.randrange(3)
        if kind == 0:
            return self.scalar()
        if kind == 1:
            return [self.scalar() for _ in range(self.rng.randint(0, 3))]
        return {self.rng.choice("abcde"): self.scalar() for _ in range(self.rng.randint(0, 3))}

    def pair(self) -> tuple[Schema, Schema]:
        """Return a schema and, mostly, a changed copy of it."""
        writer = self.schema()
        return writer, self.changed(writer) if self.rng.random() < 0.75 else self.schema()

    def schema(self, depth: int = 0) -> Schema:
        rng = self.rng
        if depth > 3 or rng.random() < 0.12:
            kind = rng.choice(["string", "integer", "number", "null", "boolean"])
            odd: list[Schema] = [True, {}, {"type": kind}, {"const": self.scalar()}]
            return rng.choice(odd + ([False] if rng.random() < 0.3 else []))
        made: dict[str, Any] = {}
        if rng.random() < 0.75:
            kind = rng.choice(["string", "integer", "number", "object", "object", "array", "boolean", "null"])
            other = rng.choice(["null", "string", "integer", "object"])
            made["type"] = kind if rng.random() < 0.8 else sorted({kind, other})
            kinds = [kind] if isinstance(made["type"], str) else made["type"]
        else:
            kinds = rng.sample(["string", "integer", "object", "array"], 2)
        if "string" in kinds:
            self._string(made)
        if "integer" in kinds or "number" in kinds:
            self._number(made)
        if "array" in kinds:
            self._array(made, depth)
        if "object" in kinds:
            self._object(made, depth)
        self._combinations(made, depth)
        if depth == 0 and rng.random() < 0.3:
            made["definitions"] = {"x": self.schema(2)}
            made.setdefault("properties", {})["r"] = {"$ref": "#/definitions/x"}
        if depth and rng.random() < 0.1:
            made["default"] = self.scalar()
        return made

    def _maybe(self, made: dict[str, Any], share: float, key: str, value: Any) -> None:
        if self.rng.random() < share:
            made[key] = value

    def _string(self, made: dict[str, Any]) -> None:
        rng = self.rng
        self._maybe(made, 0.3, "minLength", rng.randint(0, 3))
        self._maybe(made, 0.3, "maxLength", rng.randint(1, 4))
        self._maybe(made, 0.15, "pattern", rng.choice(["^a", "^b", "a", "[0-9]+$", "^[a-z]*$"]))
        self._maybe(made, 0.1, "format", rng.choice(["date", "email", "ipv4"]))

    def _number(self, made: dict[str, Any]) -> None:
        rng = self.rng
        self._maybe(made, 0.3, "minimum", rng.randint(-3, 3))
        self._maybe(made, 0.3, "maximum", rng.randint(0, 6))
        self._maybe(made, 0.15, "exclusiveMinimum", rng.randint(-3, 2))
        self._maybe(made, 0.15, "multipleOf", rng.choice([1, 2, 3, 0.5]))

    def _array(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        if rng.random() < 0.6:
            several = [self.schema(depth + 1) for _ in range(rng.randint(1, 2))]
            made["items"] = self.schema(depth + 1) if rng.random() < 0.7 else several
        if isinstance(made.get("items"), list):
            self._maybe(made, 0.5, "additionalItems", self.schema(depth + 1))
        self._maybe(made, 0.2, "minItems", rng.randint(0, 2))
        self._maybe(made, 0.2, "maxItems", rng.randint(1, 3))
        self._maybe(made, 0.15, "contains", self.schema(depth + 2))
        self._maybe(made, 0.1, "uniqueItems", True)

    def _object(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        names = rng.sample(NAMES, rng.randint(0, 3))
        if names:
            made["properties"] = {name: self.schema(depth + 1) for name in names}
        self._maybe(made, 0.4, "required", rng.sample(NAMES, rng.randint(1, 2)))
        others = [False, False, True, self.schema(depth + 1)]
        self._maybe(made, 0.35, "additionalProperties", rng.choice(others))
        patterns = {rng.choice(["^a", "^b", "c$"]): self.schema(depth + 1)}
        self._maybe(made, 0.12, "patternProperties", patterns)
        rules = [{"pattern": "^a"}, {"pattern": "^[a-z]$"}, {"maxLength": rng.randint(1, 3)}]
        self._maybe(made, 0.08, "propertyNames", rng.choice(rules))
        needed = rng.choice([["a"], ["b"], self.schema(depth + 2)])
        self._maybe(made, 0.08, "dependencies", {rng.choice(NAMES): needed})
        self._maybe(made, 0.08, "minProperties", rng.randint(0, 2))
        self._maybe(made, 0.08, "maxProperties", rng.randint(1, 3))

    def _combinations(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        self._maybe(made, 0.1, "enum", [self.scalar() for _ in range(rng.randint(1, 3))])
        if rng.random() < 0.12:
            parts = [self.schema(depth + 1) for _ in range(rng.randint(1, 3))]
            made[rng.choice(["anyOf", "oneOf", "allOf"])] = parts
        self._maybe(made, 0.06, "not", self.schema(depth + 2))
        if rng.random() < 0.06:
            made |= {key: self.schema(depth + 2) for key in ("if", "then", "else")}

    def changed(self, schema: Schema, depth: int = 0) -> Schema:
        """Return a schema with one difference somewhere."""
        rng = self.rng
        if isinstance(schema, bool) or not schema or rng.random() < 0.15:
            return self.schema(max(depth, 1))
        made = dict(schema)
        kind = rng.random()
        if kind < 0.3 and isinstance(made.get("properties"), dict) and made["properties"]:
            name = rng.choice(sorted(made["properties"]))
            made["properties"] = {
                **made["properties"],
                name: self.changed(made["properties"][name], depth + 1),
            }
        elif kind < 0.4:
            made["properties"] = {**made.get("properties", {}), rng.choice("abcd"): self.schema(depth + 2)}
        elif kind < 0.5:
            made["required"] = sorted({*made.get("required", []), rng.choice(NAMES)})
        elif kind < 0.75:
            made.pop(rng.choice(sorted(made)))
        else:
            other = self.schema(depth + 1)
            if isinstance(other, dict) and other:
                key = rng.choice(sorted(other))
                made[key] = other[key]
        return made
