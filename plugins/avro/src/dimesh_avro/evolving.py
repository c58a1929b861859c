"""Changes of an Avro schema: fields with defaults, aliases for new names, and deprecations in the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dimesh.errors import InvalidSchemaError
from dimesh.spi.schema import Change


def evolved(document: Any, changes: Sequence[Change]) -> str:
    """Return the text of a record after some changes, made in their order.

    An added field has a default, so that a reader of the new version reads older data, and older readers ignore it (the rules of
    schema resolution in Avro's specification). A renamed field keeps its old name as an alias, by which a reader of the new
    version finds it in older data; a reader of the old version does not find it in new data.

    Args:
        document: the schema as JSON values; it is changed.
        changes: the changes.

    Raises:
        InvalidSchemaError: the schema is no record, or has or lacks a field.
    """
    fields = document.get("fields") if isinstance(document, dict) else None
    if not isinstance(fields, list):
        raise InvalidSchemaError("only a record has fields: the schema is something else")
    for change in changes:
        if change.kind == "add":
            _check_free(fields, change.name)
            fields.append(_added(change))
        elif change.kind == "rename":
            _check_free(fields, change.text)
            field = _find(fields, change.name)
            field["name"] = change.text
            field["aliases"] = [*field.get("aliases", ()), change.name]
        else:
            field = _find(fields, change.name)
            before = field.get("doc")
            note = f"Deprecated: {change.text}"
            field["doc"] = f"{before} {note}" if before else note
    return json.dumps(document, ensure_ascii=False, indent=2)


def _added(change: Change) -> dict[str, Any]:
    if change.default is not None:
        return {"name": change.name, "type": change.field, "default": change.default[0]}
    branches = change.field if isinstance(change.field, list) else [change.field]
    return {
        "name": change.name,
        "type": ["null", *(branch for branch in branches if branch != "null")],
        "default": None,
    }


def _find(fields: list[Any], name: str) -> dict[str, Any]:
    for field in fields:
        if field["name"] == name:
            found: dict[str, Any] = field
            return found
    known = ", ".join(sorted(field["name"] for field in fields)) or "none"
    raise InvalidSchemaError(f"there is no field {name!r:.60}; the fields are: {known}")


def _check_free(fields: list[Any], name: str) -> None:
    if any(name == field["name"] or name in field.get("aliases", ()) for field in fields):
        raise InvalidSchemaError(f"the field {name!r:.60} already exists, or is an alias")
