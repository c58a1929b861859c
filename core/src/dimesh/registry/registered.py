"""A registered schema, ready to use."""

from __future__ import annotations

from typing import Any, Final

from dimesh.errors import SchemaValidationError
from dimesh.events.names import show
from dimesh.events.strictjson import loads_strict
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.spi.registry import StoredSchema
from dimesh.spi.schema import ParsedSchema

_ANYTHING: Final = ParsedJsonSchema("true", True)
"""The schema of a writer that nothing is known of."""


class RegisteredSchema:
    """A version of a subject, parsed.

    Args:
        stored: the version.
        schema: the schema of the version.
    """

    __slots__ = ("_allows", "_decode", "schema", "stored", "subject", "version")

    def __init__(self, stored: StoredSchema, schema: ParsedSchema) -> None:
        self.stored = stored
        self.schema = schema
        self.subject: str = stored.subject
        self.version: int = stored.version
        self._decode = schema.decode
        self._allows = schema.is_valid if isinstance(schema, ParsedJsonSchema) else None

    def check_payload(self, payload: bytes, strict: bool = False) -> None:
        """Check that a payload is what the schema's language writes for the schema.

        Args:
            payload: the payload.
            strict: whether it is known to be strict JSON, which saves a third of the time.

        Raises:
            SchemaValidationError: the payload is not; see ``problems``.
        """
        if strict and self._allows is not None and self._allows(loads_strict(payload)):
            return
        try:
            self._decode(payload)
        except SchemaValidationError as error:
            raise SchemaValidationError(
                f"the payload does not satisfy {show(self.subject)} (version {self.version}): "
                + "; ".join(error.problems[:5] or (str(error),)),
                error.problems,
            ) from None

    def read(self, payload: bytes, writer: RegisteredSchema) -> Any:
        """Return the value of a payload of another version as this version's reader sees it, with defaults filled in.

        Raises:
            SchemaValidationError: the payload is damaged, or this version cannot read it.
        """
        return self.schema.decode(payload, writer.schema)

    def completed(self, payload: bytes) -> Any:
        """Return the value of a payload, whatever wrote it, with the defaults of this version for what is missing.

        Raises:
            SchemaValidationError: the payload cannot be read, or lacks something that has no default.
        """
        if not isinstance(self.schema, ParsedJsonSchema):
            return self.schema.decode(payload)
        return self.schema.decode(payload, _ANYTHING)

    def check(self, data: Any) -> None:
        """Check that ``data`` satisfies the schema.

        Raises:
            SchemaValidationError: the data does not; see ``problems``.
        """
        if self.schema.is_valid(data):
            return
        problems = tuple(str(problem) for problem in self.schema.problems(data))
        raise SchemaValidationError(
            f"the payload does not satisfy {show(self.subject)} (version {self.version}): {'; '.join(problems[:5])}",
            problems,
        )
