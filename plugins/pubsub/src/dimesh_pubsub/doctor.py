"""The checks of ``dimesh doctor``: create a topic and a group, publish, receive, acknowledge, seek, and remove both again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

from dimesh.clock import SystemClock
from dimesh.errors import DimeshError
from dimesh.events import Event
from dimesh.spi.bus import BusBackend, Delivery, Finding, Record, StartAt, Subscribe, TopicConfig
from dimesh_pubsub.admin import Admin
from dimesh_pubsub.client import Client
from dimesh_pubsub.options import PubSubOptions
from dimesh_pubsub.stream import PubSubStream

_SKEW: Final = 1.0
"""The difference in seconds between our clock and the service's from which times are misleading."""
_PATIENCE: Final = 20.0
"""Seconds to wait for the events of the check."""


class _NoListener:
    """A listener that does nothing, since a queue has no partitions."""

    async def assigned(self, partitions: object) -> None: ...

    async def revoked(self, partitions: object) -> None: ...

    def lost(self, partitions: object) -> None: ...


async def examine(
    bus: BusBackend, admin: Admin, client: Client, options: PubSubOptions
) -> AsyncIterator[Finding]:
    """Yield what each check found.

    Args:
        bus: the open backend.
        admin: its administration.
        client: its connection.
        options: its options.
    """
    if client.emulator is not None:
        yield Finding(
            "encryption", None, f"none: {client.emulator} is an emulator, which keeps nothing for long"
        )
    else:
        yield Finding("encryption", True, "TLS, certificate and name verified")
    topic = f"dimesh.doctor.pubsub.{uuid4().hex[:8]}"
    doing = "create a topic (pubsub.topics.create)"
    try:
        await bus.create_topic(topic, TopicConfig())
        yield Finding("topics", True, "can be created")
        doing = "create a group (pubsub.subscriptions.create, pubsub.topics.attachSubscription)"
        stream = await bus.subscribe(Subscribe(topic, "doctor", "doctor"), _NoListener())
        assert isinstance(stream, PubSubStream)
        yield Finding("group rights", True, "can be created")
        try:
            doing = "publish (pubsub.topics.publish)"
            sent = SystemClock().time()
            await bus.append(topic, [Record.of(Event("dimesh.doctor", None, n), "k") for n in range(10)])
            answered = SystemClock().time()
            doing = "receive (pubsub.subscriptions.consume)"
            got = await _receive(stream, 10)
            yield Finding("publish and receive", True, "ten events came back")
            yield _order(options, client, got)
            yield _clock(got[0].timestamp, sent, answered)
            yield _exactly_once(options, stream)
            await stream.acknowledge(got)
            yield Finding("acknowledge", True, "accepted")
        finally:
            await stream.close()
        doing = "seek (pubsub.subscriptions.update, or the role of a subscriber)"
        await bus.seek_group(topic, "doctor", StartAt.LATEST)
        yield Finding("seek", True, "a group can be moved in time")
        doing = "describe a topic (pubsub.topics.get)"
        info = await admin.find(topic)
        yield _retention(None if info is None else info.config.retention_seconds)
    except (DimeshError, TimeoutError) as error:
        yield Finding("permissions", False, f"could not {doing}: {error or 'no answer in time'}")
    finally:
        try:
            await bus.delete_topic(topic)
        except DimeshError as error:
            yield Finding("topics", None, f"{topic} cannot be removed: {error}")


async def _receive(stream: PubSubStream, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(_PATIENCE):
        while len(got) < count:
            got += [d for batch in await stream.receive(count) for d in batch.deliveries]
    return got


def _order(options: PubSubOptions, client: Client, got: list[Delivery]) -> Finding:
    if options.order_by == "none":
        return Finding("order", None, "order_by = 'none': events arrive in any order")
    in_order = [d.record.event.payload for d in got] == sorted(d.record.event.payload for d in got)
    regional = not options.endpoint.startswith("pubsub.") or client.emulator is not None
    if not in_order:
        return Finding("order", False, "ten events of one key arrived in another order")
    if regional:
        return Finding("order", True, "ten events of one key arrived in order")
    return Finding(
        "order",
        None,
        "ten events of one key arrived in order. Across regions that is not guaranteed: set a regional endpoint",
    )


def _clock(stamp: float, sent: float, answered: float) -> Finding:
    skew = 0.0 if sent - _SKEW <= stamp <= answered + _SKEW else stamp - (sent + answered) / 2
    if skew:
        return Finding(
            "service's clock",
            False,
            f"this machine's clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the service's",
        )
    return Finding("service's clock", True, "this machine's clock agrees with the service's within a second")


def _exactly_once(options: PubSubOptions, stream: PubSubStream) -> Finding:
    if not options.exactly_once:
        return Finding(
            "acknowledgements",
            None,
            "not confirmed (exactly_once = false): rarely, one is lost and its event is delivered again",
        )
    if stream.confirms:
        return Finding("acknowledgements", True, "confirmed by the service")
    return Finding("acknowledgements", False, "exactly_once = true, but the service does not confirm them")


def _retention(seconds: float | None) -> Finding:
    if seconds is None:
        return Finding(
            "retention",
            None,
            "new topics keep nothing: a new group starts empty, and nothing can be replayed",
        )
    return Finding("retention", True, f"new topics keep events for {seconds / 3600:g} hours")
