"""Schemas in the JSON of the API, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.errors import RegistryUnavailableError
from dimesh.spi.registry import Reference, SchemaContent, StoredSchema

UNKNOWN_TIME: Final = datetime.fromtimestamp(0, UTC)
"""The time of a version where the registry does not give one."""
_TO_WIRE: Final = {"JSON_SCHEMA": "JSON"}
_FROM_WIRE: Final = {"JSON": "JSON_SCHEMA"}
_LAST_TIME: Final = 253_402_300_799_000
"""The last millisecond of the year 9999."""


def body_of(content: SchemaContent) -> dict[str, Any]:
    """Return the body of a request about a schema. Empty parts are left out: some servers refuse null."""
    body: dict[str, Any] = {
        "schema": content.text,
        "schemaType": _TO_WIRE.get(content.format, content.format),
    }
    if content.references:
        body["references"] = [
            {"name": r.name, "subject": r.subject, "version": r.version} for r in content.references
        ]
    if content.metadata:
        body["metadata"] = dict(content.metadata)
    if content.rule_set:
        body["ruleSet"] = dict(content.rule_set)
    return body


def stored_of(answer: Any) -> StoredSchema:
    """Return the version in an answer.

    The identity is that of the text: the registry decides which texts are the same schema.

    Raises:
        RegistryUnavailableError: the answer has no version in it.
    """
    found = table(answer)
    kind = found.get("schemaType") or "AVRO"
    text, guid = found.get("schema"), found.get("guid")
    if not isinstance(text, str) or not isinstance(kind, str):
        raise _strange("a version without 'schema'")
    return StoredSchema(
        string(found, "subject"),
        number(found, "version"),
        number(found, "id"),
        SchemaContent(
            _FROM_WIRE.get(kind.upper(), kind.upper()),
            text,
            text,
            tuple(map(_reference, listed(found.get("references") or []))),
            _without_nulls(found.get("metadata")),
            _without_nulls(found.get("ruleSet")),
        ),
        _time(found.get("ts")),
        bool(found.get("deleted")),
        guid=guid.lower() if isinstance(guid, str) else "",
    )


def _reference(value: Any) -> Reference:
    found = table(value)
    return Reference(string(found, "name"), string(found, "subject"), number(found, "version"))


def _without_nulls(value: Any) -> dict[str, Any]:
    return {} if value is None else {key: item for key, item in table(value).items() if item is not None}


def _time(value: Any) -> datetime:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_TIME:
        return datetime.fromtimestamp(value / 1_000, UTC)
    return UNKNOWN_TIME


# -- parts -------------------------------------------------------------------------------------------


def table(value: Any) -> Mapping[str, Any]:
    """Return an object in an answer. Raises RegistryUnavailableError if it is something else."""
    if not isinstance(value, dict):
        raise _strange("no object where one must be")
    return value


def listed(value: Any) -> list[Any]:
    """Return a list in an answer; null is an empty one. Raises RegistryUnavailableError if it is something else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _strange("no list where one must be")
    return value


def string(found: Mapping[str, Any], member: str) -> str:
    """Return a string in an answer. Raises RegistryUnavailableError if there is none."""
    value = found.get(member)
    if not isinstance(value, str):
        raise _strange(f"no string {member!r}")
    return value


def number(found: Mapping[str, Any], member: str) -> int:
    """Return a positive number in an answer. Raises RegistryUnavailableError if there is none."""
    return whole(found.get(member), member)


def whole(value: Any, what: str = "number") -> int:
    """Return a version or an id. Raises RegistryUnavailableError if the value is something else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _strange(f"no {what} where one must be")
    return value


def _strange(what: str) -> RegistryUnavailableError:
    return RegistryUnavailableError(
        f"the answer is not one of Confluent's API, it has {what}: is url the address of a schema registry?"
    )
