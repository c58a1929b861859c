"""Messages of other systems that are not events. For events of other systems, see the broker suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from dimesh import Event, EventBus, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import TopicNotFoundError
from dimesh_contracts.waiting import eventually, until
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def topic() -> str:
    return f"interop.{uuid4().hex[:10]}"


async def test_a_message_that_is_not_an_event_becomes_a_dead_letter(
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
