from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dimesh import Event, EventBus, EventHandler, EventPriority, EventType, StartAt, SubscriptionOptions
from dimesh.errors import BusClosedError, ConfigurationError, EventError, TopicNotFoundError

from .conftest import Recorder, event, eventually


async def test_a_receipt_is_true_and_names_the_position(bus: EventBus) -> None:
    first = await bus.publish("t", event(1))
    second = await bus.publish("t", event(2))
    assert first
    assert second
    assert first.topic == "t"
    assert first.position is not None
    assert second.position is not None
    assert second.position.offset > first.position.offset


async def test_what_is_published_is_handled_as_it_was(bus: EventBus) -> None:
    got = Recorder()
    await bus.subscribe("t", got)
    sent = event({"deep": [1, 2**70, "ß", None]}, "deal.won", tags={"k": "v"})
    await bus.publish("t", sent)
    await bus.idle()
    assert got.events == [sent]


async def test_publish_many_keeps_the_order_and_gives_a_receipt_each(bus: EventBus) -> None:
    got = Recorder()
    await bus.subscribe("t", got)
    receipts = await bus.publish_many("t", [event(n) for n in range(100)])
    assert len(receipts) == 100
    await bus.idle()
    assert got.numbers == list(range(100))
    assert await bus.publish_many("t", []) == []


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ({"event_types": [EventType.DEAL_WON]}, [0]),
        ({"event_types": ["deal.won", "acme.open.type"]}, [0, 3]),
        ({"pillars": ["Customer Success"]}, [1]),
        ({"priority_filter": [EventPriority.CRITICAL, "high"]}, [2]),
        ({"event_types": ["custom"], "pillars": ["Growth Engine"]}, [2]),
        ({}, [0, 1, 2, 3]),
    ],
)
async def test_filters(bus: EventBus, handler: dict[str, list[str]], expected: list[int]) -> None:
    got = Recorder()
    await bus.subscribe("t", EventHandler(got, **handler))  # type: ignore[arg-type]
    await bus.publish("t", event(0, "deal.won"))
    await bus.publish("t", event(1, source_pillar="Customer Success"))
    await bus.publish("t", event(2, priority=EventPriority.CRITICAL))
    await bus.publish("t", event(3, "acme.open.type"))
    await bus.idle()
    assert sorted(got.numbers) == expected  # several keys: no order between them
    assert [e for e in got.events if not EventHandler(got, **handler).should_handle(e)] == []  # type: ignore[arg-type]


async def test_handlers_may_be_plain_functions_in_threads(bus: EventBus) -> None:
    import threading

    got: list[tuple[int, bool]] = []

    def plain(e: Event) -> None:
        got.append((e.payload["n"], threading.current_thread() is threading.main_thread()))

    await bus.subscribe("t", plain)
    await bus.publish_many("t", [event(n) for n in range(20)])
    await bus.idle()
    assert got == [(n, False) for n in range(20)]


async def test_a_lone_subscription_sees_only_what_comes_after_it(bus: EventBus) -> None:
    await bus.publish("t", event(1))
    got = Recorder()
    await bus.subscribe("t", got)
    await bus.publish("t", event(2))
    await bus.idle()
    assert got.numbers == [2]


async def test_start_at_the_earliest(bus: EventBus) -> None:
    await bus.publish_many("t", [event(n) for n in range(5)])
    got = Recorder()
    await bus.subscribe("t", got, start=StartAt.EARLIEST)
    await bus.idle()
    assert got.numbers == list(range(5))


async def test_start_at_a_position(bus: EventBus) -> None:
    receipts = [await bus.publish("t", event(n)) for n in range(5)]
    position = receipts[3].position
    assert position is not None
    got = Recorder()
    await bus.subscribe("t", got, start={position.partition: position.offset})
    await bus.idle()
    assert got.numbers == [3, 4]


async def test_start_at_a_time(bus: EventBus) -> None:
    await bus.publish("t", event(1))
    await asyncio.sleep(0.02)
    since = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await bus.publish("t", event(2))
    got = Recorder()
    await bus.subscribe("t", got, start=since)
    await bus.idle()
    assert got.numbers == [2]
    with pytest.raises(ConfigurationError, match="time zone"):
        await bus.subscribe("t", got, start=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_a_group_goes_on_where_it_was(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    got = Recorder()
    one = await bus.subscribe("t", got, group="workers", start=StartAt.EARLIEST)
    await bus.publish_many("t", [event(n) for n in range(10)])
    await bus.idle()
    assert await bus.unsubscribe(one)
    assert not await bus.unsubscribe(one)
    await bus.publish_many("t", [event(n) for n in range(10, 20)])
    assert got.numbers == list(range(10))
    await bus.subscribe("t", got, group="workers")
    await bus.idle()
    assert got.numbers == list(range(20))


async def test_two_groups_each_see_everything(bus: EventBus) -> None:
    one, two = Recorder(), Recorder()
    await bus.subscribe("t", one, "one")
    await bus.subscribe("t", two, "two")
    await bus.publish_many("t", [event(n) for n in range(10)])
    await bus.idle()
    assert one.numbers == two.numbers == list(range(10))


async def test_members_of_a_group_share_the_events(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(partitions=8)
    one, two = Recorder(), Recorder()
    first = await bus.subscribe("t", one, group="g")
    await bus.subscribe("t", two, group="g")
    sent = 0
    async with asyncio.timeout(20):
        while not (one.events and two.events):  # how long members take to agree is the backend's affair
            await bus.publish_many("t", [event(n, agent=f"agent-{n % 40}") for n in range(sent, sent + 40)])
            sent += 40
            await bus.idle()
    await eventually(lambda: len(one.events) + len(two.events) == sent)
    assert sorted(one.numbers + two.numbers) == list(range(sent))
    # One leaves: the other gets what follows, and nothing twice.
    await bus.unsubscribe(first)
    await bus.publish_many("t", [event(n, agent=f"agent-{n % 40}") for n in range(sent, sent + 400)])
    await eventually(lambda: len(one.events) + len(two.events) >= sent + 400)
    assert sorted(one.numbers + two.numbers) == list(range(sent + 400))


async def test_delayed_delivery(bus: EventBus) -> None:
    got = Recorder()
    await bus.subscribe("t", got)
    receipt = await bus.publish("t", event("later"), delay=0.3)
    assert receipt.position is None
    await bus.publish("t", event("at"), deliver_at=datetime.now(UTC) + timedelta(seconds=0.15))
    await bus.publish("t", event("now"))
    await eventually(lambda: len(got.events) == 3)
    assert got.numbers == ["now", "at", "later"]
    for wrong in (
        {"delay": -1},
        {"delay": 1, "deliver_at": datetime.now(UTC)},
        {"deliver_at": datetime(2026, 1, 1)},  # noqa: DTZ001
    ):
        with pytest.raises(ConfigurationError):
            await bus.publish("t", event(), **wrong)  # type: ignore[arg-type]


async def test_an_ordering_rule_of_ones_own(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(ordering_key=lambda e: str(e.payload["n"]))
    seen: list[int] = []
    gate = asyncio.Event()

    async def slow(e: Event) -> None:
        if e.payload["n"] == 0:
            await gate.wait()
        seen.append(e.payload["n"])

    await bus.subscribe("t", slow)
    await bus.publish_many("t", [event(n) for n in range(3)])  # one agent, but three keys
    await eventually(lambda: len(seen) == 2)
    gate.set()
    await bus.idle()
    assert sorted(seen) == [0, 1, 2]


async def test_middleware_wraps_in_order(bus: EventBus) -> None:
    trail: list[str] = []

    async def outer(e: Event, call_next: object) -> object:
        trail.append("outer in")
        result = await call_next(e)  # type: ignore[operator]
        trail.append("outer out")
        return result

    async def inner(e: Event, call_next: object) -> object:
        trail.append("inner")
        return await call_next(e)  # type: ignore[operator]

    await bus.subscribe("t", Recorder(), middleware=[outer, inner])
    await bus.publish("t", event())
    await bus.idle()
    assert trail == ["outer in", "inner", "outer out"]


async def test_batches(bus: EventBus) -> None:
    sizes: list[int] = []
    got: list[int] = []

    async def handle(events: list[Event]) -> None:
        sizes.append(len(events))
        got.extend(e.payload["n"] for e in events)

    await bus.subscribe("t", EventHandler(handle, batch_size=10, batch_wait=0.2))
    for n in range(25):
        await bus.publish("t", event(n))
    await eventually(lambda: len(got) == 25)
    assert got == list(range(25))
    assert max(sizes) <= 10
    with pytest.raises(ConfigurationError):
        await bus.subscribe("t", EventHandler(handle, batch_size=2), middleware=[lambda e, n: n(e)])


async def test_names_that_cannot_be(bus: EventBus) -> None:
    for name in ("", ".", "..", "a/b", "a\0b", "\N{PILE OF POO}", "x" * 10_000, "a b", "a\n", None, 7):
        with pytest.raises(EventError, match="topic name"):
            await bus.publish(name, event())  # type: ignore[arg-type]
        with pytest.raises(EventError, match="topic name"):
            await bus.subscribe(name, Recorder())  # type: ignore[arg-type]
    for group in ("", "a b", "\0", "x" * 10_000, "\N{PILE OF POO}"):
        with pytest.raises(EventError, match="group"):
            await bus.subscribe("t", Recorder(), group=group)
    with pytest.raises(EventError, match="is not an Event"):
        await bus.publish("t", {"n": 1})  # type: ignore[arg-type]
    with pytest.raises(EventError, match="ordering key"):
        await bus.publish("t", event(), key="k" * 2_000)


async def test_text_that_cannot_be_written_is_refused_and_the_bus_goes_on(bus: EventBus) -> None:
    for keys in ({"key": "\ud800"}, {"keys": ["\ud800"]}, {"keys": []}):
        with pytest.raises(EventError, match="ordering key"):
            await bus.publish_many("t", [event()], **keys)  # type: ignore[arg-type]
    with pytest.raises(EventError, match="ordering key"):
        await bus.publish("t", event(), key="\ud800")
    with pytest.raises(EventError, match="state key"):
        await bus.publish_many("t", [], state={"\ud800": b""})
    with pytest.raises(EventError, match="pillar"):
        EventHandler(Recorder(), pillars=["\ud800"])
    with pytest.raises(TopicNotFoundError):
        await bus.door.read("\ud800", StartAt.EARLIEST, 1)
    async with asyncio.timeout(10):
        assert await bus.publish("t", event())


async def test_a_group_cannot_be_put_beyond_the_end(bus: EventBus) -> None:
    await bus.publish("t", event(1))
    for offset in (5, 2**62, 2**70):
        moved = await bus.door.seek_group("t", "g", dict.fromkeys(range(4), offset))
        assert max(moved.values()) <= 1
    assert min((await bus.door.seek_group("t", "g", {0: -(2**70)})).values()) == 0
    got = Recorder()
    await bus.door.seek_group("t", "g", dict.fromkeys(range(4), 2**70))
    await bus.subscribe("t", got, group="g")
    await bus.publish("t", event(2))
    await eventually(lambda: got.numbers == [2])  # what comes next is not passed over


async def test_an_id_is_taken_once(bus: EventBus) -> None:
    await bus.subscribe("t", Recorder(), "mine")
    with pytest.raises(ConfigurationError, match="mine"):
        await bus.subscribe("t", Recorder(), "mine")
    with pytest.raises(ConfigurationError, match="callable"):
        await bus.subscribe("t", "no handler")  # type: ignore[arg-type]
    for wrong in ({"concurrency": 0}, {"max_in_flight": 0}, {"dedup_window": -1}, {"handler_timeout": 0}):
        with pytest.raises(ConfigurationError):
            SubscriptionOptions(**wrong)  # type: ignore[arg-type]


async def test_a_closed_bus_says_so(bus: EventBus) -> None:
    await bus.publish("t", event())
    await bus.close()
    await bus.close()
    with pytest.raises(BusClosedError):
        await bus.publish("t", event())
    with pytest.raises(BusClosedError):
        await bus.subscribe("t", Recorder())


async def test_alone_is_alone_whatever_the_bus_says(make_bus: Callable[..., EventBus]) -> None:
    """A bus with a consumer group: what says that it is alone sees everything, and so do the bus's own replies."""
    bus = make_bus(consumer_group="team")
    one, two, alone = Recorder(), Recorder(), Recorder()
    await bus.subscribe("t", one)
    await bus.subscribe("t", two)
    await bus.subscribe("t", alone, "named", alone=True)
    await bus.publish_many("t", [event(n) for n in range(20)])
    await eventually(lambda: len(one.numbers + two.numbers) == len(alone.numbers) == 20)
    assert sorted(one.numbers + two.numbers) == alone.numbers == list(range(20))

    async def answer(asked: Event) -> Event:
        return event(asked.payload)

    await bus.subscribe("questions", answer, "server")
    await bus.request("questions", event(1))
    assert {(g.topic, g.group) for g in await bus.door.groups()} == {
        ("t", "team"),
        ("questions", "server"),
    }
    with pytest.raises(ConfigurationError, match="not both"):
        await bus.subscribe("t", alone, alone=True, group="team")


async def test_what_is_done_while_a_commit_is_on_its_way_is_committed_too(bus: EventBus) -> None:
    """The last event is handled while the commit of those before it is being written, and nothing comes after it."""
    writing, written = asyncio.Event(), asyncio.Event()

    async def handle(e: Event) -> None:
        if e.payload["n"] == 1:
            await writing.wait()
            written.set()

    await bus.subscribe("t", handle, "g")
    stream = bus.subscription("g").stream
    commit = stream.commit

    async def slow(positions: dict[int, int]) -> None:
        writing.set()
        await written.wait()
        await asyncio.sleep(0)  # the worker notes that it is done
        await asyncio.sleep(0)
        await commit(positions)

    stream.commit = slow  # type: ignore[method-assign, assignment]
    await bus.publish("t", event(0), key="a")
    await bus.publish("t", event(1), key="b")

    async def committed() -> bool:
        return sum(g.lag or 0 for g in await bus.door.groups()) == 0

    async with asyncio.timeout(10):
        while not await committed():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("start", ["earliest", None, 0, {"0": 1}, {0: 1.5}, {True: 1}, datetime(2026, 1, 1)])  # noqa: DTZ001
async def test_what_is_no_place_to_start_is_refused(bus: EventBus, start: object) -> None:
    for topics in ("t", ["t", "u"]):
        with pytest.raises(ConfigurationError, match="start"):
            await bus.subscribe(topics, lambda e: None, "g", start=start)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="start"):
        await bus.door.seek_group("t", "g", start)  # type: ignore[arg-type]
    got = Recorder()
    await bus.subscribe("t", got, "g")  # nothing is left of what was refused, and the bus goes on
    await bus.publish("t", event(1))
    await eventually(lambda: got.numbers == [1])
