"""The bus backend on Google Cloud Pub/Sub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.errors import BusClosedError, BusError, NotOfferedError, TopicNotFoundError
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    Delivery,
    Finding,
    GroupInfo,
    PartitionListener,
    Position,
    Record,
    Start,
    StartAt,
    Subscribe,
    TopicConfig,
    TopicInfo,
)
from dimesh_pubsub import names, reader
from dimesh_pubsub.admin import Admin
from dimesh_pubsub.arrivals import Arrivals
from dimesh_pubsub.client import Client
from dimesh_pubsub.options import PubSubOptions
from dimesh_pubsub.publisher import Publisher
from dimesh_pubsub.stream import PubSubStream

_NOTES: Final = {
    Capability.KEY_ORDER: "for what is published through one region (option endpoint), unless order_by = 'none'",
    Capability.LOOK_BACK: "as far back as the topic's retention (option retention)",
    Capability.REPLAY: "Pub/Sub has no offsets; a group can be moved in time, or to a snapshot",
    Capability.DURABLE_ATTEMPTS: "with dead_letter_after the service counts deliveries, which are not attempts",
    Capability.DELAYED_DELIVERY: "Pub/Sub delivers at once",
    Capability.COUNTED_LAG: "Pub/Sub itself does not report it; Cloud Monitoring has num_undelivered_messages",
    Capability.RETENTION: "by age only, from 10 minutes to 31 days",
    Capability.CONFIRMED_ACKS: "of groups created with exactly_once = true",
    Capability.FILTER_PUSHDOWN: "by the service where its filter language suffices, otherwise by the client",
}
_ALWAYS: Final = (
    Capability.DURABLE,
    Capability.POWER_SAFE,
    Capability.LOOK_BACK,
    Capability.START_BY_TIME,
    Capability.GROUPS,
    Capability.MULTI_PROCESS,
    Capability.FILTER_PUSHDOWN,
    Capability.AGE_RETENTION,
    Capability.TOPIC_ADMIN,
    Capability.NATIVE_LEASE,
)


class PubSubBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "pubsub"
    family: Literal["log", "queue"] = "queue"
    commit_every = 500

    def __init__(self, options: PubSubOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self.commit_interval = options.ack_interval
        stated = list(_ALWAYS)
        if options.order_by != "none":
            stated.append(Capability.KEY_ORDER)
        if options.exactly_once:
            stated.append(Capability.CONFIRMED_ACKS)
        self.capabilities = Capabilities(
            *stated,
            notes=_NOTES,
            replay=Support.UNSUPPORTED,
            durable_attempts=Support.UNSUPPORTED,
            delayed_delivery=Support.UNSUPPORTED,
            atomic_state=Support.UNSUPPORTED,
            counted_lag=Support.UNSUPPORTED,
            retention=Support.UNSUPPORTED,
            segment_retention=Support.UNSUPPORTED,
            transactions=Support.UNSUPPORTED,
        )
        self.client = Client(options, clock)
        self.admin = Admin(options, self.client, clock)
        self._publisher = Publisher(
            options, self.client, clock, self.admin.path, self.admin.ensure, self._published
        )
        self._streams: dict[str, list[PubSubStream]] = {}
        """The open streams by topic."""
        self._arrivals: dict[str, Arrivals] = {}
        """The expected messages by subscription."""
        self._state: Literal["new", "open", "closed"] = "new"

    async def open(self) -> None:
        """See the SPI."""
        await self.client.open()
        self._state = "open"

    async def close(self) -> None:
        """See the SPI."""
        if self._state == "closed":
            return
        self._state = "closed"
        streams = [stream for streams in self._streams.values() for stream in streams]
        await asyncio.gather(*(stream.close() for stream in streams))
        await self._publisher.close()
        await self.client.close()

    # -- publishing --------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """See the SPI. The offset of a position is the message's id."""
        self._check_open()
        if state:
            raise NotOfferedError("the pubsub bus does not offer atomic state")
        if any(record.deliver_at is not None for record in records):
            raise NotOfferedError("the pubsub bus does not offer delayed delivery")
        return await self._publisher.append(topic, records, timeout)

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Refuse records that do not fit into a message of Pub/Sub."""
        self._publisher.prepare(records)

    def _published(self, topic: str, records: Sequence[Record], ids: Sequence[str]) -> None:
        informed: set[str] = set()
        for stream in self._streams.get(topic, ()):
            if stream.subscription not in informed:
                informed.add(stream.subscription)
                stream.arrivals.published(records, ids, stream.wanted)

    # -- consuming ---------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> PubSubStream:
        """See the SPI."""
        self._check_open()
        path = await self.admin.subscribe(
            request.topic, request.group, request.start, request.reset, request.filter
        )
        arrivals = self._arrivals.setdefault(path, Arrivals(self._clock))
        arrivals.streams += 1

        async def left(stream: PubSubStream) -> None:
            self._streams[request.topic].remove(stream)
            arrivals.streams -= 1
            if not arrivals.streams:
                self._arrivals.pop(path, None)
            if request.group is None:
                await self.admin.delete_subscription(path)

        stream = PubSubStream(self.client, self.options, self._clock, path, request.filter, arrivals, left)
        self._streams.setdefault(request.topic, []).append(stream)
        stream.start()
        return stream

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """See the SPI. It takes at least the time of the option ``look_back_quiet``, since Pub/Sub does not report the end.
        The positions are those of :mod:`dimesh_pubsub.reader`, and can be used to read on.
        """
        self._check_open()
        return await reader.read(self.client, self.admin, self.options, self._clock, topic, start, limit)

    async def load_state(self, key: str) -> bytes | None:
        """Raise NotOfferedError: Pub/Sub stores no state."""
        raise NotOfferedError("the pubsub bus does not offer atomic state")

    # -- administration ----------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """See the SPI."""
        self._check_open()
        return await self.admin.create(name, config)

    async def delete_topic(self, name: str) -> None:
        """See the SPI."""
        self._check_open()
        await self.admin.delete(name)
        for stream in self._streams.get(name, ()):
            stream.end()

    async def topics(self) -> Sequence[TopicInfo]:
        """See the SPI."""
        self._check_open()
        return await self.admin.topics()

    async def groups(self) -> Sequence[GroupInfo]:
        """See the SPI. Positions and lag are not known."""
        self._check_open()
        return await self.admin.groups()

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """See the SPI. Members in other processes are not noticed; they receive from the new position on."""
        self._check_open()
        if await self.admin.find(topic) is None:
            raise TopicNotFoundError(f"there is no topic {topic!r}")
        path = self.client.subscription(names.subscription_id(group, topic))
        if path in self._arrivals:
            raise BusError(f"group {group!r} of {topic!r} has active members: stop them first")
        await self.admin.seek(path, start)
        return {}

    async def check(self) -> AsyncIterator[Finding]:
        """See :class:`dimesh.spi.bus.SelfCheck`."""
        from dimesh_pubsub.doctor import examine

        async for finding in examine(self, self.admin, self.client, self.options):
            yield finding

    def _check_open(self) -> None:
        if self._state != "open":
            raise BusClosedError(
                "the bus is closed" if self._state == "closed" else "the bus is not open yet"
            )
