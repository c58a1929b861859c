"""What every schema store must satisfy::

class TestMine(RegistryStoreContract):
offers = {Capability.SOFT_DELETE, Capability.PERSISTENT}

@pytest.fixture
def new_store(self, tmp_path):
return lambda: MyStore(tmp_path)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import NotOfferedError, SubjectNotFoundError, VersionConflictError
from dimesh.spi.registry import RegistryStore, StoredSchema
from dimesh_contracts.contract import Contract, Guarantee, proves

NewStore = Callable[[], RegistryStore]
FORMAT = "JSON_SCHEMA"
ODD_NAMES = (
    "a.b-c_d",
    "UPPER",
    "upper",
    "with space",
    "ключ",
    "🙂",
    "a/b",
    "..",
    "x" * 200,
    "%41",
    "'quote\"",
)


class RegistryGuarantee(Guarantee):
    """Promises of a schema store."""

    STATED = "A store states exactly the capabilities that it has."
    UNCHANGED = "A schema is given back byte for byte as it was registered, with its format and metadata."
    VERSIONS = (
        "Versions of a subject count 1, 2, 3 … and a number is never used again, not even after a delete."
    )
    ONE_WINNER = "Of writers that add a version at the same time one wins; the others are told, and nothing of theirs is stored."
    IDS = "An id stands for one content in the whole store: the same content has the same id everywhere, another content another."
    SUBJECTS = "Subjects are separate: what is done to one, whatever its name, is not seen in another."
    SOFT_DELETE = "What is deleted softly is not listed, and readable by id until it is deleted for good."
    METADATA = "Metadata is replaced as a whole, for the one version named."
    CONFIG = "Settings are kept for each subject and for all; an empty mapping removes them."
    COMPATIBILITY = "A store that does not decide about compatibility says so, and never says yes."
    PERSISTENT = "What was accepted is there after a restart: versions, ids, deletions, settings."


G = RegistryGuarantee


class RegistryStoreContract(Contract):
    """Tests that any store passes. Subjects have names of their own in each test."""

    @pytest.fixture
    def new_store(self) -> NewStore:
        """Makes a store, not opened. Called again it makes one over the same storage, as after a restart; a store that
        keeps nothing beyond its instance returns a fresh one.
        """
        raise NotImplementedError("give your test class a new_store fixture")

    @pytest.fixture
    async def store(self, new_store: NewStore) -> AsyncIterator[RegistryStore]:
        """An open one."""
        made = new_store()
        await made.open()
        yield made
        await made.close()

    @staticmethod
    async def add(store: RegistryStore, subject: str, text: str) -> StoredSchema:
        """The next version."""
        versions = await store.versions(subject, deleted=True)
        latest = versions[-1].version if versions else 0
        return await store.append(subject, expected_latest=latest, format=FORMAT, text=text)

    @proves(G.STATED)
    async def test_states_what_it_offers(self, store: RegistryStore) -> None:
        """The test class names the capabilities that the store states. Usually wrong: one was added on one side only."""
        self.check_offers(store.capabilities)
        assert store.name

    @proves(G.UNCHANGED)
    async def test_a_schema_comes_back_as_it_was(self, store: RegistryStore) -> None:
        """Spaces, order of keys, line ends, and characters outside of ASCII included. Usually wrong: parsed and written
        again; a column with a length.
        """
        for n, text in enumerate(('{"b": 1,\r\n  "a" : "ü🙂\\u0000"}', "{}", "x" * 300_000, " ", "")):
            before = datetime.now(UTC)
            made = await store.append(
                f"s{n}",
                expected_latest=0,
                format=FORMAT,
                text=text,
                metadata={"owner": "ключ", "n": [1, None]},
            )
            (found,) = await store.versions(f"s{n}")
            assert found == made
            assert (found.text, found.format, found.subject, found.version) == (text, FORMAT, f"s{n}", 1)
            assert dict(found.metadata) == {"owner": "ключ", "n": [1, None]}
            assert not found.deleted
            assert abs(found.created_at - before) < timedelta(minutes=1)

    @proves(G.VERSIONS)
    async def test_versions_count_up(self, store: RegistryStore) -> None:
        """Oldest first, each subject on its own. Usually wrong: one counter for all; sorted as text, 10 before 2."""
        for n in range(1, 13):
            made = await self.add(store, "s", f'{{"n": {n}}}')
            assert made.version == n
        assert [v.version for v in await store.versions("s")] == list(range(1, 13))
        assert (await self.add(store, "other", "{}")).version == 1
        assert list(await store.versions("nobody")) == []

    @proves(G.VERSIONS, Capability.SOFT_DELETE)
    async def test_a_number_is_never_used_again(self, store: RegistryStore) -> None:
        """Also when everything was deleted for good. Usually wrong: the highest number that is left, plus one."""
        for n in range(3):
            await self.add(store, "s", f'{{"n": {n}}}')
        assert list(await store.delete("s")) == [1, 2, 3]
        assert (await self.add(store, "s", '{"n": 3}')).version == 4
        await store.delete("s", 4)
        await store.delete("s", permanent=True)
        assert list(await store.versions("s", deleted=True)) == []
        assert (await store.append("s", expected_latest=0, format=FORMAT, text="{}")).version == 5

    @proves(G.ONE_WINNER)
    async def test_a_stale_writer_is_told(self, store: RegistryStore) -> None:
        """And its schema is nowhere. Usually wrong: the check and the insert are two steps; the id is given out anyway."""
        first = await self.add(store, "s", '{"n": 1}')
        for stale in (0, 2, 7):
            with pytest.raises(VersionConflictError):
                await store.append("s", expected_latest=stale, format=FORMAT, text='{"lost": true}')
        assert [v.text for v in await store.versions("s", deleted=True)] == [first.text]
        assert (await self.add(store, "s", '{"n": 2}')).version == 2

    @proves(G.ONE_WINNER)
    async def test_writers_at_the_same_time(self, store: RegistryStore) -> None:
        """Ten try to be version 1. Usually wrong: the last one wins, silently."""
        results = await asyncio.gather(
            *(store.append("s", expected_latest=0, format=FORMAT, text=f'{{"n": {n}}}') for n in range(10)),
            return_exceptions=True,
        )
        won = [r for r in results if isinstance(r, StoredSchema)]
        assert len(won) == 1
        assert all(isinstance(r, VersionConflictError) for r in results if r is not won[0])
        assert list(await store.versions("s")) == won

    @proves(G.IDS)
    async def test_an_id_stands_for_one_content(self, store: RegistryStore) -> None:
        """Usually wrong: a new id for each version; ids of one subject only; another format taken for the same."""
        one = await self.add(store, "a", '{"x": 1}')
        same = await self.add(store, "b", '{"x": 1}')
        other = await self.add(store, "b", '{"x":1}')
        avro = await store.append("c", expected_latest=0, format="AVRO", text='{"x": 1}')
        assert one.schema_id == same.schema_id
        assert len({one.schema_id, other.schema_id, avro.schema_id}) == 3
        for made in (one, other, avro):
            found = await store.by_id(made.schema_id)
            assert found is not None
            assert (found.text, found.format) == (made.text, made.format)
        assert await store.by_id(10_000_000) is None

    @proves(G.SUBJECTS)
    async def test_subjects_are_listed_and_separate(self, store: RegistryStore) -> None:
        """Whatever their names. Usually wrong: folded to one case, unquoted in a path or a query."""
        for n, name in enumerate(ODD_NAMES):
            await self.add(store, name, f'{{"n": {n}}}')
        assert list(await store.subjects()) == sorted(ODD_NAMES)
        for n, name in enumerate(ODD_NAMES):
            assert [v.text for v in await store.versions(name)] == [f'{{"n": {n}}}']

    @proves(G.SOFT_DELETE, Capability.SOFT_DELETE)
    async def test_soft_delete(self, store: RegistryStore) -> None:
        """Usually wrong: readers of old data lose the schema; a subject that is listed without a version."""
        for n in range(3):
            await self.add(store, "s", f'{{"n": {n}}}')
        middle = (await store.versions("s"))[1]
        assert list(await store.delete("s", 2)) == [2]
        assert list(await store.delete("s", 2)) == []
        assert list(await store.delete("s", 99)) == []
        assert list(await store.delete("nobody")) == []
        assert [v.version for v in await store.versions("s")] == [1, 3]
        assert [(v.version, v.deleted) for v in await store.versions("s", deleted=True)] == [
            (1, False),
            (2, True),
            (3, False),
        ]
        found = await store.by_id(middle.schema_id)
        assert found is not None
        assert found.text == middle.text
        await store.delete("s")
        assert list(await store.subjects()) == []
        assert list(await store.subjects(deleted=True)) == ["s"]
        assert list(await store.delete("s", 1, permanent=True)) == [1]
        assert [v.version for v in await store.versions("s", deleted=True)] == [2, 3]
        await store.delete("s", permanent=True)
        assert await store.by_id(middle.schema_id) is None
        assert list(await store.subjects(deleted=True)) == []

    @proves(G.SOFT_DELETE, Capability.SOFT_DELETE)
    async def test_nothing_live_is_deleted_for_good(self, store: RegistryStore) -> None:
        """``permanent`` removes what is soft-deleted, and nothing else. Usually wrong: one call that does both."""
        await self.add(store, "s", "{}")
        assert list(await store.delete("s", permanent=True)) == []
        assert [v.version for v in await store.versions("s")] == [1]

    @proves(G.METADATA)
    async def test_metadata_is_replaced(self, store: RegistryStore) -> None:
        """Usually wrong: merged; applied to all versions."""
        await store.append("s", expected_latest=0, format=FORMAT, text="{}", metadata={"a": 1, "b": 2})
        await self.add(store, "s", '{"n": 2}')
        changed = await store.update_metadata("s", 1, {"deprecated": True})
        assert dict(changed.metadata) == {"deprecated": True}
        assert [dict(v.metadata) for v in await store.versions("s")] == [{"deprecated": True}, {}]
        assert [v.text for v in await store.versions("s")] == ["{}", '{"n": 2}']
        for subject, version in (("s", 3), ("nobody", 1)):
            with pytest.raises(SubjectNotFoundError):
                await store.update_metadata(subject, version, {})

    @proves(G.CONFIG)
    async def test_settings(self, store: RegistryStore) -> None:
        """Usually wrong: a subject named like the global entry; settings that need a version to exist first."""
        assert dict(await store.get_config(None)) == {}
        assert dict(await store.get_config("s")) == {}
        await store.set_config(None, {"compatibility": "FULL"})
        await store.set_config("s", {"compatibility": "NONE", "alias": "ü"})
        for name in ("None", "null", "*", "global", "__GLOBAL"):
            await store.set_config(name, {"compatibility": "FORWARD"})
        assert dict(await store.get_config(None)) == {"compatibility": "FULL"}
        assert dict(await store.get_config("s")) == {"compatibility": "NONE", "alias": "ü"}
        assert dict(await store.get_config("other")) == {}
        await store.set_config("s", {"compatibility": "BACKWARD"})
        assert dict(await store.get_config("s")) == {"compatibility": "BACKWARD"}
        await store.set_config("s", {})
        assert dict(await store.get_config("s")) == {}
        assert dict(await store.get_config(None)) == {"compatibility": "FULL"}

    @proves(G.COMPATIBILITY)
    async def test_who_decides(self, store: RegistryStore) -> None:
        """Usually wrong: an empty answer, which means that the schema fits."""
        if Capability.DECIDES_COMPATIBILITY in store.capabilities:
            assert list(await store.check("nobody", FORMAT, '{"type": "object"}')) == []
        else:
            with pytest.raises(NotOfferedError):
                await store.check("nobody", FORMAT, "{}")

    @proves(G.PERSISTENT, Capability.PERSISTENT)
    async def test_everything_survives(self, new_store: NewStore) -> None:
        """Usually wrong: an id counter that begins anew; deletions and settings that are kept in memory."""
        first = new_store()
        await first.open()
        for n in range(3):
            await self.add(first, "s", f'{{"n": {n}}}')
        await self.add(first, "other", '{"n": 1}')
        await first.update_metadata("s", 1, {"owner": "x"})
        if Capability.SOFT_DELETE in first.capabilities:
            await first.delete("s", 2)
        await first.set_config(None, {"compatibility": "FULL"})
        before = [*await first.versions("s", deleted=True), *await first.versions("other")]
        await first.close()
        await first.close()
        second = new_store()
        await second.open()
        assert [*await second.versions("s", deleted=True), *await second.versions("other")] == before
        assert dict(await second.get_config(None)) == {"compatibility": "FULL"}
        new = await self.add(second, "s", '{"new": true}')
        assert new.version == 4
        assert new.schema_id not in {v.schema_id for v in before}
        assert (await self.add(second, "third", '{"n": 1}')).schema_id == before[1].schema_id
        await second.close()
