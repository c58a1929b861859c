"""The story of one event, found by its id alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dimesh import (
    DeadLetters,
    Event,
    EventMetadata,
    EventNotFoundError,
    NotOfferedError,
    RetryPolicy,
    StartAt,
    SubscriptionOptions,
    TopicNotFoundError,
)
from dimesh.capabilities import Capabilities, Capability
from dimesh.mesh import Mesh
from dimesh.ops.explain import explain
from dimesh.ops.explanation import Fate, PlaceKind
from dimesh.ops.trail import MOST, Reach
from dimesh.settings import MeshSettings

ONCE = SubscriptionOptions(retry=RetryPolicy(attempts=1))


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    settings = MeshSettings(
        bus={"driver": "sqlite", "options": {"path": str(tmp_path / "mesh.db"), "partitions": 2}},
        handlers=[{"topic": "orders", "call": "shop:ship", "redeliver": [0.01]}],
    )
    async with Mesh(settings) as opened:
        yield opened


def event(event_id: str, cause: str | None = None) -> Event:
    return Event("order.created", EventMetadata(event_id=event_id, causation_id=cause), {})


async def test_causes_and_results_are_followed_for_a_number_of_steps(mesh: Mesh) -> None:
    for number in range(9):
        await mesh.bus.publish(f"t{number % 2}", event(f"e{number}", f"e{number - 1}" if number else None))
    story = await explain(mesh, "e4", Reach(steps=3))
    assert [step.event.event_id for step in story.causes] == ["e3", "e2", "e1"]
    assert story.missing_cause is None
    below = []
    results = story.results
    while results:
        below.append(results[0].event.event_id)
        results = results[0].results
    assert below == ["e5", "e6", "e7"]
    whole = await explain(mesh, "e4", Reach(steps=50))
    assert [step.event.event_id for step in whole.causes] == ["e3", "e2", "e1", "e0"]


async def test_a_cause_that_is_gone_and_a_circle_of_causes(mesh: Mesh) -> None:
    await mesh.bus.publish("t", event("lonely", "gone"))
    story = await explain(mesh, "lonely")
    assert (story.causes, story.missing_cause) == ((), "gone")
    # The event itself is gone, and its result is not.
    story = await explain(mesh, "gone")
    assert (story.event, [result.event.event_id for result in story.results]) == (None, ["lonely"])
    for one, other in (("a", "b"), ("b", "a"), ("self", "self")):
        await mesh.bus.publish("t", event(one, other))
    story = await explain(mesh, "a")
    assert [step.event.event_id for step in story.causes] == ["b"]
    assert [(result.event.event_id, result.results) for result in story.results] == [("b", ())]
    assert (await explain(mesh, "self")).results == ()


async def test_many_results_are_cut(mesh: Mesh) -> None:
    await mesh.bus.publish("t", event("root"))
    await mesh.bus.publish_many("t", [event(f"e{n}", "root") for n in range(MOST + 10)])
    story = await explain(mesh, "root")
    assert story.more_results
    assert len(story.results) <= MOST


async def test_what_each_group_made_of_it(mesh: Mesh) -> None:
    async def fails(event: Event) -> None:
        raise ValueError(event.event_id)

    async def handles(event: Event) -> None:
        pass

    bus = mesh.bus
    for group, handler in (("bad", fails), ("good", handles), ("behind", handles)):
        await bus.subscribe("orders", handler, group, start=StartAt.EARLIEST, options=ONCE)
    await bus.publish("orders", event("first"))
    async with asyncio.timeout(60):
        await bus.idle()
    await bus.unsubscribe("behind")
    await bus.publish("orders", event("second"))
    async with asyncio.timeout(60):
        await bus.idle()
    for group in ("bad", "good"):
        await bus.unsubscribe(group)  # which commits its position
    story = await explain(mesh, "second")
    assert {group.group: group.fate for group in story.groups} == {
        "bad": Fate.DEAD_LETTERED,
        "good": Fate.PASSED,
        "behind": Fate.WAITING,
        "shop:ship": Fate.ABSENT,
    }
    assert [group.state for group in story.groups if group.group == "behind"] == [
        "no member of the group is running"
    ]
    await DeadLetters(bus).discard("orders", ids=["second"])
    story = await explain(mesh, "second")
    assert {group.group: group.fate for group in story.groups}["bad"] is Fate.DISCARDED


async def test_an_event_that_waits_for_its_next_attempt(mesh: Mesh) -> None:
    async def fails(event: Event) -> None:
        raise ValueError(event.event_id)

    options = SubscriptionOptions(retry=RetryPolicy(attempts=9, base=600, maximum=600))
    await mesh.bus.subscribe("orders", fails, "g", start=StartAt.EARLIEST, options=options)
    await mesh.bus.publish("orders", event("one"))
    stats = mesh.bus.stats()["g"]
    async with asyncio.timeout(60):
        while True:
            story = await explain(mesh, "one")
            (group,) = [group for group in story.groups if group.group == "g"]
            if group.fate is Fate.RETRYING:
                break
            assert group.fate is Fate.WAITING
            await asyncio.sleep(0.01)
    assert group.attempts == stats.failed
    assert group.failing_since is not None
    assert group.failing_since >= story.places[0].stored


async def test_an_event_that_is_held_back(mesh: Mesh) -> None:
    async def fails(event: Event) -> None:
        raise ValueError(event.event_id)

    await mesh.bus.publish("orders", event("later"), delay=3_600)
    story = await explain(mesh, "later")
    assert (story.places, [(held.topic, held.kind) for held in story.held_back]) == (
        (),
        [("orders", PlaceKind.PUBLISHED)],
    )
    assert story.event is not None
    assert story.held_back[0].due > story.event.created
    options = SubscriptionOptions(retry=RetryPolicy(attempts=1, redeliver=(3_600,)))
    await mesh.bus.subscribe("orders", fails, "shop:ship", start=StartAt.EARLIEST, options=options)
    await mesh.bus.publish("orders", event("again"))
    async with asyncio.timeout(60):
        await mesh.bus.idle()
    story = await explain(mesh, "again")
    assert [(held.kind, held.group) for held in story.held_back] == [(PlaceKind.REDELIVERED, "shop:ship")]
    assert [(group.group, group.fate) for group in story.groups] == [("shop:ship", Fate.HELD_BACK)]


async def test_an_event_whose_topic_is_gone_is_known_by_its_dead_letter(mesh: Mesh) -> None:
    async def fails(event: Event) -> None:
        raise ValueError(event.event_id)

    await mesh.bus.publish("t", event("above"))
    await mesh.bus.subscribe("orders", fails, "bad", start=StartAt.EARLIEST, options=ONCE)
    await mesh.bus.publish("orders", event("only", "above"))
    async with asyncio.timeout(60):
        await mesh.bus.idle()
    await mesh.bus.unsubscribe("bad")
    await mesh.bus.door.delete_topic("orders")
    story = await explain(mesh, "only")
    assert story.places == ()
    assert story.content is not None
    assert [(group.group, group.fate) for group in story.groups] == [("bad", Fate.DEAD_LETTERED)]
    assert [step.event.event_id for step in story.causes] == ["above"]


async def test_an_event_that_came_back_to_its_group(mesh: Mesh) -> None:
    tries: list[int] = []

    async def fails(event: Event) -> None:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("once")

    options = SubscriptionOptions(retry=RetryPolicy(attempts=1, redeliver=(0.01,)))
    await mesh.bus.subscribe("orders", fails, "shop:ship", start=StartAt.EARLIEST, options=options)
    await mesh.bus.publish("orders", event("again"))
    async with asyncio.timeout(60):
        while len(tries) < 2:
            await asyncio.sleep(0.01)
        await mesh.bus.idle()
    await mesh.bus.unsubscribe("shop:ship")
    story = await explain(mesh, "again")
    assert [(place.kind, place.group) for place in story.places] == [
        (PlaceKind.PUBLISHED, None),
        (PlaceKind.REDELIVERED, "shop:ship"),
    ]
    assert [(group.fate, group.may_return) for group in story.groups] == [(Fate.PASSED, False)]


async def test_a_reply_is_a_result(mesh: Mesh) -> None:
    async def answer(event: Event) -> dict[str, int]:
        return {"stock": 3}

    await mesh.bus.subscribe("stock", answer, "g", start=StartAt.EARLIEST)
    request = event("request")
    await mesh.bus.request("stock", request, timeout=30)
    story = await explain(mesh, "request")
    assert [(result.event.type, result.reply) for result in story.results] == [("order.created.reply", True)]
    assert [(group.topic, group.group) for group in story.groups] == [("stock", "g")]


async def test_an_old_event_is_found_where_its_time_is_young_or_old(mesh: Mesh) -> None:
    """The time that an event states ends the search early, and never too early."""
    for name, year in (("past", 1), ("future", 9000)):
        one = event(name)
        metadata = replace(one.metadata, timestamp=one.metadata.timestamp.replace(year=year))
        await mesh.bus.publish("orders", one.replace(metadata=metadata))
        await mesh.bus.publish("copies", one.replace(metadata=metadata))
    for name in ("past", "future"):
        story = await explain(mesh, name)
        assert [place.topic for place in story.places] == ["orders", "copies"]
        assert all(place.after >= 0 for place in story.places)


async def test_only_some_topics_are_searched(mesh: Mesh) -> None:
    await mesh.bus.publish("orders.eu", event("one"))
    await mesh.bus.publish("orders.us", event("two", "one"))
    await mesh.bus.publish("stock", event("three", "one"))
    story = await explain(mesh, "one", Reach(topics=("orders.*",)))
    assert [result.event.event_id for result in story.results] == ["two"]
    assert [one.topic for one in story.searched] == ["orders.eu", "orders.us"]
    with pytest.raises(EventNotFoundError, match=r"1 topics \(stock\)"):
        await explain(mesh, "two", Reach(topics=("stock",)))
    with pytest.raises(EventNotFoundError, match="no topic is one of 'x"):
        await explain(mesh, "one", Reach(topics=("x*",)))
    with pytest.raises(TopicNotFoundError, match="no topic is named 'stok'"):
        await explain(mesh, "one", Reach(topics=("stok",)))


async def test_a_bus_that_cannot_look_back_says_so(mesh: Mesh) -> None:
    await mesh.bus.publish("orders", event("one"))
    backend = mesh.bus.door._backend
    backend.capabilities = Capabilities(
        *(c for c in backend.capabilities if c is not Capability.LOOK_BACK and backend.capabilities[c]),
        notes={Capability.LOOK_BACK: "only with retention"},
    )
    with pytest.raises(
        NotOfferedError, match=r"cannot read events again.*\(only with retention\): search the logs"
    ):
        await explain(mesh, "one")


async def test_what_was_searched_is_reported(mesh: Mesh) -> None:
    with pytest.raises(EventNotFoundError, match="has no topics of users"):
        await explain(mesh, "nothing")
    await mesh.bus.publish_many("orders", [event(f"e{n}") for n in range(30)])
    story = await explain(mesh, "e29")
    (searched,) = story.searched
    assert (searched.topic, searched.events, searched.complete) == ("orders", 30, True)
    assert searched.oldest is not None
    seen: list[tuple[int, int]] = []
    with pytest.raises(EventNotFoundError, match="the newest 10 of each partition"):
        await explain(mesh, "e0", Reach(last=10), lambda read, total: seen.append((read, total)))
    assert seen[-1][0] == 10
