"""The check of schemas by topic: what happens to an event that fails, how subjects are named, and what an unknown one means."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, LocalSchemaRegistry, SchemaRegistry, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.schema_rules import Action, SchemaRule, SchemaRules, SubjectName, Unavailable, Unknown
from dimesh.clock import ManualClock
from dimesh.errors import ConfigurationError, EventError, SchemaValidationError, StorageError
from dimesh_contracts.waiting import until

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"order": {"type": "integer"}},
    "required": ["order"],
}
WRITER = "writer-schema"


@pytest.fixture
async def registry() -> AsyncIterator[SchemaRegistry]:
    async with LocalSchemaRegistry(defaults=False) as made:
        await made.register("event.order.created", ORDER)
        yield made


def order(value: Any, **headers: str) -> Event:
    return Event("order.created", None, {"order": value}, headers=headers or None)


def bus_of(registry: SchemaRegistry, *rules: SchemaRule, **options: Any) -> EventBus:
    return EventBusFactory.create("memory", history=100, registry=registry, schemas=rules, **options)


async def topics_of(bus: EventBus) -> set[str]:
    return {topic.name for topic in await bus.door.topics()}


# -- at publish --------------------------------------------------------------------------------------


async def test_a_publish_that_is_rejected_publishes_nothing(registry: SchemaRegistry) -> None:
    async with bus_of(registry, SchemaRule(("orders",))) as bus:
        with pytest.raises(SchemaValidationError, match="/order"):
            await bus.publish_many("orders", [order(1), order("x")])
        assert bus.get_events("orders") == []  # type: ignore[attr-defined]
        assert bus.schema_counts == {("orders", "publish", "rejected"): 1}
        await bus.publish("other", order("x"))  # no rule names that topic


async def test_what_is_dead_lettered_at_publish_keeps_its_place_among_the_receipts(
    registry: SchemaRegistry,
) -> None:
    async with bus_of(registry, SchemaRule(("orders",), publish=Action.DEAD_LETTER)) as bus:
        sent = [order(1), order("x"), order(2), order("y", team="sales")]
        receipts = await bus.publish_many("orders", sent, keys=["a", "b", "c", "d"])
        assert [(r.topic, r.event_id) for r in receipts] == [
            ("orders", sent[0].event_id),
            ("orders.dlq", sent[1].event_id),
            ("orders", sent[2].event_id),
            ("orders.dlq", sent[3].event_id),
        ]
        assert [e.payload["order"] for e in bus.get_events("orders")] == [1, 2]  # type: ignore[attr-defined]
        first, second = await DeadLetters(bus).entries("orders")
        assert (first.handler, first.key, first.topic) == ("(publish)", "b", "orders")
        assert "/order" in first.reason
        assert second.event.headers["team"] == "sales"
        # When all of them fail, nothing is appended to the topic itself.
        (receipt,) = await bus.publish_many("orders", [order("z")])
        assert receipt.topic == "orders.dlq"


async def test_what_was_dead_lettered_at_publish_is_redriven_to_every_group(registry: SchemaRegistry) -> None:
    async with bus_of(
        registry, SchemaRule(("orders",), publish=Action.DEAD_LETTER, consume=Action.OFF)
    ) as bus:
        got: list[str] = []
        for group in ("a", "b"):
            await bus.subscribe("orders", lambda e, g=group: got.append(f"{g}{e.payload['order']}"), group)
        await bus.publish("orders", order("x"))
        assert len((await DeadLetters(bus).redrive("orders")).done) == 1
        await bus.idle()
        assert sorted(got) == ["ax", "bx"]


async def test_a_request_and_what_a_handler_produces(registry: SchemaRegistry) -> None:
    """Somebody waits for the answer to a request, so it is rejected; what is produced can become a dead letter."""
    rule = SchemaRule(("out", "asked"), publish=Action.DEAD_LETTER)
    async with bus_of(registry, rule) as bus:
        with pytest.raises(SchemaValidationError):
            await bus.request("asked", order("x"), timeout=1)

        async def two(event: Event) -> list[Event]:
            return [order(7), order("wrong")]

        await bus.subscribe("in", two, "g", produce_to="out")
        await bus.publish("in", Event("order.asked", None, {}))
        await until(lambda: bus.get_events("out"))  # type: ignore[attr-defined]
        assert [e.payload["order"] for e in bus.get_events("out")] == [7]  # type: ignore[attr-defined]
        (letter,) = await DeadLetters(bus).entries("out")
        assert letter.event.payload == {"order": "wrong"}


async def test_a_warning_at_publish_is_logged_once_and_counted_always(
    registry: SchemaRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with bus_of(registry, SchemaRule(("orders",), Action.WARN, Action.WARN), clock=clock) as bus:
        with caplog.at_level(logging.WARNING, "dimesh.bus"):
            for n in range(50):
                await bus.publish("orders", order(f"x{n}"))
            await clock.advance(11.0)
            await bus.publish("orders", order("last"))
        lines = [r.getMessage() for r in caplog.records if "its check failed" in r.getMessage()]
        assert len(lines) == 2
        assert "/order" in lines[0]
        assert "49 more" in lines[1]
        assert bus.schema_counts == {("orders", "publish", "warned"): 51}
        assert WRITER not in bus.get_events("orders")[0].headers  # type: ignore[attr-defined]


# -- before a handler --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "handled", "dead"),
    [
        (Action.DEAD_LETTER, [1], 1),
        (Action.REJECT, [1], 1),
        (Action.WARN, ["x", 1], 0),
        (Action.OFF, ["x", 1], 0),
    ],
)
@pytest.mark.parametrize("batch", [None, 10])
async def test_an_invalid_event_before_a_handler(
    registry: SchemaRegistry, action: Action, handled: list[Any], dead: int, batch: int | None
) -> None:
    from dimesh import EventHandler

    async with bus_of(registry, SchemaRule(("orders",), Action.OFF, action)) as bus:
        got: list[Any] = []

        async def take(events: Any) -> None:
            got.extend(e.payload["order"] for e in (events if batch else [events]))

        await bus.subscribe("orders", EventHandler(take, batch_size=batch), "g")
        await bus.publish_many("orders", [order("x"), order(1)])
        await bus.idle()
        assert got == handled
        letters = await DeadLetters(bus).entries("orders") if dead else []
        assert len(letters) == dead
        assert ("orders.dlq" in await topics_of(bus)) is bool(dead)
        warned = bus.schema_counts.get(("orders", "consume", "warned"), 0)
        assert bool(warned) is (action is Action.WARN)


async def test_dead_letters_are_not_checked_again(registry: SchemaRegistry) -> None:
    """They are there because they failed; who subscribes to them wants to see them."""
    async with bus_of(registry, SchemaRule(publish=Action.OFF)) as bus:
        got: list[Any] = []
        await bus.subscribe("orders", lambda e: None, "g")
        await bus.subscribe("orders.dlq", lambda e: got.append(e.payload), "d")
        await bus.publish("orders", order("x"))
        await bus.idle()
        assert got == [{"order": "x"}]


# -- subjects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "subject"),
    [
        (SubjectName.EVENT_TYPE, "event.order.created"),
        (SubjectName.TOPIC, "orders-value"),
        (SubjectName.TOPIC_AND_TYPE, "orders-order.created"),
    ],
)
async def test_the_subject_is_named_by_the_strategy(strategy: SubjectName, subject: str) -> None:
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register(subject, ORDER)
        async with bus_of(registry, SchemaRule(("orders",), subject=strategy)) as bus:
            headers: list[Any] = []
            await bus.subscribe("orders", lambda e: headers.append(e.headers.get(WRITER)), "g")
            await bus.publish("orders", order(1))
            await bus.publish("orders", order(1, team="sales"))
            with pytest.raises(SchemaValidationError):
                await bus.publish("orders", order("x"))
            await bus.idle()
            assert headers == [f"{subject}/1"] * 2


async def test_a_request_is_answered_under_a_strategy_that_names_topics() -> None:
    """The topic of replies has a name that nobody knows beforehand: a schema for it cannot be demanded."""
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register("orders-value", ORDER)
        rules = [SchemaRule(None, subject=SubjectName.TOPIC, unknown=Unknown.FAIL)]
        async with bus_of(registry, *rules) as bus:
            await bus.subscribe("orders", lambda e: {"ok": True}, "g")
            assert (await bus.request("orders", order(1), timeout=10)).payload == {"ok": True}


# -- unknown and unavailable -------------------------------------------------------------------------


async def test_an_event_without_a_schema(registry: SchemaRegistry, caplog: pytest.LogCaptureFixture) -> None:
    other = Event("order.moved", None, {})
    rules = [
        SchemaRule(("strict",), unknown=Unknown.FAIL),
        SchemaRule(("aside",), Action.DEAD_LETTER, unknown=Unknown.FAIL),
        SchemaRule(("loud",), unknown=Unknown.WARN),
        SchemaRule(("*",)),
    ]
    async with bus_of(registry, *rules) as bus:
        with pytest.raises(SchemaValidationError, match=r"'event\.order\.moved' has no schema.*register it"):
            await bus.publish("strict", other)
        assert (await bus.publish("aside", other)).topic == "aside.dlq"
        assert (await bus.publish("loud", other)).topic == "loud"
        assert (await bus.publish("quiet", other)).topic == "quiet"
        assert bus.schema_counts[("loud", "publish", "unchecked")] == 1


async def test_a_registry_that_is_down_fails_or_warns_as_configured(tmp_path: Path) -> None:
    clock = ManualClock()
    rules = [
        SchemaRule(("lenient",), unavailable=Unavailable.WARN),
        SchemaRule(("orders",), unavailable=Unavailable.FAIL),
    ]
    async with LocalSchemaRegistry(tmp_path / "r.db", defaults=False) as registry:
        await registry.open()
        await registry.store.close()  # from now on every question is a StorageError
        async with bus_of(registry, *rules, clock=clock) as bus:
            with pytest.raises(StorageError, match="closed"):
                await bus.publish("orders", order(1))
            for _ in range(3):
                assert (await bus.publish("lenient", order("x"))).topic == "lenient"
            assert bus.schema_counts == {("lenient", "publish", "unchecked"): 3}


async def test_a_registry_that_comes_back_is_asked_again(registry: SchemaRegistry) -> None:
    class Flaky:
        down = True
        asked = 0

        async def registered(self, subject: str, version: int | None = None, *, deleted: bool = False) -> Any:
            self.asked += 1
            if self.down:
                raise StorageError("no connection")
            return await registry.registered(subject, version, deleted=deleted)

    clock, source = ManualClock(), Flaky()
    async with EventBusFactory.create("memory", registry=source, clock=clock) as bus:
        for _ in range(5):
            with pytest.raises(StorageError, match="no connection"):
                await bus.publish("orders", order(1))
        assert source.asked == 1, "each question may wait for a time-out"
        source.down = False
        await clock.advance(1.5)
        await bus.publish("orders", order(1))
        with pytest.raises(SchemaValidationError):
            await bus.publish("orders", order("x"))
        assert source.asked == 2, "a known type costs no question"


async def test_a_new_version_is_noticed_within_seconds(registry: SchemaRegistry) -> None:
    clock = ManualClock()
    async with bus_of(registry, SchemaRule(), clock=clock) as bus:
        await bus.publish("orders", order(1))
        await registry.set_compatibility("event.order.created", "NONE")
        await registry.register("event.order.created", {"required": ["other"]})
        await bus.publish("orders", order(1))
        await clock.advance(11.0)
        with pytest.raises(SchemaValidationError, match="other"):
            await bus.publish("orders", order(1))


# -- rules -------------------------------------------------------------------------------------------


def test_the_first_rule_that_names_a_topic_counts() -> None:
    rules = SchemaRules(
        [
            SchemaRule(("orders.eu",), Action.WARN),
            SchemaRule(("orders.*", "bills"), Action.OFF, Action.OFF),
            SchemaRule(("refused.dlq",)),
        ]
    )
    eu, us, none = rules.of("orders.eu"), rules.of("orders.us"), rules.of("users")
    assert eu is not None
    assert (eu.publish, eu.consume) == (Action.WARN, Action.DEAD_LETTER)
    assert us is not None
    assert (us.publish, us.consume) == (None, None)
    assert none is None
    assert rules.of("orders.eu.dlq") is None
    assert rules.of("refused.dlq") is not None


def test_a_rule_that_cannot_be_is_refused(registry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"publish of a schema rule is 'drop': use one of reject"):
        SchemaRule(("orders",), "drop")  # type: ignore[arg-type]
    with pytest.raises(EventError, match="pattern"):
        SchemaRule(("orders/*",))
    with pytest.raises(ConfigurationError, match="need a registry"):
        EventBusFactory.create("memory", schemas=[SchemaRule()])


async def test_an_event_written_before_there_was_a_check_is_read_as_before(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    path = str(tmp_path / "mesh.db")
    async with EventBusFactory.create("sqlite", path=path) as bus:
        await bus.publish("orders", order(1))
    rule = SchemaRule(("orders",), subject=SubjectName.TOPIC)
    await registry.register("orders-value", ORDER)
    async with EventBusFactory.create("sqlite", path=path, registry=registry, schemas=[rule]) as bus:
        got: list[Any] = []
        await bus.subscribe("orders", lambda e: got.append(e.payload), "g", start=StartAt.EARLIEST)
        await bus.idle()
        assert got == [{"order": 1}]
