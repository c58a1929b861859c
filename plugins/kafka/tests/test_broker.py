"""The broker suite of the kit on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple
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
from kafka_offers import OFFERS

from dimesh_contracts.broker import BrokerContract, ForeignClient, ForeignMessage, Mode
from dimesh_contracts.bus import NewBackend
from dimesh_contracts.proxy import FaultProxy
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import LEAKS, KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(180)]


class TestKafka(BrokerContract):
    patience = 30.0
    offers = OFFERS
    doctor_checks = ("replicas", "min.insync.replicas", "transactions")

    @pytest.fixture
    def new_backend(self, new_backend: Callable[..., KafkaBackend]) -> NewBackend:
        return new_backend

    @pytest.fixture
    def driver(
        self, kafka: KafkaCluster, namespace: str, fast: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        return "kafka", {"bootstrap_servers": kafka.servers(), "internal": namespace, **fast}

    @pytest.fixture
    def proxy(self, proxy: FaultProxy) -> FaultProxy:
        return proxy

    @pytest.fixture
    def new_proxied_backend(self, through: Callable[..., KafkaBackend]) -> NewBackend:
        return through

    @pytest.fixture
    def new_impatient_backend(self, through: Callable[..., KafkaBackend]) -> NewBackend:
        return lambda: through(request_timeout=2.0)

    @pytest.fixture(params=["aiokafka", "confluent"])
    def client(self, request: pytest.FixtureRequest, kafka: KafkaCluster) -> ForeignClient:
        return AIOKafka(kafka.servers()) if request.param == "aiokafka" else Confluent(kafka.servers())


class Raw(NamedTuple):
    """A message as a client reads it."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def seen(raw: Raw) -> ForeignMessage:
    """Read a message with the CloudEvents SDK."""
    event = from_binary_event(KafkaMessage(headers=dict(raw.headers), key=None, value=raw.value))
    texts = {name: value.decode("utf-8", "replace") for name, value in raw.headers}
    return ForeignMessage(raw.key.decode(), event.get_attributes(), texts, raw.value)


def written(
    attributes: Mapping[str, str], data: Any, mode: Mode, headers: Mapping[str, str]
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Write a message with the CloudEvents SDK."""
    event = CloudEvent(dict(attributes), data)
    message = to_binary_event(event) if mode == "binary" else to_structured_event(event)
    own = [(name, value.encode()) for name, value in headers.items()]
    return message.value, [*message.headers.items(), *own]


class AIOKafka:
    """The client that dimesh itself is built on, used without dimesh."""

    def __init__(self, servers: str) -> None:
        self._servers = servers

    @contextlib.asynccontextmanager
    async def reading(self, topic: str) -> AsyncIterator[Callable[[], Awaitable[ForeignMessage]]]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=self._servers, auto_offset_reset="earliest")
        await consumer.start()

        async def read() -> ForeignMessage:
            message = await consumer.getone()
            return seen(Raw(message.key, message.value, list(message.headers)))

        try:
            yield read
        finally:
            await consumer.stop()

    async def publish(
        self,
        topic: str,
        key: str,
        attributes: Mapping[str, str],
        data: Any,
        mode: Mode,
        headers: Mapping[str, str],
    ) -> None:
        value, all_headers = written(attributes, data, mode, headers)
        producer = AIOKafkaProducer(bootstrap_servers=self._servers)
        await producer.start()
        await producer.send_and_wait(topic, value, key=key.encode(), headers=all_headers)
        await producer.stop()


class Confluent:
    """The client of librdkafka."""

    def __init__(self, servers: str) -> None:
        self._servers = servers

    @contextlib.asynccontextmanager
    async def reading(self, topic: str) -> AsyncIterator[Callable[[], Awaitable[ForeignMessage]]]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self._servers, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([topic])

        async def read() -> ForeignMessage:
            while True:
                message = await asyncio.to_thread(consumer.poll, 0.1)
                if message is not None and message.error() is None:
                    return seen(Raw(message.key(), message.value(), message.headers()))

        try:
            yield read
        finally:
            await asyncio.to_thread(consumer.close)

    async def publish(
        self,
        topic: str,
        key: str,
        attributes: Mapping[str, str],
        data: Any,
        mode: Mode,
        headers: Mapping[str, str],
    ) -> None:
        value, all_headers = written(attributes, data, mode, headers)
        producer = confluent_kafka.Producer({"bootstrap.servers": self._servers})
        producer.produce(topic, value, key=key.encode(), headers=all_headers)
        assert await asyncio.to_thread(producer.flush, 20) == 0
