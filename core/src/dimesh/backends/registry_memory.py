"""The schema store in memory: the reference, and the one for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import NotOfferedError, SubjectNotFoundError, VersionConflictError
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.options import Options, parse_options
from dimesh.spi.registry import RegistryStore, StoredSchema


class MemoryStoreOptions(Options, frozen=True):
    """The memory store has no options."""


class MemoryStore:
    """See :class:`dimesh.spi.registry.RegistryStore`."""

    name = "memory"
    capabilities = Capabilities(Capability.SOFT_DELETE)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subjects: dict[str, list[StoredSchema]] = {}
        self._highest: dict[str, int] = {}
        """By subject, the highest version number ever given: also of what is gone for good."""
        self._ids: dict[tuple[str, str], int] = {}
        self._config: dict[str | None, dict[str, str]] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to free; what was stored stays as long as this object."""

    async def append(
        self,
        subject: str,
        *,
        expected_latest: int,
        format: str,
        text: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version."""
        versions = self._subjects.setdefault(subject, [])
        latest = versions[-1].version if versions else 0
        if latest != expected_latest:
            raise VersionConflictError(
                f"subject {subject!r} has version {latest} by now, not {expected_latest}"
            )
        number = self._highest.get(subject, 0) + 1
        self._highest[subject] = number
        schema_id = self._ids.setdefault((format, text), len(self._ids) + 1)
        stored = StoredSchema(
            subject,
            number,
            schema_id,
            format,
            text,
            datetime.fromtimestamp(self._clock.time(), UTC),
            metadata=dict(metadata or {}),
        )
        versions.append(stored)
        return stored

    async def versions(self, subject: str, *, deleted: bool = False) -> Sequence[StoredSchema]:
        """Oldest first."""
        return [s for s in self._subjects.get(subject, ()) if deleted or not s.deleted]

    async def by_id(self, schema_id: int) -> StoredSchema | None:
        """Some version with that content."""
        found = [s for versions in self._subjects.values() for s in versions if s.schema_id == schema_id]
        return min(found, key=lambda s: s.deleted, default=None)

    async def subjects(self, *, deleted: bool = False) -> Sequence[str]:
        """Sorted names."""
        return sorted(
            name
            for name, versions in self._subjects.items()
            if any(deleted or not s.deleted for s in versions)
        )

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Mark as deleted, or remove what is marked."""
        versions = self._subjects.get(subject, [])
        touched = [
            s.version
            for s in versions
            if (version is None or s.version == version) and s.deleted == permanent
        ]
        if permanent:
            self._subjects[subject] = [s for s in versions if s.version not in touched]
        else:
            self._subjects[subject] = [
                replace(s, deleted=True) if s.version in touched else s for s in versions
            ]
        return touched

    async def update_metadata(self, subject: str, version: int, metadata: Mapping[str, Any]) -> StoredSchema:
        """Replace a version's metadata."""
        versions = self._subjects.get(subject, [])
        for n, stored in enumerate(versions):
            if stored.version == version:
                versions[n] = replace(stored, metadata=dict(metadata))
                return versions[n]
        raise SubjectNotFoundError(f"subject {subject!r} has no version {version}")

    async def get_config(self, subject: str | None) -> Mapping[str, str]:
        """Settings of a subject."""
        return dict(self._config.get(subject, {}))

    async def set_config(self, subject: str | None, config: Mapping[str, str]) -> None:
        """Replace them."""
        if config:
            self._config[subject] = dict(config)
        else:
            self._config.pop(subject, None)

    async def check(self, subject: str, format: str, text: str) -> Sequence[str]:
        """Not offered."""
        raise NotOfferedError("this store does not decide compatibility; the engine does")


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_registry_store(self, options: Mapping[str, Any], clock: Clock) -> RegistryStore:
        parse_options(MemoryStoreOptions, options, "registry 'memory'")
        return MemoryStore(clock)


plugin = _Plugin()
