"""One text of a schema and the named types of its references: each is written where it is used first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_NAMED: Final = ("record", "error", "enum", "fixed")


def definitions(schema: Any) -> dict[str, Any]:
    """Return the definitions of the named types in a schema, by full name."""
    found: dict[str, Any] = {}
    _collect(schema, "", found)
    return found


def resolved(schema: Any, known: Mapping[str, Any]) -> str:
    """Return the text of a schema that needs no references.

    Args:
        schema: the schema as JSON values.
        known: the definitions of the references, by full name.
    """
    return json.dumps(_written(schema, "", known, set()), ensure_ascii=False, separators=(",", ":"))


def _collect(schema: Any, namespace: str, found: dict[str, Any]) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, namespace, found)
    elif isinstance(schema, dict):
        kind = schema.get("type")
        if kind in _NAMED:
            full, namespace = _full_name(schema, namespace)
            found[full] = {**schema, "name": full.rpartition(".")[2], "namespace": namespace}
        for child in _children(schema):
            _collect(child, namespace, found)


def _children(schema: dict[str, Any]) -> list[Any]:
    kind = schema.get("type")
    if kind in ("record", "error"):
        return [field["type"] for field in schema["fields"]]
    if kind in ("array", "map"):
        return [schema["items" if kind == "array" else "values"]]
    return [kind] if isinstance(kind, (dict, list)) else []


def _full_name(schema: dict[str, Any], namespace: str) -> tuple[str, str]:
    """Return the full name of a definition, and the namespace inside it."""
    name = schema["name"]
    if "." in name:
        return name, name.rpartition(".")[0]
    space = schema.get("namespace", namespace)
    return (f"{space}.{name}" if space else name), space


def _written(schema: Any, namespace: str, known: Mapping[str, Any], done: set[str]) -> Any:
    if isinstance(schema, str):
        full = schema if "." in schema or not namespace else f"{namespace}.{schema}"
        if full not in known or full in done:
            return schema
        return _written(known[full], namespace, known, done)
    if isinstance(schema, list):
        return [_written(branch, namespace, known, done) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in _NAMED:
        full, namespace = _full_name(schema, namespace)
        done.add(full)
    if kind in ("record", "error"):
        fields = [{**f, "type": _written(f["type"], namespace, known, done)} for f in schema["fields"]]
        return {**schema, "fields": fields}
    if kind in ("array", "map"):
        key = "items" if kind == "array" else "values"
        return {**schema, key: _written(schema[key], namespace, known, done)}
    if kind in _NAMED:
        return schema
    return {**schema, "type": _written(kind, namespace, known, done)}
