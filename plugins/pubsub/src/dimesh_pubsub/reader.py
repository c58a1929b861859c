"""Reading what a topic holds, without a group.

A subscription is created, moved back, read until no message arrives any more, and deleted. Pub/Sub has no offsets, so
positions are computed from the time of publishing in microseconds and the rank of the message's id within that microsecond.
They are the same whenever the topic is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc

from dimesh.clock import Clock
from dimesh.errors import TopicNotFoundError
from dimesh.spi.bus import Delivery, StartAt
from dimesh_pubsub import names
from dimesh_pubsub.admin import Admin
from dimesh_pubsub.client import Client, routing
from dimesh_pubsub.failures import explained
from dimesh_pubsub.messages import from_message
from dimesh_pubsub.options import PubSubOptions
from dimesh_pubsub.publisher import number_of

_RANKS: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Found = tuple[int, int, Any]
"""The time of publishing in microseconds, the id as a number, and the message."""


async def read(
    client: Client,
    admin: Admin,
    options: PubSubOptions,
    clock: Clock,
    topic: str,
    start: Mapping[int, int] | StartAt | datetime,
    limit: int,
) -> list[Delivery]:
    """See :meth:`dimesh.spi.bus.BusBackend.read`."""
    if await admin.find(topic) is None:
        raise TopicNotFoundError(f"there is no topic {topic!r}")
    if isinstance(start, Mapping):
        lowest = start.get(0)
        if lowest is None or limit < 1:
            return []
    elif isinstance(start, datetime):
        lowest = ((start - _EPOCH) // timedelta(microseconds=1)) * _RANKS
    elif start is StartAt.EARLIEST:
        lowest = 0
    else:
        return []
    moment = _EPOCH + timedelta(microseconds=max(lowest // _RANKS, 86_400_000_000))
    path = await admin.reading(topic)
    try:
        await admin.seek(path, moment)
        found = await _read_all(client, options, clock, path)
    finally:
        await admin.delete_subscription(path)
    # A subscription may deliver a message twice: the id identifies it.
    ordered = sorted(
        {number: (micros, number, message) for micros, number, message in found}.values(), key=lambda f: f[:2]
    )
    deliveries: list[Delivery] = []
    last, rank = -1, 0
    for micros, _, message in ordered:
        rank = rank + 1 if micros == last else 0
        last = micros
        offset = micros * _RANKS + rank
        if offset >= lowest:
            deliveries.append(Delivery(from_message(message), 0, offset, micros / 1e6))
            if len(deliveries) == limit:
                break
    return deliveries


async def _read_all(client: Client, options: PubSubOptions, clock: Clock, path: str) -> list[Found]:
    """Return all messages of a subscription that arrive before a pause."""
    request = client.message("StreamingPullRequest")
    first = request(subscription=path, stream_ack_deadline_seconds=60, client_id=names.lone_id())
    found: list[Found] = []
    call = client.pull(metadata=routing(first))
    try:
        await call.write(first)
        while True:
            async with asyncio.timeout(options.look_back_quiet):
                answer = await call.read()
            if answer is grpc.aio.EOF:
                return found
            for received in answer.received_messages:
                message = received.message
                stamp = message.publish_time
                micros = stamp.seconds * 1_000_000 + stamp.nanos // 1_000
                found.append((micros, number_of(message.message_id), message))
            await call.write(request(ack_ids=[received.ack_id for received in answer.received_messages]))
    except TimeoutError:
        return found
    except grpc.RpcError as error:
        raise explained(error, f"read {path}") from error
    finally:
        call.cancel()
