"""The broker suite of the kit: commands and Google's own client on Google's fake, the network on the small server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pubsub_fixtures
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1

from dimesh_contracts.broker import BrokerContract, ForeignClient, ForeignMessage, Mode
from dimesh_contracts.bus import NewBackend
from dimesh_contracts.proxy import FaultProxy
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.fake import PubSub

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


class TestPubSub(BrokerContract):
    patience = 40.0
    family = "queue"
    offers = pubsub_fixtures.OFFERS
    doctor_checks = ("order", "acknowledge", "seek")

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., PubSubBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def driver(self, pubsub: PubSub, project: str) -> tuple[str, Mapping[str, Any]]:
        return "pubsub", pubsub_fixtures.options(pubsub.address, project)

    @pytest.fixture
    def proxy(self, proxy: FaultProxy) -> FaultProxy:
        return proxy

    @pytest.fixture
    def new_proxied_backend(self, through: Callable[..., PubSubBackend]) -> NewBackend:
        return through

    @pytest.fixture
    def new_impatient_backend(self, through: Callable[..., PubSubBackend]) -> NewBackend:
        return lambda: through(request_timeout=1.0)

    @pytest.fixture
    def client(
        self, pubsub: PubSub, project: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ForeignClient]:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)  # the variable that Google's client reads
        publisher = pubsub_v1.PublisherClient(
            publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
            credentials=AnonymousCredentials(),
        )
        with pubsub_v1.SubscriberClient(credentials=AnonymousCredentials()) as subscriber:
            yield Google(publisher, subscriber, project)
        publisher.stop()
        publisher.transport.close()


class Google:
    """Google's own client."""

    def __init__(self, publisher: Any, subscriber: Any, project: str) -> None:
        self._publisher = publisher
        self._subscriber = subscriber
        self._project = project

    @contextlib.asynccontextmanager
    async def reading(self, topic: str) -> AsyncIterator[Callable[[], Awaitable[ForeignMessage]]]:
        path = self._subscriber.subscription_path(self._project, f"theirs-{topic}")
        self._subscriber.create_subscription(
            request={
                "name": path,
                "topic": f"projects/{self._project}/topics/{topic}",
                "enable_message_ordering": True,
            }
        )
        loop = asyncio.get_running_loop()
        received: asyncio.Queue[Any] = asyncio.Queue()

        def receive(message: Any) -> None:
            loop.call_soon_threadsafe(received.put_nowait, message)
            message.ack()

        future = self._subscriber.subscribe(path, receive)

        async def read() -> ForeignMessage:
            return seen(await received.get())

        try:
            yield read
        finally:
            future.cancel()
            await asyncio.to_thread(future.result)

    async def publish(
        self,
        topic: str,
        key: str,
        attributes: Mapping[str, str],
        data: Any,
        mode: Mode,
        headers: Mapping[str, str],
    ) -> None:
        if mode == "binary":
            content = json.dumps(data).encode()
            written = {f"ce-{name}": value for name, value in attributes.items()}
            written["content-type"] = "application/json"
        else:
            content = JSONFormat().write(CloudEvent(dict(attributes), data))
            written = {"content-type": "application/cloudevents+json; charset=utf-8"}
        path = self._publisher.topic_path(self._project, topic)
        answer = self._publisher.publish(path, content, ordering_key=key, **written, **headers)
        await asyncio.to_thread(answer.result, 20)


def seen(message: Any) -> ForeignMessage:
    """Read a message with the CloudEvents SDK, which has no binding for Pub/Sub but knows the attributes."""
    attributes = dict(message.attributes)
    fields = {name.removeprefix("ce-"): value for name, value in attributes.items() if name.startswith("ce-")}
    event = JSONFormat().read(None, json.dumps({**fields, "data": json.loads(message.data)}))
    return ForeignMessage(message.ordering_key, event.get_attributes(), attributes, message.data)
