"""Reading data with a newer or older schema: defaults are filled in, properties that the reader does not know are ignored."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from dimesh.registry.jsonschema.documents import Documents, Place
from dimesh.registry.jsonschema.drafts import LISTS, MAPS, ONE, Draft

_CLOSED = ("additionalProperties", "unevaluatedProperties")
_CONDITIONS = frozenset({"contains", "if", "not", "oneOf"})


class Reader:
    """Resolves data to a reader's schema.

    Args:
        documents: the reader's schema and what it refers to.
        required_only: fill in only properties that are required.
    """

    def __init__(self, documents: Documents, required_only: bool = False) -> None:
        self._documents = documents
        self._required_only = required_only

    def fill(self, value: Any) -> Any:
        """Return the value with the defaults of missing properties.

        Defaults count that apply whatever the data is: below ``properties``, ``items``, ``prefixItems``,
        ``additionalProperties``, ``allOf`` and ``$ref``; not below ``anyOf``, ``oneOf`` and ``if``.
        """
        return self._fill(self._documents.root, value)

    def _fill(self, place: Place, value: Any) -> Any:
        schema = place.schema
        if not isinstance(schema, Mapping) or not isinstance(value, (dict, list)):
            return value
        if "$ref" in schema:
            value = self._fill(self._documents.target(place, schema["$ref"]), value)
            if place.draft is Draft.DRAFT_7:
                return value
        for part in schema.get("allOf", ()):
            value = self._fill(self._documents.place(part, place), value)
        if isinstance(value, list):
            return self._fill_items(place, value)
        return self._fill_properties(place, value)

    def _fill_items(self, place: Place, value: list[Any]) -> list[Any]:
        schema = place.schema
        items = schema.get("items")
        first, rest = schema.get("prefixItems", ()), items
        if isinstance(items, list):
            first, rest = items, schema.get("additionalItems")
        filled = []
        for n, item in enumerate(value):
            below = first[n] if n < len(first) else rest
            filled.append(self._fill(self._documents.place(below, place), item))
        return filled

    def _fill_properties(self, place: Place, value: dict[str, Any]) -> dict[str, Any]:
        schema = place.schema
        properties = schema.get("properties", {})
        filled = dict(value)
        for name, child in properties.items():
            below = self._documents.place(child, place)
            if name in filled:
                filled[name] = self._fill(below, filled[name])
            elif self._required_only and name not in schema.get("required", ()):
                continue
            elif (default := self._default(below)) is not _NONE:
                # A default is complete: filling it in turn might never end in a recursive schema.
                filled[name] = copy.deepcopy(default)
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping) and "patternProperties" not in schema:
            below = self._documents.place(others, place)
            for name in filled.keys() - properties.keys():
                filled[name] = self._fill(below, filled[name])
        return filled

    def _default(self, place: Place) -> Any:
        schema = place.schema
        if not isinstance(schema, Mapping):
            return _NONE
        if "$ref" in schema and (place.draft is Draft.DRAFT_7 or "default" not in schema):
            return self._default(self._documents.target(place, schema["$ref"]))
        return schema.get("default", _NONE)


def without_defaults(filled: Any, value: Any, paths: Iterable[str]) -> bool:
    """Remove the defaults at some locations from a filled value, or those below a location that is no default; return whether
    there was one.

    Args:
        filled: what :meth:`Reader.fill` returned; it is changed.
        value: the value before.
        paths: JSON Pointers.
    """
    found = False
    for path in paths:
        inside, before = filled, value
        for part in path.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(inside, dict) and name in inside:
                if name not in before:
                    del inside[name]
                    found = True
                    break
                inside, before = inside[name], before[name]
            elif isinstance(inside, list) and name.isdigit() and int(name) < len(inside):
                inside, before = inside[int(name)], before[int(name)]
            else:
                break
        else:
            found = _restored(inside, before) or found
    return found


def _restored(filled: Any, value: Any) -> bool:
    """Remove all defaults from a filled value; return whether there was one."""
    found = False
    if isinstance(filled, dict):
        for name in list(filled):
            if name not in value:
                del filled[name]
                found = True
            else:
                found = _restored(filled[name], value[name]) or found
    elif isinstance(filled, list):
        for one, before in zip(filled, value, strict=True):
            found = _restored(one, before) or found
    return found


_NONE = object()


def opened(schema: Any) -> Any:
    """Return a document without the rules against other properties, except where a rule decides between alternatives."""
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _CLOSED and value is False:
            made[keyword] = True  # not left out, since a $ref may lead here
        elif keyword in _CONDITIONS:
            made[keyword] = value
        elif keyword in MAPS and isinstance(value, Mapping):
            made[keyword] = {name: opened(child) for name, child in value.items()}
        elif keyword in LISTS and isinstance(value, list):
            made[keyword] = [opened(child) for child in value]
        elif keyword in ONE:
            made[keyword] = opened(value)
        else:
            made[keyword] = value
    return made
