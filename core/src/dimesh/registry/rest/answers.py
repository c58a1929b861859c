"""Answers: schemas, texts and errors as Confluent's clients read them. Empty parts are left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from dimesh.registry.rest.failures import RestError
from dimesh.spi.registry import StoredSchema

MEDIA_TYPE: Final = b"application/vnd.schemaregistry.v1+json"
TYPES: Final = {"JSON_SCHEMA": "JSON"}


@dataclass(frozen=True, slots=True)
class Text:
    """A body that is sent as it is: the text of a schema."""

    text: str


def schema_of(stored: StoredSchema, text: str | None = None) -> dict[str, Any]:
    """Return the schema of an id.

    Args:
        stored: a version with the schema.
        text: the schema in another form than that in which it was registered.
    """
    content = stored.content
    answer: dict[str, Any] = {"schema": content.text if text is None else text}
    if content.format != "AVRO":  # what clients take for granted
        answer["schemaType"] = TYPES.get(content.format, content.format)
    if content.references:
        answer["references"] = [
            {"name": r.name, "subject": r.subject, "version": r.version} for r in content.references
        ]
    if content.metadata:
        answer["metadata"] = content.metadata
    if content.rule_set:
        answer["ruleSet"] = content.rule_set
    answer["guid"] = stored.guid
    return answer


def version_of(stored: StoredSchema, text: str | None = None) -> dict[str, Any]:
    """Return a version of a subject."""
    answer = {
        "subject": stored.subject,
        "version": stored.version,
        "id": stored.schema_id,
        **schema_of(stored, text),
    }
    answer["ts"] = int(stored.created_at.timestamp() * 1_000)
    if stored.deleted:
        answer["deleted"] = True
    return answer


def encode(answer: Any) -> bytes:
    """Return the body of an answer."""
    if isinstance(answer, Text):
        return answer.text.encode("utf-8", "replace")
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_body(failure: RestError) -> bytes:
    """Return the body of an error."""
    return encode({"error_code": failure.code, "message": failure.message})
