"""The schema language Avro."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import (
    POLICIES,
    PROVED,
    Change,
    Difference,
    Outcome,
    ParsedSchema,
    Problem,
    Verdict,
    Witness,
)
from dimesh_avro.checking import Check
from dimesh_avro.comparing import Comparison
from dimesh_avro.evolving import evolved
from dimesh_avro.fast import UNDECIDED, Fast, is_plain
from dimesh_avro.nodes import NAMED, Node
from dimesh_avro.parsing import Parser, load
from dimesh_avro.reading import Read, Readers, Source
from dimesh_avro.resolving import definitions, resolved
from dimesh_avro.writing import Writer

_MOST_WITNESSES: Final = 10


class AvroSchema:
    """A parsed Avro schema. Values are Python's: dictionaries for records and maps, text for symbols, dates, times, decimals and
    UUIDs for the logical types. In a union, ``(name, value)`` names the branch of a value that several branches allow.
    """

    language = "AVRO"

    def __init__(
        self,
        text: str,
        canonical: str,
        root: Node,
        names: Mapping[str, tuple[Node, str]],
        references: Sequence[AvroSchema] = (),
    ) -> None:
        self.text = text
        self.references = references
        """The schemas that define the names which the text uses without defining them."""
        self.canonical = canonical
        self.root = root
        self.names = names
        """The named types that the schema and its references define, each with its canonical form."""
        self._readers: WeakKeyDictionary[AvroSchema, Read] = WeakKeyDictionary()

    @property
    def document(self) -> Any:
        """The schema as JSON values; each access returns new ones."""
        return json.loads(self.text)

    def formatted(self, form: str) -> str | None:
        """Return the schema in another form: ``resolved`` has each named type of a reference in the place of its first use."""
        if form != "resolved":
            return None
        return self.text if not self.references else resolved(self.document, definitions_of(self.references))

    @property
    def record_name(self) -> str | None:
        """The full name of the type at the top, if it has a name."""
        return self.root.name if self.root.kind in NAMED else None

    @cached_property
    def _fast(self) -> Fast | None:
        return Fast(self.root) if is_plain(self.root) and self.root.kind != "bytes" else None

    def is_valid(self, value: Any) -> bool:
        """Return whether the schema allows a value."""
        if self._fast is not None and self._fast.encode(value) is not None:
            return True
        return not Check(1).run(self.root, value)

    def problems(self, value: Any) -> Sequence[Problem]:
        """Return the locations at which a value does not satisfy the schema."""
        return Check().run(self.root, value)

    def encode(self, value: Any) -> bytes:
        """Return the payload for a value: Avro's binary encoding.

        Raises:
            SchemaValidationError: the schema does not allow the value.
        """
        if self._fast is not None:
            payload = self._fast.encode(value)
            if payload is not None:
                return payload
        problems = self.problems(value)
        if problems:
            lines = tuple(map(str, problems))
            raise SchemaValidationError(f"the value does not satisfy the Avro schema: {lines[0]}", lines)
        return Writer().run(self.root, value)

    def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
        """Return the value of a payload, resolved to this schema.

        Raises:
            SchemaValidationError: the payload is damaged, does not belong to the writer's schema, or cannot be resolved.
        """
        source = self if writer is None else _own(writer)
        if source is self and self._fast is not None:
            value = self._fast.decode(payload)
            if value is not UNDECIDED:
                return value
        read = self._readers.get(source)
        if read is None:
            read = self._readers[source] = Readers().reader(source.root, self.root)
        try:
            return _run(read, bytes(payload), source.root)
        except (ValueError, RecursionError) as error:
            raise SchemaValidationError(
                f"the payload cannot be read by the Avro schema: {error}", (str(error),)
            ) from error

    def __repr__(self) -> str:
        return f"AvroSchema({self.canonical!r:.200})"


def _run(read: Read, payload: bytes, root: Node) -> Any:
    if root.kind == "bytes":  # at the top, bytes are the payload: Confluent's serializers write no length
        payload = Writer().length(len(payload)) + payload
    source = Source(payload)
    value = read(source)
    if source.at != len(payload):
        raise ValueError(f"{len(payload) - source.at:,} bytes follow the value")
    return value


def _own(schema: ParsedSchema) -> AvroSchema:
    if not isinstance(schema, AvroSchema):
        raise SchemaValidationError(f"a schema of the language {schema.language} is not an Avro schema")
    return schema


def definitions_of(references: Sequence[AvroSchema]) -> dict[str, Any]:
    """Return the definitions of the named types in schemas and in those that they refer to, by full name."""
    found: dict[str, Any] = {}
    for reference in references:
        found |= definitions_of(reference.references)
        found |= definitions(reference.document)
    return found


class AvroLanguage:
    """The schema language Avro. One object serves any number of threads."""

    name = "AVRO"
    content_type = "application/avro"
    self_describing = False

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        """Return a schema. References add the named types that they define to those that the text may use.

        Raises:
            InvalidSchemaError: the text is no Avro schema, exceeds a limit, or uses a type that is not known.
        """
        names: dict[str, tuple[Node, str]] = {}
        for name, reference in (references or {}).items():
            if not isinstance(reference, AvroSchema):
                raise InvalidSchemaError(f"the reference {name!r:.200} is not an Avro schema")
            for full, known in reference.names.items():
                if full in names and names[full][1] != known[1]:
                    raise InvalidSchemaError(f"two references define the type {full!r:.200} differently")
                names.setdefault(full, known)
        data = load(text)
        root, canonical, own = Parser({full: node for full, (node, _) in names.items()}).parse(data)
        spelled = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
        names |= {full: (node, f"{full} in {spelled}") for full, node in own.items()}
        given = [reference for reference in (references or {}).values() if isinstance(reference, AvroSchema)]
        return AvroSchema(text, spelled, root, names, given)

    def evolve(self, schema: ParsedSchema, changes: Sequence[Change]) -> str:
        """Return the text of a record after some changes; see :func:`dimesh_avro.evolving.evolved`.

        Raises:
            InvalidSchemaError: a change is not possible.
        """
        return evolved(_own(schema).document, changes)

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        """Return whether the reader can read everything that the writer may write: the rules of resolution, whatever the policy.

        A change of a logical type that gives values another meaning is refused, too. A refutation was tried: the value was
        encoded, and the reader could not decode it.
        """
        if policy not in POLICIES:
            raise ValueError(f"{policy!r:.100} is no policy; there are: {', '.join(POLICIES)}")
        before, after = _own(writer), _own(reader)
        if before is after:
            return PROVED
        comparison = Comparison()
        comparison.run(before.root, after.root)
        differences = tuple(found.difference for found in comparison.found)
        for found in comparison.found[:_MOST_WITNESSES]:
            value = found.make()
            problem = _refusal(before, after, value)
            if problem:
                return Verdict(Outcome.REFUTED, differences, Witness(value, problem))
        if not differences and not comparison.unfinished:
            return PROVED
        reason = comparison.unfinished or "the reader refuses no value that was tried"
        undecided = Difference("undecided", after.root.label, reason)
        return Verdict(Outcome.UNDECIDED, (*differences, undecided))


def _refusal(writer: AvroSchema, reader: AvroSchema, value: Any) -> str:
    """Return what the reader says about a value; empty if it reads it, or if the writer cannot write it."""
    try:
        payload = writer.encode(value)
    except SchemaValidationError:
        return ""
    try:
        reader.decode(payload, writer)
    except SchemaValidationError as error:
        return str(error)
    return ""


language: Final = AvroLanguage()
