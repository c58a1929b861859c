"""The schema store in memory: the reference for all stores, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dimesh.backends.registry.rules import (
    Listed,
    check_not_referenced,
    next_version,
    snapshot_of,
    to_delete,
)
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import ReferenceNotFoundError, SchemaIdConflictError, SubjectNotFoundError
from dimesh.events.names import show
from dimesh.options import Options, parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.registry import (
    DEFAULT_CONTEXT,
    RegistryStore,
    SchemaContent,
    Snapshot,
    StoredSchema,
    context_of,
    scopes_of,
)


class MemoryStoreOptions(Options, frozen=True):
    """The memory store has no options."""


class MemoryStore:
    """See :class:`dimesh.spi.registry.RegistryStore`."""

    name = "memory"
    capabilities = Capabilities(Capability.SOFT_DELETE, Capability.NOTES)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subjects: dict[str, dict[int, StoredSchema]] = {}
        """By subject and number, in ascending order."""
        self._highest: dict[str, int] = {}
        """By subject, the highest version number that was ever given, removed versions included."""
        self._ids: dict[str, dict[str, int]] = {}
        """By context and identity."""
        self._settings: dict[str | None, dict[str, Any]] = {}

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """Do nothing: the schemas are kept as long as this object."""

    # -- writing ---------------------------------------------------------------------------------

    async def snapshot(self, subject: str) -> Snapshot:
        """Return the subject as it is now."""
        return self._snapshot(subject)

    def _snapshot(self, subject: str) -> Snapshot:
        settings = (self._settings.get(scope, {}) for scope in scopes_of(subject))
        return snapshot_of(self._listed(subject), self._highest.get(subject, 0), settings)

    def _listed(self, subject: str) -> list[Listed]:
        return [Listed(v.version, v.deleted) for v in self._subjects.get(subject, {}).values()]

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
        """Append a version to a subject."""
        number = next_version(subject, self._listed(subject), self._snapshot(subject), revision, version)
        for reference in content.references:
            target = self._subjects.get(reference.subject, {}).get(reference.version)
            if target is None or target.deleted:
                raise ReferenceNotFoundError(
                    f"the reference {show(reference.name)} leads to subject {show(reference.subject)}, version "
                    f"{reference.version}, which does not exist: register it first"
                )
        stored = StoredSchema(
            subject,
            number,
            self._id(context_of(subject), content.identity, schema_id),
            content,
            datetime.fromtimestamp(self._clock.time(), UTC),
            notes=dict(notes or {}),
            guid=content.guid,
        )
        self._highest[subject] = max(number, self._highest.get(subject, 0))
        versions = {**self._subjects.get(subject, {}), number: stored}
        self._subjects[subject] = dict(sorted(versions.items()))
        return stored

    def _id(self, context: str, identity: str, wanted: int | None) -> int:
        """Return the id of a content, which gets one if it is new."""
        ids = self._ids.setdefault(context, {})
        have = ids.get(identity)
        if wanted is None:
            return have or ids.setdefault(identity, max(ids.values(), default=0) + 1)
        if (have or wanted) != wanted or (have is None and wanted in ids.values()):
            raise SchemaIdConflictError(
                f"id {wanted} cannot be given to the schema: "
                + (f"the schema has id {have}" if have else "the id belongs to another schema")
            )
        ids[identity] = wanted
        return wanted

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Mark versions as deleted, or remove versions that are marked; return their numbers."""
        touched = to_delete(subject, self._listed(subject), version, permanent)
        referrers = (
            (s.subject, s.version, r.version, s.deleted)
            for s in self._all()
            for r in s.content.references
            if r.subject == subject
        )
        check_not_referenced(subject, touched, referrers, permanent)
        versions = self._subjects[subject]
        for number in touched:
            if permanent:
                del versions[number]
            else:
                versions[number] = replace(versions[number], deleted=True)
        if not versions:
            self._settings.pop(subject, None)
        return touched

    async def set_notes(self, subject: str, version: int, notes: Mapping[str, Any]) -> StoredSchema:
        """Replace the notes of a version."""
        stored = self._subjects.get(subject, {}).get(version)
        if stored is None:
            raise SubjectNotFoundError(f"subject {show(subject)} has no version {version}")
        changed = self._subjects[subject][version] = replace(stored, notes=dict(notes))
        return changed

    # -- reading ---------------------------------------------------------------------------------

    def _all(self) -> Iterator[StoredSchema]:
        for subject in sorted(self._subjects):
            yield from self._subjects[subject].values()

    async def get(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return one version, or the latest one."""
        versions = self._subjects.get(subject, {})
        if version is not None:
            found = versions.get(version)
            return found if found is not None and (deleted or not found.deleted) else None
        return next((v for v in reversed(versions.values()) if deleted or not v.deleted), None)

    async def numbers(
        self, subject: str, *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[int]:
        """Return the version numbers of a subject."""
        found = [v.version for v in self._listed(subject) if deleted or not v.deleted]
        return found[offset:] if limit is None else found[offset : offset + limit]

    async def find(
        self, subject: str, content: SchemaContent, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return the newest version with a content."""
        schema_id = self._ids.get(context_of(subject), {}).get(content.identity)
        versions = self._subjects.get(subject, {}).values()
        return next(
            (v for v in reversed(versions) if v.schema_id == schema_id and (deleted or not v.deleted)), None
        )

    async def by_id(self, schema_id: int, context: str = DEFAULT_CONTEXT) -> StoredSchema | None:
        """Return some version with the content of this id."""
        found = [v for v in self._all() if v.schema_id == schema_id and context_of(v.subject) == context]
        return min(found, key=lambda v: v.deleted, default=None)

    async def by_guid(self, guid: str) -> StoredSchema | None:
        """Return some version with the content of this globally unique id."""
        return min((v for v in self._all() if v.guid == guid), key=lambda v: v.deleted, default=None)

    async def last_id(self, context: str = DEFAULT_CONTEXT) -> int:
        """Return the highest id of a context."""
        return max(self._ids.get(context, {}).values(), default=0)

    async def ids_of(self, guid: str) -> Sequence[tuple[str, int]]:
        """Return the ids of a content by context."""
        identity = guid.replace("-", "").lower()
        given = sorted((context, ids[identity]) for context, ids in self._ids.items() if identity in ids)
        # An id outlives the versions that have it.
        return [(context, id_) for context, id_ in given if await self.by_id(id_, context) is not None]

    async def users(
        self, schema_id: int, context: str = DEFAULT_CONTEXT, *, deleted: bool = False
    ) -> Sequence[tuple[str, int]]:
        """Return the subjects and versions with the content of this id."""
        return [
            (v.subject, v.version)
            for v in self._all()
            if v.schema_id == schema_id and context_of(v.subject) == context and (deleted or not v.deleted)
        ]

    async def referenced_by(self, subject: str, version: int) -> Sequence[StoredSchema]:
        """Return the versions that refer to a version."""
        return [
            v
            for v in self._all()
            if any((r.subject, r.version) == (subject, version) for r in v.content.references)
        ]

    async def subjects(
        self, prefix: str = "", *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[str]:
        """Return the sorted names of the subjects."""
        found = [
            name
            for name in sorted(self._subjects)
            if name.startswith(prefix) and any(deleted or not v.deleted for v in self._listed(name))
        ]
        return found[offset:] if limit is None else found[offset : offset + limit]

    async def contexts(self) -> Sequence[str]:
        """Return the sorted names of the contexts."""
        return sorted({DEFAULT_CONTEXT, *(context_of(v.subject) for v in self._all())})

    # -- settings --------------------------------------------------------------------------------

    async def get_settings(self, scope: str | None) -> Mapping[str, Any]:
        """Return the settings of a scope."""
        return dict(self._settings.get(scope, {}))

    async def set_settings(self, scope: str | None, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a scope."""
        if settings:
            self._settings[scope] = dict(settings)
        else:
            self._settings.pop(scope, None)


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_registry_store(self, options: Mapping[str, Any], context: PluginContext) -> RegistryStore:
        parse_options(MemoryStoreOptions, options, "registry 'memory'")
        return MemoryStore(context.clock)


plugin = _Plugin()
