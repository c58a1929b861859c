"""The drafts of JSON Schema that the registry knows, and where each has its subschemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

from dimesh.errors import InvalidSchemaError
from dimesh.events.names import show


class Draft(Enum):
    """A draft, by the address of its meta-schema."""

    DRAFT_7 = "json-schema.org/draft-07/schema"
    DRAFT_2019_09 = "json-schema.org/draft/2019-09/schema"
    DRAFT_2020_12 = "json-schema.org/draft/2020-12/schema"

    def __str__(self) -> str:
        return {"DRAFT_7": "Draft 7", "DRAFT_2019_09": "2019-09"}.get(self.name, "2020-12")


_DRAFTS: Final = {f"{scheme}://{d.value}": d for d in Draft for scheme in ("http", "https")}


def draft_of(schema: Any, default: Draft = Draft.DRAFT_7) -> Draft:
    """Return the draft that ``$schema`` names.

    Raises:
        InvalidSchemaError: ``$schema`` names another one.
    """
    if not isinstance(schema, Mapping) or "$schema" not in schema:
        return default
    named = schema["$schema"]
    draft = _DRAFTS.get(named.removesuffix("#")) if isinstance(named, str) else None
    if draft is None:
        raise InvalidSchemaError(
            f"$schema is {show(named)}; this registry supports Draft 7 (the default), 2019-09 and 2020-12: use "
            '"http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema" or '
            '"https://json-schema.org/draft/2020-12/schema"'
        )
    return draft


@cache
def meta_schema(address: str) -> Any:
    """Return the part of a meta-schema that has this address; None: there is none."""
    if "//json-schema.org/draft" not in address:
        return None
    from jsonschema_specifications import REGISTRY

    # A copy, since a graph tells schemas apart by the identity of their objects.
    found = REGISTRY.get(address) or REGISTRY.get(f"{address}#")
    return None if found is None else found.contents


IN_PLACE: Final = frozenset(
    {"allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then"}
)
"""The keywords whose subschemas apply to the same value as the schema."""
ONE: Final = frozenset(
    {"additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"}
    | {"propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)
"""The keywords whose value is a schema."""
LISTS: Final = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
"""The keywords whose value is a list of schemas."""
MAPS: Final = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
"""The keywords whose value has schemas by name."""
SUBSCHEMAS: Final = ONE | LISTS | MAPS


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield every subschema of a schema: its keyword, its path below the schema, and itself."""
    for keyword in schema.keys() & SUBSCHEMAS:
        value = schema[keyword]
        if isinstance(value, Mapping) and keyword in MAPS:
            for name, child in value.items():
                if isinstance(child, (Mapping, bool)):
                    yield keyword, f"{keyword}/{escape(name)}", child
        elif isinstance(value, list) and keyword in LISTS:
            for n, child in enumerate(value):
                yield keyword, f"{keyword}/{n}", child
        elif isinstance(value, (Mapping, bool)) and keyword in ONE:
            yield keyword, keyword, value


def escape(name: str) -> str:
    """Return a name as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")
