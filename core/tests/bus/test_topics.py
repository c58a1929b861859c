"""Which topics users may use, and that a typo creates none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dimesh import ConfigurationError, EventBus, EventHandler, RejectError, RetryPolicy, SubscriptionOptions
from dimesh.errors import EventError, TopicNotFoundError
from dimesh.ops.topics import create_topic
from dimesh.spi.bus import TopicConfig

from .conftest import Recorder, event, eventually


@pytest.mark.parametrize(
    "name", ["__consumer_offsets", "dimesh.subscriptions", "dimesh.replies.x", "dimesh.delayed"]
)
async def test_internal_topics_are_refused_by_name(bus: EventBus, name: str) -> None:
    for attempt in (
        bus.publish(name, event()),
        bus.publish_many(name, [event()]),
        bus.request(name, event()),
        bus.subscribe(name, Recorder()),
        bus.subscribe("t", Recorder(), "g", produce_to=name),
        create_topic(bus, name),
    ):
        with pytest.raises(EventError, match=r"is an internal topic of (dimesh|the broker)"):
            await attempt
    assert name not in [topic.name for topic in await bus.door.topics()]


async def test_no_topic_is_created_by_a_typo(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(create_topics=False)
    await bus.open()
    await bus.door.create_topic("orders", TopicConfig())
    for attempt in (
        bus.publish("ordres", event()),
        bus.publish_many("ordres", [event()]),
        bus.request("ordres", event()),
        bus.subscribe("ordres", Recorder()),
        bus.subscribe("orders", Recorder(), "x", produce_to="ordres"),
    ):
        with pytest.raises(TopicNotFoundError, match=r"'ordres', .* did you mean 'orders'"):
            await attempt
    assert [topic.name for topic in await bus.door.topics()] == ["orders"]
    got = Recorder()
    await bus.subscribe("orders", got)
    await bus.publish("orders", event(1))
    await eventually(lambda: got.numbers == [1])
    with pytest.raises(TopicNotFoundError, match="no topic 'new'"):
        await bus.publish("new", event(1))
    await create_topic(bus, "new", 2)
    await bus.publish("new", event(1))


async def test_what_the_engine_needs_is_created_in_any_case(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(create_topics=False)
    await bus.open()
    await bus.door.create_topic("orders", TopicConfig())
    await bus.subscribe("orders", Recorder(lambda _: RejectError("no")), "g")
    await bus.publish("orders", event(1))
    await eventually(lambda: bus.stats()["g"].dead_lettered == 1)

    async def answer(_: object) -> str:
        return "yes"

    await bus.door.create_topic("ask", TopicConfig())
    await bus.subscribe("ask", answer)
    assert (await bus.request("ask", event(1), timeout=10)).payload == "yes"


async def test_a_batch_that_never_fills_is_refused(bus: EventBus) -> None:
    handler = EventHandler(Recorder(), batch_size=11)
    with pytest.raises(ConfigurationError, match="batch_size 11 is more than max_in_flight 10"):
        await bus.subscribe("t", handler, options=SubscriptionOptions(max_in_flight=10))
    await bus.subscribe("t", handler, options=SubscriptionOptions(max_in_flight=11, retry=RetryPolicy()))
