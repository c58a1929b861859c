"""Interceptors wrap every publish and every handling; the event that is handled passes its trace on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dimesh import (
    Event,
    EventBus,
    EventHandler,
    EventMetadata,
    LocalSchemaRegistry,
    RetryPolicy,
    SubscriptionOptions,
)
from dimesh.bus.current import current_event
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import ConfigurationError, EventError, SchemaValidationError
from dimesh.spi.interceptor import HandleNext, Handling, Publishing, PublishNext
from dimesh.spi.receipt import Receipt

from .conftest import event, eventually

ONCE = SubscriptionOptions(retry=RetryPolicy(attempts=1))


class Recording:
    """Writes down what it wraps, with a name."""

    def __init__(self, name: str, into: list[tuple[Any, ...]]) -> None:
        self.name = name
        self.into = into

    async def publish(
        self, publishing: Publishing, events: Sequence[Event], call_next: PublishNext
    ) -> Sequence[Receipt]:
        self.into.append((self.name, publishing.operation, publishing.topic, len(events)))
        receipts = await call_next(events)
        self.into.append((self.name, "receipts", [r.position is not None for r in receipts]))
        return receipts

    async def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Any:
        self.into.append((self.name, "handle", handling.topic, handling.handler, handling.batch, len(events)))
        result = await call_next(events)
        self.into.append((self.name, "handled", result))
        return result


async def test_the_first_interceptor_is_the_outermost(make_bus: Callable[..., EventBus]) -> None:
    seen: list[tuple[Any, ...]] = []
    bus = make_bus(interceptors=[Recording("a", seen), Recording("b", seen)])

    async def handle(e: Event) -> None:
        seen.append(("handler",))

    await bus.subscribe("t", EventHandler(handle, name="h"), "g")
    await bus.publish("t", event())
    await eventually(lambda: ("a", "handled", None) in seen)
    published = [what for what in seen if what[1:2] and what[1] in ("publish", "receipts")]
    handled = [what for what in seen if what not in published]
    assert published == [
        ("a", "publish", "t", 1),
        ("b", "publish", "t", 1),
        ("b", "receipts", [True]),
        ("a", "receipts", [True]),
    ]
    assert handled == [
        ("a", "handle", "t", "h", False, 1),
        ("b", "handle", "t", "h", False, 1),
        ("handler",),
        ("b", "handled", None),
        ("a", "handled", None),
    ]


async def test_batches_requests_replies_and_results_pass_too(make_bus: Callable[..., EventBus]) -> None:
    seen: list[tuple[Any, ...]] = []
    bus = make_bus(interceptors=[Recording("i", seen)])
    batches: list[int] = []

    async def batch(events: list[Event]) -> None:
        batches.append(len(events))

    async def answer(e: Event) -> int:
        return 42

    async def produce(e: Event) -> Event:
        return Event("made.here", None, 1)

    await bus.subscribe("b", EventHandler(batch, batch_size=10, batch_wait=0.2, name="batch"), "g")
    await bus.subscribe("q", EventHandler(answer, name="answer"), "g2")
    await bus.subscribe("p", EventHandler(produce, name="produce"), "g3", produce_to="out")
    await bus.publish_many("b", [event(n) for n in range(10)])
    assert (await bus.request("q", event())).payload == 42
    await bus.publish("p", event())
    await eventually(lambda: sum(batches) == 10)
    await eventually(lambda: ("i", "produce", "out", 1) in seen)
    assert ("i", "publish", "b", 10) in seen
    assert sum(what[5] for what in seen if what[1] == "handle" and what[3] == "batch") == 10
    assert all(what[4] for what in seen if what[1] == "handle" and what[3] == "batch")
    assert [what[1] for what in seen if what[1] in ("request", "reply", "produce")] == [
        "request",
        "reply",
        "produce",
    ]
    assert ("i", "handled", 42) in seen  # the result, as the handler returned it


async def test_an_interceptor_may_change_events_and_not_their_number(
    make_bus: Callable[..., EventBus],
) -> None:
    class Stamp:
        async def publish(self, publishing: Any, events: Sequence[Event], call_next: PublishNext) -> Any:
            return await call_next([e.replace(headers={**e.headers, "x-stamp": "1"}) for e in events])

        async def handle(self, handling: Any, events: Sequence[Event], call_next: HandleNext) -> Any:
            return await call_next([e.replace(headers={**e.headers, "x-seen": "1"}) for e in events])

    class Drops:
        async def publish(self, publishing: Any, events: Sequence[Event], call_next: PublishNext) -> Any:
            return await call_next(events[1:])

    class Forges:
        async def publish(self, publishing: Any, events: Sequence[Event], call_next: PublishNext) -> Any:
            return await call_next([e.replace(headers={"dimesh-reply-to": "x"}) for e in events])

    got: list[Event] = []

    async def handle(e: Event) -> None:
        got.append(e)

    bus = make_bus(interceptors=[Stamp()])
    await bus.subscribe("t", handle, "g")
    await bus.publish("t", event())
    await eventually(lambda: got)
    assert dict(got[0].headers) == {"x-stamp": "1", "x-seen": "1"}
    for wrong, message in ((Drops(), "0 events instead of 1"), (Forges(), "reserved")):
        other = make_bus(interceptors=[wrong])
        with pytest.raises(EventError, match=message):
            await other.publish("t", event())


async def test_an_interceptor_that_raises_fails_what_it_wraps(make_bus: Callable[..., EventBus]) -> None:
    class Refuses:
        async def publish(self, publishing: Any, events: Sequence[Event], call_next: PublishNext) -> Any:
            if any(e.payload == {"n": "no"} for e in events):
                raise PermissionError("not allowed")
            return await call_next(events)

        async def handle(self, handling: Any, events: Sequence[Event], call_next: HandleNext) -> Any:
            raise RuntimeError("broken interceptor")

    bus = make_bus(interceptors=[Refuses()])

    async def handle(e: Event) -> None:
        raise AssertionError("never called")

    await bus.subscribe("t", handle, "g", options=ONCE)
    with pytest.raises(PermissionError):
        await bus.publish("t", event("no"))
    await bus.publish("t", event("yes"))
    await eventually(lambda: bus.stats()["g"].dead_lettered == 1)
    (entry,) = await DeadLetters(bus).entries("t")
    assert entry.reason == "RuntimeError: broken interceptor"


async def test_what_is_not_an_interceptor_is_refused(make_bus: Callable[..., EventBus]) -> None:
    with pytest.raises(ConfigurationError, match="not an interceptor"):
        make_bus(interceptors=[object()])
    with pytest.raises(ConfigurationError, match="not an interceptor"):
        make_bus(interceptors=[Recording])  # the class, not an instance


async def test_the_schema_check_is_an_interceptor_of_batches_too(make_bus: Callable[..., EventBus]) -> None:
    registry = LocalSchemaRegistry()
    await registry.register_schema(
        "event.order.created",
        {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    )
    checked = make_bus(registry=registry)
    with pytest.raises(SchemaValidationError):
        await checked.publish_many("t", [Event("order.created", None, {"id": "x"})])
    handled: list[Any] = []

    async def batch(events: list[Event]) -> None:
        handled.extend(e.payload for e in events)

    await checked.subscribe("t", EventHandler(batch, batch_size=5), "g", options=ONCE)
    # Published by a bus without the check, over the same store where there is one.
    unchecked = make_bus() if checked.door.name == "sqlite" else checked
    if unchecked is not checked:
        await unchecked.publish("t", Event("order.created", None, {"id": "x"}))
        await eventually(lambda: checked.stats()["g"].dead_lettered == 1)
    await checked.publish("t", Event("order.created", None, {"id": 1}))
    await eventually(lambda: handled == [{"id": 1}])


# -- causation ---------------------------------------------------------------------------------------


async def test_what_a_handler_publishes_is_a_child_of_what_it_handles(
    make_bus: Callable[..., EventBus],
) -> None:
    bus = make_bus()
    got: dict[str, Event] = {}

    async def first(e: Event) -> None:
        assert current_event() is e
        await bus.publish("next", Event("plain.child", EventMetadata(source_agent="me"), 1))
        await bus.publish("next", Event("bare.child", None, 1))
        own = EventMetadata(trace_id="f" * 32, causation_id="mine")
        await bus.publish("next", Event("own.trace", own, 1))
        await bus.publish("next", e)

    def in_a_thread(e: Event) -> None:
        found = Event("thread.child", None, 1)
        got[found.event_type.value] = found

    async def last(e: Event) -> None:
        got[e.event_type.value] = e

    await bus.subscribe("next", last, "last")
    await bus.subscribe("t", first, "first")
    await bus.subscribe("t", in_a_thread, "thread")
    metadata = EventMetadata(span_id="a" * 16, correlation_id="talk", source_agent="cause")
    cause = Event("the.cause", metadata, 1)
    await bus.publish("t", cause)
    await eventually(lambda: len(got) == 5)
    for name in ("plain.child", "bare.child", "thread.child"):
        found = got[name].metadata
        assert found.trace_id == metadata.trace_id
        assert found.parent_span_id == metadata.span_id
        assert found.causation_id == metadata.event_id
        assert found.correlation_id == "talk"
        assert found.span_id not in (None, metadata.span_id)
    own = got["own.trace"].metadata
    assert (own.trace_id, own.causation_id, own.parent_span_id) == ("f" * 32, "mine", None)
    assert got["the.cause"].metadata == metadata  # passed on, not a child of itself
    assert current_event() is None


async def test_what_a_handler_returns_or_requests_is_a_child_too(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    asked: list[Event] = []
    made: list[Event] = []

    async def server(e: Event) -> int:
        asked.append(e)
        return 7

    async def middle(e: Event) -> Event:
        answer = await bus.request("q", Event("question.asked", None, 1))
        return Event("made.here", None, answer.payload)

    async def last(e: Event) -> None:
        made.append(e)

    await bus.subscribe("q", server, "server")
    await bus.subscribe("made", last, "last")
    await bus.subscribe("t", middle, "middle", produce_to="made")
    cause = event()
    await bus.publish("t", cause)
    await eventually(lambda: made and asked)
    for found in (asked[0], made[0]):
        assert found.metadata.trace_id == cause.metadata.trace_id
        assert found.metadata.causation_id == cause.event_id


async def test_a_batch_of_several_has_no_single_cause(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    causes: list[tuple[int, Event | None]] = []

    async def batch(events: list[Event]) -> None:
        causes.append((len(events), current_event()))

    await bus.subscribe("t", EventHandler(batch, batch_size=2, batch_wait=0.05), "g")
    await bus.publish_many("t", [event(1), event(2), event(3)], key="k")
    await eventually(lambda: sum(n for n, _ in causes) == 3)
    for n, cause in causes:
        assert (cause is None) == (n > 1)


async def test_a_task_that_a_handler_leaves_behind_keeps_its_cause(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    left: list[asyncio.Task[Event]] = []
    go = asyncio.Event()

    async def later() -> Event:
        await go.wait()
        return Event("much.later", None, 1)

    async def handle(e: Event) -> None:
        left.append(asyncio.create_task(later()))

    await bus.subscribe("t", handle, "g")
    cause = event()
    await bus.publish("t", cause)
    await eventually(lambda: left)
    await bus.idle()
    go.set()
    assert (await left[0]).metadata.causation_id == cause.event_id
