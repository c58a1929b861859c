"""Features of Pub/Sub that a log lacks: attempts counted by the service, snapshots, filters, exactly-once delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pubsub_fixtures
import pytest

from dimesh import Event, EventBus, EventHandler, EventMetadata, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import BusError, ConfigurationError, NotOfferedError
from dimesh.spi.bus import Filter, Record, Subscribe, TopicConfig
from dimesh_contracts.bus.harness import Listener, Reader, payloads, record
from dimesh_contracts.waiting import eventually, later_than, until
from dimesh_pubsub import PubSubEventBus, names
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.small import SmallPubSub, pubsub_small

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]
Make = Callable[..., PubSubBackend]


async def reader(backend: PubSubBackend, topic: str, group: str | None = None, **options: Any) -> Reader:
    stream = await backend.subscribe(Subscribe(topic, group, "m", **options), Listener())
    return Reader(stream, Listener(), queue=True)


@pytest.fixture(params=["fake", "small"])
def either(request: pytest.FixtureRequest) -> Make:
    """Return a function that makes backends, on Google's fake or on the small server."""
    return request.getfixturevalue("new_backend" if request.param == "fake" else "make")


async def test_the_service_filters(either: Make, topic: str) -> None:
    backend = either()
    await backend.open()
    wanted = Filter(frozenset({"order.made"}), frozenset({"Growth Engine"}))
    one = await reader(backend, topic, "g", filter=wanted)
    request = backend.client.message("GetSubscriptionRequest")
    path = backend.client.subscription(names.subscription_id("g", topic))
    made = await backend.client.call("GetSubscription", request(subscription=path), "look")
    assert made.filter.endswith(
        '(attributes."ce-type" = "order.made" AND hasPrefix(attributes."ce-source", "/dimesh/Growth%20Engine/"))'
    )
    await backend.append(
        topic,
        [
            record(1, kind="order.made", source_pillar="Growth Engine"),
            record(2, kind="order.sent", source_pillar="Growth Engine"),
            record(3, kind="order.made", source_pillar="Growth"),
            record(4, kind="order.made", source_pillar="Growth Engine"),
        ],
    )
    assert payloads(await one.take(2)) == [1, 4]
    await one.commit()
    await one.close()
    # The client can filter further; other events would require a new group.
    with pytest.raises(ConfigurationError, match=r"created with the filter.*another group.*reset=True"):
        await reader(backend, topic, "g", filter=Filter(frozenset({"order.sent"})))
    other = await reader(backend, topic, "g", filter=Filter(frozenset({"order.sent"})), reset=True)
    await backend.append(topic, [record(5, kind="order.sent"), record(6, kind="order.made")])
    assert payloads(await other.take(1)) == [5]
    await other.close()
    await backend.close()


async def test_filters_can_run_in_the_client(either: Make, topic: str) -> None:
    bus = EventBus(either(push_filters=False))
    for kind in ("a.one", "a.two"):
        handled: list[Any] = []
        await bus.subscribe(topic, EventHandler(lambda e: handled.append(e.payload), event_types=[kind]), "g")  # noqa: B023
        await bus.publish_many(topic, [Event("a.one", None, 1), Event("a.two", None, 2)])
        await until(lambda: len(handled) == 1)  # noqa: B023
        await bus.idle()
        await bus.unsubscribe("g")
    await bus.close()


async def test_a_group_is_moved_in_time(either: Make, topic: str) -> None:
    backend = either()
    await backend.open()
    one = await reader(backend, topic, "g")
    await backend.append(topic, [record("old")])
    await later_than(datetime.now(UTC))
    moment = datetime.now(UTC)
    await later_than(moment)
    await backend.append(topic, [record("new")])
    await one.take(2)
    await one.commit()
    await one.close()
    await backend.seek_group(topic, "g", moment)
    again = await reader(backend, topic, "g")
    assert payloads(await again.take(1)) == ["new"]
    await again.nothing()
    await again.close()
    await backend.close()


async def test_a_topic_that_keeps_nothing_says_so(either: Make, topic: str) -> None:
    backend = either(retention=None)
    await backend.open()
    await backend.append(topic, [record(1)])
    with pytest.raises(NotOfferedError, match=r"keeps nothing.*retention"):
        await reader(backend, topic, "g", start=StartAt.EARLIEST)
    with pytest.raises(NotOfferedError, match="no offsets"):
        await reader(backend, topic, "g", start={0: 3})
    for config in (TopicConfig(partitions=3), TopicConfig(retention_seconds=60)):
        with pytest.raises(ConfigurationError):
            await backend.create_topic(topic, config)
    await backend.close()


async def test_snapshots(small: SmallPubSub, project: str, topic: str) -> None:
    """Events pending at the snapshot and all later ones are delivered again; on the small server, as the fake has none."""
    bus = PubSubEventBus(project, emulator_host=small.address)
    handled: list[Any] = []

    async def handle(event: Event) -> None:
        handled.append(event.payload)

    await bus.subscribe(topic, handle, "g")
    await bus.publish(topic, Event("a.b", None, "before"))
    await until(lambda: handled == ["before"])
    await bus.unsubscribe("g")
    await bus.publish(topic, Event("a.b", None, "open"))
    await bus.snapshot(topic, "g", "release-7")
    await bus.publish(topic, Event("a.b", None, "since"))
    await bus.subscribe(topic, handle, "g")
    await until(lambda: handled == ["before", "open", "since"])
    await bus.unsubscribe("g")
    await bus.seek_to_snapshot(topic, "g", "release-7")
    await bus.subscribe(topic, handle, "g")
    await until(lambda: handled == ["before", "open", "since", "open", "since"])
    with pytest.raises(BusError, match="create the snapshot release-7: ALREADY_EXISTS"):
        await bus.snapshot(topic, "g", "release-7")
    await bus.delete_snapshot("release-7")
    with pytest.raises(BusError, match="NOT_FOUND"):
        await bus.delete_snapshot("release-7")
    await bus.close()


async def test_attempts_count_on_in_the_next_process(make: Make, topic: str) -> None:
    """With ``dead_letter_after`` the service counts; the engine continues the count and dead-letters with the reason."""
    policy = SubscriptionOptions(retry=RetryPolicy(attempts=4, base=0.01, maximum=0.01))
    seen: list[int] = []
    for _ in range(3):
        bus = EventBus(make(dead_letter_after=10))
        failed = 0

        async def fail(event: Event) -> None:
            nonlocal failed
            failed += 1
            seen.append(event.payload)
            raise ValueError("not today")

        await bus.subscribe(topic, fail, "g", options=policy)
        if not seen:
            await bus.publish(topic, Event("a.b", None, 7))
        await until(lambda: failed >= 1)  # noqa: B023
        entries = await _letters(bus, topic)
        await bus.close(timeout=0.0)
        if entries:
            break
    assert entries[0].reason == "ValueError: not today"
    assert entries[0].attempts >= 4
    assert len(seen) <= 8


async def _letters(bus: EventBus, topic: str) -> Any:
    return await DeadLetters(bus).entries(topic)


async def test_exactly_once_is_the_groups_own(make: Make, topic: str) -> None:
    backend = make(exactly_once=True)
    await backend.open()
    one = await reader(backend, topic, "g")
    await backend.append(topic, [record(1)])
    await one.take(1)
    assert one.stream.confirms  # type: ignore[attr-defined]
    await one.commit()
    await one.close()
    await backend.close()


async def test_a_lapsed_lease_is_renewed_and_not_handed_out_twice(project: str, topic: str) -> None:
    """Extending fails for longer than the lease: this process receives the event again while it still handles it."""
    with pubsub_small() as server:
        backend = pubsub_fixtures.backend(server.address, project)
        await backend.open()
        one = await reader(backend, topic, "g")
        await backend.append(topic, [record(1)])
        await one.take(1)
        await server.plan("ModifyAckDeadline", "UNAVAILABLE", 1_000)
        await one.nothing(13.0)  # longer than the lease of 10 s
        await one.commit()
        await one.close()
        again = await reader(backend, topic, "g")
        await again.nothing()
        await again.close()
        await backend.close()


async def test_the_subscription_of_a_killed_process_expires(either: Make, topic: str) -> None:
    backend = either()
    await backend.open()
    lone = await reader(backend, topic)
    group = await reader(backend, topic, "g")
    request = backend.client.message("ListSubscriptionsRequest")(project=backend.client.project)
    found = (await backend.client.call("ListSubscriptions", request, "list")).subscriptions
    expires = {names.is_lone(s.name.rpartition("/")[2]): s.expiration_policy.ttl.seconds for s in found}
    assert expires == {True: 86_400, False: 0}  # 0: never
    await lone.close()
    await group.close()
    left = (await backend.client.call("ListSubscriptions", request, "list")).subscriptions
    assert len(left) == 1
    assert [(g.topic, g.group, g.lag) for g in await backend.groups()] == [(topic, "g", None)]
    await backend.close()


@pytest.mark.parametrize("rule", ["pillar", "tenant", "none"])
async def test_order_by(either: Make, topic: str, rule: str) -> None:
    backend = either(order_by=rule)
    await backend.open()
    one = await reader(backend, topic, "g")
    sent = [
        Record.of(Event("a.b", EventMetadata(source_pillar="P", tags={"tenant": "t1"}), n), f"key-{n}")
        for n in range(50)
    ]
    for at in range(0, 50, 5):
        await backend.append(topic, sent[at : at + 5])
    got = await one.take(50)
    assert sorted(payloads(got)) == list(range(50))
    assert {d.record.key for d in got} == {f"key-{n}" for n in range(50)}
    if rule != "none":
        assert payloads(got) == list(range(50))
    await one.commit()
    await one.close()
    await backend.close()


async def test_what_a_handler_returns_comes_before_the_acknowledgement(
    make: Make, small: SmallPubSub, topic: str
) -> None:
    """Publishing the results fails for a while: the event is not acknowledged meanwhile, and nothing is lost."""
    bus = EventBus(make(delivery_timeout=0.2))
    made: list[Any] = []
    await bus.subscribe(f"{topic}.out", lambda e: made.append(e.payload), "out")
    await bus.subscribe(topic, lambda e: Event("a.c", None, e.payload * 2), "g", produce_to=f"{topic}.out")
    await bus.publish(topic, Event("a.b", None, 21))
    await until(lambda: made == [42])
    await small.plan("Publish", "UNAVAILABLE", 8)

    async def sent() -> bool:
        try:
            await bus.publish(topic, Event("a.b", None, 4))
        except BusError:
            return False
        return True

    await eventually(sent)
    await until(lambda: 8 in made)
    await bus.close()


async def test_request_and_reply(either: Make, topic: str) -> None:
    server, client = EventBus(either(), consumer_group="team"), EventBus(either(), consumer_group="team")

    async def answer(event: Event) -> Event:
        return Event("answer.given", None, event.payload + 1)

    await server.subscribe(topic, answer, "server")
    replies = await asyncio.gather(
        *(client.request(topic, Event("question.asked", None, n)) for n in range(5))
    )
    assert [reply.payload for reply in replies] == [1, 2, 3, 4, 5]
    assert {(g.topic, g.group) for g in await client.door.groups()} == {(topic, "server")}
    await client.close()
    await server.close()
