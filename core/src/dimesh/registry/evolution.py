"""Compatible changes of a schema. Each function returns a new schema and leaves its argument unchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema


class SchemaEvolutionHelper:
    """Changes that keep a subject compatible under the registry's default policy, ``tolerant``."""

    @staticmethod
    def add_optional_field(
        schema: Mapping[str, Any], name: str, field_schema: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Add an optional property: FULL compatible.

        Raises:
            InvalidSchemaError: the property exists already, or its schema is not valid.
        """
        changed = _copy(schema)
        properties = changed.setdefault("properties", {})
        if name in properties:
            raise InvalidSchemaError(f"the field {name!r:.60} already exists")
        _check(field_schema)
        properties[name] = copy.deepcopy(dict(field_schema))
        return changed

    @staticmethod
    def add_required_field_with_default(
        schema: Mapping[str, Any], name: str, field_schema: Mapping[str, Any], default_value: Any
    ) -> dict[str, Any]:
        """Add a property that writers must send, with a default that readers use for older data: FULL compatible.

        Raises:
            InvalidSchemaError: the property exists already, its schema is not valid, or the default does not satisfy it.
        """
        # Formats are not checked: a default such as datetime.now().isoformat() has no time zone, but is acceptable.
        shape = {key: value for key, value in field_schema.items() if key != "format"}
        problems = _check(shape).problems(default_value)
        if problems:
            raise InvalidSchemaError(
                f"the default of {name!r:.60} does not satisfy its own schema: {problems[0].message}"
            )
        changed = SchemaEvolutionHelper.add_optional_field(schema, name, field_schema)
        changed["properties"][name]["default"] = copy.deepcopy(default_value)
        changed["required"] = [*changed.get("required", ()), name]
        return changed

    @staticmethod
    def deprecate_field(schema: Mapping[str, Any], name: str, message: str) -> dict[str, Any]:
        """Mark a property as deprecated, with the reason in its description. Nothing else changes: FULL compatible.

        Raises:
            InvalidSchemaError: there is no such property.
        """
        changed = _copy(schema)
        field = changed.get("properties", {}).get(name)
        if field is None:
            known = ", ".join(sorted(changed.get("properties", {}))) or "none"
            raise InvalidSchemaError(f"there is no field {name!r:.60}; the fields are: {known}")
        if field is True:
            field = {}
        before = field.get("description")
        note = f"Deprecated: {message}"
        changed["properties"][name] = {
            **field,
            "deprecated": True,
            "description": f"{before} {note}" if before else note,
        }
        return changed


def _check(schema: Mapping[str, Any] | bool) -> ParsedJsonSchema:
    """Return the schema of a field, parsed. Raises InvalidSchemaError if it is not valid by itself."""
    return ParsedJsonSchema("", schema)


def _copy(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise InvalidSchemaError(f"a schema with fields must be an object, not {type(schema).__name__}")
    return copy.deepcopy(dict(schema))
