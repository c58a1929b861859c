"""JSON Schema as a schema language: Draft 7, 2019-09 and 2020-12."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dimesh.errors import InvalidSchemaError, PayloadError
from dimesh.events import strictjson
from dimesh.events.names import show
from dimesh.registry.jsonschema.compatibility import compare
from dimesh.registry.jsonschema.parsed import NAME, ParsedJsonSchema, own_schema
from dimesh.spi.schema import Change, ParsedSchema, Verdict


class JsonSchema:
    """See :class:`dimesh.spi.schema.SchemaLanguage`."""

    name = NAME
    content_type = "application/json"
    self_describing = True

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> ParsedJsonSchema:
        """Return a schema."""
        try:
            document = strictjson.loads(text)
        except PayloadError as error:
            raise InvalidSchemaError(f"the schema is not JSON: {error}") from None
        return ParsedJsonSchema(text, document, references or {})

    def evolve(self, schema: ParsedSchema, changes: Sequence[Change]) -> str:
        """Return the text of a schema after some changes, made by :class:`~dimesh.registry.evolution.SchemaEvolutionHelper`."""
        from dimesh.registry.evolution import SchemaEvolutionHelper as Helper

        document = schema.document
        for change in changes:
            if change.kind == "rename":
                document = Helper.rename_field(document, change.name, change.text)
            elif change.kind == "deprecate":
                document = Helper.deprecate_field(document, change.name, change.text)
            elif change.default is None:
                document = Helper.add_optional_field(document, change.name, _field(change.field))
            else:
                document = Helper.add_required_field_with_default(
                    document, change.name, _field(change.field), change.default[0]
                )
        return json.dumps(document, ensure_ascii=False, indent=2)

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        """Return whether the reader can read everything that the writer may write."""
        return compare(own_schema(writer), own_schema(reader), policy)


def _field(field: Any) -> Mapping[str, Any]:
    """Return the schema of a field; the name of a type stands for that type."""
    if isinstance(field, str):
        return {"type": field}
    if isinstance(field, Mapping):
        return field
    raise InvalidSchemaError(
        f"{show(field)} is no schema of a field: use a type such as 'string', or a JSON object"
    )
