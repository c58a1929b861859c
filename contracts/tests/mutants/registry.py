"""Schema stores with one fault each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.backends.registry_memory import MemoryStore
from dimesh.backends.registry_sqlite import SqliteStore, SqliteStoreOptions
from dimesh.clock import SystemClock
from dimesh.spi.registry import StoredSchema
from dimesh_contracts.registry import RegistryGuarantee as G


class Memory(MemoryStore):
    def __init__(self, folder: Path) -> None:
        super().__init__(SystemClock())


class Sqlite(SqliteStore):
    def __init__(self, folder: Path) -> None:
        super().__init__(SqliteStoreOptions(path=str(folder / "registry.db")), SystemClock())


class TidiesTheText(Memory):
    async def append(self, subject: str, *, text: str, **options: Any) -> StoredSchema:
        try:
            text = json.dumps(json.loads(text))
        except ValueError:
            pass
        return await super().append(subject, text=text, **options)


class ReusesAVersion(Memory):
    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        touched = await super().delete(subject, version, permanent=permanent)
        if permanent and not self._subjects.get(subject):
            self._highest.pop(subject, None)
        return touched


class LastWriterWins(Memory):
    async def append(self, subject: str, *, expected_latest: int, **options: Any) -> StoredSchema:
        latest = [v.version for v in self._subjects.get(subject, ())]
        return await super().append(subject, expected_latest=latest[-1] if latest else 0, **options)


class AnIdForEachVersion(Memory):
    async def append(self, subject: str, *, text: str, format: str, **options: Any) -> StoredSchema:
        self._ids.pop((format, text), None)
        self._ids[f"used-{len(self._ids)}", ""] = 0
        return await super().append(subject, text=text, format=format, **options)


class DeletesForGood(Memory):
    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        touched = await super().delete(subject, version, permanent=permanent)
        if not permanent:
            await super().delete(subject, version, permanent=True)
        return touched


class FoldsNames(Memory):
    async def append(self, subject: str, **options: Any) -> StoredSchema:
        return await super().append(subject.lower(), **options)

    async def versions(self, subject: str, *, deleted: bool = False) -> Sequence[StoredSchema]:
        return await super().versions(subject.lower(), deleted=deleted)


class MergesMetadata(Memory):
    async def update_metadata(self, subject: str, version: int, metadata: Mapping[str, Any]) -> StoredSchema:
        for stored in self._subjects.get(subject, ()):
            if stored.version == version:
                metadata = {**stored.metadata, **metadata}
        return await super().update_metadata(subject, version, metadata)


class SaysYes(Memory):
    async def check(self, subject: str, format: str, text: str) -> Sequence[str]:
        return []


class SharesSettings(Memory):
    async def get_config(self, subject: str | None) -> Mapping[str, str]:
        return {**await super().get_config(None), **await super().get_config(subject)}


class ForgetsDeletions(Sqlite):
    async def open(self) -> None:
        await super().open()
        await self._write(lambda c: c.execute("UPDATE versions SET deleted = 0") and None)


MUTANTS = [
    Mutant("tidies", G.UNCHANGED, "parses schemas and writes them again", TidiesTheText),
    Mutant("reuses-version", G.VERSIONS, "uses a version's number again after a delete", ReusesAVersion),
    Mutant("last-wins", G.ONE_WINNER, "lets the last of two writers win", LastWriterWins),
    Mutant("id-per-version", G.IDS, "gives each version an id of its own", AnIdForEachVersion),
    Mutant("deletes-for-good", G.SOFT_DELETE, "deletes for good where it should only mark", DeletesForGood),
    Mutant("folds-names", G.SUBJECTS, "folds the case of subjects' names", FoldsNames),
    Mutant("merges-metadata", G.METADATA, "merges metadata into what was there", MergesMetadata),
    Mutant("says-yes", G.COMPATIBILITY, "calls every schema compatible", SaysYes),
    Mutant("shares-settings", G.CONFIG, "shows the global settings as a subject's own", SharesSettings),
    Mutant("forgets-deletions", G.PERSISTENT, "forgets deletions at restart", ForgetsDeletions),
]
