"""The bus with framed payloads and Confluent's own clients, on a real broker."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from registry_server import Scripted, hosted, registry_app

from dimesh import ConfluentSchemaRegistry, Event, EventHandler, EventMetadata, KafkaEventBus
from dimesh.events.cloudevents import from_binary
from dimesh.spi.bus import StartAt
from servers.kafka import LEAKS, KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(180)]
ORDER = {
    "title": "Order",
    "type": "object",
    "properties": {"id": {"type": "integer"}, "name": {"type": "string"}},
    "required": ["id"],
}
AVRO = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}],
}
VALUE = {"id": 7, "name": "Zoë the second"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with hosted(registry_app()) as served:
        yield served


@pytest.fixture(params=["confluent", "confluent-header"])
async def bus(
    kafka: KafkaCluster, url: str, namespace: str, fast: dict[str, Any], request: pytest.FixtureRequest
) -> AsyncIterator[KafkaEventBus]:
    registry = ConfluentSchemaRegistry(url)
    options = {"internal": namespace, **fast, "registry": registry, "wire": request.param}
    made = KafkaEventBus(kafka.servers(), "readers", **options)
    yield made
    await made.close()
    await registry.close()


def first(servers: str, topic: str) -> confluent_kafka.Message:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": servers, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    try:
        while True:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                return message
    finally:
        consumer.close()


@pytest.mark.parametrize("language", ["json", "avro"])
async def test_confluents_deserializer_reads_what_the_bus_writes(
    bus: KafkaEventBus, kafka: KafkaCluster, url: str, language: str
) -> None:
    topic = f"written-{uuid4().hex[:8]}"
    async with ConfluentSchemaRegistry(url) as registry:
        await registry.register(
            "event.order.created", json.dumps(ORDER if language == "json" else AVRO), _format(language)
        )
        schema = (await registry.registered("event.order.created")).schema
    event: Any = Event("order.created", EventMetadata(source_agent="shop"), VALUE)
    if language == "avro":
        attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        event = from_binary({**headers, "content-type": "application/avro"}, schema.encode(VALUE))
    handled: asyncio.Queue[Event] = asyncio.Queue()
    await bus.subscribe(topic, EventHandler(handled.put), "own", start=StartAt.EARLIEST)
    await bus.publish(topic, event)

    def read() -> Any:
        message = first(kafka.servers(), topic)
        with SchemaRegistryClient({"url": url}) as client:
            deserialize: Any = (
                JSONDeserializer(None, schema_registry_client=client)
                if language == "json"
                else AvroDeserializer(client)
            )
            context = SerializationContext(topic, MessageField.VALUE, message.headers())
            return deserialize(message.value(), context)

    assert await asyncio.wait_for(asyncio.to_thread(read), 60) == VALUE
    own = await asyncio.wait_for(handled.get(), 60)
    assert (own.data, own.event_type) == (event.data, "order.created")
    assert own.headers["writer-schema"] == "event.order.created/1"


@pytest.mark.parametrize("form", ["prefix", "header"])
@pytest.mark.parametrize("language", ["json", "avro"])
async def test_the_bus_reads_what_confluents_serializer_writes(
    bus: KafkaEventBus, kafka: KafkaCluster, url: str, language: str, form: str
) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    handled: asyncio.Queue[Event] = asyncio.Queue()
    await bus.subscribe(topic, EventHandler(handled.put), "readers", start=StartAt.EARLIEST)

    def write() -> None:
        options: dict[str, Any] = (
            {"schema.id.serializer": header_schema_id_serializer} if form == "header" else {}
        )
        with SchemaRegistryClient({"url": url}) as client:
            serialize: Any = (
                JSONSerializer(json.dumps(ORDER), client, conf=options)
                if language == "json"
                else AvroSerializer(client, json.dumps(AVRO), conf=options)
            )
            headers: list[tuple[str, bytes]] = []
            value = serialize(VALUE, SerializationContext(topic, MessageField.VALUE, headers))
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka.servers()})
        producer.produce(topic, value, key=b"7", headers=headers)
        assert producer.flush(30) == 0

    await asyncio.to_thread(write)
    event = await asyncio.wait_for(handled.get(), 60)
    assert event.event_type == topic
    assert event.headers["writer-schema"] == f"{topic}-value/1"
    async with ConfluentSchemaRegistry(url) as registry:
        schema = (await registry.registered(f"{topic}-value", 1)).schema
    assert schema.decode(event.data) == VALUE


async def test_messages_with_an_unknown_schema_wait_for_the_registry(
    kafka: KafkaCluster, namespace: str, fast: dict[str, Any]
) -> None:
    app, asked, down = registry_app(), asyncio.Event(), False

    async def switched(scope: Any, receive: Any, send: Any) -> None:
        if not down:
            await app(scope, receive, send)
            return
        asked.set()
        await Scripted(lambda request: (503, {}))(scope, receive, send)

    def serialized() -> bytes | None:
        with SchemaRegistryClient({"url": url}) as client:
            context = SerializationContext(topic, MessageField.VALUE)
            return JSONSerializer(json.dumps(ORDER), client)(VALUE, context)

    def publish(value: bytes | None) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka.servers()})
        producer.produce(topic, value)
        assert producer.flush(30) == 0

    topic = f"waiting-{uuid4().hex[:8]}"
    handled: asyncio.Queue[Event] = asyncio.Queue()
    async with (
        hosted(switched) as url,
        ConfluentSchemaRegistry(url, retry_for=0.1) as registry,
        KafkaEventBus(
            kafka.servers(), internal=namespace, registry=registry, wire="confluent", schemas=[], **fast
        ) as bus,
    ):
        value = await asyncio.to_thread(serialized)
        down = True
        await bus.subscribe(topic, EventHandler(handled.put), "readers", start=StartAt.EARLIEST)
        await asyncio.to_thread(publish, value)
        await asyncio.wait_for(asked.wait(), 60)
        assert handled.empty()
        down = False
        event = await asyncio.wait_for(handled.get(), 60)
    assert event.payload == VALUE


async def test_a_mesh_of_a_file_publishes_framed_payloads(
    kafka: KafkaCluster, namespace: str, url: str, tmp_path: Path
) -> None:
    (tmp_path / "dimesh.toml").write_text(
        f"""
[bus]
driver = "kafka"
validate_schemas = true
options = {{ bootstrap_servers = "{kafka.servers()}", internal = "{namespace}", wire = "confluent" }}

[registry]
driver = "confluent"
options = {{ url = "{url}" }}
"""
    )
    topic = f"cli-{uuid4().hex[:8]}"
    async with ConfluentSchemaRegistry(url) as registry:
        await registry.register("event.order.created", ORDER)
    command = [sys.executable, "-m", "dimesh", "publish", topic, "--type", "order.created"]
    published = await asyncio.create_subprocess_exec(
        *command, "--payload", json.dumps(VALUE), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(published.communicate(), 60)
    assert published.returncode == 0, errors.decode()

    def read() -> Any:
        message = first(kafka.servers(), topic)
        with SchemaRegistryClient({"url": url}) as client:
            context = SerializationContext(topic, MessageField.VALUE, message.headers())
            return JSONDeserializer(None, schema_registry_client=client)(message.value(), context)

    assert await asyncio.wait_for(asyncio.to_thread(read), 60) == VALUE


def _format(language: str) -> str:
    return "JSON_SCHEMA" if language == "json" else "AVRO"
