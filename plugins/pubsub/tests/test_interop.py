"""Messages of other systems that are not events. For events of other systems, see the broker suite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1

from dimesh import Event, EventBus, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import TopicNotFoundError
from dimesh_contracts.waiting import eventually, until
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.fake import PubSub

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def publisher(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)  # the variable that Google's client reads
    client = pubsub_v1.PublisherClient(credentials=AnonymousCredentials())
    yield client
    client.stop()
    client.transport.close()


async def test_a_message_that_is_not_an_event_becomes_a_dead_letter(
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
