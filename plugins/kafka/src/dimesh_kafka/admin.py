"""Administration of the broker's topics and groups."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import (
    CommitFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from dimesh.errors import BusError, ConfigurationError, NotOfferedError, TopicNotFoundError
from dimesh.events.names import show
from dimesh.spi.bus import TopicConfig
from dimesh_kafka.clients import stop_consumer
from dimesh_kafka.failures import explained, translated
from dimesh_kafka.names import group_id
from dimesh_kafka.options import KafkaOptions

T = TypeVar("T")

_SMALLEST_SEGMENT: Final = 1024 * 1024
"""The smallest segment in bytes that Kafka 4 accepts."""
_TIMES: Final = {"message.timestamp.type": "LogAppendTime"}
"""The settings of topics that the bus creates: the broker sets the times, which never go back whatever a publisher's clock is."""

_AT_ONCE: Final = 500
"""The number of topics that one request asks about."""
_GROUPS_AT_ONCE: Final = 16
"""The number of groups that are asked about at the same time."""


def _entries(code: int, message: str, name: str, entries: Sequence[Any]) -> dict[str, tuple[str, bool]]:
    """Return the settings of one answer."""
    if code:
        cause = for_code(code)(message)
        raise explained(cause, f"read the settings of {name}") from cause
    found: dict[str, tuple[str, bool]] = {}
    for entry in entries:
        setting, value, _, source = entry[:4]
        own = source == 1 if isinstance(source, int) and not isinstance(source, bool) else not source
        found[setting] = (value, own)
    return found


class Admin:
    """Everything that the bus asks the broker apart from publishing and consuming.

    Args:
        options: the options of the bus.
        client: the admin client of aiokafka, not started.
        new_consumer: makes a consumer that is not started.
    """

    def __init__(
        self,
        options: KafkaOptions,
        client: AIOKafkaAdminClient,
        new_consumer: Callable[..., AIOKafkaConsumer],
    ) -> None:
        self.client = client
        self._options = options
        self._new_consumer = new_consumer

    async def _ask(self, doing: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of ``call``, repeated while the broker is not ready (a coordinator moves, a topic is being
        created).
        """
        end = asyncio.get_running_loop().time() + self._options.request_timeout
        with translated(doing):
            while True:
                try:
                    return await call()
                except KafkaError as error:
                    if not error.retriable or asyncio.get_running_loop().time() > end:
                        raise
                await asyncio.sleep(0.05)

    # -- topics ------------------------------------------------------------------------------------

    async def partitions(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        found = await self._ask("list the topics", self.client.describe_topics)
        return {
            topic["topic"]: len(topic["partitions"])
            for topic in found
            if topic["error_code"] == 0 and topic["partitions"]
        }

    async def led(self, name: str) -> int:
        """Return the number of partitions of a topic if all of them can be written to; 0 otherwise."""
        topics = await self._ask("list the topics", self.client.describe_topics)
        found = next((topic["partitions"] for topic in topics if topic["topic"] == name), ())
        return len(found) if all(part["leader"] >= 0 and part["error_code"] == 0 for part in found) else 0

    async def create(self, name: str, config: TopicConfig, **settings: str) -> int:
        """Create a topic unless it exists. Return its number of partitions: a later request may reach another broker, which
        does not know the topic yet.

        Raises:
            ConfigurationError: the broker refuses the name or a setting.
            NotOfferedError: the configuration limits retention by count.
        """
        options = self._options
        partitions = config.partitions or options.partitions or -1
        topic = NewTopic(
            name,
            partitions,
            options.replication or -1,
            replica_assignments={},
            topic_configs={**_TIMES, **_settings(config), **settings},
        )
        with translated(f"create topic {name}"):
            answer = await self.client.create_topics([topic], timeout_ms=int(options.request_timeout * 1000))
        _, code, message = answer.topic_errors[0][:3]
        if code not in (0, TopicAlreadyExistsError.errno):
            raise _refused(name, code, message)
        if code and not await self._is_there(name):
            raise _refused(name, code, message)
        return await self._until(lambda: self.led(name), f"topic {name} has no leader yet")

    async def _is_there(self, name: str) -> bool:
        # The broker also answers "already exists" for a name that differs from another one only in . and _.
        with contextlib.suppress(BusError):
            await self._until(lambda: self._listed(name), "", seconds=1.0)
            return True
        return False

    async def _listed(self, name: str) -> bool:
        return name in await self.partitions()

    async def change(self, name: str, have: int, config: TopicConfig) -> None:
        """Change the settings of a topic; None leaves a setting as it is.

        Raises:
            ConfigurationError: the topic has more partitions already.
        """
        if config.partitions is not None and config.partitions < have:
            raise ConfigurationError(f"topic {name!r} has {have} partitions; their number can only grow")
        with translated(f"change topic {name}"):
            if config.partitions is not None and config.partitions > have:
                await self.client.create_partitions({name: NewPartitions(config.partitions)})
            settings = _settings(config)
            if settings:
                # The request replaces all of a topic's own settings, so it repeats those that stay.
                kept = {k: v for k, (v, own) in (await self.settings(name)).items() if own}
                resource = ConfigResource(ConfigResourceType.TOPIC, name, {**kept, **settings})
                for answer in await self.client.alter_configs([resource]):
                    for code, message, *_ in answer.resources:
                        if code:
                            raise _refused(name, code, message)

    async def settings(self, name: str) -> dict[str, tuple[str, bool]]:
        """Return the settings of a topic, each with whether the topic overrides the default. A broker that does not know the
        topic (yet) is asked again for a second.
        """
        resource = ConfigResource(ConfigResourceType.TOPIC, name)
        end = asyncio.get_running_loop().time() + 1.0
        while True:
            try:
                return await self.describe(resource)
            except BusError as error:
                unknown = isinstance(error.__cause__, UnknownTopicOrPartitionError)
                if not unknown or asyncio.get_running_loop().time() > end:
                    raise
            await asyncio.sleep(0.05)

    async def all_settings(self, names: Collection[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Return the settings of several topics, as :meth:`settings` does of one. A topic that has gone is left out."""
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        left = sorted(names)
        while left:
            asked, left = left[:_AT_ONCE], left[_AT_ONCE:]
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in asked]
            with translated(f"read the settings of {len(asked)} topics"):
                answers = await self.client.describe_configs(resources)
            for answer in answers:
                for code, message, _, name, entries in answer.resources:
                    if code == UnknownTopicOrPartitionError.errno:
                        continue
                    found[name] = _entries(code, message, name, entries)
        return found

    async def describe(self, resource: ConfigResource) -> dict[str, tuple[str, bool]]:
        """Return the settings of a topic or broker, each with whether it overrides the default."""
        with translated(f"read the settings of {resource.name}"):
            answers = await self.client.describe_configs([resource])
        found: dict[str, tuple[str, bool]] = {}
        for answer in answers:
            for code, message, _, _, entries in answer.resources:
                found |= _entries(code, message, resource.name, entries)
        return found

    async def delete(self, name: str) -> None:
        """Delete a topic; return when it is no longer listed.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        if name not in await self.partitions():
            raise TopicNotFoundError(f"no topic is named {show(name)}; 'dimesh topics' lists them")
        with translated(f"delete topic {name}"):
            answer = await self.client.delete_topics(
                [name], timeout_ms=int(self._options.request_timeout * 1000)
            )
        for _, code, *_ in answer.topic_error_codes:
            if code:
                raise explained(for_code(code)(), f"delete topic {name}")

        async def is_gone() -> bool:
            return name not in await self.partitions()

        await self._until(is_gone, f"topic {name} is still listed")

    async def _until(
        self, true: Callable[[], Awaitable[T]], otherwise: str, seconds: float | None = None
    ) -> T:
        """Return the first true answer of ``true``. The broker answers a change before all of its parts know about it."""
        try:
            async with asyncio.timeout(seconds or self._options.request_timeout):
                while True:
                    found = await true()
                    if found:
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BusError(otherwise) from None

    # -- groups ------------------------------------------------------------------------------------

    async def groups(self) -> list[tuple[str, str]]:
        """Return the groups of the mesh, each as its topic and name."""
        found = await self._ask("list the groups", self.client.list_consumer_groups)
        parted = [name.rpartition("@") for name, *_ in found]
        return sorted((topic, group) for group, at, topic in parted if at and group)

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """Return the committed position of a group by partition."""
        name = group_id(group, topic)
        found = await self._ask(
            f"read the position of group {group}", lambda: self.client.list_consumer_group_offsets(name)
        )
        return {
            part.partition: at.offset for part, at in found.items() if part.topic == topic and at.offset >= 0
        }

    async def states(self, groups: Sequence[tuple[str, str]]) -> list[tuple[dict[int, int], dict[int, str]]]:
        """Return the committed positions and the owners of groups, each given as its topic and name; both by partition."""
        gate = asyncio.Semaphore(_GROUPS_AT_ONCE)

        async def state(topic: str, group: str) -> tuple[dict[int, int], dict[int, str]]:
            async with gate:
                return await self.committed(topic, group), await self.members(topic, group)

        # One request for each: see _described.
        asked = [asyncio.ensure_future(state(topic, group)) for topic, group in groups]
        try:
            return await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()

    async def members(self, topic: str, group: str) -> dict[int, str]:
        """Return the owner of each partition that has one."""
        owners: dict[int, str] = {}
        for _, client, _, _, assignment in await self._described(topic, group):
            if assignment:
                for name, numbers in ConsumerProtocol.ASSIGNMENT.decode(assignment).assignment:
                    if name == topic:
                        owners.update(dict.fromkeys(numbers, client))
        return owners

    async def is_empty(self, topic: str, group: str) -> bool:
        """Return whether a group has no members."""
        return not await self._described(topic, group)

    async def _described(self, topic: str, group: str) -> Sequence[tuple[str, str, str, bytes, bytes]]:
        # One group per request: aiokafka 0.14 reads version 3 of the answer as if it were version 2, which is shorter
        # for each group, and so fails for several.
        async def describe() -> Any:
            (answer,) = await self.client.describe_consumer_groups([group_id(group, topic)])
            code, *_, members = answer.groups[0]
            if code:
                raise for_code(code)()
            return members

        return await self._ask(f"describe group {group}", describe)

    async def move(self, topic: str, group: str, offsets: Mapping[int, int]) -> bool:
        """Set the position of a group that has no members. Return False if it has members."""
        if not offsets:
            return True
        consumer = self._new_consumer(group_id=group_id(group, topic))
        with translated(f"move group {group}"):
            try:
                await consumer.start()
                parts = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
                consumer.assign(list(parts))
                await consumer.commit(parts)
            except CommitFailedError:
                return False
            finally:
                await stop_consumer(consumer)
        return True


def _settings(config: TopicConfig) -> dict[str, str]:
    if config.retention_records is not None:
        raise NotOfferedError(
            "Kafka removes records by age and size, not by count: set retention_seconds or retention_bytes"
        )
    found: dict[str, str] = {}
    if config.retention_seconds is not None:
        found["retention.ms"] = str(max(int(config.retention_seconds * 1000), 1))
    if config.retention_bytes is not None:
        found["retention.bytes"] = str(config.retention_bytes)
        found["segment.bytes"] = str(min(max(config.retention_bytes // 4, _SMALLEST_SEGMENT), 1 << 30))
    return found


def _refused(name: str, code: int, message: str | None) -> Exception:
    error = for_code(code)
    if error is TopicAlreadyExistsError or (message and "collide" in message):
        return ConfigurationError(
            f"Kafka refuses the topic name {name!r}: the name of another topic differs from it only in . and _"
        )
    if error.__name__ in (
        "InvalidTopicError",
        "InvalidPartitionsError",
        "InvalidReplicationFactorError",
        "InvalidConfigurationError",
        "PolicyViolationError",
        "InvalidRequestError",
    ):
        return ConfigurationError(f"Kafka refuses topic {name!r}: {message or error.__name__}")
    return explained(error(message or ""), f"create topic {name}")
