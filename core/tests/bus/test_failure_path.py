"""The failure path: no error of a handler, of other code of the user, or of the backend stops a group."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    Event,
    EventBus,
    EventHandler,
    EventMetadata,
    RetryPolicy,
    StartAt,
    SubscriptionOptions,
)
from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.backends.bus.sqlite.stream import SqliteStream
from dimesh.bus.deadletter import REFERENCE_TYPE, DeadLetter, Form
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.requests import RemoteError
from dimesh.clock import SystemClock
from dimesh.errors import PublishError, RefusedError, TopicNotFoundError
from dimesh.events.topics import dead_letter_topic
from dimesh.spi.bus import Position, Record, TopicConfig

from .conftest import Recorder, event, eventually, eventually_async
from .test_failures import FAST, dead


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Stops(BaseException):
    pass


ERRORS = [
    Unreadable,
    GeneratorExit,
    Stops,
    StopIteration,
    lambda: SystemExit("enough"),
    MemoryError,
    RecursionError,
]


@pytest.mark.parametrize(
    "shape", ["coroutine", "executor", "plain", "batch", "executor batch", "plain batch"]
)
@pytest.mark.parametrize("make", ERRORS, ids=lambda make: getattr(make, "__name__", "x"))
async def test_whatever_a_handler_raises_is_a_failure_of_its_event(
    bus: EventBus, make: Callable[[], BaseException], shape: str
) -> None:
    handled: list[object] = []
    calls = 0

    def fail(given: Any) -> None:
        nonlocal calls
        events = given if isinstance(given, list) else [given]
        if any(e.payload["n"] == "bad" for e in events):
            calls += 1
            raise make()
        handled.extend(e.payload["n"] for e in events)

    async def coroutine(given: Any) -> None:
        fail(given)

    async def executor(given: Any) -> None:
        # asyncio throws the exception of a future that a task awaits into the outermost coroutine of the task.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            fail(given)
        except BaseException as error:
            future.set_exception(RuntimeError() if isinstance(error, StopIteration) else error)
        else:
            future.set_result(None)
        await future

    functions = {"plain": fail, "executor": executor}
    function = functions.get(shape.split()[0], coroutine)
    batch = 2 if shape.endswith("batch") else None
    await bus.subscribe("t", EventHandler(function, batch_size=batch), "g", options=FAST)
    await bus.publish_many("t", [event("bad"), event("good")])
    (entry,) = await dead(bus)
    assert calls >= 3
    assert entry.attempts >= 3  # type: ignore[attr-defined]
    stats = bus.stats()["g"]
    await eventually(lambda: stats.handled == 1)
    assert handled == ["good"]
    assert (stats.dead_lettered, stats.given_up) == (1, 0)


async def test_sys_exit_in_a_handler_does_not_end_the_process(bus: EventBus) -> None:
    await bus.subscribe("t", lambda e: sys.exit("no stock"), "g", options=FAST)
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert entry.reason == "SystemExit: no stock"  # type: ignore[attr-defined]


class Policy(RetryPolicy):
    def is_fatal(self, error: BaseException) -> bool:
        raise ValueError("the policy is wrong")

    def delay(self, failed: int, rng: random.Random) -> float:
        raise ValueError("the policy is wrong")


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_a_retry_policy_that_raises_leaves_it_to_the_number_of_attempts(
    bus: EventBus, batch_size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(e: Any) -> None:
        raise ValueError("always")

    options = SubscriptionOptions(retry=Policy(attempts=2))
    await bus.subscribe("t", EventHandler(handle, batch_size=batch_size), "g", options=options)
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert entry.attempts == 2  # type: ignore[attr-defined]
    assert "the policy is wrong" in caplog.text


class Observer:
    observes_published = observes_delivered = True

    def __init__(self) -> None:
        self.calls: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            self.calls.add(name)
            raise SystemExit(name)

        return call


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_an_observer_that_raises_affects_nothing(
    make_bus: Callable[..., EventBus], batch_size: int | None
) -> None:
    observer = Observer()
    bus = make_bus(observer=observer)
    tries: list[object] = []

    def handle(given: Any) -> None:
        for e in given if isinstance(given, list) else [given]:
            tries.append(e.payload["n"])
            if e.payload["n"] == "bad":
                raise ValueError

    await bus.subscribe("t", EventHandler(handle, batch_size=batch_size), "g", options=FAST)
    await bus.publish("t", event("good"))
    await bus.idle()
    await bus.publish_many("t", [event("bad", agent="b")])
    await dead(bus)
    await bus.idle()
    assert tries.count("good") == 1
    assert bus.stats()["g"].handled == 1
    assert observer.calls == {"published", "delivered", "failed", "dead_lettered"}


class RepliesFail:
    async def publish(self, publishing: Any, events: Any, call_next: Any) -> Any:
        if publishing.operation == "reply":
            raise ZeroDivisionError("no replies")
        return await call_next(events)


@pytest.mark.parametrize("fails", [False, True])
async def test_an_interceptor_that_fails_a_reply_does_not_fail_the_event(
    make_bus: Callable[..., EventBus], fails: bool
) -> None:
    bus = make_bus(interceptors=[RepliesFail()])
    got = Recorder(lambda e: ValueError() if fails else None)
    await bus.subscribe("t", got, "g", options=FAST)
    waiting = asyncio.create_task(bus.request("t", event("asks"), timeout=5))
    await bus.publish("t", event("next", agent="b"))
    stats = bus.stats()["g"]
    await eventually(lambda: stats.handled + stats.dead_lettered == 2)
    await bus.idle()
    assert (stats.handled, stats.dead_lettered) == ((0, 2) if fails else (2, 0))
    assert len(got.attempts) == (6 if fails else 2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_result_that_cannot_be_sent_is_an_error_of_the_requester(bus: EventBus) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    async def answer(e: Event) -> object:
        return Odd()

    await bus.subscribe("t", answer, "g")
    with pytest.raises(RemoteError):
        await bus.request("t", event(), timeout=10)
    await eventually(lambda: bus.stats()["g"].handled == 1)


async def test_an_ordering_rule_that_raises_fails_the_event_that_was_handled(
    make_bus: Callable[..., EventBus],
) -> None:
    def rule(e: Event) -> str:
        if e.event_type == "made":
            raise LookupError("no such tenant")
        return "k"

    bus = make_bus(ordering_key=rule)

    async def double(e: Event) -> Event:
        return Event("made", EventMetadata(source_pillar="P", source_agent="a"), 1)

    await bus.subscribe("t", double, "g", produce_to="out", options=FAST)
    await bus.publish("t", event())
    (entry,) = await dead(bus)
    assert entry.reason == "LookupError: no such tenant"  # type: ignore[attr-defined]


# -- dead letters that the backend does not take ---------------------------------------------------


class Limited(MemoryBackend):
    """A bus that takes records up to a size, as brokers do, and may be down."""

    def __init__(self, limit: int) -> None:
        super().__init__(MemoryOptions(history=1_000), SystemClock())
        self.limit = limit
        self.outage: list[Exception] = []

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        if self.outage and topic.endswith(".dlq"):
            raise self.outage.pop()
        for record in records:
            size = len(record.header) + len(record.payload)
            if size > self.limit:
                raise RefusedError(f"{size} bytes are more than {self.limit}; nothing was published")
        return await super().append(topic, records, **options)


def big(payload: int, header: int = 0, tags: int = 0) -> Event:
    metadata = EventMetadata(
        source_pillar="P", source_agent="a", tags={f"tag{n}": "t" * 100 for n in range(tags)}
    )
    return Event("custom", metadata, "p" * payload, headers={"x-header": "h" * header} if header else {})


def refuse(e: Event) -> None:
    raise ValueError("cannot do it, " * 30)


async def entries(bus: EventBus, topic: str) -> list[DeadLetter]:
    async def enough() -> list[DeadLetter]:
        try:
            return await DeadLetters(bus).entries(topic)
        except TopicNotFoundError:
            return []

    return await eventually_async(enough)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sent", "limit", "form"),
    [
        (big(100), 3_000, Form.WHOLE),
        (big(100, header=1_500), 2_000, Form.WITHOUT_HEADERS),
        (big(700), 1_500, Form.SHORT_REASON),
        (big(2_000), 2_300, Form.REFERENCE),
        (big(100, tags=8), 1_200, Form.BARE_REFERENCE),
    ],
    ids=lambda value: value.value if isinstance(value, Form) else "",
)
async def test_a_dead_letter_is_written_in_the_largest_form_that_is_taken(
    sent: Event, limit: int, form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Limited(limit)
    broken = True
    handled: list[Event] = []

    def handle(e: Event) -> None:
        if broken:
            refuse(e)
        handled.append(e)

    async with EventBus(backend) as bus:
        await bus.subscribe("t", handle, "g", options=FAST)
        receipt = await bus.publish("t", sent)
        (entry,) = await entries(bus, "t")
        assert entry.form is form
        assert entry.event_id == sent.event_id
        assert (entry.topic, entry.group, entry.attempts) == ("t", "g", 3)
        assert entry.reason.startswith("ValueError: cannot do it")
        assert receipt.position == entry.origin
        assert ("only in the form" in caplog.text) is (form is not Form.WHOLE)
        if form in (Form.REFERENCE, Form.BARE_REFERENCE):
            assert entry.event.content_type == REFERENCE_TYPE
            assert entry.event.headers["dimesh-dlq-form"] == form.value
        else:
            assert entry.event.data == sent.data
        broken = False
        backend.limit = 10_000
        result = await DeadLetters(bus).redrive("t")
        assert result.skipped == ()
        await eventually(lambda: len(handled) == 1)
        assert handled[0].data == sent.data
        assert handled[0].metadata == sent.metadata
        assert handled[0].headers == sent.headers
        assert await DeadLetters(bus).entries("t") == []


async def test_a_dead_letter_whose_original_is_gone_is_not_redriven() -> None:
    backend = Limited(2_300)
    async with EventBus(backend) as bus:
        await bus.subscribe("t", refuse, "g", options=FAST)
        await bus.publish("t", big(2_000))
        (entry,) = await entries(bus, "t")
        await bus.idle()
        await bus.door.create_topic("t", TopicConfig(retention_records=1))
        await bus.publish("t", big(10))

        async def gone() -> bool:
            return await DeadLetters(bus).original(entry) is None

        await eventually_async(gone)
        result = await DeadLetters(bus).redrive("t", ids=[entry.event_id])
        ((skipped, reason),) = result.skipped
        assert skipped.event_id == entry.event_id
        assert (
            "too large for the payload of the event, which is no longer there (t, partition 0, offset 0)"
            in reason
        )


class Noticed(Observer):
    def __init__(self) -> None:
        self.given_up_reasons: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None

    def given_up(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        self.given_up_reasons.append(reason)


@pytest.mark.parametrize("batch_size", [None, 1])
async def test_what_the_backend_never_takes_is_given_up_loudly_and_the_group_moves_on(
    caplog: pytest.LogCaptureFixture, batch_size: int | None
) -> None:
    observer = Noticed()
    backend = Limited(300)
    handled: list[Any] = []

    def handle(given: Any) -> None:
        (e,) = given if isinstance(given, list) else [given]
        if e.payload == "bad":
            refuse(e)
        handled.append(e.payload)

    async with EventBus(backend, observer=observer) as bus:
        await bus.subscribe("t", EventHandler(handle, batch_size=batch_size), "g", options=FAST)
        metadata = EventMetadata(source_pillar="P", source_agent="a")
        await bus.publish_many("t", [Event("custom", metadata, text) for text in ("bad", "good")])
        stats = bus.stats()["g"]
        await eventually(lambda: stats.handled == 1)
        assert handled == ["good"]
        assert (stats.dead_lettered, stats.given_up) == (0, 1)
        (said,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
        assert "topic t, partition 0, offset 0" in said.getMessage()
        assert "300" in observer.given_up_reasons[0]

        async def committed() -> bool:
            return not sum(group.lag or 0 for group in await bus.door.groups() if group.topic == "t")

        await eventually_async(committed)


@pytest.mark.parametrize("error", [PublishError("no broker"), ConnectionError("no broker")])
async def test_a_dead_letter_waits_for_the_backend(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Limited(10_000)
    async with EventBus(backend) as bus:
        # One for each form, if the error is not one of dimesh: an outage never leads to giving up.
        backend.outage = [error] * (1 if isinstance(error, PublishError) else len(Form))
        await bus.subscribe("t", refuse, "g", options=FAST)
        await bus.publish("t", big(10))
        (entry,) = await entries(bus, "t")
        assert entry.form is Form.WHOLE
        assert "cannot dead-letter, next attempt in" in caplog.text
        assert bus.stats()["g"].given_up == 0


async def test_the_longest_name_of_a_topic_has_a_dead_letter_topic(bus: EventBus) -> None:
    topic = "t" * 249
    name = dead_letter_topic(topic)
    assert len(name) == 249
    assert name != dead_letter_topic("t" * 248)
    got = Recorder(lambda e: ValueError())
    await bus.subscribe(topic, got, "g", options=FAST)
    await bus.publish(topic, event(1))

    async def found() -> list[DeadLetter]:
        await bus.idle()
        return await DeadLetters(bus).entries(topic)

    (entry,) = await eventually_async(found)
    assert entry.topic == topic
    got.fail = lambda e: None
    await DeadLetters(bus).redrive(topic)
    await eventually(lambda: got.numbers == [1])


# -- results that the backend does not take ------------------------------------------------------


class LimitedSqlite(SqliteBackend):
    """A bus with transactions that takes payloads up to a size, and finds out only when it writes them."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(SqliteOptions(path=str(path), synchronous="off"), SystemClock())
        self.limit = limit

    def check_payloads(self, records: Sequence[Record]) -> None:
        for record in records:
            if len(record.payload) > self.limit:
                raise RefusedError(f"{len(record.payload)} bytes are more than {self.limit}")

    async def subscribe(self, request: Any, listener: Any) -> SqliteStream:
        stream = await super().subscribe(request, listener)
        stream.__class__ = LimitedStream
        stream.check_payloads = self.check_payloads  # type: ignore[attr-defined]
        return stream


class LimitedStream(SqliteStream):
    check_payloads: Callable[[Sequence[Record]], None]

    async def produce(self, partition: int, offset: int, topic: str, records: Sequence[Record]) -> None:
        self.check_payloads(records)
        await super().produce(partition, offset, topic, records)


class KnowsItsLimit(LimitedSqlite):
    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        self.check_payloads(records)


class LimitedMemory(Limited):
    """A bus without transactions."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(limit)


@pytest.mark.parametrize("make", [LimitedSqlite, KnowsItsLimit, LimitedMemory])
async def test_a_result_that_is_too_large_fails_its_event_and_no_other(
    make: type[LimitedSqlite | LimitedMemory], tmp_path: Path
) -> None:
    backend = make(tmp_path / "mesh.db", 5_000)
    out: list[int] = []
    calls: list[int] = []

    async def work(e: Event) -> list[Event]:
        number = e.payload["n"]
        calls.append(number)
        size = 6_000 if number in (3, 4, 7) else 10
        return [Event("made", None, [number, "x" * size]), Event("made", None, [number, ""])]

    async with EventBus(backend) as bus:
        await bus.subscribe("out", lambda e: out.append(e.payload[0]), "reader", start=StartAt.EARLIEST)
        await bus.subscribe("t", work, "g", produce_to="out", options=FAST)
        await bus.publish_many("t", [event(n, agent=f"a{n % 3}") for n in range(10)])

        async def settled() -> bool:
            lag = sum(group.lag or 0 for group in await bus.door.groups() if group.group == "g")
            return not lag and len(out) >= 14

        await eventually_async(settled)
        stats = bus.stats()["g"]
        assert (stats.handled, stats.dead_lettered, stats.given_up) == (7, 3, 0)
        assert sorted(out) == sorted([n for n in range(10) if n not in (3, 4, 7)] * 2)
        found = await entries(bus, "t")
        assert sorted(entry.event.payload["n"] for entry in found) == [3, 4, 7]
        assert all("more than 5000" in entry.reason for entry in found)
        assert sorted(calls) == list(range(10))  # an error for good is not tried again


async def test_an_error_of_a_commit_that_may_pass_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    backend = Limited(10_000)
    failing = [ValueError("a bug of the plugin"), PublishError("no broker")]
    produced = backend.append

    async def append(topic: str, records: Sequence[Record], **options: Any) -> Sequence[Position | None]:
        if failing and topic == "out":
            raise failing.pop()
        return await produced(topic, records, **options)

    out: list[Any] = []
    async with EventBus(backend) as bus:
        backend.append = append  # type: ignore[method-assign]
        await bus.subscribe("out", lambda e: out.append(e.payload))
        await bus.subscribe("t", lambda e: Event("made", e.metadata, 1), "g", produce_to="out")
        await bus.publish("t", event())
        await eventually(lambda: out == [1])
        assert "ValueError: a bug of the plugin" in caplog.text
        assert bus.stats()["g"].dead_lettered == 0
