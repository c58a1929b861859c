"""The protocol of schema languages: JSON Schema, Avro, Protobuf, and those that third parties add.

A language turns the text of a schema into a :class:`ParsedSchema` and compares two of them. The registry knows nothing else about
a language, and a language knows nothing about subjects, versions or stores.

Calling rules: everything here is synchronous and must be quick, because the event loop waits: the work is bounded by limits that
the language checks when it parses (size, depth, expanded size, patterns). A parsed schema is immutable and may be used from
several threads. No method opens a file or a socket, whatever the text of the schema says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Protocol, runtime_checkable

POLICIES: Final = ("strict", "defaults", "tolerant", "confluent", "confluent-lenient")
"""The meanings of "compatible" that a language may be asked for.

``strict``: every document of the writer is valid under the reader. ``defaults``: the reader also fills in a required property
that has a default. ``tolerant``: moreover, writers send only the properties that they declare, and readers ignore properties
that they do not know. ``confluent`` and ``confluent-lenient``: the verdicts of Confluent's server with its
``compatibilityPolicy`` STRICT and LENIENT. A language whose rules leave no choice gives the same verdict for several of them:
Avro's for all, Protobuf's for the first three.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A location at which data does not satisfy a schema, with the reason."""

    path: str
    """A JSON Pointer into the data; empty for the whole document."""
    message: str
    """The reason, in words. It does not repeat a value that the schema marks as sensitive."""
    schema_path: str = ""
    """A JSON Pointer into the schema; empty if the language has none."""
    keyword: str = ""
    """The rule that is violated, in the language's own word, such as ``minimum``."""

    def __str__(self) -> str:
        return f"{self.path or '(the whole document)'}: {self.message}"


class Outcome(Enum):
    """The three answers to whether a reader can read everything that a writer may write."""

    PROVED = "proved"
    """It can: a rule proves it."""
    REFUTED = "refuted"
    """It cannot: there is a witness."""
    UNDECIDED = "undecided"
    """No rule proves it, and no witness was found."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason of a verdict."""

    code: str
    """The kind of the difference, for programs: lower-case words with hyphens, such as ``required-added``. A code keeps its
    meaning."""
    path: str
    """The location in the reader's schema: ``#`` and a JSON Pointer, or the language's own path."""
    message: str
    """The reason, in words."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Witness:
    """A value that the writer may write and the reader cannot read."""

    value: Any
    """The value, as :meth:`ParsedSchema.encode` takes it; the writer's schema allows it."""
    problem: str = ""
    """What the reader says about the value."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to whether a reader can read everything that a writer may write, with the reasons if not."""

    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    """Empty if the answer is PROVED, else at least one."""
    witness: Witness | None = None
    """Never None if the answer is REFUTED by ``strict``, ``defaults`` or ``tolerant``. Confluent's policies also refuse
    changes that have no witness."""

    def __bool__(self) -> bool:
        return self.outcome is Outcome.PROVED


PROVED: Final = Verdict(Outcome.PROVED)


class ParsedSchema(Protocol):
    """A schema that was parsed, with the schemas that it refers to."""

    @property
    def language(self) -> str:
        """The name of the language."""
        ...

    @property
    def text(self) -> str:
        """The schema as it was given, byte for byte."""
        ...

    @property
    def document(self) -> Any:
        """The schema as people write it in Python: JSON values in a language that is written in JSON, else the text."""
        ...

    @property
    def canonical(self) -> str:
        """The identity of the schema: two spellings of one schema (another order of keys, other white space) have the same
        one, and two schemas that mean something else never have.
        """
        ...

    @property
    def record_name(self) -> str | None:
        """The name that the schema gives to what it describes: the full name of a record or message, the title of a JSON
        Schema; None: it gives none.
        """
        ...

    def is_valid(self, value: Any) -> bool:
        """Return whether the schema allows a value."""
        ...

    def problems(self, value: Any) -> Sequence[Problem]:
        """Return the locations at which a value does not satisfy the schema; empty if it does. Sorted, at most 50."""
        ...

    def encode(self, value: Any) -> bytes:
        """Return the payload for a value, without any frame.

        Raises:
            SchemaValidationError: the schema does not allow the value.
        """
        ...

    def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
        """Return the value of a payload as this schema's reader sees it.

        Args:
            payload: what ``writer.encode`` returned.
            writer: the schema that the payload was written with; None: this schema. The reader resolves it by the rules of the
                language: it fills in defaults, converts promoted types, and leaves out what it does not know.

        Raises:
            SchemaValidationError: the payload is damaged, does not belong to the writer's schema, or cannot be resolved.
        """
        ...


@runtime_checkable
class FormattedSchema(Protocol):
    """A parsed schema whose text has other forms, as Confluent's API names them in ``format``. Optional."""

    def formatted(self, form: str) -> str | None:
        """Return the schema in another form; None: it has no such form.

        Args:
            form: ``resolved``: one text with everything that the schema refers to; ``serialized``: Protobuf's file descriptor, in
                base64.
        """
        ...


@runtime_checkable
class SchemaLanguage(Protocol):
    """A schema language."""

    name: str
    """The name of the language in stores and on the wire, in upper case: ``JSON_SCHEMA``, ``AVRO``, ``PROTOBUF``, …"""
    content_type: str
    """The media type of the payloads, such as ``application/json``."""
    self_describing: bool
    """Whether a payload can be read without the schema that it was written with, as JSON can."""

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> ParsedSchema:
        """Return a schema.

        Args:
            text: the schema.
            references: the schemas that the text may refer to, by the name that the text uses for them. Each was parsed with
                its own references.

        Raises:
            InvalidSchemaError: the text is no schema of this language, exceeds a limit, or refers to something that is not
                among the references; the message says where.
        """
        ...

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        """Return whether the reader can read everything that the writer may write.

        Args:
            writer: the schema of the data.
            reader: the schema of the one who reads the data.
            policy: one of :data:`POLICIES`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a schema that its language can make."""

    kind: Literal["add", "rename", "deprecate"]
    name: str
    """The field."""
    field: Any = None
    """Of an addition: the schema of the field, in JSON values, as the language writes it."""
    default: tuple[Any] | None = None
    """Of an addition: the value for data without the field, in a tuple of its own, since it may be null. None: the field is
    optional."""
    text: str = ""
    """Of a renaming: the new name; of a deprecation: the message."""


@runtime_checkable
class EvolvingLanguage(Protocol):
    """A language that changes schemas so that they stay compatible as far as the change allows. Optional."""

    def evolve(self, schema: ParsedSchema, changes: Sequence[Change]) -> str:
        """Return the text of a schema after some changes, made in their order.

        Raises:
            InvalidSchemaError: a change is not possible; the message says why.
        """
        ...
