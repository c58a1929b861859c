"""The protocol of schema stores. Languages, validation, compatibility and evolution belong to the engine
(:mod:`dimesh.registry`); a remote registry that decides about registrations by itself is a :class:`DecidingStore`.

Names. A subject is any text that is not empty (the engine has checked it). A name of the form ``:.context:subject`` belongs to
the context ``.context``, every other one to the default context ``.`` (see :func:`context_of`). Ids belong to a context; a
scope of settings is a subject, ``:.context:`` for a whole context, or None for everything.

Calling rules: all methods are called from one event loop; calls may overlap and may be cancelled. Nothing is half written.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, runtime_checkable

from dimesh.capabilities import Capabilities
from dimesh.spi.schema import Verdict

DEFAULT_CONTEXT: Final = "."

COMPATIBILITY: Final = "compatibility"
"""The setting of a scope that names the compatibility mode, in the words of Confluent's API."""
POLICY: Final = "compatibilityPolicy"
"""The setting that names the policy of comparisons, one of :data:`dimesh.spi.schema.POLICIES`."""
MODE: Final = "mode"
"""The setting that says what may be written: ``READWRITE``, ``READONLY`` or ``IMPORT``."""
KEPT_SETTINGS: Final = (
    "compatibilityGroup",
    "normalize",
    "alias",
    "validateFields",
    "validateRules",
    "defaultMetadata",
    "overrideMetadata",
    "defaultRuleSet",
    "overrideRuleSet",
)
"""Further settings of Confluent's API: a store keeps and returns them, and the engine gives them no effect."""


def context_of(subject: str) -> str:
    """Return the context of a subject: ``.dev`` for ``:.dev:orders``, ``.`` for a plain name."""
    if subject.startswith(":."):
        end = subject.find(":", 2)
        if end > 0:
            return subject[1:end]
    return DEFAULT_CONTEXT


def scopes_of(subject: str) -> tuple[str | None, ...]:
    """Return the scopes whose settings apply to a subject, the widest first; a later one has precedence."""
    context = context_of(subject)
    return (None, subject) if context == DEFAULT_CONTEXT else (None, f":{context}:", subject)


@dataclass(frozen=True, slots=True)
class Reference:
    """A registered schema that another schema refers to."""

    name: str
    """The name by which the text refers to it: a ``$ref``, the full name of a record, the path of an import."""
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class SchemaContent:
    """What is registered: a schema with everything that belongs to its identity."""

    format: str
    """The name of the language: ``JSON_SCHEMA``, ``AVRO``, ``PROTOBUF``, …"""
    text: str
    """The schema as it was given, byte for byte."""
    canonical: str
    """The identity of the text within its language, see :attr:`dimesh.spi.schema.ParsedSchema.canonical`."""
    references: tuple[Reference, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the author states about the schema: ``tags``, ``properties``, ``sensitive``, in the shape of Confluent's API. It
    belongs to the identity: the same text with other metadata is another schema."""
    rule_set: Mapping[str, Any] = field(default_factory=dict)
    """Rules for data and migrations, in the shape of Confluent's API; kept, and belonging to the identity, but not carried
    out."""

    @property
    def identity(self) -> str:
        """The key by which equal contents are found: 32 hexadecimal digits, from everything but the spelling of the text."""
        parts = (
            self.format,
            self.canonical,
            sorted((r.name, r.subject, r.version) for r in self.references),
            self.metadata,
            self.rule_set,
        )
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.md5(text.encode("ascii"), usedforsecurity=False).hexdigest()

    @property
    def guid(self) -> str:
        """The identity as a UUID: the same in every store, for the header form of a payload's frame."""
        return str(uuid.UUID(self.identity))


@dataclass(frozen=True, slots=True)
class StoredSchema:
    """One version of one subject, as stored."""

    subject: str
    version: int
    """The version number, 1, 2, 3 … within the subject; never used again, not even after a delete."""
    schema_id: int
    """The id of the content within the subject's context: equal content in another subject has the same id."""
    content: SchemaContent
    created_at: datetime
    deleted: bool = False
    """Whether the version is soft-deleted: readable by id, and not listed."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What this registry keeps about the version and what does not belong to its identity, such as its deprecation."""
    guid: str = ""
    """The globally unique id of the content, a UUID in text form, as the store gives it: opaque for everybody else."""

    @property
    def format(self) -> str:
        """The name of the language."""
        return self.content.format

    @property
    def text(self) -> str:
        """The schema as it was registered."""
        return self.content.text


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A subject at one moment, for a decision about its next version."""

    revision: str
    """Changes with every change of the subject's versions or of settings that apply to the subject."""
    live: Sequence[int]
    """The numbers of the versions that are not deleted, ascending."""
    highest: int
    """The highest version number that was ever used; 0: none."""
    settings: Mapping[str, Any]
    """The settings that apply to the subject: its own, completed with those of its context, completed with the global ones."""


@runtime_checkable
class RegistryStore(Protocol):
    """A store of subjects, versions, ids and settings."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect; called once, first.

        Raises:
            StorageError: the store is damaged, of a newer format, or not writable.
        """
        ...

    async def close(self) -> None:
        """Free all resources; may be called twice."""
        ...

    # -- writing ---------------------------------------------------------------------------------

    async def snapshot(self, subject: str) -> Snapshot:
        """Return a subject with the settings that apply to it, read at one moment. A subject without versions has an empty
        one.
        """
        ...

    async def append(
        self,
        subject: str,
        content: SchemaContent,
        *,
        revision: str,
        version: int | None = None,
        schema_id: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version, if the snapshot that the decision was made with still holds.

        Args:
            subject: the subject.
            content: the schema.
            revision: that of the snapshot.
            version: the number of the version, in import mode; None: the highest number that was ever used, plus 1.
            schema_id: the id of the content, in import mode; None: that of equal content in the context, else a new one.
            notes: the local notes.

        Raises:
            VersionConflictError: another writer changed the subject or its settings first, or the version exists.
            SchemaIdConflictError: the id belongs to another content, or the content has another id.
            ReferenceNotFoundError: a reference names a version that does not exist.
        """
        ...

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Soft-delete one version or all; with ``permanent`` remove what is soft-deleted. Return the affected versions.

        When the last version is removed for good, the subject's settings go with it.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
            SoftDeletedError: the subject or version is soft-deleted already.
            NotSoftDeletedError: ``permanent``, and the subject or version was not soft-deleted before.
            ReferencedError: another schema refers to it.
        """
        ...

    async def set_notes(self, subject: str, version: int, notes: Mapping[str, Any]) -> StoredSchema:
        """Replace the local notes of a version.

        Raises:
            SubjectNotFoundError: there is no such version.
            NotPermittedError: the store does not state ``NOTES``.
        """
        ...

    # -- reading ---------------------------------------------------------------------------------

    async def get(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return one version, None if there is none. ``version`` None: the latest one; ``deleted``: soft-deleted ones count,
        too.
        """
        ...

    async def numbers(
        self, subject: str, *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[int]:
        """Return the version numbers, ascending; empty if there are none."""
        ...

    async def find(
        self, subject: str, content: SchemaContent, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return the newest version of the subject with that identity, None if there is none."""
        ...

    async def by_id(self, schema_id: int, context: str = DEFAULT_CONTEXT) -> StoredSchema | None:
        """Return any version with that content, soft-deleted ones included, live ones first; None if there is none."""
        ...

    async def by_guid(self, guid: str) -> StoredSchema | None:
        """Return any version with that globally unique id, in any context; None if there is none."""
        ...

    async def users(
        self, schema_id: int, context: str = DEFAULT_CONTEXT, *, deleted: bool = False
    ) -> Sequence[tuple[str, int]]:
        """Return every subject and version with the content of an id, sorted."""
        ...

    async def referenced_by(self, subject: str, version: int) -> Sequence[StoredSchema]:
        """Return the versions, in any subject and soft-deleted ones included, that refer to a version."""
        ...

    async def subjects(
        self, prefix: str = "", *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[str]:
        """Return the sorted names of the subjects that have a live version (with ``deleted``: any version), of all contexts.

        Args:
            prefix: only names that begin with it.
            deleted: also those whose versions are all soft-deleted.
            offset: the number of names to leave out first.
            limit: the greatest number of names; None: all.
        """
        ...

    async def contexts(self) -> Sequence[str]:
        """Return the sorted names of the contexts that have a version, and ``.``."""
        ...

    # -- settings --------------------------------------------------------------------------------

    async def get_settings(self, scope: str | None) -> Mapping[str, Any]:
        """Return a scope's own settings, such as ``compatibility`` and ``mode``; empty if none were set."""
        ...

    async def set_settings(self, scope: str | None, settings: Mapping[str, Any]) -> None:
        """Replace a scope's own settings; an empty mapping removes them. Values are JSON."""
        ...


@runtime_checkable
class IdIndex(Protocol):
    """A store that answers questions about ids without a search. Optional."""

    async def last_id(self, context: str = DEFAULT_CONTEXT) -> int:
        """Return the highest id that a content of a context has ever had; 0: none was given."""
        ...

    async def ids_of(self, guid: str) -> Sequence[tuple[str, int]]:
        """Return the contexts with a version of a content, soft-deleted ones included, each with the id of the content there;
        sorted, and empty if there is none.
        """
        ...


@runtime_checkable
class DecidingStore(Protocol):
    """A store that decides about registrations by itself, as a remote registry does. It states ``DECIDES_COMPATIBILITY``."""

    async def register(
        self,
        subject: str,
        content: SchemaContent,
        *,
        version: int | None = None,
        schema_id: int | None = None,
    ) -> StoredSchema:
        """Register a schema in one call, or return the version that has it already.

        Args:
            subject: the subject.
            content: the schema.
            version: the number that the version must get; None: the next one.
            schema_id: the id of the content, in import mode; None: the registry chooses.

        Raises:
            InvalidSchemaError: the registry refuses the schema.
            IncompatibleSchemaError: the schema violates the subject's compatibility mode.
            VersionConflictError: the version exists with another schema.
            SchemaIdConflictError: the id belongs to another content, or the content has another id.
            NotPermittedError: the mode of the subject forbids it.
        """
        ...

    async def check(self, subject: str, content: SchemaContent, version: int | None = None) -> Verdict:
        """Return whether the schema could be registered now; ``version``: compare with that one only."""
        ...
