"""The embedded registry, which has schemas for the standard event types."""

from __future__ import annotations

import os
from typing import Any

from dimesh.clock import Clock, SystemClock
from dimesh.registry.defaults import DEFAULT_SCHEMAS
from dimesh.registry.engine import SchemaRegistry


class LocalSchemaRegistry(SchemaRegistry):
    """A registry in this process or in a file.

    Args:
        path: the SQLite file, created if it does not exist; None: the registry is kept in memory.
        defaults: whether to start with schemas for the standard event types (subjects ``event.<type>``). They give the
            types of common properties and require none; any schema may follow, whatever the compatibility mode.
        clock: the clock; by default the system's.
        options: further arguments of :class:`SchemaRegistry` (policy, on_registered).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        defaults: bool = True,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        from dimesh.backends.registry.memory import MemoryStore
        from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions

        clock = clock or SystemClock()
        super().__init__(
            MemoryStore(clock)
            if path is None
            else SqliteStore(SqliteStoreOptions(path=os.fspath(path)), clock),
            **options,
        )
        self._defaults = defaults

    async def _prepare(self) -> None:
        if self._defaults:
            have = set(await self.store.subjects(deleted=True))
            for subject, schema in DEFAULT_SCHEMAS.items():
                if subject not in have:
                    await self.register(subject, schema, notes={"default": True})

    async def get_subject_info(self, subject: str) -> dict[str, Any]:
        """Return the name, latest_version, compatibility_mode, versions and metadata of a subject as plain values.

        Raises:
            SubjectNotFoundError: there is no such subject.
        """
        found = await self.get_subject(subject)
        return {
            "name": found.name,
            "latest_version": found.latest_version,
            "compatibility_mode": found.compatibility_mode.value,
            "versions": [
                {
                    "version": v.version,
                    "format": v.format if isinstance(v.format, str) else v.format.value,
                    "created_at": v.created_at.isoformat(),
                    "deprecated": v.deprecated,
                    "schema_id": v.schema_id,
                }
                for v in found.versions.values()
            ],
            "metadata": dict(found.metadata),
        }
