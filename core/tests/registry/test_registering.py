"""Registration: one decision on one snapshot, references, contexts, modes, deletes that say why not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    Event,
    EventBusFactory,
    EventType,
    LocalSchemaRegistry,
    SchemaEvolutionHelper,
    SchemaRegistry,
    StartAt,
)
from dimesh.bus.door import Operation
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.schemas import SchemaCheck
from dimesh.clock import ManualClock
from dimesh.errors import (
    ConfigurationError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    NotPermittedError,
    NotSoftDeletedError,
    PayloadError,
    ReferencedError,
    ReferenceNotFoundError,
    SchemaIdConflictError,
    SchemaValidationError,
    StorageError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.mesh import Mesh
from dimesh.registry.defaults import DEFAULT_SCHEMAS
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.settings import load_settings
from dimesh.spi.registry import Reference, SchemaContent
from dimesh.spi.schema import Outcome
from dimesh_contracts.waiting import until

WORD: dict[str, Any] = {"properties": {"value": {"type": "string"}}}
NUMBER: dict[str, Any] = {"properties": {"value": {"type": "integer"}}}


@pytest.fixture(params=["memory", "sqlite"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SchemaRegistry]:
    path = None if request.param == "memory" else tmp_path / "registry.db"
    async with LocalSchemaRegistry(path, defaults=False) as made:
        yield made


# -- many writers ------------------------------------------------------------------------------------


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[list[SchemaRegistry]]:
    """Four registries over one file."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(LocalSchemaRegistry(tmp_path / "registry.db", defaults=False))
            for _ in range(4)
        ]


async def test_incompatible_versions_from_many_clients(clients: list[SchemaRegistry]) -> None:
    """Whoever comes first decides: of ten incompatible schemas exactly one is registered, whatever the interleaving."""
    for round_ in range(4):
        subject = f"s{round_}"
        schemas = [{"properties": {"value": {"const": n}}, "required": ["value"]} for n in range(10)]
        results = await asyncio.gather(
            *(clients[n % 4].register(subject, schema) for n, schema in enumerate(schemas)),
            return_exceptions=True,
        )
        refused = [r for r in results if isinstance(r, BaseException)]
        assert len(refused) == 9
        assert all(isinstance(r, IncompatibleSchemaError) for r in refused), refused
        assert list(await clients[0].store.numbers(subject)) == [1]


async def test_one_schema_from_many_clients(clients: list[SchemaRegistry]) -> None:
    """Equal schemas, whatever their spelling, give one version and one id."""
    spellings = [
        '{"type": "object", "title": "t"}',
        '{"title":"t","type":"object"}',
        '{ "title" : "t",\n"type":"object"}',
    ]
    made = await asyncio.gather(*(clients[n % 4].register("s", spellings[n % 3]) for n in range(10)))
    assert {(m.version, m.schema_id) for m in made} == {(1, 1)}
    assert len({m.text for m in made}) == 1, "the spelling of the first writer is kept"


# -- identity ----------------------------------------------------------------------------------------


async def test_metadata_belongs_to_the_identity_and_notes_do_not(registry: SchemaRegistry) -> None:
    plain = await registry.register("s", WORD)
    tagged = await registry.register("s", WORD, metadata={"properties": {"owner": "sales"}})
    assert (tagged.version, tagged.schema_id) == (plain.version + 1, plain.schema_id + 1)
    await registry.deprecate("s", 1)
    again = await registry.register("s", WORD)
    assert (again.version, again.schema_id) == (1, plain.schema_id)
    first = await registry.get_schema("s", 1)
    assert (first.deprecated, dict(first.metadata)) == (True, {})


# -- references --------------------------------------------------------------------------------------


async def test_references_lead_to_registered_versions(registry: SchemaRegistry) -> None:
    with pytest.raises(ReferenceNotFoundError, match="register it first"):
        await registry.register("order", WORD, references=[Reference("money", "money", 1)])
    await registry.register("money", NUMBER)
    made = await registry.register("order", WORD, references=[Reference("money", "money", 1)])
    assert made.content.references == (Reference("money", "money", 1),)
    assert [s.subject for s in await registry.store.referenced_by("money", 1)] == ["order"]
    with pytest.raises(ReferencedError, match="'order'"):
        await registry.delete_subject("money")
    assert await registry.delete_subject("order")
    assert await registry.delete_subject("money")
    assert (await registry.by_id(made.schema_id)).schema.is_valid({"value": "x"})
    with pytest.raises(InvalidSchemaError, match="same name"):
        await registry.register("s", WORD, references=[Reference("a", "b", 1), Reference("a", "c", 1)])


async def test_a_reference_without_a_context_belongs_to_that_of_its_subject(registry: SchemaRegistry) -> None:
    await registry.register("money", NUMBER)
    with pytest.raises(ReferenceNotFoundError):
        await registry.register(":.dev:order", WORD, references=[Reference("money", "money", 1)])
    await registry.register(":.dev:money", NUMBER)
    made = await registry.register(":.dev:order", WORD, references=[Reference("money", "money", 1)])
    assert made.content.references == (Reference("money", ":.dev:money", 1),)


async def test_a_circle_of_references_is_refused(registry: SchemaRegistry) -> None:
    """Only an import over a removed version can make one; reading it must not hang."""
    store = registry.store
    await registry.set_compatibility(None, "NONE")
    await registry.register("b", {"title": "b"})
    await registry.register("a", {"title": "a"}, references=[Reference("b", "b", 1)])
    await registry.set_mode("b", "IMPORT")
    made = await registry.register(
        "b", {"title": "c"}, references=[Reference("a", "a", 1)], version=2, schema_id=9
    )
    assert (await registry.by_id(made.schema_id)).version == 2
    # Versions of one subject that refer to each other are no circle. A true one cannot be stored: a reference needs its target.
    revision = (await store.snapshot("x")).revision
    with pytest.raises(ReferenceNotFoundError):
        await store.append(
            "x", SchemaContent("JSON_SCHEMA", "{}", "x", (Reference("x", "x", 1),)), revision=revision
        )


# -- modes and settings ------------------------------------------------------------------------------


async def test_modes_of_a_subject(registry: SchemaRegistry) -> None:
    await registry.register("s", WORD)
    await registry.set_mode("s", "READONLY")
    with pytest.raises(NotPermittedError, match="read-only"):
        await registry.register("s", {**WORD, "title": "two"})
    assert (await registry.register("s", WORD)).version == 1, "what is there already needs no permission"
    await registry.set_mode(None, "READONLY")
    await registry.set_mode("s", "READWRITE")
    assert (await registry.register("s", {**WORD, "title": "two"})).version == 2
    with pytest.raises(NotPermittedError):
        await registry.register("t", WORD)
    with pytest.raises(ConfigurationError, match="READWRITE, READONLY, IMPORT"):
        await registry.set_mode("s", "WRITEONLY")


async def test_import_gives_versions_and_ids_and_checks_nothing(registry: SchemaRegistry) -> None:
    with pytest.raises(NotPermittedError, match="import mode"):
        await registry.register("s", WORD, version=4, schema_id=40)
    await registry.set_mode("s", "IMPORT")
    assert (await registry.register("s", WORD, version=4, schema_id=40)).schema_id == 40
    incompatible = await registry.register("s", NUMBER, version=2, schema_id=20)
    assert (incompatible.version, incompatible.schema_id) == (2, 20)
    assert (await registry.register("s", WORD, version=4, schema_id=40)).version == 4
    with pytest.raises(VersionConflictError):
        await registry.register("s", {"title": "other"}, version=4, schema_id=41)
    with pytest.raises(SchemaIdConflictError):
        await registry.register("s", {"title": "other"}, version=5, schema_id=20)
    assert list(await registry.store.numbers("s")) == [2, 4]


async def test_settings_of_a_context(registry: SchemaRegistry) -> None:
    await registry.set_compatibility(":.dev:", "NONE")
    await registry.register(":.dev:s", WORD)
    await registry.register(":.dev:s", NUMBER)
    await registry.register("s", WORD)
    with pytest.raises(IncompatibleSchemaError):
        await registry.register("s", NUMBER)


async def test_unknown_stored_values_are_typed_errors(registry: SchemaRegistry) -> None:
    """Another program, or a newer version, may have written them."""
    for settings, says in (
        ({"compatibility": "SIDEWAYS"}, "'SIDEWAYS' is not a compatibility mode: use one of NONE, BACKWARD"),
        ({"compatibilityPolicy": "relaxed"}, "'relaxed' is not a compatibility policy: use one of strict"),
        ({"mode": 7}, "7 is not a mode of a subject"),
    ):
        await registry.store.set_settings("s", settings)
        with pytest.raises(ConfigurationError, match=says):
            await registry.register("s", WORD)
    await registry.store.set_settings("s", {})
    revision = (await registry.store.snapshot("odd")).revision
    await registry.store.append("odd", SchemaContent("COBOL", "01 A.", "01 A."), revision=revision)
    with pytest.raises(InvalidSchemaError, match="language 'COBOL' cannot be used"):
        await registry.get_schema("odd")


async def test_a_policy_of_a_subject(registry: SchemaRegistry) -> None:
    wider = {"properties": {**WORD["properties"], "note": {"type": "string"}}}
    await registry.register("s", WORD)
    await registry.set_compatibility("s", "BACKWARD", policy="strict")
    result = await registry.compatibility("s", wider)
    assert not result
    assert result.comparisons[0].version == 1
    await registry.set_compatibility("s", "BACKWARD", policy="tolerant")
    assert await registry.compatibility("s", wider)
    with pytest.raises(ConfigurationError, match="tolerant"):
        await registry.set_compatibility("s", "BACKWARD", policy="kind")


async def test_comparing_with_one_version(registry: SchemaRegistry) -> None:
    await registry.set_compatibility("s", "NONE")
    await registry.register("s", WORD)
    await registry.register("s", NUMBER)
    await registry.set_compatibility("s", "BACKWARD")
    assert not await registry.compatibility("s", WORD)
    assert await registry.compatibility("s", WORD, version=1)
    with pytest.raises(SubjectNotFoundError, match="its versions are: 1, 2"):
        await registry.compatibility("s", WORD, version=3)


# -- deletes -----------------------------------------------------------------------------------------


async def test_a_delete_for_good_says_why_not(registry: SchemaRegistry) -> None:
    await registry.register("s", WORD)
    await registry.set_compatibility("s", "NONE")
    with pytest.raises(NotSoftDeletedError, match="delete it first"):
        await registry.delete_subject("s", permanent=True)
    assert await registry.validate("s", {"value": "x"}, 1)
    assert await registry.delete_subject("s")
    with pytest.raises(SubjectNotFoundError):
        await registry.validate("s", {"value": "x"}, 1)
    assert await registry.delete_subject("s", permanent=True)
    assert not await registry.delete_subject("s", permanent=True)
    assert (await registry.settings("s")).compatibility.value == "BACKWARD", (
        "the settings went with the subject"
    )


# -- the default schemas -----------------------------------------------------------------------------


def test_default_schemas_are_there_for_every_type_and_describe_what_they_name() -> None:
    assert set(DEFAULT_SCHEMAS) == {f"event.{name.value}" for name in EventType}
    for subject, schema in DEFAULT_SCHEMAS.items():
        assert schema["description"], subject
        for name, field in schema.get("properties", {}).items():
            assert field["description"], f"{subject}/{name}"
            parsed = JsonSchema().parse(json.dumps(field))
            for example in field.get("examples", ()):
                assert parsed.is_valid(example), f"{subject}/{name}: {example!r}"


async def test_a_file_with_the_defaults_of_an_older_version_keeps_them(tmp_path: Path) -> None:
    """A default schema is registered where a subject has none: what is there stays, whoever made it."""
    async with LocalSchemaRegistry(tmp_path / "registry.db", defaults=False) as old:
        await old.register("event.deal.won", {"title": "older"}, notes={"default": True})
    async with LocalSchemaRegistry(tmp_path / "registry.db") as now:
        assert (await now.get_schema("event.deal.won")).schema == {"title": "older"}
        assert len(await now.list_subjects()) == len(DEFAULT_SCHEMAS)


# -- events that wait while their schema changes -----------------------------------------------------

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"order": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["order"],
    "additionalProperties": False,
}


async def test_a_compatible_change_does_not_dead_letter_the_backlog(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    path = str(tmp_path / "mesh.db")
    await registry.register("event.order.created", ORDER)
    async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
        await bus.publish("t", Event("order.created", None, {"order": 1, "note": "old"}))
    added = SchemaEvolutionHelper.add_required_field_with_default(
        ORDER, "currency", {"type": "string"}, "EUR"
    )
    del added["properties"]["note"]  # removed from a closed schema
    await registry.register("event.order.created", added)
    async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
        got: list[Any] = []
        await bus.subscribe("t", lambda e: got.append(e.payload), "g", start=StartAt.EARLIEST)
        await until(lambda: got)
        assert got == [{"order": 1, "note": "old", "currency": "EUR"}]
        await bus.publish("t", Event("order.created", None, {"order": 2, "currency": "USD"}))
        await until(lambda: len(got) == 2)
        assert got[1] == {"order": 2, "currency": "USD"}
        assert "t.dlq" not in {info.name for info in await bus.door.topics()}


async def test_the_version_of_the_writer_is_checked_and_kept(registry: SchemaRegistry) -> None:
    async with EventBusFactory.create("memory", registry=registry) as bus:
        await registry.register("event.order.created", ORDER)
        await registry.set_compatibility("event.order.created", "NONE")
        wider = {**ORDER, "required": ["order", "note"]}
        await registry.register("event.order.created", wider)
        headers: list[Any] = []
        await bus.subscribe("t", lambda e: headers.append(e.headers.get("writer-schema")), "g")
        await bus.publish("t", Event("order.created", None, {"order": 1, "note": "n"}))
        # A sender may still write with the older version, and then is checked against that one.
        older = {"writer-schema": "event.order.created/1"}
        await bus.publish("t", Event("order.created", None, {"order": 1}, headers=older))
        with pytest.raises(SchemaValidationError, match=r"version 1\).*/order"):
            await bus.publish("t", Event("order.created", None, {"order": "x"}, headers=older))
        for wrong, says in (("event.order.created/7", "is not there"), ("event.order.created/x", "such as")):
            with pytest.raises(PayloadError, match=says):
                await bus.publish(
                    "t", Event("order.created", None, {"order": 1}, headers={"writer-schema": wrong})
                )
        # Headers that a handler passes on with an event of another type: the header of that type takes its place.
        foreign = {"writer-schema": "event.other/1"}
        await bus.publish("t", Event("order.created", None, {"order": 1, "note": "n"}, headers=foreign))
        await bus.idle()
        assert headers == ["event.order.created/2", "event.order.created/1", "event.order.created/2"]
        assert "t.dlq" not in {info.name for info in await bus.door.topics()}


async def test_an_event_without_the_header_is_read_as_the_version_that_it_satisfies(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    """As of a sender without a registry, or from before there was one."""
    path = str(tmp_path / "mesh.db")
    async with EventBusFactory.create("sqlite", path=path) as bus:
        await bus.publish("t", Event("order.created", None, {"order": 1}))
        await bus.publish("t", Event("order.created", None, {"order": "one"}))
    await registry.register("event.order.created", ORDER)
    added = SchemaEvolutionHelper.add_required_field_with_default(
        ORDER, "currency", {"type": "string"}, "EUR"
    )
    await registry.register("event.order.created", added)
    async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
        got: list[Any] = []
        await bus.subscribe("t", lambda e: got.append(e.payload), "g", start=StartAt.EARLIEST)
        await bus.idle()
        assert got == [{"order": 1, "currency": "EUR"}]
        (letter,) = await DeadLetters(bus).entries("t")
        assert "/order" in letter.reason


async def test_an_event_whose_version_was_deleted_is_still_read(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    path = str(tmp_path / "mesh.db")
    await registry.register("event.order.created", ORDER)
    async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
        await bus.publish("t", Event("order.created", None, {"order": 1}))
    await registry.register("event.order.created", {**ORDER, "title": "newer"})
    await registry.delete_versions("event.order.created", 1)
    async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
        got: list[Any] = []
        await bus.subscribe("t", lambda e: got.append(e.payload), "g", start=StartAt.EARLIEST)
        await until(lambda: got)
        assert got == [{"order": 1}]


async def test_a_registry_that_is_down_serves_what_is_known(tmp_path: Path) -> None:
    """A known type is checked on; of an unknown one nobody can say whether it has a schema, so it is not published."""
    folder = tmp_path / "registry"
    clock = ManualClock()
    async with LocalSchemaRegistry(folder / "r.db", defaults=False) as registry:
        await registry.register("event.order.created", ORDER)
        check = SchemaCheck(registry, clock)

        async def stamped(event: Event) -> Event:
            ((made,), _) = await check.outgoing("t", Operation.PUBLISH, (event,))
            return made

        await stamped(Event("order.created", None, {"order": 1}))
        await registry.store.close()  # from now on every question is a StorageError
        await clock.advance(60.0)
        second = await stamped(Event("order.created", None, {"order": 2}))
        assert second.headers["writer-schema"] == "event.order.created/1"
        with pytest.raises(SchemaValidationError):
            await stamped(Event("order.created", None, {"order": "x"}))
        with pytest.raises(StorageError, match="closed"):
            await stamped(Event("other.created", None, {}))


async def test_the_registry_has_a_policy_and_a_treatment_of_what_cannot_be_decided() -> None:
    """For subjects without settings of their own; that an array of two different values has at most two is not found out."""
    many = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    wide = {"maxItems": 2}
    for undecided, allowed in (("block", False), ("allow", True)):
        async with LocalSchemaRegistry(defaults=False, undecided=undecided) as registry:
            await registry.register("s", many)
            result = await registry.compatibility("s", wide)
            outcomes = {c.verdict.outcome for c in result.comparisons}
            assert outcomes == {Outcome.UNDECIDED}
            assert result.compatible is allowed
            assert (await registry.settings("s")).undecided.value == undecided
    with pytest.raises(ConfigurationError, match="'maybe' is not a treatment"):
        LocalSchemaRegistry(undecided="maybe")


async def test_the_settings_of_a_mesh_reach_its_registry(tmp_path: Path) -> None:
    file = tmp_path / "dimesh.toml"
    file.write_text('[registry]\ndriver = "memory"\npolicy = "strict"\nundecided = "allow"\n')
    mesh = Mesh(load_settings(file, mesh={"data_dir": tmp_path}).settings)
    settings = await mesh.registry.settings("s")
    assert (settings.policy, settings.undecided.value) == ("strict", "allow")
    await mesh.close()
