"""Clients of aiokafka, configured for the bus. No other module uses their private parts."""

from __future__ import annotations

import asyncio
import contextlib
from types import FunctionType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.protocol.metadata import MetadataRequest

from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.security import connection

_BACKOFF: Final = 0.05
_STOP: Final = 5.0
"""The seconds that stopping a client may take; some clients wait for a broker that is gone."""
_LOOKUPS: Final = 100
"""The number of lookups of a partition that the client does not know."""


class Clients:
    """Makes clients that are not started.

    Args:
        options: the options of the bus.

    Raises:
        ConfigurationError: the options of the connection contradict each other.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._connection = {
            **connection(options),
            "retry_backoff_ms": int(_BACKOFF * 1000),
            "metadata_max_age_ms": int(options.metadata_interval * 1000),
        }

    def consumer(self, **arguments: Any) -> AIOKafkaConsumer:
        """Return a consumer that neither commits nor chooses positions by itself, and sees committed transactions only."""
        made = AIOKafkaConsumer(
            **{
                **self._connection,
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "isolation_level": "read_committed",
                **arguments,
            }
        )
        _adjust(made._client)
        return made

    def producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        """Return an idempotent producer whose records all in-sync replicas acknowledge."""
        options = self._options
        made = _Producer(
            **self._connection,
            acks="all",
            enable_idempotence=True,
            transactional_id=transactional_id,
            compression_type=None if options.compression == "none" else options.compression,
            max_batch_size=options.batch_size,
            max_request_size=options.max_request_size,
        )
        _adjust(made.client)
        return made

    def admin(self) -> AIOKafkaAdminClient:
        """Return a client for topics and groups."""
        made = AIOKafkaAdminClient(**self._connection)
        _adjust(made._client)
        return made

    async def diagnose(self) -> BaseException | None:
        """Return why no broker can be reached, which the clients do not report; None if one can be."""
        known = ("client_id", "request_timeout_ms", "security_protocol", "ssl_context")
        arguments = {k: v for k, v in self._connection.items() if k in known or k.startswith("sasl_")}
        found: BaseException | None = None
        for host, port, _ in collect_hosts(self._connection["bootstrap_servers"]):
            connection = AIOKafkaConnection(host, port, **arguments)
            try:
                await connection.connect()
            except Exception as error:
                found = error
            else:
                return None
            finally:
                connection.close()
        return found


class _Producer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer that finds added partitions at once; the client itself looks for them only every five minutes."""

    async def send(self, topic: str, value: Any, key: Any, partition: int, **more: Any) -> Any:
        await self._find(topic, partition)
        return await super().send(topic, value, key, partition, **more)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        await self._find(topic, partition)
        return await super().send_batch(batch, topic, partition=partition)

    async def _find(self, topic: str, partition: int) -> None:
        for _ in range(_LOOKUPS):
            known = self.client.cluster.partitions_for_topic(topic)
            if known is None or partition in known:  # the client itself looks up an unknown topic
                return
            await self.client.force_metadata_update()
            await asyncio.sleep(_BACKOFF)
        raise UnknownTopicOrPartitionError(f"{topic} has no partition {partition}")


class _Lookup(MetadataRequest):  # type: ignore[misc]
    """A request for metadata after which the broker creates no topic, whatever its ``auto.create.topics.enable``.

    Otherwise a topic that was deleted comes back when any client that has used it refreshes its metadata.
    """

    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics, False)


def _adjust(client: Any) -> None:
    """Let metadata updates create no topic, and pause after a failed one, which aiokafka 0.14 repeats thousands of times a second
    without a broker.
    """
    method = type(client)._metadata_update
    # The client names the class of the request itself; only this copy of its method has another one.
    update = FunctionType(method.__code__, {**method.__globals__, "MetadataRequest": _Lookup})

    async def patient_update(*arguments: Any) -> Any:
        updated = await update(client, *arguments)
        if not updated:
            await asyncio.sleep(2 * _BACKOFF)
        return updated

    client._metadata_update = patient_update


def raise_group_error(consumer: AIOKafkaConsumer) -> None:
    """Raise the error of a group's background tasks, which the client raises only from a fetch.

    Raises:
        KafkaError: the error, if there is one.
    """
    consumer._coordinator.check_errors()


def is_fenced(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the group has removed this member."""
    return getattr(consumer._coordinator, "generation", 0) < 0


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect, whatever the state of the client."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(_STOP):
            await consumer.stop()


async def stop_producer(producer: AIOKafkaProducer, flush: bool = True) -> None:
    """Disconnect. Without ``flush``, records that are not sent yet are dropped; the client's own ``stop`` waits for them."""
    sender = producer._sender
    if flush:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(_STOP):
                await producer.stop()
                return
    producer._closed = True
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()
        await asyncio.wait((sender.sender_task,), timeout=_STOP)
    with contextlib.suppress(Exception):
        await producer.client.close()
