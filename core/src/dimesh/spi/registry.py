"""What a schema store must do. Validation, compatibility and evolution are the engine's
(:mod:`dimesh.registry`); a remote registry that decides compatibility itself says so.

Calling rules: all methods from one event loop, calls may overlap and may be cancelled. A subject's name is any text that
is not empty (the engine has checked it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from dimesh.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class StoredSchema:
    """One version of one subject, as stored."""

    subject: str
    version: int
    """1, 2, 3 … within the subject; never used again, not even after a delete."""
    schema_id: int
    """Identifies the content in the whole store: the same content in another subject has the same id."""
    format: str
    """``JSON_SCHEMA``, ``AVRO`` or ``PROTOBUF``."""
    text: str
    """The schema as registered, byte for byte."""
    created_at: datetime
    deleted: bool = False
    """Soft-deleted: readable by id, not listed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class RegistryStore(Protocol):
    """Subjects, versions, ids, configuration."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect; called once, first.

        Raises:
            StorageError: damaged, newer format, not writable.
        """
        ...

    async def close(self) -> None:
        """Free everything; may be called twice."""
        ...

    async def append(
        self,
        subject: str,
        *,
        expected_latest: int,
        format: str,
        text: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version if the highest one (soft-deleted included) still is ``expected_latest`` (0: none yet).

        Raises:
            VersionConflictError: another writer was faster; nothing was stored.
        """
        ...

    async def versions(self, subject: str, *, deleted: bool = False) -> Sequence[StoredSchema]:
        """All versions, oldest first; empty if there are none. ``deleted`` adds the soft-deleted ones."""
        ...

    async def by_id(self, schema_id: int) -> StoredSchema | None:
        """Some version with that content, soft-deleted ones too."""
        ...

    async def subjects(self, *, deleted: bool = False) -> Sequence[str]:
        """Names, sorted, of subjects that have a live version (or any, with ``deleted``)."""
        ...

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Soft-delete one version or all; with ``permanent`` remove what is soft-deleted. Returns the versions
        it touched; empty if there were none.
        """
        ...

    async def update_metadata(self, subject: str, version: int, metadata: Mapping[str, Any]) -> StoredSchema:
        """Replace a version's metadata (deprecation and the like).

        Raises:
            SubjectNotFoundError: no such version.
        """
        ...

    async def get_config(self, subject: str | None) -> Mapping[str, str]:
        """Settings of a subject (None: the global ones), such as ``compatibility``; empty if none were set."""
        ...

    async def set_config(self, subject: str | None, config: Mapping[str, str]) -> None:
        """Replace those settings; an empty mapping removes them."""
        ...

    async def check(self, subject: str, format: str, text: str) -> Sequence[str]:
        """With ``DECIDES_COMPATIBILITY``: why the schema does not fit the subject; empty if it does.

        Raises:
            NotOfferedError: the store does not decide.
        """
        ...
