"""Frames of a schema registry around payloads, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dimesh import Event, EventMetadata, LocalSchemaRegistry, Mesh, load_settings
from dimesh.errors import CodecError, ConfigurationError, EventError, RegistryUnavailableError
from dimesh.events.cloudevents import KAFKA_PREFIX
from dimesh.plugins import PluginManager
from dimesh.spi.bus import Record
from dimesh.spi.registry import RegistryStore
from dimesh_confluent import wire
from dimesh_kafka.frames import Frames
from dimesh_kafka.messages import FRAME, FRAME_HEADER, from_message, to_headers

ORDER = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
AVRO = '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]}'
FORMS = ["confluent", "confluent-header"]


class Message(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    topic: str = "orders"
    partition: int = 1
    offset: int = 7
    timestamp: int = 1_700_000_000_000


@pytest.fixture
def registry() -> LocalSchemaRegistry:
    return LocalSchemaRegistry()


def frames(registry: LocalSchemaRegistry, form: str | None = "confluent") -> Frames:
    async def opened() -> RegistryStore:
        await registry.open()
        return registry.store

    return Frames(form, opened)


def event(subject: str | None = "event.order.created/1", **headers: str) -> Event:
    stated = {} if subject is None else {"writer-schema": subject}
    return Event("order.created", EventMetadata(), {"id": "7"}).replace(headers={**stated, **headers})


async def sent(made: Frames, what: Event, topic: str = "orders") -> Message:
    record = Record.of(what, "key")
    await made.prepare(topic, [record])
    headers = to_headers(record)
    value = made.message(topic, record, headers)
    return Message(b"key", value, headers, topic)


@pytest.mark.parametrize("form", FORMS)
async def test_what_the_bus_writes_is_framed_and_read_back_by_every_bus(
    registry: LocalSchemaRegistry, form: str
) -> None:
    stored = await registry.register("event.order.created", ORDER)
    what = event(stored.subject + "/1", own="x")
    message = await sent(frames(registry, form), what)
    assert message.value is not None
    found = dict(message.headers)
    if form == "confluent":
        assert message.value == wire.prefix(stored.schema_id) + what.data
    else:
        assert message.value == what.data
        assert found[FRAME_HEADER] == wire.header(stored.guid)
    for reader in (frames(registry, form), frames(registry, None), frames(registry, FORMS[0])):
        assert reader.read(message).event == what
    assert from_message(*message[:3]).event == what
    more = message._replace(headers=[*message.headers, ("added", b"on the way")])
    read = from_message(*more[:3]).event
    assert read.data == what.data
    assert dict(read.headers) == {**what.headers, "added": "on the way"}


async def test_events_without_a_schema_and_dead_letters_stay_bare(registry: LocalSchemaRegistry) -> None:
    stored = await registry.register("event.order.created", ORDER)
    made = frames(registry)
    for what, topic in ((event(None), "orders"), (event(f"{stored.subject}/1"), "orders.dlq")):
        message = await sent(made, what, topic)
        assert message.value == what.data
        assert FRAME not in dict(message.headers)


@pytest.mark.parametrize("named", ["event.order.created/99", "nobody/1", "x/y", "/", "orders"])
async def test_a_schema_that_is_not_there_is_an_error(registry: LocalSchemaRegistry, named: str) -> None:
    with pytest.raises(EventError, match="not registered"):
        await sent(frames(registry), event(named))


async def test_avro_bytes_cannot_be_framed(registry: LocalSchemaRegistry) -> None:
    await registry.register("blob", '"bytes"', "AVRO")
    with pytest.raises(EventError, match="record"):
        await sent(frames(registry), event("blob/1"))


async def read(made: Frames, message: Message) -> Record:
    await made.learn([message])
    return made.read(message)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("event.order.created", "order.created"),
        ("orders-value", "orders"),
        ("Shop.Order", "shop.order"),
        ("Orders of the shop-value", "orders.of.the.shop"),
    ],
)
async def test_messages_of_other_programs_become_events(
    registry: LocalSchemaRegistry, form: str, subject: str, kind: str
) -> None:
    stored = await registry.register(subject, ORDER)
    body = b'{"id":"7"}'
    if form == "confluent":
        message = Message(b"k", wire.prefix(stored.schema_id) + body, [("trace", b"1")])
    else:
        message = Message(b"k", body, [(FRAME_HEADER, wire.header(stored.guid)), ("trace", b"1")])
    record = await read(frames(registry, form), message)
    found = record.event
    assert (found.event_type, found.data, found.content_type) == (kind, body, "application/json")
    assert dict(found.headers) == {"trace": "1", "writer-schema": f"{subject}/1"}
    assert (found.metadata.event_id, record.key) == ("orders/1/7", "k")


async def test_a_guid_leads_to_other_contexts(registry: LocalSchemaRegistry) -> None:
    """Ids do not: they belong to the default context."""
    stored = await registry.register(":.dev:orders-value", ORDER)
    header = [(FRAME_HEADER, wire.header(stored.guid))]
    found = (await read(frames(registry), Message(None, b'{"id":"7"}', header))).event
    assert (found.event_type, found.headers["writer-schema"]) == ("orders", ":.dev:orders-value/1")


async def test_the_subject_of_the_topic_is_preferred(registry: LocalSchemaRegistry) -> None:
    for subject in ("another", "orders-value", "event.x"):
        stored = await registry.register(subject, AVRO, "AVRO")
    record = await read(frames(registry), Message(None, wire.prefix(stored.schema_id) + b"\x027", []))
    assert record.event.headers["writer-schema"] == "orders-value/1"
    assert record.event.content_type == "application/avro"


async def test_a_framed_cloud_event_keeps_its_attributes(registry: LocalSchemaRegistry) -> None:
    stored = await registry.register("orders-value", ORDER)
    attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}
    headers = [(f"{KAFKA_PREFIX}{name}", value.encode()) for name, value in attributes.items()]
    headers.append(("content-type", b"application/json"))
    record = await read(
        frames(registry), Message(None, wire.prefix(stored.schema_id) + b'{"id":"7"}', headers)
    )
    assert (record.event.event_type, record.event.payload) == ("order.created", {"id": "7"})


async def test_what_cannot_be_read_is_passed_on_with_the_reason(registry: LocalSchemaRegistry) -> None:
    made = frames(registry)
    unknown = await read(made, Message(None, wire.prefix(99) + b"{}", []))
    with pytest.raises(CodecError, match="not registered: id 99"):
        unknown.event  # noqa: B018
    for value in (b"{}", b"", None):
        bare = await read(made, Message(None, value, []))
        with pytest.raises(CodecError, match="CloudEvents"):
            bare.event  # noqa: B018


async def test_an_unknown_schema_waits_for_the_registry_and_a_known_one_does_not() -> None:
    registry = LocalSchemaRegistry()
    stored = await registry.register("orders-value", ORDER)
    down = False

    async def opened() -> RegistryStore:
        if down:
            raise RegistryUnavailableError("it is down")
        return registry.store

    made = Frames("confluent", opened)
    message = Message(None, wire.prefix(stored.schema_id) + b'{"id":"7"}', [])
    await made.learn([message])
    down = True
    await made.learn([message])
    assert made.read(message).event.payload == {"id": "7"}
    with pytest.raises(RegistryUnavailableError):
        await made.learn([message._replace(value=wire.prefix(1_000) + b"{}")])


def test_frames_need_a_registry() -> None:
    with pytest.raises(ConfigurationError, match="registry"):
        Frames("confluent", None)


def test_the_option_needs_the_registry_of_a_mesh(tmp_path: Path) -> None:
    options = {"bootstrap_servers": "localhost:9092", "wire": "confluent"}
    with pytest.raises(ConfigurationError, match=r"(?s)kafka.*wire needs a schema registry"):
        PluginManager().bus_backend("kafka", options)
    (tmp_path / "dimesh.toml").write_text(
        f"[mesh]\ndata_dir = '{tmp_path}'\n[bus]\ndriver = 'kafka'\n"
        "options = { bootstrap_servers = 'localhost:9092', wire = 'confluent-header' }\n"
    )
    assert Mesh(load_settings(tmp_path / "dimesh.toml").settings).bus is not None


@pytest.mark.parametrize("value", [b"x", b"9999", b"-1", b""])
def test_a_damaged_mark_changes_nothing(value: bytes) -> None:
    what: Any = event(None)
    record = Record.of(what, "")
    headers = [*to_headers(record), (FRAME, value)]
    assert from_message(b"", record.payload, headers).payload == record.payload
