"""Compatible changes of a JSON Schema. Each function returns a new schema and leaves its argument unchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.drafts import Draft, draft_of
from dimesh.registry.jsonschema.mentions import rule_about
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.registry.model import CompatibilityMode

_FULL: Final = CompatibilityMode.FULL
_BACKWARD: Final = CompatibilityMode.BACKWARD
_FORWARD: Final = CompatibilityMode.FORWARD
_NONE: Final = CompatibilityMode.NONE

_PROMISES: Final[Mapping[str, Mapping[str, tuple[CompatibilityMode, CompatibilityMode]]]] = {
    "add_optional_field": {
        "strict": (_FORWARD, _BACKWARD),
        "defaults": (_FORWARD, _BACKWARD),
        "tolerant": (_FULL, _FULL),
    },
    "add_required_field_with_default": {
        "strict": (_FORWARD, _NONE),
        "defaults": (_FORWARD, _BACKWARD),
        "tolerant": (_FULL, _FULL),
    },
    "rename_field": {
        "strict": (_FORWARD, _BACKWARD),
        "defaults": (_FORWARD, _BACKWARD),
        "tolerant": (_FULL, _FULL),
    },
    "deprecate_field": {
        "strict": (_FULL, _FULL),
        "defaults": (_FULL, _FULL),
        "tolerant": (_FULL, _FULL),
    },
}
"""The modes that each change keeps, by policy: of a schema that allows other properties, and of one that does not."""


class SchemaEvolutionHelper:
    """Changes that keep a subject compatible under the registry's default policy, ``tolerant``, in both directions
    (``FULL``). :meth:`promised` returns what each keeps under another policy.
    """

    @staticmethod
    def add_optional_field(
        schema: Mapping[str, Any], name: str, field_schema: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Add an optional property: ``FULL`` under ``tolerant``. Under ``strict`` and ``defaults``, ``FORWARD`` if the schema
        allows other properties (older data may have one of that name), else ``BACKWARD``.

        Raises:
            InvalidSchemaError: the property exists already, its schema is not valid, or the schema has a rule about a property of
                that name, so that it would not be new to the data; the message names the rule.
        """
        changed = _copy(schema)
        properties = changed.setdefault("properties", {})
        if name in properties:
            raise InvalidSchemaError(f"the field {name!r:.60} already exists")
        _check(field_schema)
        _check_new(schema, name)
        properties[name] = copy.deepcopy(dict(field_schema))
        return changed

    @staticmethod
    def add_required_field_with_default(
        schema: Mapping[str, Any], name: str, field_schema: Mapping[str, Any], default_value: Any
    ) -> dict[str, Any]:
        """Add a property that writers must send, with a default that readers use for older data: ``FULL`` under ``tolerant``.
        If the schema allows other properties, ``FORWARD`` under ``strict`` and ``defaults``; else ``BACKWARD`` under
        ``defaults``.

        Raises:
            InvalidSchemaError: the default does not satisfy the property's schema, or one of the reasons of
                :meth:`add_optional_field`.
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
    def rename_field(schema: Mapping[str, Any], name: str, new_name: str) -> dict[str, Any]:
        """Give a property another name: the new name is added as an optional property with the same schema, and the old one
        is deprecated. It keeps what :meth:`add_optional_field` keeps.

        JSON Schema has no aliases: until all data has the new name, writers send both, and readers take the one that is there.

        Raises:
            InvalidSchemaError: there is no such property, or one of the reasons of :meth:`add_optional_field`.
        """
        field = _field(schema, name)
        # A default would be filled in beside the old name, as if the writer had sent it.
        moved = {key: value for key, value in field.items() if key != "default"}
        changed = SchemaEvolutionHelper.add_optional_field(schema, new_name, moved)
        return SchemaEvolutionHelper.deprecate_field(changed, name, f"use {new_name}")

    @staticmethod
    def deprecate_field(schema: Mapping[str, Any], name: str, message: str) -> dict[str, Any]:
        """Mark a property as deprecated, with the reason in its description. Nothing else changes: ``FULL`` under every policy.

        Raises:
            InvalidSchemaError: there is no such property.
        """
        field = _field(schema, name)
        changed = _copy(schema)
        before = field.get("description")
        note = f"Deprecated: {message}"
        changed["properties"][name] = {
            **copy.deepcopy(dict(field)),
            "deprecated": True,
            "description": f"{before} {note}" if before else note,
        }
        return changed

    @staticmethod
    def promised(change: str, schema: Mapping[str, Any], policy: str = "tolerant") -> CompatibilityMode:
        """Return the strongest mode that a change keeps for certain.

        Args:
            change: the name of a method, such as ``add_optional_field``.
            schema: the schema before the change.
            policy: ``strict``, ``defaults`` or ``tolerant``.

        Raises:
            InvalidSchemaError: there is no such change, or nothing is promised under that policy.
        """
        try:
            of_open, of_closed = _PROMISES[change][policy]
        except KeyError:
            raise InvalidSchemaError(
                f"nothing is known of {change!r:.60} under the policy {policy!r:.60}: the changes are "
                f"{', '.join(_PROMISES)}, the policies strict, defaults and tolerant"
            ) from None
        return of_closed if schema.get("additionalProperties") is False else of_open


def _field(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the schema of a property. Raises InvalidSchemaError if there is none."""
    properties = _copy(schema).get("properties", {})
    field = properties.get(name)
    if field is None:
        known = ", ".join(sorted(properties)) or "none"
        raise InvalidSchemaError(f"there is no field {name!r:.60}; the fields are: {known}")
    if isinstance(field, bool):
        return {} if field else {"not": {}}
    return dict(field)


def _check_new(schema: Mapping[str, Any], name: str) -> None:
    if "$ref" in schema and draft_of(schema) is Draft.DRAFT_7:
        raise InvalidSchemaError(
            "the schema is a $ref, beside which Draft 7 ignores all fields: change the schema that it leads to"
        )
    rule = rule_about(schema, name)
    if rule is not None:
        raise InvalidSchemaError(
            f"the field {name!r:.60} is not new: {rule!r} has a rule about it already, so that older data may break the new one. "
            "Change that rule by hand, and check the result with 'dimesh schema check'"
        )


def _check(schema: Mapping[str, Any] | bool) -> ParsedJsonSchema:
    """Return the schema of a field, parsed. Raises InvalidSchemaError if it is not valid by itself."""
    return ParsedJsonSchema("", schema)


def _copy(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise InvalidSchemaError(f"a schema with fields must be an object, not {type(schema).__name__}")
    return copy.deepcopy(dict(schema))
