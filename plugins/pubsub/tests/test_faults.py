"""Faults of the service and the network, which must not lose or reorder events; on the small server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pubsub_fixtures
import pytest

from dimesh import Event, EventBus, StartAt
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import BusError, PublishError, RefusedError
from dimesh.spi.bus import Record
from dimesh_contracts.history.exercise import exercise
from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import be_patient, deadline, eventually, until
from dimesh_pubsub.backend import PubSubBackend
from servers.pubsub.small import SmallPubSub, pubsub_small

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
Make = Callable[..., PubSubBackend]


@pytest.fixture(autouse=True)
def patience() -> None:
    """Allow more time, since channels reconnect slowly."""
    be_patient(40.0)


async def test_a_message_too_large_is_refused_and_the_next_is_accepted(make: Make, topic: str) -> None:
    bus = EventBus(make())
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    with pytest.raises(PublishError, match=r"larger than Pub/Sub accepts.*nothing was published"):
        await bus.publish_many(topic, [Event("a.b", None, 1), Event("a.b", None, "x" * 10_000_000)])
    await bus.publish(topic, Event("a.b", None, 2))
    await until(lambda: handled == [2])
    await bus.close()


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED"])
async def test_transient_errors_are_retried(
    make: Make, small: SmallPubSub, tmp_path: Path, topic: str, code: str
) -> None:
    async def fails() -> None:
        for call in ("Publish", "Acknowledge", "ModifyAckDeadline"):
            await small.plan(call, code, 3)

    assert await exercise(make, tmp_path, fails, topic=topic, events=400, pause=0.002) == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_message_that_the_service_refuses_fails_alone(
    make: Make, small: SmallPubSub, topic: str, ordered: bool
) -> None:
    backend = make(linger=0.05)  # so that they are sent in one request
    await backend.open()
    await backend.append(topic, [Record.of(Event("a.b"), "k")])
    await small.refuse(topic)
    bad = Record.of(Event("a.b", None, topic), "k" if ordered else "")
    good = [Record.of(Event("a.b", None, n), "k" if ordered else "") for n in range(20)]
    calls = [[good[n]] for n in range(7)] + [[bad]] + [good[7:10]] + [[good[n]] for n in range(10, 20)]
    results = await asyncio.gather(*(backend.append(topic, call) for call in calls), return_exceptions=True)
    assert [isinstance(result, RefusedError) for result in results] == [call == [bad] for call in calls]
    kept = await backend.read(topic, StartAt.EARLIEST, 100)
    assert [d.record.event.payload for d in kept][1:] == list(range(20))
    await backend.close()


async def test_a_quota_that_stays_used_up(make: Make, small: SmallPubSub, topic: str) -> None:
    hasty, patient = make(delivery_timeout=0.3), make()
    await hasty.open()
    await patient.open()
    await small.plan(
        "Publish", "RESOURCE_EXHAUSTED", 12, "Quota exceeded for quota metric 'Regional publisher'"
    )
    with pytest.raises(PublishError, match=r"quota of the project is used up.*Regional publisher"):
        await hasty.append(topic, [Record.of(Event("a.b"), "k")])
    await patient.append(topic, [Record.of(Event("a.b"), "k")])
    await hasty.close()
    await patient.close()


async def test_permission_is_missing(make: Make, small: SmallPubSub, topic: str) -> None:
    backend = make()
    await backend.open()
    await backend.append(topic, [Record.of(Event("a.b"), "k")])
    await small.plan(
        "Publish", "PERMISSION_DENIED", text="User not authorized to perform pubsub.topics.publish"
    )
    with pytest.raises(PublishError, match=r"not permitted.*pubsub\.topics\.publish.*role"):
        await backend.append(topic, [Record.of(Event("a.b"), "k")])
    await small.plan("CreateSubscription", "PERMISSION_DENIED", text="pubsub.subscriptions.create")
    bus = EventBus(backend)
    with pytest.raises(BusError, match=r"not permitted.*pubsub\.subscriptions\.create"):
        await bus.subscribe(topic, lambda e: None, "g")
    await small.plan("StreamingPull", "PERMISSION_DENIED", text="pubsub.subscriptions.consume")
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await bus.publish(topic, Event("a.b", None, 1))
    await until(lambda: handled == [1])  # logged and retried, because the permission may be granted later
    await bus.close()


async def test_a_deadline_that_passes_leaves_the_outcome_unknown(
    through: Make, make: Make, proxy: FaultProxy, topic: str
) -> None:
    backend = through(delivery_timeout=1.0, request_timeout=0.5)
    await backend.open()
    await backend.append(topic, [Record.of(Event("a.b"), "k")])
    watching = make()
    await watching.open()
    proxy.cut()
    event = Event("a.b", None, "unknown")
    with pytest.raises(PublishError, match=r"outcome is unknown.*Publishing the same events again is safe"):
        await backend.append(topic, [Record.of(event, "k")])
    proxy.heal()
    await backend.append(topic, [Record.of(event, "k")])
    handled: list[Any] = []
    bus = EventBus(watching)
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g", start=StartAt.EARLIEST)
    await until(lambda: "unknown" in handled)
    async with deadline():
        await bus.idle()
    assert handled.count("unknown") == 1  # handled once, although it may be stored twice
    await bus.close()
    await backend.close()


async def test_a_key_goes_on_after_a_failure_and_keeps_its_order(
    make: Make, small: SmallPubSub, topic: str
) -> None:
    """Events queued behind a failed request fail too, so that their publishers can send all of them again, in order."""
    backend = make(batch_messages=1)
    await backend.open()
    await backend.append(topic, [Record.of(Event("a.b", None, -1), "k")])
    await small.plan("Publish", "PERMISSION_DENIED", text="not today")
    first = [
        asyncio.create_task(backend.append(topic, [Record.of(Event("a.b", None, n), "k")])) for n in range(5)
    ]
    outcomes = await asyncio.gather(*first, return_exceptions=True)
    await backend.append(topic, [Record.of(Event("a.b", None, 99), "other")])
    failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, PublishError)]
    assert failed == list(range(5))
    assert "an earlier event of the same ordering key failed" in str(outcomes[1])
    for n in range(5):
        await backend.append(topic, [Record.of(Event("a.b", None, n), "k")])
    bus = EventBus(backend)
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g", start=StartAt.EARLIEST)
    await until(lambda: len(handled) == 7)
    assert [n for n in handled if n != 99] == [-1, 0, 1, 2, 3, 4]
    await bus.close()


async def spawn(small: SmallPubSub, project: str, topic: str, **more: Any) -> asyncio.subprocess.Process:
    """A consumer in another process."""
    options = json.dumps(pubsub_fixtures.options(small.address, project, **more))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("consumer.py")),
        options,
        topic,
        stdout=asyncio.subprocess.PIPE,
    )
    await said(child, "ready")
    return child


async def said(child: asyncio.subprocess.Process, word: str) -> None:
    """Wait until the consumer prints this line."""
    assert child.stdout is not None
    async with deadline():
        while (await child.stdout.readline()).decode().strip() != word:
            pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_leases_lapse_when_a_process_dies_or_hangs(
    make: Make, small: SmallPubSub, project: str, topic: str, how: signal.Signals
) -> None:
    child = await spawn(small, project, topic)
    backend = make()
    await backend.open()
    await backend.append(topic, [Record.of(Event("a.b", None, "hang"), "k")])
    await said(child, "hang")
    child.send_signal(how)
    handled: list[Any] = []
    bus = EventBus(backend)
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await until(lambda: handled == ["hang"])
    if how is signal.SIGSTOP:
        # It resumes, learns that its lease expired, and continues with new events.
        child.send_signal(signal.SIGCONT)
        await bus.close()
        backend = make()
        await backend.open()
        await backend.append(topic, [Record.of(Event("a.b", None, "next"), "j")])
        await said(child, "next")
        await backend.close()
        child.kill()
    else:
        await bus.close()
    await child.wait()


async def test_an_event_that_kills_its_process_is_dead_lettered_by_the_service(
    project: str, topic: str
) -> None:
    """With ``dead_letter_after``, Pub/Sub counts the attempts, as no process survives. The entry is listed and redriven."""
    options = {"dead_letter_after": 5}
    with pubsub_small(frees=True) as server:
        bus = EventBus(pubsub_fixtures.backend(server.address, project, **options))
        await bus.open()
        child = await spawn(server, project, topic, **options)
        await bus.publish(topic, Event("a.b", None, "die"), key="poison")
        for attempt in range(5):
            if attempt:
                child = await spawn(server, project, topic, **options)
            await said(child, "die")
            assert await child.wait() == 9
        child = await spawn(server, project, topic, **options)
        await bus.publish(topic, Event("a.b", None, "fine"), key="other")
        await said(child, "fine")

        async def letters() -> Any:
            return await DeadLetters(bus).entries(topic)

        (entry,) = await eventually(letters)
        assert (entry.topic, entry.event.payload) == (topic, "die")
        assert "given up by the broker" in entry.reason
        assert entry.event.headers["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
        child.kill()
        await child.wait()
        done = await DeadLetters(bus).redrive(topic)
        assert len(done.done) == 1
        handled: list[Any] = []
        await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
        await until(lambda: "die" in handled)
        await bus.close()


async def test_the_server_is_away_for_a_while(project: str, tmp_path: Path, topic: str) -> None:
    """It returns with its data (paused) or empty (restarted): the bus continues in both cases."""
    with pubsub_small() as server:
        backend = pubsub_fixtures.backend(server.address, project, request_timeout=2.0)
        bus = EventBus(backend)
        handled: list[Any] = []
        await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
        server.process.pause()
        sending = asyncio.create_task(bus.publish(topic, Event("a.b", None, "patient")))
        await asyncio.sleep(2.5)  # longer than the time limit of a request
        server.process.resume()
        async with deadline():
            await sending
        await until(lambda: handled == ["patient"])
        server.process.kill()
        await asyncio.to_thread(server.start)
        async with deadline():
            await bus.publish(topic, Event("a.b", None, "made anew"))  # the topic, too
        assert [info.name for info in await backend.topics()] == [topic]
        await bus.close()
