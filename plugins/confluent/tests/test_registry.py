"""The registry of an application: what is decided, what is kept, and what happens while the server is down."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from registry_server import Answer, Request, Scripted, hosted, registry_app

from dimesh import (
    CompatibilityMode,
    ConfluentSchemaRegistry,
    IncompatibleSchemaError,
    InvalidSchemaError,
    NotPermittedError,
    ReferencedError,
    RegistryUnavailableError,
    SchemaFormat,
    SubjectNotFoundError,
)
from dimesh.clock import ManualClock
from dimesh.plugins import PluginManager
from dimesh.spi.registry import Reference, SchemaContent, StoredSchema
from dimesh_confluent.options import ConfluentOptions
from dimesh_confluent.store import ConfluentStore

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "string"}},
    "required": ["id"],
}


@pytest.fixture
async def registry() -> AsyncIterator[ConfluentSchemaRegistry]:
    async with hosted(registry_app()) as url, ConfluentSchemaRegistry(url) as made:
        yield made


async def test_the_public_calls_work_as_with_a_local_registry(registry: ConfluentSchemaRegistry) -> None:
    assert await registry.register_schema("orders", ORDER) == 1
    assert await registry.register_schema("orders", ORDER) == 1
    wider = {**ORDER, "properties": {**ORDER["properties"], "note": {"type": "string"}}}
    assert await registry.check_compatibility("orders", wider)
    assert await registry.register_schema("orders", wider) == 2
    assert (await registry.get_schema("orders")).schema == wider
    assert await registry.validate("orders", {"id": "1"})
    assert not await registry.validate("orders", {"id": 1})
    assert await registry.list_subjects() == ["orders"]
    narrower = {**wider, "required": ["id", "note"]}
    result = await registry.compatibility("orders", narrower)
    assert not result
    assert any("note" in reason for reason in result.reasons)
    with pytest.raises(IncompatibleSchemaError, match="note"):
        await registry.register_schema("orders", narrower)
    await registry.set_compatibility("orders", CompatibilityMode.NONE)
    assert await registry.get_compatibility("orders") is CompatibilityMode.NONE
    assert await registry.register_schema("orders", narrower) == 3
    assert await registry.delete_subject("orders")
    assert not await registry.delete_subject("orders")
    assert await registry.list_subjects() == []
    with pytest.raises(SubjectNotFoundError):
        await registry.get_schema("orders")
    with pytest.raises(InvalidSchemaError):
        await registry.register_schema("orders", {"type": "nothing"})


async def test_avro_with_a_reference(registry: ConfluentSchemaRegistry) -> None:
    await registry.register("money", '{"type": "record", "name": "Money", "fields": []}', SchemaFormat.AVRO)
    order = '{"type": "record", "name": "Order", "fields": [{"name": "total", "type": "Money"}]}'
    references = [Reference("Money", "money", 1)]
    made = await registry.register("order", order, "AVRO", references=references)
    found = await registry.registered("order")
    assert found.schema.decode(found.schema.encode({"total": {}})) == {"total": {}}
    assert (await registry.by_id(made.schema_id)).stored == made


async def test_versions_and_ids_are_given_in_import_mode(registry: ConfluentSchemaRegistry) -> None:
    with pytest.raises(NotPermittedError):
        await registry.register("s", ORDER, version=7, schema_id=70)
    await registry.set_mode("s", "IMPORT")
    made = await registry.register("s", ORDER, version=7, schema_id=70)
    assert (made.version, made.schema_id) == (7, 70)


async def test_a_deprecation_has_no_place(registry: ConfluentSchemaRegistry) -> None:
    await registry.register("s", ORDER)
    with pytest.raises(NotPermittedError, match="metadata"):
        await registry.deprecate("s")
    with pytest.raises(NotPermittedError, match="metadata"):
        await registry.register("s", ORDER, notes={"owner": "x"})


async def test_only_new_versions_are_announced() -> None:
    heard: list[StoredSchema] = []
    async with (
        hosted(registry_app()) as url,
        ConfluentSchemaRegistry(url, on_registered=heard.append) as registry,
    ):
        await registry.register("s", ORDER)
        await registry.register("s", ORDER)
        await registry.register("s", {**ORDER, "title": "Order"})
    assert [stored.version for stored in heard] == [1, 2]


def test_the_driver_is_installed() -> None:
    store = PluginManager().registry_store("confluent", {"url": "https://registry.example"})
    assert store.name == "confluent"


# -- what is kept ------------------------------------------------------------------------------------


class Counted:
    """A registry of ours behind a count of the requests, which can be down."""

    def __init__(self) -> None:
        self.count = 0
        self.down = False
        self._app = registry_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        if self.down:
            await Scripted(lambda request: (503, {}))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def counted(**options: Any) -> AsyncIterator[tuple[Counted, ConfluentStore, ManualClock]]:
    app, clock = Counted(), ManualClock()
    async with hosted(app) as url:
        store = ConfluentStore(ConfluentOptions(url=url, retry_for=0.0, **options), clock)
        await store.open()
        yield app, store, clock
        await store.close()


def content(n: int) -> SchemaContent:
    return SchemaContent("JSON_SCHEMA", f'{{"n": {n}}}', "")


async def test_an_id_is_asked_for_once_and_the_latest_version_after_its_time() -> None:
    async with counted(latest_ttl=30.0) as (app, store, clock):
        made = await store.register("s", content(1))
        assert await store.by_id(made.schema_id) == await store.get("s") == await store.by_guid(made.guid)
        app.count = 0
        await clock.advance(29.0)
        for _ in range(3):
            assert await store.by_id(made.schema_id) == made
            assert await store.by_guid(made.guid) == made
            assert await store.get("s") == made
        assert app.count == 0
        await clock.advance(2.0)
        assert await store.by_id(made.schema_id) == made
        assert app.count == 0
        assert await store.get("s") == made
        assert app.count == 1


async def test_own_writes_are_seen_at_once() -> None:
    async with counted() as (_, store, _clock):
        for n in range(3):
            made = await store.register("s", content(n))
            assert await store.get("s") == made
        await store.delete("s", 3)
        latest = await store.get("s")
        assert latest is not None
        assert latest.version == 2
        assert await store.get("s", 3) is None


async def test_known_schemas_are_used_while_the_registry_is_down() -> None:
    async with counted() as (app, store, clock):
        made = await store.register("s", content(1))
        await store.by_id(made.schema_id)
        await store.get("s")
        app.down = True
        await clock.advance(10_000.0)
        assert await store.by_id(made.schema_id) == made
        assert await store.get("s") == made
        for unknown in (
            store.by_id(99),
            store.get("other"),
            store.by_guid("g"),
            store.register("s", content(2)),
        ):
            with pytest.raises(RegistryUnavailableError) as caught:
                await unknown
            assert not caught.value.permanent


async def test_an_absent_schema_is_asked_for_again() -> None:
    async with counted() as (_, store, _clock):
        assert await store.get("s") is None
        assert await store.by_id(1) is None
        made = await store.register("s", content(1))
        assert await store.get("s") == await store.by_id(made.schema_id) == made


async def test_the_number_of_kept_schemas_is_limited() -> None:
    async with counted(max_cached=3) as (app, store, _):
        made = [await store.register(f"s{n}", content(n)) for n in range(5)]
        for one in made:
            await store.by_id(one.schema_id)
        app.count = 0
        await store.by_id(made[4].schema_id)
        await store.by_id(made[2].schema_id)
        assert app.count == 0
        await store.by_id(made[0].schema_id)
        assert app.count > 0


# -- other servers -----------------------------------------------------------------------------------


async def test_an_unknown_subject_is_compatible_with_everything() -> None:
    missing = Scripted(lambda request: (404, {"error_code": 40401, "message": "no subject"}))
    async with hosted(missing) as url, ConfluentSchemaRegistry(url) as registry:
        assert await registry.check_compatibility("s", ORDER)
        with pytest.raises(SubjectNotFoundError):
            await registry.compatibility("s", ORDER, version=1)


async def test_global_settings_can_be_removed_where_only_subjects_have_a_delete() -> None:
    level = ["FULL"]

    def answer(request: Request) -> Answer:
        if request.method == "DELETE":
            return 405, {"error_code": 405, "message": "no"}
        if request.path == "/mode":
            return 200, {"mode": "READWRITE"}
        if request.method == "PUT":
            level[0] = request.json["compatibility"]
        return 200, {"compatibilityLevel": level[0]}

    async with hosted(Scripted(answer)) as url, ConfluentSchemaRegistry(url) as registry:
        await registry.open()
        assert await registry.store.get_settings(None) == {"compatibility": "FULL"}
        await registry.store.set_settings(None, {})
        assert await registry.store.get_settings(None) == {}
        assert level == ["BACKWARD"]


async def test_a_server_that_does_not_say_what_is_deleted() -> None:
    def answer(request: Request) -> Answer:
        if request.path.endswith("/versions"):
            return 200, [2]
        number = int(request.path.rpartition("/")[2])
        return 200, {"subject": "s", "version": number, "id": number, "schema": '"string"'}

    async with hosted(Scripted(answer)) as url, ConfluentSchemaRegistry(url) as registry:
        found = [await registry.store.get("s", number, deleted=True) for number in (1, 2)]
    assert [stored.deleted for stored in found if stored is not None] == [True, False]


async def test_a_conflict_of_a_delete_is_a_reference() -> None:
    refusal = {"error_code": 42201, "message": "still referenced"}
    async with (
        hosted(Scripted(lambda request: (409, refusal))) as url,
        ConfluentSchemaRegistry(url) as registry,
    ):
        await registry.open()
        with pytest.raises(ReferencedError, match="still referenced"):
            await registry.store.delete("s")
