"""Administration of topics, subscriptions and snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from google.protobuf import duration_pb2, timestamp_pb2

from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, NotOfferedError, TopicNotFoundError
from dimesh.spi.bus import Filter, GroupInfo, Start, StartAt, TopicConfig, TopicInfo
from dimesh_pubsub import filters, names
from dimesh_pubsub.client import Client
from dimesh_pubsub.failures import code_of, explained
from dimesh_pubsub.options import RETENTION, PubSubOptions

Code = grpc.StatusCode
_PAGE: Final = 1_000
_LONE_EXPIRES: Final = 86_400
"""The seconds after which the service deletes the lone subscription of a dead process; the shortest that it allows."""
_BACKLOG: Final = 7 * 86_400
"""The seconds for which the backlog of a group is kept; the longest that the service allows."""


@contextmanager
def refused(doing: str) -> Iterator[None]:
    """Raise the service's errors in the block as errors of the mesh."""
    try:
        yield
    except grpc.RpcError as error:
        raise explained(error, doing) from error


class Admin:
    """The administration of one project."""

    def __init__(self, options: PubSubOptions, client: Client, clock: Clock) -> None:
        self._options = options
        self._client = client
        self._clock = clock

    def path(self, topic: str) -> str:
        """Return the full name of a topic."""
        return self._client.topic(names.topic_id(topic))

    # -- topics ------------------------------------------------------------------------------------

    async def ensure(self, topic: str) -> None:
        """Create a topic with the settings of the bus unless it exists."""
        await self._create(topic, self._options.retention)

    async def _create(self, topic: str, retention: float | None) -> bool:
        message = self._client.message("Topic")(name=self.path(topic))
        if retention is not None:
            message.message_retention_duration.CopyFrom(_duration(retention))
        try:
            await self._client.call("CreateTopic", message, f"create the topic {topic}")
        except grpc.RpcError as error:
            if code_of(error) is Code.ALREADY_EXISTS:
                return False
            raise explained(error, f"create the topic {topic}") from error
        return True

    async def create(self, topic: str, config: TopicConfig) -> TopicInfo:
        """See the SPI."""
        if config.retention_records is not None or config.retention_bytes is not None:
            raise NotOfferedError("Pub/Sub limits retention by age only: set retention_seconds")
        if config.partitions is not None and config.partitions > 1:
            raise ConfigurationError(
                "Pub/Sub has no partitions, and distributes a topic by itself: leave 'partitions' out"
            )
        retention = config.retention_seconds
        if retention is not None and not RETENTION[0] <= retention <= RETENTION[1]:
            raise ConfigurationError(
                f"Pub/Sub keeps messages of a topic for {RETENTION[0]:g} to {RETENTION[1]:g} seconds, not {retention:g}"
            )
        if not await self._create(topic, retention or self._options.retention) and retention is not None:
            message = self._client.message("Topic")(name=self.path(topic))
            message.message_retention_duration.CopyFrom(_duration(retention))
            request = self._client.message("UpdateTopicRequest")(topic=message)
            request.update_mask.paths.append("message_retention_duration")
            with refused(f"change the topic {topic}"):
                await self._client.call("UpdateTopic", request, f"change the topic {topic}")
        found = await self.find(topic)
        if found is None:
            raise TopicNotFoundError(f"the topic {topic!r} was deleted while it was being created")
        return found

    async def find(self, topic: str) -> TopicInfo | None:
        """Return a topic; None if there is no such topic."""
        request = self._client.message("GetTopicRequest")(topic=self.path(topic))
        try:
            return self._info(
                topic, await self._client.call("GetTopic", request, f"describe the topic {topic}")
            )
        except grpc.RpcError as error:
            if code_of(error) is Code.NOT_FOUND:
                return None
            raise explained(error, f"describe the topic {topic}") from error

    @staticmethod
    def _info(name: str, message: Any) -> TopicInfo:
        kept = message.message_retention_duration.seconds
        return TopicInfo(
            name,
            1,
            None,
            None,
            config=TopicConfig(partitions=1, retention_seconds=float(kept) if kept else None),
        )

    async def topics(self) -> list[TopicInfo]:
        """Return all topics whose names the mesh accepts."""
        request = self._client.message("ListTopicsRequest")
        found = await self._pages("ListTopics", request, "topics", "list the topics")
        named = ((names.topic_name(t.name.rpartition("/")[2]), t) for t in found)
        return sorted(
            (self._info(name, t) for name, t in named if name is not None), key=lambda info: info.name
        )

    async def delete(self, topic: str) -> list[str]:
        """Delete a topic and its subscriptions. Return the full names of the subscriptions."""
        path = self.path(topic)
        removed = await self._subscriptions_of(path)
        with refused(f"delete the topic {topic}"):
            for subscription in removed:
                await self.delete_subscription(subscription)
            try:
                await self._client.call(
                    "DeleteTopic",
                    self._client.message("DeleteTopicRequest")(topic=path),
                    f"delete the topic {topic}",
                )
            except grpc.RpcError as error:
                if code_of(error) is Code.NOT_FOUND:
                    raise TopicNotFoundError(f"there is no topic {topic!r}") from error
                raise
        return removed

    async def _subscriptions_of(self, path: str) -> list[str]:
        request = self._client.message("ListTopicSubscriptionsRequest")
        found: list[str] = []
        token = ""
        while True:
            try:
                answer = await self._client.call(
                    "ListTopicSubscriptions",
                    request(topic=path, page_size=_PAGE, page_token=token),
                    "list the subscriptions",
                )
            except grpc.RpcError as error:
                if code_of(error) is Code.NOT_FOUND:
                    raise TopicNotFoundError(f"there is no topic {path.rpartition('/')[2]!r}") from error
                raise explained(error, "list the subscriptions") from error
            found += answer.subscriptions
            token = answer.next_page_token
            if not token:
                return found

    async def _pages(self, call: str, request: Any, field: str, doing: str) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            with refused(doing):
                answer = await self._client.call(
                    call, request(project=self._client.project, page_size=_PAGE, page_token=token), doing
                )
            found += getattr(answer, field)
            token = answer.next_page_token
            if not token:
                return found

    # -- subscriptions -----------------------------------------------------------------------------

    async def subscribe(
        self, topic: str, group: str | None, start: Start, reset: bool, wanted: Filter
    ) -> str:
        """Create a lone subscription, or that of a group unless it exists, and move it to its start. Return its full name.

        Raises:
            NotOfferedError: ``start`` is an offset, or needs messages that the topic does not keep.
            ConfigurationError: the group was created with another filter.
        """
        if start is not StartAt.LATEST and not isinstance(start, StartAt | datetime):
            raise NotOfferedError("Pub/Sub has no offsets: start at a time, at the earliest or at the latest")
        await self.ensure(topic)
        if start is not StartAt.LATEST:
            await self._check_look_back(topic)
        own = names.subscription_id(group, topic) if group is not None else names.lone_id()
        path = self._client.subscription(own)
        made = await self._create_subscription(
            path, topic, group, filters.pushed(wanted) if self._options.push_filters else ""
        )
        if not made:
            await self._check_filter(path, topic, group or "", wanted, reset)
        if (made and start is not StartAt.LATEST) or (reset and not made):
            await self.seek(path, start)
        return path

    async def reading(self, topic: str) -> str:
        """Create a lone subscription that gets everything, to read a topic. Return its full name."""
        path = self._client.subscription(names.lone_id())
        await self._create_subscription(path, topic, None, "")
        return path

    async def _create_subscription(self, path: str, topic: str, group: str | None, pushed: str) -> bool:
        options = self._options
        message = self._client.message("Subscription")(
            name=path,
            topic=self.path(topic),
            ack_deadline_seconds=round(options.lease),
            enable_message_ordering=options.order_by != "none",
            filter=pushed,
        )
        if group is None:
            message.expiration_policy.ttl.CopyFrom(_duration(_LONE_EXPIRES))
            message.message_retention_duration.CopyFrom(_duration(_LONE_EXPIRES))
        else:
            # A group, with what it has not handled, stays even if it has no members for a month.
            message.expiration_policy.SetInParent()
            message.message_retention_duration.CopyFrom(_duration(_BACKLOG))
            message.enable_exactly_once_delivery = options.exactly_once
            message.labels.update(names.labels(group, topic))
            if options.dead_letter_after is not None and not topic.endswith(".dlq"):
                grave = f"{topic}.dlq"
                await self._create(grave, RETENTION[1])
                message.dead_letter_policy.dead_letter_topic = self.path(grave)
                message.dead_letter_policy.max_delivery_attempts = options.dead_letter_after
        doing = f"subscribe to {topic}"
        try:
            await self._client.call("CreateSubscription", message, doing)
        except grpc.RpcError as error:
            if code_of(error) is Code.ALREADY_EXISTS:
                return False
            raise explained(error, doing) from error
        return True

    async def _check_filter(self, path: str, topic: str, group: str, wanted: Filter, reset: bool) -> None:
        doing = f"describe the group {group}"
        with refused(doing):
            found = await self._client.call(
                "GetSubscription", self._client.message("GetSubscriptionRequest")(subscription=path), doing
            )
        asked = filters.pushed(wanted) if self._options.push_filters else ""
        if found.filter in ("", asked):
            return
        if not reset:
            raise ConfigurationError(
                f"the group {group!r} of {topic!r} was created with the filter {found.filter!r}, which Pub/Sub cannot change: "
                "subscribe with another group, or with reset=True, which creates the group again and drops its backlog"
            )
        with refused(doing):
            await self.delete_subscription(path)
        await self._create_subscription(path, topic, group, asked)

    async def _check_look_back(self, topic: str) -> None:
        info = await self.find(topic)
        if info is not None and info.config.retention_seconds is None:
            raise NotOfferedError(
                f"the topic {topic!r} keeps nothing that was published before a group is created: "
                f"give it a retention (option retention, or create_topic), or start at the latest"
            )

    async def delete_subscription(self, path: str) -> None:
        """Delete a subscription unless it is gone already."""
        try:
            await self._client.call(
                "DeleteSubscription",
                self._client.message("DeleteSubscriptionRequest")(subscription=path),
                "delete a subscription",
            )
        except grpc.RpcError as error:
            if code_of(error) is not Code.NOT_FOUND:
                raise explained(error, "delete a subscription") from error

    async def seek(self, path: str, start: Start) -> None:
        """Move a subscription to a time, to the oldest message that is kept, or to the end."""
        if start is StartAt.EARLIEST:
            moment = datetime(1970, 1, 2, tzinfo=UTC)
        elif start is StartAt.LATEST:
            moment = datetime.fromtimestamp(self._clock.time(), UTC)
        elif isinstance(start, datetime):
            moment = start
        else:
            raise NotOfferedError("Pub/Sub has no offsets: seek to a time, to the earliest or to the latest")
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(moment.astimezone(UTC))
        with refused("seek"):
            await self._client.call(
                "Seek", self._client.message("SeekRequest")(subscription=path, time=stamp), "seek"
            )

    async def groups(self) -> Sequence[GroupInfo]:
        """Return all groups, without their backlog, which Pub/Sub itself does not report (Cloud Monitoring does)."""
        request = self._client.message("ListSubscriptionsRequest")
        found = []
        for subscription in await self._pages(
            "ListSubscriptions", request, "subscriptions", "list the groups"
        ):
            topic = names.topic_name(subscription.topic.rpartition("/")[2])
            if topic is not None:
                own = subscription.name.rpartition("/")[2]
                group = None if names.is_lone(own) else names.group_of(own, topic, subscription.labels)
                if group is not None:
                    found.append(GroupInfo(topic, group, 0, None, 0, None, None))
        return sorted(found, key=lambda info: (info.topic, info.group))

    # -- snapshots ---------------------------------------------------------------------------------

    async def snapshot(self, topic: str, group: str, name: str) -> None:
        """Record under ``name`` which messages the group has not acknowledged; the service keeps it for up to 7 days.

        Raises:
            BusError: there is no such group, or the name is taken.
        """
        path = self._client.subscription(names.subscription_id(group, topic))
        request = self._client.message("CreateSnapshotRequest")(
            name=self._client.snapshot(name), subscription=path
        )
        with refused(f"create the snapshot {name}"):
            await self._client.call("CreateSnapshot", request, f"create the snapshot {name}")

    async def seek_to_snapshot(self, topic: str, group: str, name: str) -> None:
        """Move the group back to a snapshot: it gets what it had not acknowledged then, and everything published since.

        Raises:
            BusError: there is no such group or snapshot.
        """
        path = self._client.subscription(names.subscription_id(group, topic))
        request = self._client.message("SeekRequest")(subscription=path, snapshot=self._client.snapshot(name))
        with refused(f"seek to the snapshot {name}"):
            await self._client.call("Seek", request, f"seek to the snapshot {name}")

    async def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot."""
        request = self._client.message("DeleteSnapshotRequest")(snapshot=self._client.snapshot(name))
        with refused(f"delete the snapshot {name}"):
            await self._client.call("DeleteSnapshot", request, f"delete the snapshot {name}")


def _duration(seconds: float) -> Any:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
