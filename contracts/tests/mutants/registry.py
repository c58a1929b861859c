"""Schema stores with one fault each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.backends.registry.memory import MemoryStore
from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions
from dimesh.clock import SystemClock
from dimesh.spi.registry import DEFAULT_CONTEXT, SchemaContent, Snapshot, StoredSchema
from dimesh.spi.schema import PROVED, Verdict
from dimesh_contracts.registry import RegistryGuarantee as G


class Memory(MemoryStore):
    def __init__(self, folder: Path) -> None:
        super().__init__(SystemClock())


class Sqlite(SqliteStore):
    def __init__(self, folder: Path) -> None:
        super().__init__(SqliteStoreOptions(path=str(folder / "registry.db")), SystemClock())


class TidiesTheText(Memory):
    async def append(self, subject: str, content: SchemaContent, **options: Any) -> StoredSchema:
        try:
            content = replace(content, text=json.dumps(json.loads(content.text)))
        except ValueError:
            pass
        return await super().append(subject, content, **options)


class ReusesAVersion(Memory):
    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        touched = await super().delete(subject, version, permanent=permanent)
        if permanent and not self._subjects.get(subject):
            self._highest.pop(subject, None)
        return touched


class LastWriterWins(Memory):
    async def append(
        self, subject: str, content: SchemaContent, *, revision: str, **options: Any
    ) -> StoredSchema:
        return await super().append(subject, content, revision=self._snapshot(subject).revision, **options)


class IgnoresSettings(Memory):
    """The revision does not change with the settings: a mode that was set meanwhile is overlooked."""

    def _snapshot(self, subject: str) -> Snapshot:
        found = super()._snapshot(subject)
        return replace(found, revision=f"{self._listed(subject)}")


class ComparesTexts(Memory):
    async def append(self, subject: str, content: SchemaContent, **options: Any) -> StoredSchema:
        return await super().append(subject, replace(content, canonical=content.text), **options)


class OverwritesAnId(Memory):
    def _id(self, context: str, identity: str, wanted: int | None) -> int:
        if wanted is not None:
            self._ids.setdefault(context, {})[identity] = wanted
            return wanted
        return super()._id(context, identity, wanted)


class OneContext(Memory):
    def _id(self, context: str, identity: str, wanted: int | None) -> int:
        return super()._id(DEFAULT_CONTEXT, identity, wanted)


class DanglingReferences(Memory):
    async def append(self, subject: str, content: SchemaContent, **options: Any) -> StoredSchema:
        stored = await super().append(subject, replace(content, references=()), **options)
        stored = replace(stored, content=content)
        self._subjects[subject][stored.version] = stored
        return stored


class RemovesWhatIsReferredTo(Memory):
    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        kept = {name: dict(versions) for name, versions in self._subjects.items() if name != subject}
        for name in kept:
            for number, stored in self._subjects[name].items():
                self._subjects[name][number] = replace(stored, content=replace(stored.content, references=()))
        try:
            return await super().delete(subject, version, permanent=permanent)
        finally:
            self._subjects.update(kept)


class ZeroIsNoLimit(Memory):
    async def numbers(
        self, subject: str, *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[int]:
        return await super().numbers(subject, deleted=deleted, offset=offset, limit=limit or None)


class DeletesForGood(Memory):
    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        touched = await super().delete(subject, version, permanent=permanent)
        if not permanent:
            for number in touched:
                await super().delete(subject, number, permanent=True)
        return touched


class FoldsNames(Memory):
    async def append(self, subject: str, content: SchemaContent, **options: Any) -> StoredSchema:
        return await super().append(subject.lower(), content, **options)

    async def snapshot(self, subject: str) -> Snapshot:
        return await super().snapshot(subject.lower())


class MergesNotes(Memory):
    async def set_notes(self, subject: str, version: int, notes: Mapping[str, Any]) -> StoredSchema:
        stored = self._subjects.get(subject, {}).get(version)
        return await super().set_notes(subject, version, {**(stored.notes if stored else {}), **notes})


class SaysYes(Memory):
    async def register(self, subject: str, content: SchemaContent) -> StoredSchema:
        return await self.append(subject, content, revision=self._snapshot(subject).revision)

    async def check(self, subject: str, content: SchemaContent, version: int | None = None) -> Verdict:
        return PROVED


class CountsIdsOfAllContexts(Memory):
    async def last_id(self, context: str = DEFAULT_CONTEXT) -> int:
        return max([await Memory.last_id(self, one) for one in await self.contexts()])


class SharesSettings(Memory):
    async def get_settings(self, scope: str | None) -> Mapping[str, Any]:
        return {**await super().get_settings(None), **await super().get_settings(scope)}


class ForgetsDeletions(Sqlite):
    async def open(self) -> None:
        await super().open()
        await self._write(lambda c: c.execute("UPDATE versions SET deleted = 0") and None)


MUTANTS = [
    Mutant("tidies", G.UNCHANGED, "parses schemas and serializes them again", TidiesTheText),
    Mutant("reuses-version", G.VERSIONS, "uses a version's number again after a delete", ReusesAVersion),
    Mutant("last-wins", G.ONE_WINNER, "lets the last of two writers win", LastWriterWins),
    Mutant("ignores-settings", G.ONE_WINNER, "adds a version though its settings changed", IgnoresSettings),
    Mutant("compares-texts", G.IDS, "takes two spellings of a schema for two schemas", ComparesTexts),
    Mutant(
        "highest-of-all",
        G.IDS,
        "takes the highest id of all contexts for that of one",
        CountsIdsOfAllContexts,
    ),
    Mutant("overwrites-id", G.IMPORT, "gives an id to a second schema", OverwritesAnId),
    Mutant("one-context", G.CONTEXTS, "counts the ids of all contexts together", OneContext),
    Mutant("dangling", G.REFERENCES, "stores references that lead nowhere", DanglingReferences),
    Mutant("removes-target", G.REFERENCES, "removes what others refer to", RemovesWhatIsReferredTo),
    Mutant("zero-is-no-limit", G.PAGES, "takes a limit of 0 for none", ZeroIsNoLimit),
    Mutant(
        "deletes-for-good", G.SOFT_DELETE, "deletes permanently where it should only mark", DeletesForGood
    ),
    Mutant("folds-names", G.SUBJECTS, "folds the case of subjects' names", FoldsNames),
    Mutant("merges-notes", G.NOTES, "merges notes into the previous notes", MergesNotes),
    Mutant("says-yes", G.DECIDES, "decides about registrations without stating it", SaysYes),
    Mutant("shares-settings", G.SETTINGS, "shows the global settings as a subject's own", SharesSettings),
    Mutant("forgets-deletions", G.PERSISTENT, "forgets deletions at restart", ForgetsDeletions),
]
