"""Google's own client alone reads what we write, and we read what it writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1

from dimesh import Event, EventBus, EventMetadata, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import TopicNotFoundError
from dimesh_contracts.waiting import eventually, until
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.fake import PubSub

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def emulator(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Google's client looks."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)


@pytest.fixture
def publisher(emulator: None) -> Iterator[Any]:
    client = pubsub_v1.PublisherClient(
        publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
        credentials=AnonymousCredentials(),
    )
    yield client
    client.stop()
    client.transport.close()


@pytest.fixture
def subscriber(emulator: None) -> Iterator[Any]:
    with pubsub_v1.SubscriberClient(credentials=AnonymousCredentials()) as client:
        yield client


async def test_others_read_our_events(
    new_backend: Callable[..., PubSubBackend], subscriber: Any, project: str, topic: str
) -> None:
    bus = EventBus(new_backend())
    await bus.open()
    await bus.publish(topic, Event("first.made", None, 0))
    path = subscriber.subscription_path(project, "theirs")
    subscriber.create_subscription(
        request={"name": path, "topic": f"projects/{project}/topics/{topic}", "enable_message_ordering": True}
    )
    sent = Event(
        "growth.lead_scored",
        EventMetadata(
            source_pillar="Growth Engine", source_agent="scorer", correlation_id="c-1", tags={"a": "ü"}
        ),
        {"score": 93, "name": "Zoë"},
    ).replace(headers={"x-own": "1"})
    await bus.publish(topic, sent, key="lead-7")
    received: list[Any] = []

    def take(message: Any) -> None:
        received.append(message)
        message.ack()

    future = subscriber.subscribe(path, take)
    await until(lambda: len(received) == 1)
    future.cancel()
    await asyncio.to_thread(future.result)
    (message,) = received
    assert message.ordering_key == "lead-7"
    attributes = dict(message.attributes)
    assert attributes["x-own"] == "1"
    assert attributes["content-type"] == "application/json"
    assert json.loads(message.data) == {"score": 93, "name": "Zoë"}
    said = {name.removeprefix("ce-"): value for name, value in attributes.items() if name.startswith("ce-")}
    found = CloudEvent({**said, "time": sent.metadata.timestamp}, json.loads(message.data))
    assert (found.get_id(), found.get_type()) == (sent.event_id, "growth.lead_scored")
    assert found.get_source() == "/dimesh/Growth%20Engine/scorer"
    assert found.get_extension("correlationid") == "c-1"
    await bus.close()


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_we_read_the_events_of_others(
    new_backend: Callable[..., PubSubBackend], publisher: Any, project: str, topic: str, mode: str
) -> None:
    bus = EventBus(new_backend())
    handled: list[Event] = []
    await bus.subscribe(topic, handled.append, "g", start=StartAt.EARLIEST)
    event = CloudEvent(
        {"id": "o-1", "source": "/shop", "type": "com.shop.order", "specversion": "1.0", "color": "red"},
        {"total": 5},
    )
    path = publisher.topic_path(project, topic)
    if mode == "binary":
        attributes = {
            f"ce-{name}": str(value) for name, value in event.get_attributes().items() if name != "time"
        }
        data = json.dumps(event.get_data()).encode()
        attributes["content-type"] = "application/json"
    else:
        data = JSONFormat().write(event)
        attributes = {"content-type": "application/cloudevents+json; charset=utf-8"}
    answer = publisher.publish(path, data, ordering_key="order-1", **attributes, **{"x-own": "2"})
    await asyncio.to_thread(answer.result, 20)
    await until(lambda: len(handled) == 1)
    (found,) = handled
    assert (found.event_id, found.event_type.value, found.payload) == ("o-1", "com.shop.order", {"total": 5})
    assert found.metadata.source_agent == "/shop"
    assert found.headers["ce-color"] == "red"
    assert found.headers["x-own"] == "2"
    await bus.close()


async def test_what_is_no_event_becomes_a_dead_letter(
    new_backend: Callable[..., PubSubBackend], publisher: Any, project: str, topic: str
) -> None:
    bus = EventBus(new_backend())
    handled: list[Event] = []
    await bus.subscribe(topic, handled.append, "g", start=StartAt.EARLIEST)
    path = publisher.topic_path(project, topic)
    await asyncio.to_thread(publisher.publish(path, b"\xff plain", h="ü").result, 20)
    await bus.publish(topic, Event("a.b", None, "good"))
    await until(lambda: [e.payload for e in handled] == ["good"])

    async def letters() -> Any:
        try:
            return await DeadLetters(bus).entries(topic)
        except TopicNotFoundError:
            return None

    (entry,) = await eventually(letters)
    assert entry.event.data == b"\xff plain"
    assert json.loads(entry.event.headers["dimesh-dlq-raw-header"]) == {"h": "ü"}
    await bus.close()
