"""What the parts of the bus share: clients, the publisher, administration, and what is known about topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set

from aiokafka.errors import KafkaError

from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.spi.bus import DEFAULT_TIMEOUT, TopicConfig
from dimesh_kafka.admin import Admin
from dimesh_kafka.attempts import AttemptsTable
from dimesh_kafka.clients import Clients
from dimesh_kafka.failures import connection_error
from dimesh_kafka.frames import Frames
from dimesh_kafka.names import InternalTopics
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.publisher import Publisher
from dimesh_kafka.reader import Reader
from dimesh_kafka.tables import Tables
from dimesh_kafka.transactions import Transactor


class Services:
    """Everything that a stream, delayed delivery and the backend need of each other. It knows none of them.

    Args:
        options: the options of the bus.
        clock: the clock of the bus.
        frames: frames payloads.
    """

    publisher: Publisher
    admin: Admin

    def __init__(self, options: KafkaOptions, clock: Clock, frames: Frames) -> None:
        self.options = options
        self.clock = clock
        self.frames = frames
        self.clients = Clients(options)
        self.internal = InternalTopics(options.internal)
        self.reader = Reader(self.clients.consumer, options.request_timeout, frames)
        self.tables = Tables(
            self.partitions_of, self.ensure_internal, self.clients.consumer, options.request_timeout
        )
        self.attempts = AttemptsTable(self.internal.attempts, self.tables, self._put)
        self._ends: dict[tuple[str, int], int] = {}
        self._ensuring: dict[str, asyncio.Lock] = {}
        self._missing: set[str] = set()
        self._deleted: set[str] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            BusError: no broker can be reached, or the credentials are refused.
        """
        self.publisher = Publisher(
            self.options, self.clients.producer, self.clock, self.note_end, self.frames
        )
        client = self.clients.admin()
        self.admin = Admin(self.options, client, self.clients.consumer)
        try:
            await client.start()
            await self.publisher.open()
        except (KafkaError, OSError, DimeshError) as error:
            await client.close()
            if isinstance(error, DimeshError):
                raise
            cause = await self.clients.diagnose() or error
            if isinstance(cause, DimeshError):
                raise cause from error
            raise connection_error(cause, self.options.bootstrap_servers) from cause
        except BaseException:
            await client.close()
            raise

    async def close(self) -> None:
        """Send what is queued, and disconnect."""
        await self.tables.close()
        await self.reader.close()
        await self.publisher.close()
        await self.admin.client.close()

    def transactor(self, name: str) -> Transactor:
        """Return a transactor whose transactional id every process of the mesh derives alike from ``name``."""
        return Transactor(lambda: self.clients.producer(f"{self.options.internal}-{name}"))

    # -- topics ------------------------------------------------------------------------------------

    async def partitions_of(self, topic: str) -> int:
        """Return the number of partitions of a topic; 0 if there is no such topic."""
        known = self.publisher.partitions(topic)
        return known or (await self.admin.partitions()).get(topic, 0)

    async def ensure(self, topic: str, config: TopicConfig | None = None, **settings: str) -> int:
        """Create a topic unless it exists. Return its number of partitions."""
        known = self.publisher.partitions(topic)
        if known:
            return known
        async with self._ensuring.setdefault(topic, asyncio.Lock()):
            partitions = await self.partitions_of(topic)
            if not partitions:
                partitions = await self.admin.create(topic, config or TopicConfig(), **settings)
            self.learn(topic, partitions)
        self._ensuring.pop(topic, None)
        return partitions

    async def ensure_internal(self, topic: str, partitions: int = 1) -> int:
        """Create one of the bus's own topics, compacted, unless it exists. Return its number of partitions."""
        return await self.ensure(
            topic,
            TopicConfig(partitions=partitions),
            **{"cleanup.policy": "compact", "segment.ms": "3600000"},
        )

    async def _put(self, topic: str, key: bytes, value: bytes | None) -> None:
        await self.ensure_internal(topic)
        size = len(key) + len(value or b"")
        await self.publisher.send(topic, [(0, key, value, [], size)], size, DEFAULT_TIMEOUT)

    def learn(self, topic: str, partitions: int) -> None:
        """Record that a topic exists, and its number of partitions."""
        self._deleted.discard(topic)
        self.publisher.learn(topic, partitions)

    def forget(self, topic: str) -> None:
        """Drop what is known about a topic that was deleted."""
        self.publisher.forget(topic)
        for key in [key for key in self._ends if key[0] == topic]:
            del self._ends[key]

    def observe(self, found: Mapping[str, int], read: Set[str]) -> None:
        """Compare the topics that the broker lists with those that are known, since others create, grow and delete them.

        Args:
            found: the topics with their numbers of partitions.
            read: the topics that have subscriptions.
        """
        for name, partitions in found.items():
            if self.publisher.partitions(name):
                self.publisher.learn(name, partitions)
        # Missing twice in a row: a broker that has just come back may not know all topics yet.
        self._deleted |= self._missing & (read - found.keys())
        self._deleted -= found.keys()
        self._missing = set(read - found.keys())
        for name in self._deleted:
            self.publisher.forget(name)

    def is_deleted(self, topic: str) -> bool:
        """Return whether a topic that has subscriptions was deleted."""
        return topic in self._deleted

    # -- ends of partitions ------------------------------------------------------------------------

    def note_end(self, topic: str, partition: int, end: int) -> None:
        """Record the end of a partition, as far as this process knows it."""
        if end > self._ends.get((topic, partition), 0):
            self._ends[topic, partition] = end

    def end_of(self, topic: str, partition: int) -> int:
        """Return the last end that :meth:`note_end` recorded; 0 if there is none."""
        return self._ends.get((topic, partition), 0)
