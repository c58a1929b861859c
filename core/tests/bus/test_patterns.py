"""One subscription to several topics, by name and by pattern."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dimesh import ConfigurationError, EventBus, NotOfferedError, RejectError, StartAt, SubscriptionOptions
from dimesh.bus.patterns import TopicSelection
from dimesh.capabilities import Capabilities, Capability
from dimesh.errors import EventError
from dimesh.spi.bus import TopicConfig

from .conftest import Recorder, event, eventually

SOON = SubscriptionOptions(topics_interval=0.05)


async def test_several_topics_by_name(bus: EventBus) -> None:
    got = Recorder()
    name = await bus.subscribe(["a", "b", "a"], got, "g")
    assert name == "g"
    await bus.publish("a", event(1))
    await bus.publish("b", event(2))
    await bus.publish("c", event(3))
    await eventually(lambda: sorted(got.numbers) == [1, 2])
    assert sorted(bus.stats()) == ["g@a", "g@b"]
    assert {g.topic for g in await bus.door.groups() if g.group == "g"} == {"a", "b"}
    bus.pause("g")
    assert {stats.state for stats in bus.stats().values()} == {"paused"}
    await bus.publish("a", event(4))
    bus.resume("g")
    await eventually(lambda: sorted(got.numbers) == [1, 2, 4])
    with pytest.raises(ConfigurationError, match="'g' is open"):
        await bus.subscribe(["c"], got, "g")
    assert await bus.unsubscribe("g")
    assert not await bus.unsubscribe("g")
    assert bus.stats() == {}


@pytest.mark.parametrize("topic", ["a", ["a", "b"], "a*"])
async def test_names_that_contradict_each_other_or_are_empty_are_refused(
    bus: EventBus, topic: str | list[str]
) -> None:
    with pytest.raises(ConfigurationError, match="give alone or group, not both"):
        await bus.subscribe(topic, Recorder(), "id", group="g", alone=True)
    with pytest.raises(EventError, match="'' cannot be a group or subscription id"):
        await bus.subscribe(topic, Recorder(), "")
    assert bus.stats() == {}


async def test_a_pattern_follows_topics_that_are_created_later(
    make_bus: Callable[..., EventBus], kind: str
) -> None:
    bus = make_bus()
    other = make_bus() if kind == "sqlite" else bus
    await bus.open()
    await other.open()
    await bus.door.create_topic("orders.eu", TopicConfig())
    got = Recorder()
    await bus.subscribe("orders.*", got, "g", options=SOON)
    await bus.publish("orders.eu", event(1))
    await bus.publish("orders.us", event(2))  # created here
    await other.publish("orders.asia", event(3))  # created elsewhere
    await other.publish("returns.eu", event(4))
    await eventually(lambda: sorted(got.numbers) == [1, 2, 3])
    bus.pause("g")
    await other.publish("orders.africa", event(5))
    await eventually(lambda: "g@orders.africa" in bus.stats())
    assert bus.stats()["g@orders.africa"].state == "paused"
    bus.resume("g")
    await eventually(lambda: sorted(got.numbers) == [1, 2, 3, 5])
    assert "g@returns.eu" not in bus.stats()


async def test_a_topic_that_is_deleted_and_created_again_joins_again(bus: EventBus) -> None:
    got = Recorder()
    await bus.subscribe("orders.*", got, "g", options=SOON)
    await bus.publish("orders.eu", event(1))
    await eventually(lambda: got.numbers == [1])
    await bus.door.delete_topic("orders.eu")
    await eventually(lambda: "g@orders.eu" not in bus.stats())
    await bus.door.create_topic("orders.eu", TopicConfig())
    await eventually(lambda: "g@orders.eu" in bus.stats())
    await bus.publish("orders.eu", event(2))
    await eventually(lambda: got.numbers == [1, 2])


async def test_what_was_created_while_a_group_was_away_is_not_missed(
    make_bus: Callable[..., EventBus], kind: str
) -> None:
    if kind == "memory":
        pytest.skip("memory keeps nothing")
    bus = make_bus()
    got = Recorder()
    await bus.publish("orders.eu", event(0))
    await bus.subscribe("orders.*", got, "g", options=SOON)
    await bus.publish("orders.eu", event(1))
    await eventually(lambda: got.numbers == [1])
    await bus.unsubscribe("g")
    await bus.publish("orders.us", event(2))
    await bus.publish("orders.eu", event(3))
    await bus.subscribe("orders.*", got, "g", options=SOON)
    await eventually(lambda: sorted(got.numbers) == [1, 2, 3])
    first = Recorder()
    await bus.subscribe("orders.*", first, "new", start=StartAt.EARLIEST)
    await eventually(lambda: sorted(first.numbers) == [0, 1, 2, 3])


async def test_dead_letters_and_internal_topics_do_not_match(bus: EventBus) -> None:
    failing = Recorder(lambda _: RejectError("no"))
    watch = Recorder()
    await bus.subscribe("*", failing, "g", options=SOON)
    await bus.subscribe("*.dlq", watch, "w", options=SOON)
    await bus.publish("orders", event(1))
    await eventually(lambda: watch.numbers == [1])
    bus.pause("g")  # writes to a topic of dimesh's own
    bus.resume("g")
    await bus.publish("end", event(2))
    await eventually(lambda: len(failing.attempts) == 2)
    assert {name for name in bus.stats() if name.startswith("g@")} == {"g@orders", "g@end"}


async def test_handlers_may_unsubscribe_and_closing_ends_all(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    got: list[int] = []

    async def once(e: object) -> None:
        got.append(1)
        await bus.unsubscribe("g")

    await bus.subscribe(["a", "b"], once, "g")
    await bus.publish("a", event(1))
    await eventually(lambda: got == [1] and bus.stats() == {})
    await bus.subscribe("*", Recorder(), "h", options=SOON)
    await bus.close(timeout=5)


async def test_what_cannot_be_is_refused(bus: EventBus) -> None:
    for topics in ([], ["a", ""], "a b*", "dimesh.*x\n", ["dimesh.x"]):
        with pytest.raises(EventError):
            await bus.subscribe(topics, Recorder())
    with pytest.raises(ConfigurationError, match="round for ever"):
        await bus.subscribe("orders.*", Recorder(), "g", produce_to="orders.done")
    bus.door._backend.capabilities = Capabilities(
        *(c for c in bus.capabilities if c is not Capability.LOOK_BACK and bus.capabilities[c])
    )
    with pytest.raises(
        NotOfferedError, match="does not offer look-back, so it has no subscriptions by pattern"
    ):
        await bus.subscribe("orders.*", Recorder(), "g")
    await bus.subscribe(["a", "b"], Recorder(), "g")


def test_patterns() -> None:
    selection = TopicSelection(["orders.?u", "x*", "plain"])
    assert [
        t
        for t in ("orders.eu", "orders.europe", "x", "xy", "plain", "ax", "x.dlq", "dimesh.x")
        if selection.wants(t)
    ] == [
        "orders.eu",
        "x",
        "xy",
        "plain",
    ]
