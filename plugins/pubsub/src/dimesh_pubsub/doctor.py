"""What ``dimesh doctor`` tries: it makes a topic and a group, publishes, receives, acknowledges, seeks, and removes all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from dimesh.clock import SystemClock
from dimesh.errors import DimeshError
from dimesh.events import Event
from dimesh.spi.bus import Delivery, Finding, Record, StartAt, Subscribe, TopicConfig

if TYPE_CHECKING:
    from dimesh_pubsub.backend import PubSubBackend
    from dimesh_pubsub.stream import PubSubStream

_SKEW: Final = 1.0
"""Seconds between our clock and the service's from which times are misleading."""
_PATIENCE: Final = 20.0


class _Nobody:
    """A queue has no partitions to tell of."""

    async def assigned(self, partitions: object) -> None: ...

    async def revoked(self, partitions: object) -> None: ...

    def lost(self, partitions: object) -> None: ...


async def examine(backend: PubSubBackend) -> AsyncIterator[Finding]:
    """Each thing that was tried."""
    if backend.client.emulator is not None:
        yield Finding(
            "encryption", None, f"none: {backend.client.emulator} is an emulator, and keeps nothing for long"
        )
    else:
        yield Finding("encryption", True, "TLS, certificate and name verified")
    topic = f"dimesh.doctor.pubsub.{uuid4().hex[:8]}"
    doing = "make a topic (pubsub.topics.create)"
    try:
        await backend.create_topic(topic, TopicConfig())
        yield Finding("topics", True, "can be made")
        doing = "make a group (pubsub.subscriptions.create, pubsub.topics.attachSubscription)"
        stream = await backend.subscribe(Subscribe(topic, "doctor", "doctor"), _Nobody())
        yield Finding("group rights", True, "can be made")
        try:
            doing = "publish (pubsub.topics.publish)"
            sent = SystemClock().time()
            await backend.append(topic, [Record.of(Event("dimesh.doctor", None, n), "k") for n in range(10)])
            answered = SystemClock().time()
            doing = "receive (pubsub.subscriptions.consume)"
            got = await _take(stream, 10)
            yield Finding("publish and receive", True, "ten events came back")
            yield _order(backend, got)
            yield _clock(got[0].timestamp, sent, answered)
            yield _exactly_once(backend, stream)
            await stream.acknowledge(got)
            yield Finding("acknowledge", True, "taken")
        finally:
            await stream.close()
        doing = "seek (pubsub.subscriptions.update, or the role of a subscriber)"
        await backend.seek_group(topic, "doctor", StartAt.LATEST)
        yield Finding("seek", True, "a group can be moved in time")
        doing = "look at a topic (pubsub.topics.get)"
        info = await backend.admin.find(topic)
        yield _retention(None if info is None else info.config.retention_seconds)
    except (DimeshError, TimeoutError) as error:
        yield Finding("permissions", False, f"could not {doing}: {error or 'no answer in time'}")
    finally:
        try:
            await backend.delete_topic(topic)
        except DimeshError as error:
            yield Finding("topics", None, f"{topic} cannot be removed: {error}")


async def _take(stream: PubSubStream, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(_PATIENCE):
        while len(got) < count:
            got += [d for batch in await stream.receive(count) for d in batch.deliveries]
    return got


def _order(backend: PubSubBackend, got: list[Delivery]) -> Finding:
    if backend.options.order_by == "none":
        return Finding("order", None, "order_by = 'none': events come in any order")
    in_order = [d.record.event.payload for d in got] == sorted(d.record.event.payload for d in got)
    regional = not backend.options.endpoint.startswith("pubsub.") or backend.client.emulator is not None
    if not in_order:
        return Finding("order", False, "ten events of one key came in another order")
    if regional:
        return Finding("order", True, "ten events of one key came in order")
    return Finding(
        "order",
        None,
        "ten events of one key came in order. Across regions that is not certain: name a regional endpoint",
    )


def _clock(stamp: float, sent: float, answered: float) -> Finding:
    skew = 0.0 if sent - _SKEW <= stamp <= answered + _SKEW else stamp - (sent + answered) / 2
    if skew:
        return Finding(
            "clock",
            False,
            f"this machine's is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the service's",
        )
    return Finding("clock", True, "agrees with the service's within a second")


def _exactly_once(backend: PubSubBackend, stream: PubSubStream) -> Finding:
    if not backend.options.exactly_once:
        return Finding(
            "acknowledgements",
            None,
            "not confirmed (exactly_once = false): rarely, one is lost and the event comes again",
        )
    if stream.confirms:
        return Finding("acknowledgements", True, "confirmed by the service")
    return Finding("acknowledgements", False, "exactly_once = true, and the service does not confirm them")


def _retention(seconds: float | None) -> Finding:
    if seconds is None:
        return Finding(
            "retention",
            None,
            "new topics keep nothing: a new group begins empty, and nothing can be replayed",
        )
    return Finding("retention", True, f"new topics keep events for {seconds / 3600:g} hours")
