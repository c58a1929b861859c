"""What handlers produce, published in one transaction with the position of what they handled.

Every partition has a transactional id of its own, which every process derives alike. The next owner of a partition opens
the same id, and thereby shuts this member out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import ProducerFenced

from dimesh.errors import FencedError, PublishError
from dimesh.spi.bus import Record
from dimesh_kafka.names import group_id
from dimesh_kafka.services import Services
from dimesh_kafka.transactions import Transactor


class Production:
    """The transactions of one member of a group.

    Args:
        services: the clients of the bus.
        topic: the topic that the member reads.
        group: the group that it is a member of.
    """

    def __init__(self, services: Services, topic: str, group: str) -> None:
        self._services = services
        self._topic = topic
        self._group = group
        self._transactors: dict[int, Transactor] = {}
        self._unsure: set[int] = set()
        """Partitions that had a transaction with an unknown outcome."""

    async def open(self, partitions: Iterable[int]) -> None:
        """Take the transactional ids of partitions; what an earlier owner has in flight is aborted."""
        for partition in partitions:
            transactor = self._transactors[partition] = self._services.transactor(
                f"{group_id(self._group, self._topic)}-{partition}"
            )
            await transactor.open()

    async def close(self) -> None:
        """Release the transactional ids."""
        transactors, self._transactors = tuple(self._transactors.values()), {}
        for transactor in transactors:
            await transactor.close()

    async def commit(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        """See :meth:`dimesh.spi.bus.TransactionalStream.produce`."""
        transactor = self._transactors.get(partition)
        if transactor is None:
            raise FencedError(
                f"partition {partition} of topic {self._topic!r} no longer belongs to this member"
            )
        if records:
            await self._services.ensure(topic)
        if partition in self._unsure and await self._was_committed(transactor, partition, offset):
            return
        if self._services.frames.active:
            await self._services.frames.prepare(topic, records)
        messages, _ = self._services.publisher.prepared(topic, records) if records else ([], 0)
        position = {TopicPartition(self._topic, partition): offset}
        try:
            async with transactor.transaction(f"produce to {topic}") as producer:
                sent = [
                    await producer.send(topic, value, key, number, headers=headers)
                    for number, key, value, headers, _ in messages
                ]
                # A message that the broker refuses (as too large) does not fail the transaction by itself.
                await asyncio.gather(*sent)
                await producer.send_offsets_to_transaction(position, group_id(self._group, self._topic))
        except PublishError as error:
            if isinstance(error.__cause__, ProducerFenced):
                raise FencedError(
                    f"partition {partition} of topic {self._topic!r} belongs to another member now"
                ) from error
            self._unsure.add(partition)
            raise

    async def _was_committed(self, transactor: Transactor, partition: int, offset: int) -> bool:
        """Return whether a transaction with an unknown outcome was committed. Reopening its id finishes it either way."""
        await transactor.reopen()
        found = await self._services.admin.committed(self._topic, self._group)
        self._unsure.discard(partition)
        return found.get(partition, -1) >= offset
