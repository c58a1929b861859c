from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from dimesh import (
    Event,
    EventBus,
    EventBusFactory,
    EventHandler,
    EventMetadata,
    ManualClock,
    RejectError,
    RetryPolicy,
    StartAt,
    SubscriptionOptions,
)
from dimesh.bus.redrive import MAX_REDRIVES, DeadLetters
from dimesh.bus.requests import RemoteError
from dimesh.errors import BackpressureError, ConfigurationError, RequestTimeoutError, TopicNotFoundError
from dimesh.spi.bus import Record, TopicConfig, TopicInfo

from .conftest import Recorder, event, eventually, eventually_async

FAST = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.001))


async def dead(bus: EventBus, count: int = 1) -> list[object]:
    async def enough() -> list[object] | None:
        try:
            found = await DeadLetters(bus).entries("t")
        except TopicNotFoundError:
            return None
        return list(found) if len(found) >= count else None

    return await eventually_async(enough)  # type: ignore[no-any-return]


async def test_a_handler_that_recovers_is_tried_again(bus: EventBus) -> None:
    tries: list[int] = []

    async def flaky(e: Event) -> None:
        tries.append(e.payload["n"])
        if tries.count(e.payload["n"]) < 3:
            raise ConnectionError("not yet")

    await bus.subscribe("t", flaky, "g", options=FAST)
    await bus.publish_many("t", [event(1), event(2)])
    await eventually(lambda: len(tries) == 6)
    assert tries == [1, 1, 1, 2, 2, 2]  # one key: the second waits for the first
    await bus.idle()
    assert bus.stats()["g"].handled == 2
    assert bus.stats()["g"].dead_lettered == 0


async def test_a_handler_that_always_fails_leaves_a_dead_letter_that_says_why(bus: EventBus) -> None:
    got = Recorder(lambda e: ValueError("cannot do 1") if e.payload["n"] == 1 else None)
    await bus.subscribe("t", EventHandler(got, name="billing.charge"), "g", options=FAST)
    sent = event(1, agent="x")
    receipt = await bus.publish("t", sent)
    await bus.publish("t", event(2, agent="x"))
    (entry,) = await dead(bus)
    assert entry.event.data == sent.data
    assert entry.event.metadata == sent.metadata
    assert (entry.topic, entry.group, entry.handler, entry.attempts) == ("t", "g", "billing.charge", 3)
    assert entry.reason == "ValueError: cannot do 1"
    assert entry.event.headers["dimesh-dlq-error-type"] == "builtins.ValueError"
    assert len(entry.stack_digest) == 16
    assert receipt.position is not None
    assert entry.event.headers["dimesh-dlq-offset"] == str(receipt.position.offset)
    assert entry.event.headers["dimesh-dlq-partition"] == str(receipt.position.partition)
    assert entry.first <= entry.last
    await eventually(lambda: got.numbers == [2])  # the lane went on


async def test_an_error_that_retrying_cannot_mend_is_final_at_once(bus: EventBus) -> None:
    class NoSuchCustomer(Exception):
        pass

    got = Recorder(lambda e: RejectError("never") if e.payload["n"] == 1 else NoSuchCustomer())
    options = SubscriptionOptions(retry=RetryPolicy(attempts=5, fatal=(NoSuchCustomer,)))
    await bus.subscribe("t", got, "g", options=options)
    await bus.publish_many("t", [event(1), event(2)])
    entries = await dead(bus, 2)
    assert [e.attempts for e in entries] == [1, 1]
    assert len(got.attempts) == 2


async def test_one_bad_event_does_not_hold_up_other_keys(bus: EventBus) -> None:
    got = Recorder(lambda e: ValueError() if e.payload["n"] == "bad" else None)
    options = SubscriptionOptions(retry=RetryPolicy(attempts=100, base=5, maximum=5), concurrency=2)
    await bus.subscribe("t", got, options=options)
    for agent in ("a", "b", "c", "d"):
        await bus.publish("t", event("bad", agent=agent))
    await bus.publish_many("t", [event(n, agent=f"z{n}") for n in range(20)])
    await eventually(lambda: len(got.events) == 20)
    await bus.close(timeout=0.01)


async def test_a_hanging_coroutine_is_cancelled_and_counts_as_failed(bus: EventBus) -> None:
    async def hang(e: Event) -> None:
        await asyncio.Event().wait()

    await bus.subscribe(
        "t",
        hang,
        "g",
        options=SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0), handler_timeout=0.1),
    )
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert entry.reason.startswith("TimeoutError: the handler")
    assert bus.stats()["g"].timeouts == 2


async def test_a_coroutine_that_swallows_the_cancellation_has_still_failed(bus: EventBus) -> None:
    async def stubborn(e: Event) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "all fine"

    await bus.subscribe(
        "t", stubborn, "g", options=SubscriptionOptions(retry=RetryPolicy(attempts=1), handler_timeout=0.1)
    )
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert entry.reason.startswith("TimeoutError")
    assert bus.stats()["g"].handled == 0


async def test_a_hanging_thread_does_not_hold_up_the_bus(bus: EventBus) -> None:
    release = threading.Event()
    seen: list[object] = []

    def plain(e: Event) -> None:
        if e.payload["n"] == "hang":
            release.wait(30)
        seen.append(e.payload["n"])

    options = SubscriptionOptions(retry=RetryPolicy(attempts=1), handler_timeout=0.1, concurrency=1)
    await bus.subscribe("t", plain, "g", options=options)
    await bus.publish_many("t", [event("hang"), event("next")])
    await dead(bus)
    await eventually(lambda: "next" in seen)
    release.set()


async def test_a_handler_that_cancels_itself_has_failed(bus: EventBus) -> None:
    async def quits(e: Event) -> None:
        raise asyncio.CancelledError

    await bus.subscribe("t", quits, "g", options=FAST)
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert "cancelled itself" in entry.reason


async def test_cancellation_at_close_is_no_success(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(drain_timeout=0.05)
    began = asyncio.Event()

    async def slow(e: Event) -> None:
        began.set()
        await asyncio.Event().wait()

    one = await bus.subscribe("t", slow, group="g")
    await bus.publish("t", event(1))
    await began.wait()
    await bus.unsubscribe(one)
    got = Recorder()
    await bus.subscribe("t", got, group="g")
    await eventually(lambda: got.numbers == [1])


async def test_close_drains_what_was_received(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    got: list[int] = []

    async def slowish(e: Event) -> None:
        await asyncio.sleep(0.001)
        got.append(e.payload["n"])

    await bus.subscribe("t", slowish, start=StartAt.EARLIEST)
    await bus.publish_many("t", [event(n) for n in range(200)])
    await bus.close()
    assert got == list(range(200))


async def test_what_cannot_be_drained_is_said(
    make_bus: Callable[..., EventBus], caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    started = asyncio.Event()

    async def stuck(e: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    await bus.subscribe("t", stuck)
    await bus.publish_many("t", [event(n) for n in range(5)])
    await started.wait()
    with caplog.at_level(logging.WARNING):
        await bus.close(timeout=0.05)
    assert "5 events were not handled" in caplog.text


async def test_a_payload_that_is_not_json_is_kept_byte_for_byte(bus: EventBus) -> None:
    async def reads(e: Event) -> None:
        e.payload  # noqa: B018

    await bus.subscribe("t", reads, "g")
    await bus.open()
    good = event(1)
    damaged = Record("k", "custom", "", "normal", b'{"n": NaN', None, None, Record.of(good, "k").header)
    await bus.door._backend.append("t", [damaged])
    (entry,) = await dead(bus)
    assert entry.event.data == b'{"n": NaN'
    assert entry.attempts == 1


async def test_bytes_that_are_no_event_are_kept_byte_for_byte(bus: EventBus) -> None:
    got = Recorder()
    await bus.subscribe("t", got, "g")
    await bus.open()
    await bus.door._backend.append(
        "t", [Record("k", "custom", "", "normal", b"\x00\xff", None, None, b"garbage")]
    )
    await bus.publish("t", event(2))
    (entry,) = await dead(bus)
    assert entry.event.event_type == "system.undecodable"
    assert entry.event.data == b"\x00\xff"
    assert entry.event.headers["dimesh-dlq-raw-header"] == b"garbage"
    await eventually(lambda: got.numbers == [2])
    result = await DeadLetters(bus).redrive("t")
    assert result.done == ()
    assert "not an event" in result.skipped[0][1]
    await DeadLetters(bus).discard("t")
    assert await DeadLetters(bus).entries("t") == []


async def test_an_event_cannot_pose_as_the_mark_that_closes_a_dead_letter(bus: EventBus) -> None:
    await bus.subscribe("t", Recorder(lambda e: ValueError("no")), "g", options=FAST)
    await bus.publish("t", event(1))
    (first,) = await dead(bus)
    partition, offset = first.position
    for kind in ("system.redriven", "system.discarded"):
        await bus.publish("t", Event(kind, None, {"partition": partition, "offset": offset}))
    assert len(await dead(bus, 3)) == 3  # none is hidden, and none hides another


async def test_redrive_goes_to_the_group_that_failed_and_to_nobody_else(bus: EventBus) -> None:
    mended = False
    broken = Recorder(lambda e: None if mended else ValueError())
    fine = Recorder()
    await bus.subscribe("t", broken, "broken", options=FAST)
    await bus.subscribe("t", fine, "fine", options=FAST)
    await bus.publish("t", event(1))
    await dead(bus)
    mended = True
    result = await DeadLetters(bus).redrive("t")
    assert len(result.done) == 1
    await eventually(lambda: broken.numbers == [1])
    await bus.idle()
    assert fine.numbers == [1]
    assert await DeadLetters(bus).entries("t") == []
    (closed,) = await DeadLetters(bus).entries("t", include_closed=True)
    assert closed.redriven
    assert (await DeadLetters(bus).redrive("t")).done == ()


async def test_redrive_does_not_go_round_for_ever(bus: EventBus) -> None:
    await bus.subscribe("t", Recorder(lambda e: ValueError()), "g", options=FAST)
    await bus.publish("t", event(1))
    letters = DeadLetters(bus)
    for round_ in range(MAX_REDRIVES):
        await dead(bus)
        assert len((await letters.redrive("t")).done) == 1, round_
    await dead(bus)
    result = await letters.redrive("t")
    assert result.done == ()
    assert "sent back 3 times" in result.skipped[0][1]
    assert len((await letters.redrive("t", force=True)).done) == 1


async def test_a_dead_letter_that_fails_again_stays_where_it_is(bus: EventBus) -> None:
    await bus.subscribe("t", Recorder(lambda e: ValueError()), "g", options=FAST)
    await bus.publish("t", event(1))
    await dead(bus)
    failing = Recorder(lambda e: ValueError())
    await bus.subscribe("t.dlq", failing, "watch", start=StartAt.EARLIEST, options=FAST)
    await eventually(lambda: bus.stats()["watch"].dead_lettered == 1)
    assert len(await DeadLetters(bus).entries("t")) == 1
    assert "t.dlq.dlq" not in [t.name for t in await bus.door.topics()]


async def test_a_dead_letter_topic_that_is_there_keeps_its_settings(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where listing the topics leaves it out, which a broker does with what one may not look at."""
    await bus.open()
    made = await bus.door.create_topic("t.dlq", TopicConfig(partitions=3, retention_records=7))

    async def none() -> list[TopicInfo]:
        return []

    with monkeypatch.context() as patch:
        patch.setattr(bus.door._backend, "topics", none)
        await bus.subscribe("t", Recorder(lambda _: RejectError("no")), "g")
        await bus.publish("t", event())
        await eventually(lambda: bus.stats()["g"].dead_lettered == 1)
    await dead(bus)
    (found,) = [topic for topic in await bus.door.topics() if topic.name == "t.dlq"]
    assert found.config == made.config
    assert found.partitions == 3


async def test_a_dead_letter_topic_that_somebody_else_makes_meanwhile(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With other settings: that is fine, and no failure that is tried again."""
    await bus.open()
    create = bus.door._backend.create_topic

    async def late(name: str, config: TopicConfig) -> TopicInfo:
        await create(name, TopicConfig(partitions=3))
        return await create(name, config)

    monkeypatch.setattr(bus.door._backend, "create_topic", late)
    await bus.subscribe("t", Recorder(lambda _: RejectError("no")), "g")
    await bus.publish("t", event())
    await dead(bus)
    assert "cannot dead-letter" not in caplog.text


async def test_repeats_are_dropped_by_id(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    got = Recorder()
    sent = event(1)
    one = await bus.subscribe("t", got, group="g", start=StartAt.EARLIEST)
    await bus.publish("t", sent)
    await bus.publish("t", sent)
    await bus.idle()
    assert got.numbers == [1]
    assert bus.stats()[one].duplicates == 1
    # Also by a member that was not there when it was handled.
    await bus.unsubscribe(one)
    await bus.publish("t", sent)
    await bus.publish("t", event(2))
    await bus.subscribe("t", got, group="g")
    await eventually(lambda: got.numbers == [1, 2])


async def test_attempts_survive_a_new_member(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(drain_timeout=0.01)
    failing = Recorder(lambda e: ValueError())
    slow = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=60, maximum=60))
    one = await bus.subscribe("t", failing, group="g", options=slow)
    await bus.publish("t", event(1))
    await eventually(lambda: len(failing.attempts) == 1)
    await bus.unsubscribe(one)
    two = await bus.subscribe("t", failing, group="g", options=slow)
    await eventually(lambda: len(failing.attempts) == 2)
    await bus.unsubscribe(two)
    await bus.subscribe("t", failing, group="g", options=slow)
    (entry,) = await dead(bus)
    assert entry.attempts == 3
    assert len(failing.attempts) == 3


async def test_a_bad_event_in_a_batch_fails_alone(bus: EventBus) -> None:
    got: list[int] = []

    async def handle(events: list[Event]) -> None:
        if any(e.payload["n"] == 7 for e in events):
            raise ValueError("seven")
        got.extend(e.payload["n"] for e in events)

    await bus.subscribe("t", EventHandler(handle, batch_size=10), "g", options=FAST)
    await bus.publish_many("t", [event(n) for n in range(10)])
    (entry,) = await dead(bus)
    assert entry.event.payload == {"n": 7}
    await bus.idle()
    assert sorted(got) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


async def test_request_and_reply(bus: EventBus) -> None:
    async def answer(e: Event) -> dict[str, int]:
        return {"twice": e.payload["n"] * 2}

    await bus.subscribe("ask", answer, group="desk")
    ask = event(21)
    reply = await bus.request("ask", ask, timeout=10)
    assert reply.payload == {"twice": 42}
    assert reply.metadata.correlation_id == ask.event_id
    assert reply.metadata.trace_id == ask.metadata.trace_id
    own = Event("custom.answer", EventMetadata(source_agent="desk"), {"mine": True})
    await bus.subscribe("ask.own", lambda e: own, group="desk")
    assert (await bus.request("ask.own", event(1), timeout=10)).payload == {"mine": True}


async def test_a_request_that_fails_or_is_not_answered(bus: EventBus) -> None:
    await bus.subscribe("ask", Recorder(lambda e: RejectError("no such order")), group="desk")
    with pytest.raises(RemoteError, match="no such order"):
        await bus.request("ask", event(1), timeout=10)
    with pytest.raises(RequestTimeoutError, match="is a handler subscribed"):
        await bus.request("nobody", event(1), timeout=0.05)


async def test_back_pressure_waits_or_says_so() -> None:
    bus = EventBusFactory.create("memory", capacity=10)
    gate = asyncio.Event()
    got: list[int] = []

    async def slow(e: Event) -> None:
        await gate.wait()
        got.append(e.payload["n"])

    await bus.subscribe("t", slow, options=SubscriptionOptions(max_in_flight=5))
    for n in range(5):
        await bus.publish("t", event(n))
    await eventually(lambda: next(iter(bus.stats().values())).received == 5)
    for n in range(5, 15):
        await bus.publish("t", event(n))
    with pytest.raises(BackpressureError, match="capacity"):
        await bus.publish("t", event(99), timeout=0)
    with pytest.raises(BackpressureError, match=r"0\.05 s"):
        await bus.publish("t", event(99), timeout=0.05)
    waiting = [asyncio.create_task(bus.publish("t", event(n))) for n in (15, 16, 17)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.set()
    await asyncio.gather(*waiting)
    await bus.idle()
    assert got == list(range(18))
    await bus.close()


async def test_a_group_without_members_fills_up_and_says_so() -> None:
    bus = EventBusFactory.create("memory", capacity=10)
    await bus.unsubscribe(await bus.subscribe("t", Recorder(), group="gone"))
    for n in range(10):
        await bus.publish("t", event(n))
    with pytest.raises(BackpressureError, match="group 'gone' has 10 unhandled events and 0 members"):
        await bus.publish("t", event(), timeout=0)
    await bus.close()


async def test_nothing_is_kept_after_handling() -> None:
    bus = EventBusFactory.create("memory")
    await bus.subscribe("t", Recorder(), "g")
    for n in range(3_000):
        await bus.publish("t", event(n))
    await bus.idle()

    async def empty() -> bool:
        (info,) = await bus.door.topics()
        return info.records == 0

    await eventually_async(empty)
    await bus.close()


async def test_backoff_is_full_jitter_and_bounded() -> None:
    import random

    policy = RetryPolicy(base=1, factor=2, maximum=10)
    rng = random.Random(1)
    for failed, ceiling in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (10_000, 10)):
        delays = [policy.delay(failed, rng) for _ in range(200)]
        assert 0 <= min(delays) < ceiling * 0.1
        assert ceiling * 0.9 < max(delays) <= ceiling
    for wrong in ({"attempts": 0}, {"base": -1}, {"factor": 0.5}, {"maximum": -1}):
        with pytest.raises(ConfigurationError):
            RetryPolicy(**wrong)  # type: ignore[arg-type]


async def bus_settles() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_retries_wait_on_the_injected_clock() -> None:
    clock = ManualClock()
    bus = EventBusFactory.create("memory", clock=clock, seed=7)
    got = Recorder(lambda e: ValueError())
    await bus.subscribe(
        "t", got, options=SubscriptionOptions(retry=RetryPolicy(attempts=3, base=100, maximum=500))
    )
    await bus.publish("t", event(1))
    await clock.advance(0)
    assert len(got.attempts) == 1  # and now nothing happens until time passes
    await bus_settles()
    assert len(got.attempts) == 1
    await clock.advance(100 + 200)
    assert len(got.attempts) == 3
    await bus.close()


async def test_the_observer_hears_of_everything(make_bus: Callable[..., EventBus]) -> None:
    heard: list[tuple[str, ...]] = []

    class Observer:
        observes_published = True
        observes_delivered = True

        def published(self, topic: str, event: Event, receipt: object) -> None:
            heard.append(("published", topic))

        def delivered(self, topic: str, subscription: str, event: Event) -> None:
            heard.append(("delivered", topic, subscription))

        def failed(
            self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int
        ) -> None:
            heard.append(("failed", topic, subscription, str(error), str(attempt)))

        def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
            heard.append(("dead", topic, subscription, reason))

    bus = make_bus(observer=Observer())
    got = Recorder(lambda e: RejectError("no") if e.payload["n"] == 2 else None)
    await bus.subscribe("t", got, "g")
    await bus.publish("t", event(1))
    await bus.idle()
    await bus.publish("t", event(2))
    await dead(bus)
    # A handler may be done before the publisher hears that it may go on: between the two there is no order.
    assert [what for what in heard if what[0] == "published"] == [("published", "t")] * 2
    assert [what for what in heard if what[0] != "published"] == [
        ("delivered", "t", "g"),
        ("failed", "t", "g", "no", "1"),
        ("dead", "t", "g", "RejectError: no"),
    ]


async def test_closing_does_not_overtake_a_record_that_waits_for_another_attempt(
    make_bus: Callable[..., EventBus], kind: str
) -> None:
    """Found by the contract kit's state machine: what is behind a record that is left open is left, too."""
    if kind == "memory":
        pytest.skip("a memory group finishes its retries before it leaves")
    bus = make_bus()
    failing = asyncio.Event()
    go_on = asyncio.Event()
    handled: list[int] = []

    async def handler(e: Event) -> None:
        if e.payload["n"] == 1 and not go_on.is_set():
            failing.set()
            await go_on.wait()
            raise ValueError("once")
        handled.append(e.payload["n"])

    await bus.subscribe("t", handler, "g")
    await bus.publish_many("t", [event(n) for n in (1, 2, 3)])
    await failing.wait()
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    assert handled == []
    again = make_bus()
    await again.subscribe("t", handler, "g")
    await again.idle()
    assert handled == [1, 2, 3]
