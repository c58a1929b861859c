"""Dead letters that failed the check of their schema, checked again with another version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, LocalSchemaRegistry, SchemaRegistry
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.bus.schema_rules import Action, SchemaRule, SubjectName
from dimesh.clock import ManualClock
from dimesh.errors import StorageError
from dimesh.ops.mending import SchemaMending

SUBJECT = "event.order.created"
OLD: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "currency": {"type": "string"}},
    "required": ["id", "currency"],
    "additionalProperties": False,
}
NEW: dict[str, Any] = {
    **OLD,
    "properties": {
        "id": {"type": ["integer", "string"]},
        "currency": {"type": "string", "default": "EUR"},
    },
}
RULE = SchemaRule(("orders",), publish=Action.DEAD_LETTER)


@pytest.fixture
async def registry() -> AsyncIterator[SchemaRegistry]:
    async with LocalSchemaRegistry(defaults=False) as made:
        await made.register(SUBJECT, OLD)
        yield made


@pytest.fixture
async def bus(registry: SchemaRegistry) -> AsyncIterator[EventBus]:
    async with EventBusFactory.create(
        "memory", history=100, registry=registry, schemas=[RULE], clock=ManualClock()
    ) as made:
        yield made


def order(**payload: Any) -> Event:
    return Event("order.created", None, payload, headers={"team": "sales"})


async def test_only_what_satisfies_the_version_is_sent_with_its_defaults(
    registry: SchemaRegistry, bus: EventBus
) -> None:
    await bus.publish("orders", order(id="one"))
    await bus.publish("orders", order(id=2, currency="USD", extra=True))
    letters = DeadLetters(bus)
    mending = SchemaMending(registry, [RULE])
    assert (await letters.redrive("orders", prepare=mending.prepare)).done == (), (
        "the old version is no better"
    )
    await registry.register(SUBJECT, NEW)

    trial = await letters.redrive("orders", prepare=SchemaMending(registry, [RULE]).prepare, dry_run=True)
    assert [entry.event.payload["id"] for entry in trial.done] == ["one"]
    assert bus.get_events("orders") == []  # type: ignore[attr-defined]
    assert len(await letters.entries("orders")) == 2

    result = await letters.redrive("orders", prepare=SchemaMending(registry, [RULE]).prepare)
    ((left, reason),) = result.skipped
    assert left.event.payload["id"] == 2
    assert "version 2" in reason
    assert "extra" in reason
    (sent,) = bus.get_events("orders")  # type: ignore[attr-defined]
    assert sent.payload == {"id": "one", "currency": "EUR"}
    assert sent.headers["writer-schema"] == f"{SUBJECT}/2"
    assert sent.headers["team"] == "sales"
    assert sent.event_id == result.done[0].event_id
    assert [entry.event.payload["id"] for entry in await letters.entries("orders")] == [2]


async def test_what_is_mended_is_handled(registry: SchemaRegistry, bus: EventBus) -> None:
    await bus.publish("orders", order(id="one"))
    await registry.register(SUBJECT, NEW)
    await bus.clock.advance(20.0)  # type: ignore[attr-defined]
    got: list[Any] = []
    await bus.subscribe("orders", lambda e: got.append(e.payload), "g")
    await DeadLetters(bus).redrive("orders", prepare=SchemaMending(registry, [RULE]).prepare)
    await bus.idle()
    assert got == [{"id": "one", "currency": "EUR"}]


async def test_an_older_version_can_be_chosen(registry: SchemaRegistry, bus: EventBus) -> None:
    await registry.set_compatibility(SUBJECT, "NONE")
    await registry.register(SUBJECT, {"required": ["nothing"]})
    await bus.publish("orders", order(id=1, currency="EUR"))
    letters = DeadLetters(bus)
    absent = await letters.redrive("orders", prepare=SchemaMending(registry, [RULE], 7).prepare)
    assert [reason for _, reason in absent.skipped] == [f"subject {SUBJECT} has no version 7"]
    assert (
        len((await letters.redrive("orders", prepare=SchemaMending(registry, [RULE], 1).prepare)).done) == 1
    )
    (sent,) = bus.get_events("orders")  # type: ignore[attr-defined]
    assert sent.headers["writer-schema"] == f"{SUBJECT}/1"


async def test_a_dead_letter_of_another_cause_is_left(registry: SchemaRegistry) -> None:
    def fail(event: Event) -> None:
        raise LookupError("no such product")

    async with EventBusFactory.create("memory", history=10) as bus:
        options = SubscriptionOptions(retry=RetryPolicy(attempts=1))
        await bus.subscribe("orders", fail, "g", options=options)
        await bus.publish("orders", order(id=1, currency="EUR"))
        await bus.idle()
        result = await DeadLetters(bus).redrive("orders", prepare=SchemaMending(registry, []).prepare)
        ((_, reason),) = result.skipped
        assert "did not fail the check" in reason
        assert result.done == ()


async def test_a_registry_that_fails_in_the_middle_sends_nothing(registry: SchemaRegistry) -> None:
    """All are checked before the first is sent: one of another type fails here after one that is right."""

    class Failing(SchemaMending):
        async def prepare(self, entry: Any, event: Event) -> Event | str:
            if event.payload["id"] == "two":
                raise StorageError("no connection")
            return await super().prepare(entry, event)

    async with EventBusFactory.create("memory", history=10, registry=registry, schemas=[RULE]) as bus:
        for name in ("one", "two"):
            await bus.publish("orders", order(id=name))
        await registry.register(SUBJECT, NEW)
        letters = DeadLetters(bus)
        with pytest.raises(StorageError):
            await letters.redrive("orders", prepare=Failing(registry, [RULE]).prepare)
        assert bus.get_events("orders") == []  # type: ignore[attr-defined]
        assert len(await letters.entries("orders")) == 2


async def test_the_subject_is_named_by_the_rule_of_the_topic() -> None:
    rule = SchemaRule(("orders",), Action.DEAD_LETTER, subject=SubjectName.TOPIC)
    async with (
        LocalSchemaRegistry(defaults=False) as registry,
        EventBusFactory.create("memory", history=10, registry=registry, schemas=[rule]) as bus,
    ):
        await registry.register("orders-value", OLD)
        await bus.publish("orders", order(id="one"))
        await registry.register("orders-value", NEW)
        prepare = SchemaMending(registry, [rule]).prepare
        # A limit counts what is sent.
        assert len((await DeadLetters(bus).redrive("orders", prepare=prepare, limit=1)).done) == 1
        assert bus.get_events("orders")[0].headers["writer-schema"] == "orders-value/2"  # type: ignore[attr-defined]
