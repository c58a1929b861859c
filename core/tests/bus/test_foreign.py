"""Records of other programs that are not events."""

from __future__ import annotations

from typing import Any

import pytest

from dimesh import (
    ConfigurationError,
    Event,
    EventBus,
    EventHandler,
    ForeignRecords,
    StartAt,
    SubscriptionOptions,
)
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import TopicNotFoundError
from dimesh.spi.bus import Delivery, Record, RefusedRecord

from .conftest import event, eventually, eventually_async

RULE = ForeignRecords("shop.{kind}", pillar="{shop.name}", agent="import")


def foreign(payload: bytes, key: str = "k") -> Record:
    return Record.stored(b"[]", payload, key, "", "", "normal")


async def append(bus: EventBus, *records: Record) -> None:
    await bus.open()
    await bus.door._backend.append("t", records)


async def dead(bus: EventBus, count: int) -> list[Any]:
    async def enough() -> list[Any] | None:
        try:
            found = list(await DeadLetters(bus).entries("t"))
        except TopicNotFoundError:
            return None
        return found if len(found) >= count else None

    return await eventually_async(enough)  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_plain_json_is_read_by_the_rule_and_filtered(bus: EventBus, batch_size: int | None) -> None:
    got: list[Event] = []

    async def handle(given: Event | list[Event]) -> None:
        got.extend(given if isinstance(given, list) else [given])

    handler = EventHandler(handle, ["shop.sale", "custom"], batch_size=batch_size)
    await bus.subscribe("t", handler, "g", options=SubscriptionOptions(foreign=RULE))
    payload = b'{"kind": "sale", "shop": {"name": "North"},  "n": 1}'
    await append(bus, foreign(payload), foreign(b'{"kind": "rent", "shop": {"name": "North"}}'))
    await bus.publish("t", event(2))
    await eventually(lambda: len(got) == 2)
    sale = next(e for e in got if e.event_type == "shop.sale")
    assert sale.data == payload
    assert (sale.metadata.source_pillar, sale.metadata.source_agent) == ("North", "import")
    partition, offset = sale.event_id.removeprefix("t/").split("/")
    assert (await bus.door.read("t", {int(partition): int(offset)}, 1))[0].record.payload == payload


async def test_the_id_is_the_same_each_time(bus: EventBus) -> None:
    ids: list[str] = []
    for group in ("one", "two"):
        options = SubscriptionOptions(foreign=RULE)
        handler = EventHandler(lambda e: ids.append(e.event_id))
        await bus.subscribe("t", handler, group, start=StartAt.EARLIEST, options=options)
    await append(bus, foreign(b'{"kind": "sale", "shop": {"name": "North"}}'))
    await eventually(lambda: len(ids) == 2)
    assert len(set(ids)) == 1


async def test_what_the_rule_cannot_read_is_dead_lettered_with_the_reason(bus: EventBus) -> None:
    await bus.subscribe("t", lambda _: None, "g", options=SubscriptionOptions(foreign=RULE))
    bad = [b'{"kind": "sale"}', b"\xff\x00", b"[1]", b'{"kind": {"a": 1}, "shop": {"name": "N"}}', b'{"kind": "Big Sale", "shop": {"name": ""}}']  # fmt: skip
    await append(bus, *(foreign(payload) for payload in bad))
    reasons = {entry.event.data: entry.reason for entry in await dead(bus, len(bad))}
    assert "no field 'shop.name'" in reasons[bad[0]]
    assert "not UTF-8" in reasons[bad[1]]
    assert "its JSON has no field" in reasons[bad[2]]
    assert "neither text nor a whole number" in reasons[bad[3]]
    assert "cannot be an event type" in reasons[bad[4]]


def test_tombstones() -> None:
    record = RefusedRecord.of(b"[]", b"", "customer-7", "no value", tombstone=True)
    read = RULE.read("t", Delivery(record, 2, 30, 1_700_000_000.0)).record.event
    assert (read.event_type, read.payload, read.event_id) == ("record.deleted", None, "t/2/30")
    assert dict(read.headers) == {"key": "customer-7"}
    strict = ForeignRecords("x", tombstone_type=None)
    with pytest.raises(ValueError, match="tombstone"):
        strict.read("t", Delivery(record, 2, 30, 0.0)).record.event  # noqa: B018


def test_rules_that_cannot_be() -> None:
    for wrong in (
        {"event_type": ""},
        {"event_type": "a{"},
        {"event_type": "a{}"},
        {"event_type": "a", "event_id": "}"},
    ):
        with pytest.raises(ConfigurationError):
            ForeignRecords(**wrong)
