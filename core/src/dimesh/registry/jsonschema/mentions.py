"""What a schema says about a property beside declaring it: a property that is added there would not be new to its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dimesh.registry.jsonschema.parsed import ParsedJsonSchema

_OTHERS: Final = ("additionalProperties", "unevaluatedProperties")
_DEPENDENCIES: Final = ("dependencies", "dependentRequired", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SINGLE: Final = ("not", "if", "then", "else")
_WHOLE: Final = ("const", "enum", "maxProperties")


def rule_about(schema: Any, name: str, *, top: bool = True) -> str | None:
    """Return the keyword that says something about a property of an object; None: none does. What a ``$ref`` leads to is not
    looked at.

    Args:
        schema: the schema of the object, as JSON values.
        name: the property.
        top: whether this is the schema that the property is added to: ``properties`` and ``additionalProperties: false`` are
            no rules there.
    """
    if not isinstance(schema, Mapping):
        return None
    found = _own(schema, name, top)
    if found is not None:
        return found
    for keyword in _LISTS:
        parts = schema.get(keyword)
        if isinstance(parts, list) and any(rule_about(part, name, top=False) for part in parts):
            return keyword
    for keyword in _SINGLE:
        if rule_about(schema.get(keyword), name, top=False):
            return keyword
    return None


def _own(schema: Mapping[str, Any], name: str, top: bool) -> str | None:
    for keyword in _WHOLE:
        if keyword in schema:
            return keyword
    if name in schema.get("required", ()):
        return "required"
    if not top and name in schema.get("properties", {}):
        return "properties"
    patterns = schema.get("patternProperties", {})
    if isinstance(patterns, Mapping) and any(_matches(pattern, name) for pattern in patterns):
        return "patternProperties"
    for keyword in _OTHERS:
        rule = schema.get(keyword, True)
        if rule not in (True, {}) and not (top and rule is False and keyword == "additionalProperties"):
            return keyword
    if "propertyNames" in schema:
        return "propertyNames"
    for keyword in _DEPENDENCIES:
        rules = schema.get(keyword)
        if isinstance(rules, Mapping) and (
            name in rules or any(_needs(rule, name) for rule in rules.values())
        ):
            return keyword
    return None


def _needs(rule: Any, name: str) -> bool:
    return name in rule if isinstance(rule, list) else rule_about(rule, name, top=False) is not None


def _matches(pattern: str, name: str) -> bool:
    return not ParsedJsonSchema("", {"patternProperties": {pattern: False}}).is_valid({name: 0})
