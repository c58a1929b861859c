"""Names that escape folders, are invisible, or cannot be encoded: accepted unchanged or refused with a reason, and no file is
ever created outside the mesh's folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dimesh import (
    Event,
    EventBus,
    EventBusFactory,
    EventHandler,
    EventMetadata,
    EventType,
    LineageQuery,
    LineageService,
    LocalSchemaRegistry,
    StartAt,
    Topics,
)
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import DimeshError, RequestTimeoutError
from dimesh.spi.bus import TopicConfig

from .hostile import PIECES, amounts, hostile_text, refused, try_all

FINE = Event("custom", EventMetadata(source_pillar="P", source_agent="a"), {"n": 1})


async def ignore(event: Event) -> None:
    return None


@dataclass
class Parts:
    """The parts of a mesh that receive the names."""

    bus: EventBus
    registry: LocalSchemaRegistry
    lineage: LineageService


# -- one function for each place that accepts a name; each checks that an accepted name is kept unchanged ------


async def publish(parts: Parts, name: str) -> None:
    receipt = await parts.bus.publish(name, FINE)
    assert receipt.topic == name
    assert name in [topic.name for topic in await parts.bus.door.topics()]


async def publish_many(parts: Parts, name: str) -> None:
    await parts.bus.publish_many(name, [FINE, FINE])


async def subscribe(parts: Parts, name: str) -> None:
    await parts.bus.unsubscribe(await parts.bus.subscribe(name, ignore))


async def ask(parts: Parts, name: str) -> None:
    try:
        await parts.bus.request(name, FINE, timeout=0.001)
    except RequestTimeoutError:
        pass


async def create_topic(parts: Parts, name: str) -> None:
    if name not in (".", "..") and name.isascii() and name.replace(".", "a").replace("-", "a").isidentifier():
        await parts.bus.door.create_topic(name, TopicConfig(partitions=1))


async def dead_letters(parts: Parts, name: str) -> None:
    await DeadLetters(parts.bus).entries(name)


async def redrive(parts: Parts, name: str) -> None:
    await DeadLetters(parts.bus).redrive("names", ids=[name])


async def group(parts: Parts, name: str) -> None:
    taken = await parts.bus.subscribe("names", ignore, group=name)
    assert name in {info.group for info in await parts.bus.door.groups()} or not name
    await parts.bus.unsubscribe(taken)


async def subscription_id(parts: Parts, name: str) -> None:
    taken = await parts.bus.subscribe("names", ignore, name)
    await parts.bus.unsubscribe(taken)


async def handler_name(parts: Parts, name: str) -> None:
    """The handler fails, so that a dead letter contains its name."""

    async def fails(event: Event) -> None:
        event.data.decode("utf-16")

    before = len(await parts.bus.door.read("named.dlq", StartAt.EARLIEST, 10_000))
    taken = await parts.bus.subscribe("named", EventHandler(fails, name=name, batch_size=None))
    await parts.bus.publish("named", Event("custom", None, None, headers={"x": "y"}))
    await parts.bus.unsubscribe(taken)
    assert len(await parts.bus.door.read("named.dlq", StartAt.EARLIEST, 10_000)) >= before


async def filters(parts: Parts, name: str) -> None:
    """An accepted filter passes events of the pillar that it names."""
    handler = EventHandler(ignore, pillars=[name])
    taken = await parts.bus.subscribe("filtered", handler)
    try:
        await parts.bus.publish("filtered", Event("custom", EventMetadata(source_pillar=name), 1))
        await parts.bus.idle()
        assert parts.bus.stats()[taken].handled == 1
    finally:
        await parts.bus.unsubscribe(taken)


async def filter_types(parts: Parts, name: str) -> None:
    taken = await parts.bus.subscribe("filtered", EventHandler(ignore, event_types=[name]))
    await parts.bus.unsubscribe(taken)


async def priority(parts: Parts, name: str) -> None:
    EventHandler(ignore, priority_filter=name)


async def event_type(parts: Parts, name: str) -> None:
    assert EventType(name).value == name
    await parts.bus.publish("names", Event(name, None, None))


async def fields(parts: Parts, name: str) -> None:
    metadata = EventMetadata(
        event_id=name,
        trace_id=name,
        source_pillar=name,
        source_agent=name,
        target_pillar=name,
        target_agent=name,
        correlation_id=name,
        causation_id=name,
        tags={name: name},
    )
    event = Event("custom", metadata, None)
    receipt = await parts.bus.publish("names", event)
    assert receipt.position is not None
    partition, offset = receipt.position
    (found,) = await parts.bus.door.read("names", {partition: offset}, 1)
    assert found.record.event == event
    await parts.lineage.track_event(event)


async def key_rule(parts: Parts, name: str) -> None:
    async with EventBusFactory.create("memory", ordering_key=lambda event: name, partitions=4) as bus:
        await bus.publish("names", FINE)
        await bus.publish_many("names", [FINE])


async def tags(parts: Parts, name: str) -> None:
    assert EventMetadata(tags={name: ""}).tags == {name: ""}


async def headers(parts: Parts, name: str) -> None:
    await parts.bus.publish("names", Event("custom", None, None, headers={name: name}))


async def schema_version(parts: Parts, name: str) -> None:
    await parts.bus.publish("names", Event("custom", None, None, name))


async def key(parts: Parts, name: str) -> None:
    receipt = await parts.bus.publish("names", FINE, key=name)
    assert receipt.position is not None
    partition, offset = receipt.position
    (found,) = await parts.bus.door.read("names", {partition: offset}, 1)
    assert found.record.key == name


async def keys(parts: Parts, name: str) -> None:
    await parts.bus.publish_many("names", [FINE, FINE], key=name)


async def key_each(parts: Parts, name: str) -> None:
    await parts.bus.publish_many("names", [FINE, FINE], keys=["fine", name])


async def reply_to(parts: Parts, name: str) -> None:
    """A reply address comes from a sender: it may be wrong, which must not affect the handler."""
    taken = await parts.bus.subscribe("ask", lambda event: {"answer": 1})
    try:
        await parts.bus.publish("ask", Event("custom", None, None, headers={"dimesh-reply-to": name}))
        await parts.bus.idle()
        assert parts.bus.stats()[taken].handled == 1
    finally:
        await parts.bus.unsubscribe(taken)


async def pillar_topic(parts: Parts, name: str) -> None:
    await parts.bus.publish(Topics.for_pillar(name), FINE)


async def driver(parts: Parts, name: str) -> None:
    if name not in ("memory", "sqlite"):
        EventBusFactory.create(name)


async def state_key(parts: Parts, name: str) -> None:
    await parts.bus.publish_many("names", [], state={name: b"x"})
    assert await parts.bus.door.load_state(name) == b"x"


async def subject(parts: Parts, name: str) -> None:
    await parts.registry.register_schema(name, {"type": "object", "title": "t"})
    assert (await parts.registry.get_schema(name)).version >= 1
    assert name in await parts.registry.list_subjects()


async def look_up_subject(parts: Parts, name: str) -> None:
    await parts.registry.get_compatibility(name)
    await parts.registry.delete_subject(name)
    await parts.registry.get_subject(name)


async def compatibility(parts: Parts, name: str) -> None:
    await parts.registry.set_compatibility(name, "FULL")
    await parts.registry.check_compatibility(name, {"type": "string"})


async def schema_text(parts: Parts, name: str) -> None:
    await parts.registry.register_schema("text", name)


async def schema_words(parts: Parts, name: str) -> None:
    """The hostile text is inside a schema: property names, patterns, references."""
    schema = {"properties": {name: {"const": name}}, "required": [name], "$comment": name}
    await parts.registry.register_schema("words", schema)
    for word in ("pattern", "$ref", "$id", "type", "format", "$schema"):
        try:
            await parts.registry.register_schema("words", {word: name})
        except DimeshError as error:
            refused(error)


async def lineage_node(parts: Parts, name: str) -> None:
    await parts.lineage.add_node(name, "data_source", name, name, {name: name})
    await parts.lineage.query_lineage(LineageQuery(node_id=name))


async def lineage_edge(parts: Parts, name: str) -> None:
    await parts.lineage.add_edge(name, f"data:{name}", "reads_from", name, {"note": name})


async def lineage_types(parts: Parts, name: str) -> None:
    await parts.lineage.add_node("data:x", name, "x")


async def lineage_flow(parts: Parts, name: str) -> None:
    await parts.lineage.track_data_flow(name, name, name, {name: name})
    await parts.lineage.track_tool_invocation(name, name, name, {name: name}, name, name, call_id=name)
    await parts.lineage.track_decision(name, name, name, name, name)


async def lineage_ask(parts: Parts, name: str) -> None:
    await parts.lineage.get_trace_timeline(name)
    await parts.lineage.query_lineage(LineageQuery(trace_id=name, pillar=name))
    await parts.lineage.find_impact(name, name)


Place = Callable[[Parts, str], Awaitable[Any]]
PLACES: list[Place] = [
    publish, publish_many, subscribe, ask, create_topic, dead_letters, redrive, group, subscription_id, handler_name,
    filters, filter_types, priority, event_type, fields, tags, headers, schema_version, key, keys, key_each, key_rule,
    reply_to,    pillar_topic, driver, state_key, subject, look_up_subject, compatibility, schema_text, schema_words, lineage_node,
    lineage_edge, lineage_types, lineage_flow, lineage_ask,
]  # fmt: skip


async def attempt(place: Place, parts: Parts, name: str) -> None:
    """Run one case, which must end soon, normally or by a typed error."""
    try:
        async with asyncio.timeout(2):
            await place(parts, name)
    except DimeshError as error:
        refused(error)


@contextmanager
def running(folder: Path) -> Iterator[tuple[asyncio.Runner, Parts]]:
    """Start a mesh with files, and its loop; all cases share it, so that the effects of one reach the next."""
    with asyncio.Runner() as runner:
        parts = Parts(
            EventBusFactory.create("sqlite", path=str(folder / "mesh.db")),
            LocalSchemaRegistry(folder / "registry.db"),
            LineageService(folder / "lineage"),
        )

        async def begin() -> None:
            await parts.bus.open()
            for topic in ("names", "names.dlq", "named.dlq"):
                await parts.bus.door.create_topic(topic, TopicConfig(partitions=1))

        async def end() -> None:
            await parts.lineage.close()
            await parts.registry.close()
            await parts.bus.close()

        runner.run(begin())
        try:
            yield runner, parts
        finally:
            runner.run(end())


@pytest.mark.slow
def test_every_kind_of_bad_name_at_every_place(enclosed: Path) -> None:
    """Try all parts of the generated names in all places, systematically."""
    wrong: list[str] = []
    with running(enclosed) as (runner, parts):
        for place in PLACES:
            for name in PIECES:
                try:
                    runner.run(attempt(place, parts, name))
                except Exception as error:
                    wrong.append(f"{place.__name__}({name!a:.40}): {type(error).__name__}: {error!s:.100}")
    assert wrong == []


@amounts(166, 2_500)
@pytest.mark.slow
def test_any_name_anywhere_is_accepted_unchanged_or_refused(cases: int, enclosed: Path) -> None:
    folder = enclosed / "mesh"
    folder.mkdir()
    with running(folder) as (runner, parts):

        def check(place: Place, name: str) -> None:
            runner.run(attempt(place, parts, name))

        try_all(cases, check, place=st.sampled_from(PLACES), name=hostile_text)
        nodes = {node["id"] for node in json.loads(parts.lineage.export_graph())["nodes"]}
        for format in ("graphml", "dot"):
            assert parts.lineage.export_graph(format).encode("utf-8")
    # Nothing outside the folder, and nothing in it except the files of the three parts.
    assert [path.name for path in enclosed.iterdir()] == ["mesh"]
    made = {path.name for path in folder.iterdir()}
    assert {"mesh.db", "registry.db", "lineage"} <= made
    assert made <= {
        part + end for part in ("mesh.db", "registry.db", "lineage") for end in ("", "-wal", "-shm", "-lock")
    }
    for path in (folder / "lineage").rglob("*"):
        assert path.name.isascii(), path
        assert path.parent == folder / "lineage", path

    async def again() -> None:
        """Read everything that was written: no name damaged a file."""
        async with EventBusFactory.create("sqlite", path=str(folder / "mesh.db")) as bus:
            for topic in await bus.door.topics():
                for delivery in await bus.door.read(topic.name, StartAt.EARLIEST, 10_000):
                    assert delivery.record.event.event_id
        async with LocalSchemaRegistry(folder / "registry.db") as registry:
            for name in await registry.list_subjects():
                await registry.get_subject(name)
        async with LineageService(folder / "lineage") as lineage:
            assert {node["id"] for node in json.loads(lineage.export_graph())["nodes"]} == nodes

    asyncio.run(again())
