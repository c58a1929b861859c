from __future__ import annotations

import asyncio
import copy
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    CompatibilityMode,
    Event,
    EventBusFactory,
    LocalSchemaRegistry,
    SchemaEvolutionHelper,
    SchemaFormat,
    SchemaRegistry,
    SubscriptionOptions,
    validate_event,
)
from dimesh.backends.registry.memory import MemoryStore
from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.clock import ManualClock, SystemClock
from dimesh.errors import (
    ConfigurationError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    SchemaError,
    SchemaValidationError,
    StorageError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.plugins import PluginManager
from dimesh.registry.defaults import DEFAULT_SCHEMAS
from dimesh.spi.registry import RegistryStore, SchemaContent

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "email": {"type": "string", "format": "email"}},
    "required": ["id"],
}


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RegistryStore]:
    made: RegistryStore = (
        MemoryStore(SystemClock())
        if request.param == "memory"
        else SqliteStore(SqliteStoreOptions(path=str(tmp_path / "r.db")), SystemClock())
    )
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def registry(store: RegistryStore) -> SchemaRegistry:
    return SchemaRegistry(store)


async def test_versions_are_numbered_and_equal_content_is_one_version(registry: SchemaRegistry) -> None:
    assert await registry.register_schema("s", ORDER) == 1
    assert await registry.register_schema("s", copy.deepcopy(ORDER)) == 1
    wider = SchemaEvolutionHelper.add_optional_field(ORDER, "note", {"type": "string"})
    assert await registry.register_schema("s", wider) == 2
    assert (await registry.get_schema("s")).version == 2
    assert (await registry.get_schema("s", 1)).schema == ORDER
    subject = await registry.get_subject("s")
    assert (subject.latest_version, sorted(subject.versions)) == (2, [1, 2])
    assert subject.get_version().version == 2
    with pytest.raises(SubjectNotFoundError, match="its versions are: 1, 2"):
        subject.get_version(7)
    assert await registry.register_schema("other", ORDER) == 1
    one, two = await registry.get_schema("s", 1), await registry.get_schema("other")
    assert one.schema_id == two.schema_id


async def test_validate_and_explain(registry: SchemaRegistry) -> None:
    await registry.register_schema("s", ORDER)
    assert await registry.validate("s", {"id": 1, "email": "a@b.example"})
    assert not await registry.validate("s", {"email": "nope"})
    problems = {p.path: p.message for p in await registry.explain("s", {"id": "x", "email": "nope"})}
    assert set(problems) == {"/id", "/email"}
    with pytest.raises(SubjectNotFoundError, match="'nope'"):
        await registry.validate("nope", {})


@pytest.mark.parametrize(
    ("mode", "change", "allowed"),
    [
        ("BACKWARD", "optional", True),
        ("BACKWARD", "required", False),
        ("BACKWARD", "relaxed", True),
        ("FORWARD", "required", True),
        ("FORWARD", "relaxed", False),
        ("FULL", "optional", True),
        ("FULL", "relaxed", False),
        ("FULL", "required", False),
        ("NONE", "required", True),
        ("BACKWARD_TRANSITIVE", "optional", True),
        ("FORWARD_TRANSITIVE", "relaxed", False),
        ("FULL_TRANSITIVE", "optional", True),
    ],
)
async def test_modes(registry: SchemaRegistry, mode: str, change: str, allowed: bool) -> None:
    changed = {
        "optional": SchemaEvolutionHelper.add_optional_field(ORDER, "note", {"type": "string"}),
        "required": {
            **ORDER,
            "properties": {**ORDER["properties"], "note": {"type": "string"}},
            "required": ["id", "note"],
        },
        "relaxed": {**ORDER, "required": []},
    }[change]
    await registry.set_compatibility("s", mode)
    await registry.register_schema("s", ORDER)
    assert await registry.check_compatibility("s", changed) is allowed
    if allowed:
        assert await registry.register_schema("s", changed) == 2
    else:
        with pytest.raises(IncompatibleSchemaError) as caught:
            await registry.register_schema("s", changed)
        assert caught.value.reasons
        assert isinstance(caught.value, ValueError)
        assert [v.version for v in (await registry.get_subject("s")).versions.values()] == [1]


async def test_transitive_modes_check_every_version(registry: SchemaRegistry) -> None:
    await registry.set_compatibility("s", CompatibilityMode.NONE)
    await registry.register_schema("s", {"properties": {"a": {"type": "integer"}}})
    await registry.register_schema("s", {"properties": {"a": {"type": "string"}}})
    third = {"properties": {"a": {"type": ["string", "boolean"]}}}
    await registry.set_compatibility("s", "BACKWARD")
    assert await registry.check_compatibility("s", third)
    await registry.set_compatibility("s", "BACKWARD_TRANSITIVE")
    result = await registry.compatibility("s", third)
    assert not result
    assert "version 1" in result.reasons[0]


async def test_the_global_mode(registry: SchemaRegistry) -> None:
    assert await registry.get_compatibility("s") is CompatibilityMode.BACKWARD
    await registry.set_compatibility(None, "NONE")
    assert await registry.get_compatibility("s") is CompatibilityMode.NONE
    await registry.set_compatibility("s", "FULL")
    assert await registry.get_compatibility("s") is CompatibilityMode.FULL
    with pytest.raises(ConfigurationError, match="BACKWARD"):
        await registry.set_compatibility("s", "SIDEWAYS")


async def test_delete_keeps_the_numbers(registry: SchemaRegistry) -> None:
    await registry.register_schema("s", ORDER)
    assert await registry.list_subjects() == ["s"]
    assert await registry.delete_subject("s")
    assert not await registry.delete_subject("s")
    assert await registry.list_subjects() == []
    with pytest.raises(SubjectNotFoundError):
        await registry.get_schema("s")
    assert await registry.register_schema("s", {"type": "string"}) == 2
    assert await registry.delete_subject("s")
    assert await registry.delete_subject("s", permanent=True)
    assert await registry.register_schema("s", {"type": "string"}) == 3


async def test_deprecation(registry: SchemaRegistry) -> None:
    await registry.register_schema("s", ORDER)
    await registry.deprecate("s")
    version = await registry.get_schema("s")
    assert version.deprecated
    assert version.deprecation_date is not None


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "#/type: not a Draft 7 schema"),
        ({"$ref": "http://example.com/schema"}, "leads out of the document"),
        ({"$ref": "file:///etc/passwd"}, "leads out of the document"),
        ({"$ref": "#/definitions/nope"}, "has no target"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "supports Draft 7"),
        ({"pattern": "(?P<name>a)"}, "pattern"),
        ({"pattern": "["}, "pattern"),
        ({"patternProperties": {"(": True}}, "pattern"),
        ({"properties": {"a": 5}}, "#/properties/a"),
        ("{", "not JSON"),
        (7, "an object or a boolean"),
        ({"enum": [float("nan")]}, "not JSON"),
    ],
)
async def test_invalid_schemas_are_refused(registry: SchemaRegistry, schema: Any, says: str) -> None:
    with pytest.raises(InvalidSchemaError, match=says):
        await registry.register_schema("s", schema)
    assert await registry.list_subjects() == []


async def test_other_languages_are_refused_with_a_reason(store: RegistryStore) -> None:
    nothing = PluginManager(allow=["memory"]).schema_language  # as where no plugin is installed
    registry = SchemaRegistry(store, languages=nothing)
    for format in (SchemaFormat.AVRO, SchemaFormat.PROTOBUF):
        with pytest.raises(InvalidSchemaError, match=format.value):
            await registry.register_schema("s", "{}", format)
    for subject in ("", "a\nb", "x" * 2_000):
        with pytest.raises(SchemaError, match="subject"):
            await registry.register_schema(subject, ORDER)


async def test_two_writers_at_once_get_two_versions(store: RegistryStore) -> None:
    registry = SchemaRegistry(store)
    await registry.set_compatibility(None, "NONE")
    schemas = [{"title": str(n)} for n in range(10)]
    versions = await asyncio.gather(*(registry.register_schema("s", schema) for schema in schemas))
    assert sorted(versions) == list(range(1, 11))
    with pytest.raises(VersionConflictError):
        await store.append("s", SchemaContent("JSON_SCHEMA", "{}", "{}"), revision="an older one")


async def test_schemas_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "registry.db"
    async with LocalSchemaRegistry(path, defaults=False) as registry:
        await registry.register_schema("s", ORDER)
        await registry.set_compatibility("s", "FULL")
    async with LocalSchemaRegistry(path, defaults=False) as again:
        assert (await again.get_schema("s")).schema == ORDER
        info = await again.get_subject_info("s")
    assert info["compatibility_mode"] == "FULL"
    assert (info["name"], info["latest_version"], len(info["versions"])) == ("s", 1, 1)


async def test_foreign_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database at all" * 100)
    newer = tmp_path / "newer.db"
    async with LocalSchemaRegistry(newer, defaults=False):
        pass
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for path, says in ((other, "belongs to another program"), (garbage, "damaged"), (newer, "format 99")):
        with pytest.raises(StorageError, match=says):
            await LocalSchemaRegistry(path).open()
    assert other.exists()


async def test_default_schemas_can_be_followed_by_any_schema() -> None:
    async with LocalSchemaRegistry() as registry:
        assert set(await registry.list_subjects()) == set(DEFAULT_SCHEMAS)
        assert await registry.validate("event.deal.won", {"amount": 5, "anything": True})
        assert not await registry.validate("event.deal.won", {"amount": "five"})
        # Whatever the default says, one's own may follow it.
        assert (
            await registry.register_schema("event.deal.won", {"type": "object", "required": ["total"]}) == 2
        )


async def test_the_bus_checks_at_publish_and_at_consume() -> None:
    registry = LocalSchemaRegistry(defaults=False)
    await registry.register_schema("event.order.created", ORDER)
    async with EventBusFactory.create("memory", registry=registry) as bus:
        got: list[Any] = []
        await bus.subscribe("t", lambda e: got.append(e.payload), "g", options=SubscriptionOptions())
        await bus.publish("t", Event("order.created", None, {"id": 1}))
        with pytest.raises(SchemaValidationError) as caught:
            await bus.publish("t", Event("order.created", None, {"id": "x"}))
        assert caught.value.problems == ('/id: "x" is not of type "integer"',)
        with pytest.raises(SchemaValidationError):
            await bus.publish_many(
                "t", [Event("order.created", None, {"id": 2}), Event("order.created", None, {})]
            )
        await bus.publish("t", Event("order.other", None, "no schema, no check"))
        # What came past the check (another program wrote it) is dead-lettered before the handler sees it.
        from dimesh.spi.bus import Record

        await bus.door._backend.append("t", [Record.of(Event("order.created", None, {"id": "x"}), "k")])
        await bus.idle()
        assert got == [{"id": 1}, "no schema, no check"]
        (entry,) = await DeadLetters(bus).entries("t")
        assert entry.reason.startswith("SchemaValidationError")
        assert entry.attempts == 1
    await registry.close()


async def test_the_decorator() -> None:
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register_schema("s", ORDER)
        calls: list[Any] = []

        @validate_event("s", registry)
        async def handler(event: Event) -> str:
            calls.append(event.payload)
            return "done"

        @validate_event("s", registry)
        def plain(event: Event) -> str:
            return "plain"

        assert await handler(Event("x.y", None, {"id": 1})) == "done"
        assert await plain(Event("x.y", None, {"id": 1})) == "plain"
        with pytest.raises(SchemaValidationError):
            await handler(Event("x.y", None, {"id": "one"}))
        with pytest.raises(TypeError):
            await handler("no event")
        assert calls == [{"id": 1}]


async def test_the_observer_is_called_with_new_versions() -> None:
    heard: list[int] = []
    registry = SchemaRegistry(MemoryStore(ManualClock()), on_registered=lambda s: heard.append(s.version))
    await registry.register_schema("s", ORDER)
    await registry.register_schema("s", ORDER)
    assert heard == [1]


def test_the_helper_does_not_change_its_argument() -> None:
    before = copy.deepcopy(ORDER)
    one = SchemaEvolutionHelper.add_optional_field(ORDER, "note", {"type": "string"})
    two = SchemaEvolutionHelper.add_required_field_with_default(one, "state", {"enum": ["new", "old"]}, "new")
    three = SchemaEvolutionHelper.deprecate_field(two, "email", "use contact")
    assert before == ORDER
    assert two["required"] == ["id", "state"]
    assert two["properties"]["state"]["default"] == "new"
    assert three["properties"]["email"]["deprecated"] is True
    assert "use contact" in three["properties"]["email"]["description"]
    for wrong in (
        lambda: SchemaEvolutionHelper.add_optional_field(ORDER, "id", {}),
        lambda: SchemaEvolutionHelper.deprecate_field(ORDER, "nope", ""),
        lambda: SchemaEvolutionHelper.add_required_field_with_default(ORDER, "n", {"type": "string"}, 5),
    ):
        with pytest.raises(InvalidSchemaError):
            wrong()


async def test_a_subject_that_cannot_be_written_is_refused_or_not_found(tmp_path: Path) -> None:
    for path in (None, tmp_path / "registry.db"):
        async with LocalSchemaRegistry(path, defaults=False) as registry:
            for subject in ("\ud800", "\0", "x" * 10_000):
                with pytest.raises(SchemaError, match="is not a subject name"):
                    await registry.register_schema(subject, {"type": "object"})
                with pytest.raises(SchemaError, match="is not a subject name"):
                    await registry.get_compatibility(subject)
                with pytest.raises(SubjectNotFoundError):
                    await registry.get_schema(subject)
                assert not await registry.delete_subject(subject)
            # A refusal is not as long as what was refused.
            name = "x" * 10_000
            await registry.register_schema("s", {"type": "object"})
            with pytest.raises(IncompatibleSchemaError) as caught:
                await registry.register_schema("s", {"type": "object", "required": [name]})
            assert len(str(caught.value)) < 1_000
            assert name in caught.value.reasons[0]
    for wrong in ("", "a\0b", "\ud800"):
        with pytest.raises(ConfigurationError, match="path must name a file"):
            LocalSchemaRegistry(wrong)
