"""What every schema store must satisfy::

class TestMine(RegistryStoreContract):
    offers = {Capability.SOFT_DELETE, Capability.PERSISTENT}

    @pytest.fixture
    def new_store(self, tmp_path):
        return lambda: MyStore(tmp_path)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import (
    NotSoftDeletedError,
    ReferencedError,
    ReferenceNotFoundError,
    SchemaIdConflictError,
    SoftDeletedError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.spi.registry import DecidingStore, IdIndex, Reference, RegistryStore, SchemaContent, StoredSchema
from dimesh_contracts.contract import NOT_OFFERED, Contract, Guarantee, proves

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


VALID_TEXTS = (
    '{"b": 1,\r\n  "a" : "ü🙂\\u0000"}',
    f'{{"description": "{"x" * 300_000}"}}',
    " true\n",
)
"""Schemas in unusual spellings."""
INVALID_TEXTS = ("[]", "x" * 300_000, " ", "")
"""What is a schema in no language. A store that does not decide does not look at it."""


class RegistryGuarantee(Guarantee):
    """Promises of a schema store."""

    STATED = "A store states exactly the capabilities that it has."
    UNCHANGED = "A schema is returned byte for byte as it was registered, with its format, references, metadata and notes."
    VERSIONS = (
        "Versions of a subject count 1, 2, 3 … and a number is never used again, not even after a delete."
    )
    ONE_WINNER = (
        "A version is added only if the subject and its settings are as they were when it was decided; otherwise the writer gets "
        "an error, and nothing is stored."
    )
    IDS = (
        "An id stands for one content in its context: content with the same identity has the same id and version, other content "
        "another one."
    )
    IMPORT = "A version and an id can be given, unless they belong to something else."
    CONTEXTS = "Contexts have their own ids; a subject belongs to the context that its name states."
    REFERENCES = "A reference leads to a version that exists, and what is referred to is not removed."
    SUBJECTS = "Subjects are separate, whatever their names: a change of one does not affect another."
    SOFT_DELETE = "What is soft-deleted is not listed, but readable by id until it is deleted for good."
    PAGES = "Lists are sorted, and can be read in parts."
    NOTES = "Notes are replaced as a whole, for one version, and do not belong to the identity."
    SETTINGS = (
        "Settings are kept for each subject, for each context and globally; the narrower scope has precedence, and a removed "
        "subject's settings go with it."
    )
    DECIDES = "A store states that it decides about registrations by itself exactly if it can."
    PERSISTENT = (
        "What was accepted is available after a restart: versions, ids, references, deletions, settings."
    )


G = RegistryGuarantee


def content(text: str, canonical: str | None = None, **more: Any) -> SchemaContent:
    """Return a content; its text is its identity unless ``canonical`` is given."""
    return SchemaContent(more.pop("format", FORMAT), text, text if canonical is None else canonical, **more)


async def add(store: RegistryStore, subject: str, text: str | SchemaContent, **options: Any) -> StoredSchema:
    """Add the next version."""
    what = content(text) if isinstance(text, str) else text
    return await store.append(subject, what, revision=(await store.snapshot(subject)).revision, **options)


async def texts(store: RegistryStore, subject: str, *, deleted: bool = False) -> list[str]:
    """Return the texts of all versions."""
    found = [
        await store.get(subject, n, deleted=deleted) for n in await store.numbers(subject, deleted=deleted)
    ]
    return [stored.text for stored in found if stored is not None]


class RegistryStoreContract(Contract):
    """Tests that every store passes. Each test uses subjects of its own."""

    @pytest.fixture
    def new_store(self) -> NewStore:
        """Return a function that makes a store which is not open. Called again it makes one over the same storage, as after
        a restart; a store that stores nothing beyond its instance returns a new one.
        """
        raise NotImplementedError("give your test class a new_store fixture")

    @pytest.fixture
    async def store(self, new_store: NewStore) -> AsyncIterator[RegistryStore]:
        """Open a store, and close it after the test."""
        made = new_store()
        await made.open()
        yield made
        await made.close()

    @proves(G.STATED)
    async def test_states_what_it_offers(self, store: RegistryStore) -> None:
        """The test class names the capabilities that the store states. Usually wrong: a capability was added on one side
        only.
        """
        self.check_offers(store.capabilities)
        assert store.name

    @proves(G.UNCHANGED)
    async def test_a_schema_comes_back_as_it_was(self, store: RegistryStore) -> None:
        """White space, the order of keys, line ends and characters outside ASCII are unchanged. Usually wrong: the schema is
        parsed and written again; a column with a maximum length.
        """
        await add(store, "base", "{}")
        decides = Capability.DECIDES_COMPATIBILITY in store.capabilities  # and parses what it is given
        texts = (*VALID_TEXTS, *(() if decides else INVALID_TEXTS))
        notes = {"n": [1, None]} if Capability.NOTES in store.capabilities else {}
        for n, text in enumerate(texts):
            before = datetime.now(UTC)
            what = content(
                text,
                references=(Reference("b.json", "base", 1),),
                metadata={"properties": {"owner": "ключ"}},
                rule_set={"domainRules": [{"name": "r"}]},
            )
            made = await add(store, f"s{n}", what, notes=notes)
            found = await store.get(f"s{n}")
            assert found == made
            assert (found.content, found.subject, found.version) == (what, f"s{n}", 1)
            assert dict(found.notes) == notes
            assert not found.deleted
            assert abs(found.created_at - before) < timedelta(minutes=1)

    @proves(G.VERSIONS)
    async def test_versions_count_up(self, store: RegistryStore) -> None:
        """Versions are listed oldest first, for each subject on its own. Usually wrong: one counter for all subjects;
        versions sorted as text, 10 before 2.
        """
        for n in range(1, 13):
            made = await add(store, "s", f'{{"n": {n}}}')
            assert made.version == n
        assert list(await store.numbers("s")) == list(range(1, 13))
        latest = await store.get("s")
        assert latest is not None
        assert latest.version == 12
        assert (await add(store, "other", "{}")).version == 1
        assert list(await store.numbers("nobody")) == []
        assert await store.get("nobody") is None
        assert await store.get("s", 13) is None

    @proves(G.VERSIONS, Capability.SOFT_DELETE)
    async def test_a_number_is_never_used_again(self, store: RegistryStore) -> None:
        """A version number is not reused, even if all versions were deleted for good. Usually wrong: the highest number that
        is left, plus one.
        """
        for n in range(3):
            await add(store, "s", f'{{"n": {n}}}')
        assert list(await store.delete("s")) == [1, 2, 3]
        assert (await add(store, "s", '{"n": 3}')).version == 4
        await store.delete("s", 4)
        assert list(await store.delete("s", permanent=True)) == [1, 2, 3, 4]
        assert list(await store.numbers("s", deleted=True)) == []
        assert (await add(store, "s", "{}")).version == 5

    @proves(G.ONE_WINNER)
    async def test_a_stale_writer_is_told(self, store: RegistryStore) -> None:
        """A writer that missed a version, a delete or a change of the settings gets an error, and its schema is not stored.
        Usually wrong: check and insert are two steps; only versions count; the id is assigned anyway.
        """
        stale = (await store.snapshot("s")).revision
        first = await add(store, "s", '{"n": 1}')
        steps: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.set_settings("s", {"compatibility": "FULL"}),
            lambda: store.set_settings(None, {"normalize": True}),
        ]
        if Capability.SOFT_DELETE in store.capabilities:
            steps.append(lambda: store.delete("s", 1))
        for step in (None, *steps):
            if step is not None:
                stale = (await store.snapshot("s")).revision
                await step()
            with pytest.raises(VersionConflictError):
                await store.append("s", content('{"lost": true}'), revision=stale)
        assert await texts(store, "s", deleted=True) == [first.text]
        added = await add(store, "s", '{"n": 2}')
        assert (added.version, added.schema_id) == (2, first.schema_id + 1)

    @proves(G.ONE_WINNER)
    async def test_writers_at_the_same_time(self, store: RegistryStore) -> None:
        """Ten writers try to add version 1. Usually wrong: the last one wins silently."""
        revision = (await store.snapshot("s")).revision
        results = await asyncio.gather(
            *(store.append("s", content(f'{{"n": {n}}}'), revision=revision) for n in range(10)),
            return_exceptions=True,
        )
        won = [r for r in results if isinstance(r, StoredSchema)]
        assert len(won) == 1
        assert all(isinstance(r, VersionConflictError) for r in results if r is not won[0])
        assert await texts(store, "s") == [won[0].text]

    @proves(G.ONE_WINNER)
    async def test_a_snapshot_is_what_applies(self, store: RegistryStore) -> None:
        """Usually wrong: soft-deleted versions are compared with; the highest number forgets removed versions."""
        empty = await store.snapshot("s")
        assert (list(empty.live), empty.highest, dict(empty.settings)) == ([], 0, {})
        for n in range(3):
            await add(store, "s", f'{{"n": {n}}}')
        if Capability.SOFT_DELETE in store.capabilities:
            await store.delete("s", 3)
            assert list((await store.snapshot("s")).live) == [1, 2]
            await store.delete("s", 3, permanent=True)
            if Capability.DECIDES_COMPATIBILITY in store.capabilities:
                return  # its next number is its own affair
        assert (await store.snapshot("s")).highest == 3

    @proves(G.IDS)
    async def test_ids_are_found_by_their_content(self, store: RegistryStore) -> None:
        """Of each context that has it. Only for a store with an index of ids (IdIndex). Usually wrong: the id of a context that
        has another content; the highest id counts versions, or those of all contexts.
        """
        if not isinstance(store, IdIndex):
            pytest.skip(f"{NOT_OFFERED}an index of ids")
        assert await store.last_id() == 0
        await add(store, ":.dev:a", content("{}", "other"))
        dev = await add(store, ":.dev:a", content('{"x": 1}', "x"))
        one = await add(store, "b", content('{"x": 1}', "x"))
        await add(store, "c", content('{ "x":1 }', "x"))
        assert dev.guid == one.guid
        assert list(await store.ids_of(one.guid)) == [(".", one.schema_id), (".dev", dev.schema_id)]
        assert list(await store.ids_of("00000000-0000-0000-0000-000000000000")) == []
        assert (await store.last_id(), await store.last_id(".dev")) == (one.schema_id, dev.schema_id)
        assert await store.last_id(".nowhere") == 0
        if Capability.SOFT_DELETE in store.capabilities:
            await store.delete(":.dev:a")
            assert len(await store.ids_of(one.guid)) == 2
            await store.delete(":.dev:a", permanent=True)
            assert list(await store.ids_of(one.guid)) == [(".", one.schema_id)]

    @proves(G.IDS)
    async def test_an_id_stands_for_one_content(self, store: RegistryStore) -> None:
        """Two spellings of one schema have one id; metadata, rules, references and the format belong to the identity. Usually
        wrong: a new id for each version; ids of one subject only; the text is compared.
        """
        text = '{"type": "string"}'  # in two languages
        one = await add(store, "a", content(text, "x"))
        spelled = await add(store, "b", content('{ "type":"string" }', "x"))
        assert (one.schema_id, one.guid) == (spelled.schema_id, spelled.guid)
        others = [
            content("{}", "y"),
            content(text, "x", format="AVRO"),
            content(text, "x", metadata={"properties": {"owner": "sales"}}),
            content(text, "x", rule_set={"domainRules": [{"name": "r"}]}),
            content(text, "x", references=(Reference("r", "a", 1),)),
        ]
        made = [one, *[await add(store, f"c{n}", other) for n, other in enumerate(others)]]
        assert len({m.schema_id for m in made}) == len({m.guid for m in made}) == 6
        for stored in made:
            for found in (await store.by_id(stored.schema_id), await store.by_guid(stored.guid)):
                assert found is not None
                assert found.content.identity == stored.content.identity
            assert await store.find(stored.subject, stored.content) == stored
        assert await store.by_id(10_000_000) is None
        assert await store.by_guid("00000000-0000-0000-0000-000000000000") is None
        assert await store.find("a", others[0]) is None
        assert list(await store.users(one.schema_id)) == [("a", 1), ("b", 1)]
        assert list(await store.users(10_000_000)) == []

    @proves(G.IMPORT)
    async def test_versions_and_ids_are_given(self, store: RegistryStore) -> None:
        """As when another registry is copied. Usually wrong: the next id collides with a given one; a conflict overwrites."""
        for subject in ("s", "t"):
            await store.set_settings(subject, {"mode": "IMPORT"})
        made = await add(store, "s", '{"n": 7}', version=7, schema_id=100)
        assert (made.version, made.schema_id) == (7, 100)
        earlier = await add(store, "s", '{"n": 3}', version=3, schema_id=50)
        assert list(await store.numbers("s")) == [3, 7]
        latest = await store.get("s")
        assert latest is not None
        assert latest.version == 7
        await store.set_settings("s", {"mode": "READWRITE"})
        following = await add(store, "s", '{"n": 8}')
        assert following.version == 8
        assert following.schema_id not in (50, 100)
        with pytest.raises(VersionConflictError):
            await add(store, "s", '{"n": 9}', version=3)
        for text, schema_id in (('{"n": 9}', 50), ('{"n": 7}', 101)):
            with pytest.raises(SchemaIdConflictError):
                await add(store, "t", text, schema_id=schema_id)
        assert list(await store.numbers("t")) == []
        assert (await add(store, "t", '{"n": 3}', schema_id=50)).schema_id == earlier.schema_id

    @proves(G.CONTEXTS)
    async def test_contexts_have_their_own_ids(self, store: RegistryStore) -> None:
        """Usually wrong: one counter for all contexts; a content of another context is found by id."""
        plain = await add(store, "s", '{"n": 1}')
        await add(store, "s", '{"n": 2}')
        there = await add(store, ":.dev:s", '{"n": 3}')
        same = await add(store, ":.dev:s", '{"n": 1}')
        assert plain.schema_id == there.schema_id
        assert same.guid == plain.guid
        found = await store.by_id(there.schema_id, ".dev")
        assert found is not None
        assert (found.subject, found.text) == (":.dev:s", '{"n": 3}')
        assert await store.by_id(there.schema_id, ".prod") is None
        assert list(await store.contexts()) == [".", ".dev"]
        assert list(await store.users(same.schema_id, ".dev")) == [(":.dev:s", 2)]
        assert list(await store.subjects()) == [":.dev:s", "s"]
        assert list(await store.subjects(":.dev:")) == [":.dev:s"]

    @proves(G.REFERENCES)
    async def test_references(self, store: RegistryStore) -> None:
        """Usually wrong: a reference to nothing is stored; referrers are found by subject only."""
        await add(store, "base", '{"n": 1}')
        await add(store, "base", '{"n": 2}')
        for subject, version in (("base", 3), ("nobody", 1)):
            with pytest.raises(ReferenceNotFoundError):
                await add(store, "s", content("{}", references=(Reference("r", subject, version),)))
        assert list(await store.numbers("s")) == []
        made = await add(store, "s", content("{}", references=(Reference("r", "base", 2),)))
        assert [(v.subject, v.version) for v in await store.referenced_by("base", 2)] == [("s", made.version)]
        assert list(await store.referenced_by("base", 1)) == []

    @proves(G.REFERENCES, Capability.SOFT_DELETE)
    async def test_what_is_referred_to_stays(self, store: RegistryStore) -> None:
        """A soft-deleted schema can still be read, so it still needs what it refers to. Usually wrong: only live ones count."""
        await add(store, "base", '{"n": 1}')
        await add(store, "base", '{"n": 2}')
        await add(store, "s", content("{}", references=(Reference("r", "base", 1),)))
        for version in (None, 1):
            with pytest.raises(ReferencedError):
                await store.delete("base", version)
        assert list(await store.delete("base", 2)) == [2]
        await store.delete("s")
        assert list(await store.delete("base")) == [1]
        with pytest.raises(ReferencedError):
            await store.delete("base", 1, permanent=True)
        await store.delete("s", permanent=True)
        assert list(await store.delete("base", permanent=True)) == [1, 2]

    @proves(G.SUBJECTS)
    async def test_subjects_are_listed_and_separate(self, store: RegistryStore) -> None:
        """Subjects may have any name. Usually wrong: names are folded to one case, or not quoted in a path or a query."""
        remote = Capability.DECIDES_COMPATIBILITY in store.capabilities
        names = [name for name in ODD_NAMES if not (remote and name == "..")]  # no address can have that part
        for n, name in enumerate(names):
            await add(store, name, f'{{"n": {n}}}')
        assert list(await store.subjects()) == sorted(names)
        for n, name in enumerate(names):
            assert await texts(store, name) == [f'{{"n": {n}}}']

    @proves(G.PAGES)
    async def test_lists_are_read_in_parts(self, store: RegistryStore) -> None:
        """Usually wrong: a limit of 0 is no limit; ``%`` and ``_`` in a prefix are wild cards."""
        for name in ("a1", "a2", "a3", "b", "a%", "A1"):
            await add(store, name, f'{{"title": "{name}"}}')
        assert list(await store.subjects("a", limit=2)) == ["a%", "a1"]
        assert list(await store.subjects("a", offset=2)) == ["a2", "a3"]
        assert list(await store.subjects("a%")) == ["a%"]
        assert list(await store.subjects(limit=0)) == []
        for n in range(5):
            await add(store, "n", f'{{"n": {n}}}')
        assert list(await store.numbers("n", offset=1, limit=2)) == [2, 3]
        assert list(await store.numbers("n", offset=9)) == []
        assert list(await store.numbers("n", limit=0)) == []

    @proves(G.SOFT_DELETE, Capability.SOFT_DELETE)
    async def test_soft_delete(self, store: RegistryStore) -> None:
        """Usually wrong: readers of old data lose the schema; a subject without a version is listed."""
        made = [await add(store, "s", f'{{"n": {n}}}') for n in range(3)]
        middle = made[1]
        assert list(await store.delete("s", 2)) == [2]
        assert list(await store.numbers("s")) == [1, 3]
        assert list(await store.numbers("s", deleted=True)) == [1, 2, 3]
        assert await store.get("s", 2) is None
        found = await store.get("s", 2, deleted=True)
        assert found is not None
        assert (found.deleted, found.text) == (True, middle.text)
        assert await store.find("s", middle.content) is None
        assert await store.find("s", middle.content, deleted=True) == found
        assert await store.by_id(middle.schema_id) == found
        assert await store.by_guid(middle.guid) == found
        assert list(await store.users(middle.schema_id)) == []
        assert list(await store.users(middle.schema_id, deleted=True)) == [("s", 2)]
        await store.delete("s")
        assert await store.get("s") is None
        assert list(await store.subjects()) == []
        assert list(await store.subjects(deleted=True)) == ["s"]
        assert list(await store.delete("s", 1, permanent=True)) == [1]
        assert list(await store.numbers("s", deleted=True)) == [2, 3]
        await store.delete("s", permanent=True)
        assert await store.by_id(middle.schema_id) is None
        assert list(await store.subjects(deleted=True)) == []

    @proves(G.SOFT_DELETE, Capability.SOFT_DELETE)
    async def test_a_delete_says_why_not(self, store: RegistryStore) -> None:
        """Usually wrong: one call removes what is live; an answer without an error, so that nobody knows."""
        for n in range(2):
            await add(store, "s", f'{{"n": {n}}}')
        for subject, version in (("nobody", None), ("s", 99)):
            with pytest.raises(SubjectNotFoundError):
                await store.delete(subject, version)
        for version in (None, 1):
            with pytest.raises(NotSoftDeletedError):
                await store.delete("s", version, permanent=True)
        await store.delete("s", 1)
        with pytest.raises(SoftDeletedError):
            await store.delete("s", 1)
        with pytest.raises(NotSoftDeletedError):
            await store.delete("s", permanent=True)
        assert list(await store.delete("s")) == [2]
        with pytest.raises(SoftDeletedError):
            await store.delete("s")

    @proves(G.NOTES, Capability.NOTES)
    async def test_notes_are_replaced(self, store: RegistryStore) -> None:
        """Usually wrong: they are merged, or applied to all versions, or change the id."""
        made = await add(store, "s", "{}", notes={"a": 1, "b": 2})
        await add(store, "s", '{"n": 2}')
        changed = await store.set_notes("s", 1, {"deprecated": True})
        assert dict(changed.notes) == {"deprecated": True}
        assert changed.schema_id == made.schema_id
        other = await store.get("s", 2)
        assert other is not None
        assert dict(other.notes) == {}
        assert await store.get("s", 1) == changed
        for subject, version in (("s", 3), ("nobody", 1)):
            with pytest.raises(SubjectNotFoundError):
                await store.set_notes(subject, version, {})

    @proves(G.SETTINGS)
    async def test_settings(self, store: RegistryStore) -> None:
        """Usually wrong: a subject with the name of the global entry; settings that need a version first."""
        assert dict(await store.get_settings(None)) == {}
        assert dict(await store.get_settings("s")) == {}
        await store.set_settings(None, {"compatibility": "FULL"})
        await store.set_settings("s", {"compatibility": "NONE", "alias": "ü"})
        for name in ("None", "null", "*", "global", "__GLOBAL"):
            await store.set_settings(name, {"compatibility": "FORWARD"})
        assert dict(await store.get_settings(None)) == {"compatibility": "FULL"}
        assert dict(await store.get_settings("s")) == {"compatibility": "NONE", "alias": "ü"}
        assert dict(await store.get_settings("other")) == {}
        await store.set_settings("s", {"compatibility": "BACKWARD"})
        assert dict(await store.get_settings("s")) == {"compatibility": "BACKWARD"}
        await store.set_settings("s", {})
        assert dict(await store.get_settings("s")) == {}
        assert dict(await store.get_settings(None)) == {"compatibility": "FULL"}

    @proves(G.SETTINGS)
    async def test_the_narrower_scope_has_precedence(self, store: RegistryStore) -> None:
        """Setting by setting. Usually wrong: the narrowest scope hides the others as a whole; contexts are left out."""
        await store.set_settings(None, {"compatibility": "FULL", "mode": "READONLY", "normalize": True})
        await store.set_settings(":.dev:", {"compatibility": "NONE", "mode": "READWRITE"})
        await store.set_settings(":.dev:s", {"compatibility": "FORWARD"})
        assert dict((await store.snapshot(":.dev:s")).settings) == {
            "compatibility": "FORWARD",
            "mode": "READWRITE",
            "normalize": True,
        }
        assert (await store.snapshot(":.dev:t")).settings["compatibility"] == "NONE"
        assert (await store.snapshot("s")).settings["compatibility"] == "FULL"

    @proves(G.SETTINGS, Capability.SOFT_DELETE)
    async def test_settings_go_with_their_subject(self, store: RegistryStore) -> None:
        """Usually wrong: a new subject of the old name has the old settings; they go with the soft delete already."""
        await add(store, "s", "{}")
        await store.set_settings("s", {"compatibility": "NONE"})
        await store.delete("s")
        assert dict(await store.get_settings("s")) == {"compatibility": "NONE"}
        await store.delete("s", permanent=True)
        assert dict(await store.get_settings("s")) == {}

    @proves(G.DECIDES)
    async def test_who_decides(self, store: RegistryStore) -> None:
        """Usually wrong: an answer without a comparison, which means that the schema is compatible."""
        if Capability.DECIDES_COMPATIBILITY in store.capabilities:
            assert isinstance(store, DecidingStore)
            assert await store.check("nobody", content('{"type": "object"}'))
        else:
            assert not isinstance(store, DecidingStore)

    @proves(G.PERSISTENT, Capability.PERSISTENT)
    async def test_everything_survives(self, new_store: NewStore) -> None:
        """Usually wrong: an id counter that restarts; deletions and settings that are kept in memory."""
        first = new_store()
        await first.open()
        for n in range(3):
            await add(first, "s", f'{{"n": {n}}}')
        await add(first, "other", content('{"n": 1}', references=(Reference("r", "s", 1),)))
        if Capability.NOTES in first.capabilities:
            await first.set_notes("s", 1, {"owner": "x"})
        if Capability.SOFT_DELETE in first.capabilities:
            await first.delete("s", 2)
        await first.set_settings(None, {"compatibility": "FULL"})
        before = [await first.get("s", n, deleted=True) for n in (1, 2, 3)] + [await first.get("other")]
        await first.close()
        await first.close()
        second = new_store()
        await second.open()
        assert [await second.get("s", n, deleted=True) for n in (1, 2, 3)] + [
            await second.get("other")
        ] == before
        assert dict(await second.get_settings(None)) == {"compatibility": "FULL"}
        assert [v.subject for v in await second.referenced_by("s", 1)] == ["other"]
        new = await add(second, "s", '{"new": true}')
        assert new.version == 4
        assert new.schema_id not in {v.schema_id for v in before if v is not None}
        again = await add(second, "third", '{"n": 1}')
        assert before[1] is not None
        assert again.schema_id == before[1].schema_id
        await second.close()
