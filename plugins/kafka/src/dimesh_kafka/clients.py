"""Clients of aiokafka, as the bus wants them. The only module that knows their inner parts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.security import connection

_BACKOFF: Final = 0.05
_STOP: Final = 5.0
"""Seconds to stop a client in; some wait for a broker that is gone."""
_LOOKS: Final = 100
"""How often a partition is looked for that the client does not know."""


class Clients:
    """Makes clients, not started.

    Raises:
        ConfigurationError: the options of the connection do not fit together.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._connection = {**connection(options), "retry_backoff_ms": int(_BACKOFF * 1000)}

    def consumer(self, **arguments: Any) -> AIOKafkaConsumer:
        """None commits or chooses a position by itself, or sees what a transaction has not committed."""
        made = AIOKafkaConsumer(
            **{
                **self._connection,
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "isolation_level": "read_committed",
                **arguments,
            }
        )
        _make_patient(made._client)
        return made

    def producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        """Idempotent, acknowledged by all copies that are in sync."""
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
        _make_patient(made.client)
        return made

    def admin(self) -> AIOKafkaAdminClient:
        """For topics and groups."""
        made = AIOKafkaAdminClient(**self._connection)
        _make_patient(made._client)
        return made

    async def trouble(self) -> BaseException | None:
        """Why no broker can be connected to: the clients say only that. None: one can."""
        known = ("client_id", "request_timeout_ms", "security_protocol", "ssl_context")
        arguments = {k: v for k, v in self._connection.items() if k in known or k.startswith("sasl_")}
        trouble: BaseException | None = None
        for host, port, _ in collect_hosts(self._connection["bootstrap_servers"]):
            connection = AIOKafkaConnection(host, port, **arguments)
            try:
                await connection.connect()
            except Exception as error:
                trouble = error
            else:
                return None
            finally:
                connection.close()
        return trouble


class _Producer(AIOKafkaProducer):  # type: ignore[misc]
    """A client looks for partitions that were added every five minutes, and until then denies that they are there."""

    async def send(self, topic: str, value: Any, key: Any, partition: int, **more: Any) -> Any:
        await self._see(topic, partition)
        return await super().send(topic, value, key, partition, **more)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        await self._see(topic, partition)
        return await super().send_batch(batch, topic, partition=partition)

    async def _see(self, topic: str, partition: int) -> None:
        for _ in range(_LOOKS):
            known = self.client.cluster.partitions_for_topic(topic)
            if known is None or partition in known:  # a topic that it does not know it looks for by itself
                return
            await self.client.force_metadata_update()
            await asyncio.sleep(_BACKOFF)
        raise UnknownTopicOrPartitionError(f"{topic} has no partition {partition}")


def _make_patient(client: Any) -> None:
    """While no broker is there, aiokafka 0.14 asks again at once, thousands of times a second."""
    update = client._metadata_update

    async def patient_update(*arguments: Any) -> Any:
        updated = await update(*arguments)
        if not updated:
            await asyncio.sleep(2 * _BACKOFF)
        return updated

    client._metadata_update = patient_update


def raise_trouble(consumer: AIOKafkaConsumer) -> None:
    """Raise what went wrong in a group's background tasks; the client tells it only to who fetches.

    Raises:
        KafkaError: that.
    """
    consumer._coordinator.check_errors()


def is_fenced(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group has forgotten this member."""
    return getattr(consumer._coordinator, "generation", 0) < 0


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect, whatever state the client is in."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(_STOP):
            await consumer.stop()


async def stop_producer(producer: AIOKafkaProducer, flush: bool = True) -> None:
    """Disconnect. Without ``flush`` what it still tries to send is dropped; the client's own ``stop`` waits for that."""
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
