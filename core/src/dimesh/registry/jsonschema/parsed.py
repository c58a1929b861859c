"""A parsed JSON Schema: it validates, encodes and decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NoReturn

from dimesh.errors import InvalidSchemaError, PayloadError, SchemaValidationError
from dimesh.events import strictjson
from dimesh.events.names import show
from dimesh.registry.jsonschema.bundle import bundled
from dimesh.registry.jsonschema.cost import depth_limit
from dimesh.registry.jsonschema.documents import BASE, Documents, join
from dimesh.registry.jsonschema.engines import Engine, compile_schema
from dimesh.registry.jsonschema.reading import Reader, opened, without_defaults
from dimesh.registry.jsonschema.values import depth_of, not_json
from dimesh.spi.schema import ParsedSchema, Problem

MAX_PROBLEMS: Final = 50
NAME: Final = "JSON_SCHEMA"


class ParsedJsonSchema:
    """See :class:`dimesh.spi.schema.ParsedSchema`.

    Args:
        text: the schema as it was given.
        document: the schema as JSON values. It must not be changed.
        references: the schemas that it may refer to, by the names that it uses.
        engine: the engine; None: the best one that is installed.

    Raises:
        InvalidSchemaError: the schema is not valid.
    """

    language = NAME

    def __init__(
        self,
        text: str,
        document: Any,
        references: Mapping[str, ParsedSchema] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.text = text
        self.document = document
        self.references = {name: own_schema(schema) for name, schema in (references or {}).items()}
        self.addresses = _addresses(BASE, document, self.references)
        """The documents that the schema may refer to, by their addresses."""
        self.documents = Documents(document, self.addresses)
        """The schema and the documents, to resolve references with."""
        self.sensitive: bool = self.documents.sensitive or any(r.sensitive for r in self.references.values())
        """Whether messages keep values out, because the schema marks something as sensitive."""
        self.max_depth: int | None = depth_limit(self.documents)
        self.draft = self.documents.root.draft
        self._compiled = compile_schema(
            document, self.draft, self.addresses, hide=self.sensitive, engine=engine
        )
        self._allows = self._compiled.is_valid

    @cached_property
    def canonical(self) -> str:
        """The JSON with sorted keys, without white space; 1.0 is 1."""
        return strictjson.canonical(self.document)

    @cached_property
    def referenced(self) -> Mapping[str, str]:
        """The identities of the documents that the schema may refer to, by their addresses."""
        return {address: strictjson.canonical(document) for address, document in self.addresses.items()}

    @property
    def record_name(self) -> str | None:
        """The title."""
        title = self.document.get("title") if isinstance(self.document, Mapping) else None
        return title if isinstance(title, str) else None

    def formatted(self, form: str) -> str | None:
        """Return the schema in another form: ``resolved`` is a compound document (JSON Schema 2020-12, section 9.3.1), in which
        the schemas that it refers to are embedded with their addresses.
        """
        if form != "resolved":
            return None
        return self.text if not self.addresses else bundled(self.document, self.addresses, self.draft)

    def is_valid(self, value: Any) -> bool:
        """Return whether the schema allows a value.

        The value is JSON, as :mod:`dimesh.events.strictjson` decodes it; what is not JSON is noticed only where the schema looks
        at it. :meth:`encode` and :meth:`problems` notice it everywhere.
        """
        try:
            return (self.max_depth is None or depth_of(value) <= self.max_depth) and self._allows(value)
        except ValueError:  # something that the engine does not know as JSON
            return not self.problems(value)

    def problems(self, value: Any) -> Sequence[Problem]:
        """Return the locations at which a value does not satisfy the schema; sorted, at most 50."""
        foreign = not_json(value)
        if foreign is not None:
            # What can be encoded, such as a tuple, is judged as what it becomes.
            try:
                value = strictjson.loads(strictjson.dumps(value))
            except PayloadError:
                return [foreign]
        if self.max_depth is not None and depth_of(value) > self.max_depth:
            return [
                Problem(
                    "",
                    f"nested deeper than {self.max_depth} levels, the limit of this schema: it applies several schemas to each "
                    "nested value",
                )
            ]
        found = sorted(set(self._compiled.problems(value)), key=lambda p: (p.path, p.schema_path, p.message))
        return found[:MAX_PROBLEMS]

    def encode(self, value: Any) -> bytes:
        """Return the payload for a value."""
        try:
            payload = strictjson.dumps(value)
        except PayloadError as error:
            raise SchemaValidationError(f"the value is not JSON: {error}") from None
        if not self.is_valid(value):
            self._refuse(value, "the value")
        return payload

    def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
        """Return the value of a payload.

        With a writer, defaults of this schema are filled in, and properties that this schema does not know are kept, even if it
        allows no others.
        """
        try:
            value = strictjson.loads(payload)
        except PayloadError as error:
            raise SchemaValidationError(f"the payload is not JSON: {error}") from None
        source = self if writer is None else own_schema(writer)
        if not source.is_valid(value):
            source._refuse(value, "the payload")
        if writer is None:
            return value
        filled = self._reader.fill(value)
        if self.is_valid(filled) or self._open.is_valid(filled):
            return filled
        # Nothing forces a default to satisfy its own schema: one that does not is not filled in.
        while problems := self._open.problems(filled):
            if not without_defaults(filled, value, [problem.path for problem in problems]):
                break
        else:
            return filled
        # A default of an optional property may also break a rule about the whole document, such as a dependency.
        needed = Reader(self.documents, required_only=True).fill(value)
        if not self._open.is_valid(needed):
            self._open._refuse(filled, "the payload, read with the reader's schema,")
        return needed

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.documents)

    @cached_property
    def _open(self) -> ParsedJsonSchema:
        """This schema, as a reader sees it who ignores properties that the schema does not know."""
        return ParsedJsonSchema(self.text, opened(self.document), self.references)

    def _refuse(self, value: Any, what: str) -> NoReturn:
        problems = tuple(str(problem) for problem in self.problems(value))
        raise SchemaValidationError(
            f"{what} does not satisfy the schema: {'; '.join(problems[:5])}", problems
        )


def own_schema(schema: ParsedSchema) -> ParsedJsonSchema:
    """Return a schema that must be of this language.

    Raises:
        InvalidSchemaError: the schema is of another language.
    """
    if not isinstance(schema, ParsedJsonSchema):
        raise InvalidSchemaError(
            f"a JSON Schema cannot refer to, or be read as, a schema of {show(schema.language)}"
        )
    return schema


def _addresses(base: str, document: Any, references: Mapping[str, ParsedJsonSchema]) -> dict[str, Any]:
    """Return the documents that a schema may refer to, directly or through others, by their addresses."""
    found: dict[str, Any] = {}
    waiting = [(base, document, references)]
    while waiting:
        base, document, references = waiting.pop()
        own = document.get("$id") if isinstance(document, Mapping) else None
        if isinstance(own, str):
            base = join(base, own)
        for name, parsed in references.items():
            address = join(base, name).partition("#")[0]
            known = found.get(address)
            if known is None:
                found[address] = parsed.document
                waiting.append((address, parsed.document, parsed.references))
            elif known is not parsed.document and strictjson.canonical(known) != parsed.canonical:
                raise InvalidSchemaError(
                    f"two different schemas are referred to as {show(name)}, perhaps in two versions: use the same version in "
                    "all schemas that refer to each other, or another name"
                )
    return found
