"""Transactions of the broker: records in several topics, published together or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from dimesh_kafka.clients import stop_producer
from dimesh_kafka.failures import explained


class Transactor:
    """One transaction at a time, under one transactional id. A transactor that opens the same id later shuts this one out.

    Args:
        new_producer: makes a client with the transactional id that is not started.
    """

    def __init__(self, new_producer: Callable[[], AIOKafkaProducer]) -> None:
        self._new_producer = new_producer
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Transactions that an earlier owner of the id left open are aborted first."""
        if self._producer is None:
            producer = self._new_producer()
            try:
                await producer.start()
            except BaseException:
                await stop_producer(producer, flush=False)
                raise
            self._producer = producer

    async def reopen(self) -> None:
        """Reconnect. The broker finishes the transaction that was in flight first.

        Raises:
            PublishError: the broker cannot finish it now.
        """
        async with self._lock:
            try:
                await self.close()
                await self.open()
            except KafkaError as error:
                raise explained(error, "finish a transaction", publishing=True) from error

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)

    @contextlib.asynccontextmanager
    async def transaction(self, doing: str) -> AsyncIterator[AIOKafkaProducer]:
        """Open a block whose records take effect together at its end, or not at all.

        Args:
            doing: what the block does, for the error message.

        Raises:
            PublishError: the transaction was not committed. Unless the message says otherwise, the outcome is unknown.
        """
        async with self._lock:
            try:
                await self.open()
                assert self._producer is not None
                async with self._producer.transaction():
                    yield self._producer
            except KafkaError as error:
                await self.close()  # the next one aborts what this one left open
                raise explained(error, doing, publishing=True) from error
            except asyncio.CancelledError:
                await self.close()
                raise
