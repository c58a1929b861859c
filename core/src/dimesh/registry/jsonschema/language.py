"""JSON Schema as a schema language: Draft 7, 2019-09 and 2020-12."""

from __future__ import annotations

from collections.abc import Mapping

from dimesh.errors import InvalidSchemaError, PayloadError
from dimesh.events import strictjson
from dimesh.registry.jsonschema.compatibility import compare
from dimesh.registry.jsonschema.parsed import NAME, ParsedJsonSchema, own_schema
from dimesh.spi.schema import ParsedSchema, Verdict


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

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        """Return whether the reader can read everything that the writer may write."""
        return compare(own_schema(writer), own_schema(reader), policy)
