"""What we write, others read with their own clients; what they write, we read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

from dimesh import Event, EventBus, EventMetadata, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import TopicNotFoundError
from dimesh_contracts.waiting import deadline, eventually, until
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

Read = Callable[[str, str], Any]


@pytest.fixture
def topic() -> str:
    return f"interop.{uuid4().hex[:10]}"


async def read_by_aiokafka(servers: str, topic: str) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with deadline():
            message = await consumer.getone()
        return message.key, message.value, list(message.headers)
    finally:
        await consumer.stop()


async def read_by_confluent(servers: str, topic: str) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    def read() -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": servers, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([topic])
        try:
            for _ in range(200):
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    return message.key(), message.value(), message.headers()
        finally:
            consumer.close()
        raise TimeoutError

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("read", [read_by_aiokafka, read_by_confluent], ids=["aiokafka", "confluent"])
async def test_others_read_our_events(
    new_backend: Callable[..., KafkaBackend], kafka: KafkaCluster, topic: str, read: Any
) -> None:
    bus = EventBus(new_backend())
    sent = Event(
        "growth.lead_scored",
        EventMetadata(
            source_pillar="Growth Engine", source_agent="scorer", correlation_id="c-1", tags={"a": "ü"}
        ),
        {"score": 93, "name": "Zoë"},
    ).replace(headers={"x-own": "1"})
    await bus.publish(topic, sent, key="lead-7")
    key, value, headers = await read(kafka.servers(), topic)
    assert key == b"lead-7"
    assert ("x-own", b"1") in headers
    found = from_binary_event(KafkaMessage(headers=dict(headers), key=key, value=value))
    assert (found.get_id(), found.get_type()) == (sent.event_id, "growth.lead_scored")
    assert found.get_source() == "/dimesh/Growth%20Engine/scorer"
    assert found.get_time() == sent.metadata.timestamp
    assert found.get_extension("correlationid") == "c-1"
    assert found.get_data() == {"score": 93, "name": "Zoë"}
    await bus.close()


@pytest.mark.parametrize("mode", [to_binary_event, to_structured_event], ids=["binary", "structured"])
@pytest.mark.parametrize("client", ["aiokafka", "confluent"])
async def test_we_read_the_events_of_others(
    new_backend: Callable[..., KafkaBackend], kafka: KafkaCluster, topic: str, mode: Any, client: str
) -> None:
    bus = EventBus(new_backend())
    handled: list[Event] = []
    await bus.subscribe(topic, handled.append, "g", start=StartAt.EARLIEST)
    event = CloudEvent(
        {"id": "o-1", "source": "/shop", "type": "com.shop.order", "specversion": "1.0", "color": "red"},
        {"total": 5},
    )
    message = mode(event)
    headers = [(name, value) for name, value in message.headers.items()] + [("x-own", b"2")]
    if client == "aiokafka":
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers())
        await producer.start()
        await producer.send_and_wait(topic, message.value, key=b"order-1", headers=headers)
        await producer.stop()
    else:
        plain = confluent_kafka.Producer({"bootstrap.servers": kafka.servers()})
        plain.produce(topic, message.value, key=b"order-1", headers=headers)
        assert await asyncio.to_thread(plain.flush, 20) == 0
    await until(lambda: len(handled) == 1)
    (found,) = handled
    assert (found.event_id, found.event_type.value, found.payload) == ("o-1", "com.shop.order", {"total": 5})
    assert found.metadata.source_agent == "/shop"
    assert found.headers["ce-color"] == "red"
    assert found.headers["x-own"] == "2"
    # Sent on by us, it comes out as it came in.
    await bus.publish(topic + ".on", found, key="order-1")
    _, value, onward = await read_by_aiokafka(kafka.servers(), topic + ".on")
    again = from_binary_event(KafkaMessage(headers=dict(onward), key=None, value=value))
    assert (again.get_source(), again.get_type()) == ("/shop", "com.shop.order")
    assert again.get_extension("color") == "red"
    assert ("x-own", b"2") in onward
    await bus.close()


async def test_what_is_no_event_becomes_a_dead_letter(
    new_backend: Callable[..., KafkaBackend], kafka: KafkaCluster, topic: str
) -> None:
    bus = EventBus(new_backend())
    handled: list[Event] = []
    await bus.subscribe(topic, handled.append, "g", start=StartAt.EARLIEST)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers())
    await producer.start()
    await producer.send_and_wait(topic, b"\xff plain", key=b"k", headers=[("h", b"\xfe")])
    await producer.send_and_wait(topic, None, key=b"k")
    await producer.stop()
    await bus.publish(topic, Event("a.b", None, "good"))
    await until(lambda: [e.payload for e in handled] == ["good"])

    async def letters() -> Any:
        try:
            found = await DeadLetters(bus).entries(topic)
        except TopicNotFoundError:
            return None
        return found if len(found) == 2 else None

    entries = await eventually(letters)
    assert entries[0].event.data == b"\xff plain"
    kept = entries[0].event.headers["dimesh-dlq-raw-header"]
    assert json.loads(kept)[0][0] == "h"
    await bus.close()
