"""Faults of brokers and networks, which must not lose or reorder events."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from dimesh import Event, EventBus, StartAt
from dimesh.errors import BusError, PublishError
from dimesh.spi.bus import Record, Subscribe, TopicConfig
from dimesh_contracts.bus.harness import Listener
from dimesh_contracts.history.exercise import exercise
from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import be_patient, deadline, eventually, until
from dimesh_kafka.backend import KafkaBackend
from servers.availability import available
from servers.kafka import LEAKS, KafkaCluster, kafka_cluster
from servers.processes import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Start a broker that tests may disturb."""
    with available(kafka_cluster(), request) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def patience() -> None:
    """Allow more time, since brokers are slow to react."""
    be_patient(30.0)


@pytest.fixture
def topic() -> str:
    """Return a topic that no other test uses."""
    return f"faults.{uuid4().hex[:10]}"


@pytest.fixture
def make(new_backend: Callable[..., KafkaBackend], broker: KafkaCluster) -> Callable[..., KafkaBackend]:
    """Return a function that makes backends on the broker that tests may disturb."""
    return lambda **options: new_backend(bootstrap_servers=broker.servers(), **options)


@pytest.mark.parametrize("kill", [False, True], ids=["restarted", "killed"])
async def test_the_broker_restarts(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, tmp_path: Path, topic: str, kill: bool
) -> None:
    await exercise(
        make, tmp_path, lambda: asyncio.to_thread(broker.brokers[0].restart, kill), topic=topic, pause=0.005
    )


async def test_no_answer_within_the_delivery_time_is_an_unknown_outcome(
    through: Callable[..., KafkaBackend], proxy: FaultProxy, topic: str
) -> None:
    """The publish fails in time with an unknown outcome; when published again, the event is handled once."""
    bus = EventBus(through(delivery_timeout=1.0, request_timeout=2.0))
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await bus.publish(topic, Event("a.b", None, 1))
    await until(lambda: handled == [1])
    event = Event("a.b", None, 2)
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(PublishError, match="outcome is unknown"):
        await bus.publish(topic, event)
    assert time.monotonic() - began < 5
    proxy.heal()
    await bus.publish(topic, event)
    await bus.publish(topic, Event("a.b", None, 3))
    await until(lambda: len(handled) >= 3)
    assert handled == [1, 2, 3]
    await bus.close()


async def test_a_message_too_large_is_refused_and_the_next_is_accepted(
    make: Callable[..., KafkaBackend], topic: str
) -> None:
    """The bus refuses it, or a broker whose topic has a lower limit; publishing continues without a sequence error."""
    bus = EventBus(make())
    with pytest.raises(PublishError, match="max_request_size"):
        await bus.publish(topic, Event("a.b", None, "x" * 1_200_000))
    await bus.open()
    await bus.door._backend.admin.create(topic + ".small", TopicConfig(), **{"max.message.bytes": "2000"})  # type: ignore[attr-defined]
    handled: list[Any] = []
    await bus.subscribe(topic + ".small", lambda e: handled.append(e.payload))
    for n in range(3):
        with pytest.raises(PublishError, match=r"max\.message\.bytes"):
            await bus.publish(topic + ".small", Event("a.b", None, "x" * 5_000))
        await bus.publish(topic + ".small", Event("a.b", None, n))
    await until(lambda: handled == [0, 1, 2])
    await bus.close()


async def test_after_a_publish_error_any_of_the_events_may_be_there(
    make: Callable[..., KafkaBackend], topic: str
) -> None:
    """One partition accepts its batch and the other refuses its own; the error does not cover the first. Publishing all of
    them again is safe.
    """
    bus = EventBus(make())
    await bus.open()
    await bus.door._backend.admin.create(topic, TopicConfig(partitions=2), **{"max.message.bytes": "2000"})  # type: ignore[attr-defined]
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    fits, too_large = Event("a.b", None, "fits"), Event("a.b", None, "x" * 5_000)
    for _ in range(2):
        with pytest.raises(PublishError, match="larger than the topic accepts") as caught:
            await bus.publish_many(
                topic, [fits, too_large], keys=["k0", "k3"]
            )  # keys of different partitions
        assert "nothing was published" not in str(caught.value)
    await until(lambda: handled == ["fits"])
    await bus.close()


async def test_a_batch_that_is_too_large_for_the_topic(make: Callable[..., KafkaBackend], topic: str) -> None:
    """The broker limits the size of a batch: many small events that it refuses are accepted in smaller batches."""
    buses = [EventBus(make()), EventBus(make(batch_size=1_500))]
    events = [Event("a.b", None, n) for n in range(100)]
    await buses[0].open()
    await buses[0].door._backend.admin.create(
        topic, TopicConfig(partitions=1), **{"max.message.bytes": "2000"}
    )  # type: ignore[attr-defined]
    with pytest.raises(PublishError, match=r"a batch is larger than the topic accepts.*lower batch_size"):
        await buses[0].publish_many(topic, events)
    await buses[1].publish_many(topic, events)
    for bus in buses:
        await bus.close()


async def test_a_topic_is_deleted_by_another_client(make: Callable[..., KafkaBackend], topic: str) -> None:
    """The subscription ends; a new one, on a new topic, works."""
    bus, other = EventBus(make()), EventBus(make())
    await other.open()
    name = await bus.subscribe(topic, lambda e: None, "g")
    await bus.publish(topic, Event("a.b"))
    await other.door.delete_topic(topic)
    async with deadline():
        await bus.subscription(name).finished
    await bus.unsubscribe(name)
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g", start=StartAt.EARLIEST)
    await bus.publish(topic, Event("a.b", None, "anew"))
    await until(lambda: handled == ["anew"])
    await bus.close()
    await other.close()


async def test_a_topic_is_deleted_while_its_event_is_handled(
    make: Callable[..., KafkaBackend], topic: str
) -> None:
    """Its position cannot be committed any more, and never becomes the position of the group on a new topic of that name."""
    bus, other = EventBus(make()), EventBus(make())
    await other.open()
    handled: list[Any] = []
    deleted = asyncio.Event()

    async def handle(event: Event) -> None:
        handled.append(event.payload)
        await deleted.wait()

    name = await bus.subscribe(topic, handle, "g")
    await bus.publish(topic, Event("a.b", None, "old"))
    await until(lambda: handled == ["old"])
    await other.door.delete_topic(topic)
    deleted.set()
    async with deadline():
        await bus.subscription(name).finished
    await bus.unsubscribe(name)
    await bus.subscribe(topic, handle, "g", start=StartAt.EARLIEST)
    await bus.publish(topic, Event("a.b", None, "anew"))
    await until(lambda: handled == ["old", "anew"])
    await bus.close()
    await other.close()


async def test_a_consumer_that_was_paused_past_its_session(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, namespace: str, topic: str
) -> None:
    """While it is suspended, another member takes over its partitions; when it resumes, all events are handled."""
    setup = make()
    await setup.open()
    await setup.create_topic(topic, TopicConfig(partitions=2))
    options = {
        "bootstrap_servers": broker.servers(),
        "internal": namespace,
        "session_timeout": 2.0,
        "heartbeat_interval": 0.1,
        "rebalance_timeout": 3.0,
    }
    task = json.dumps({"driver": "kafka", "options": options, "topic": topic, "count": 0})
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dimesh_contracts.bus.child", task, stdout=asyncio.subprocess.PIPE
    )
    bus = EventBus(make(**{k: v for k, v in options.items() if k not in ("bootstrap_servers", "internal")}))
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "here", group="g", start=StartAt.EARLIEST)

    async def owners() -> set[str | None]:
        return {info.member for info in await setup.groups() if info.topic == topic}

    async def both() -> bool:
        return len(await owners() - {None}) == 2

    async def only_here() -> bool:
        return await owners() == {"here"}

    try:
        await eventually(both, 2)
        child.send_signal(signal.SIGSTOP)
        await bus.publish_many(
            topic, [Event("a.b", None, n) for n in range(50)], keys=[f"k{n}" for n in range(50)]
        )
        await eventually(only_here)
        await until(lambda: set(handled) >= set(range(50)))
        child.send_signal(signal.SIGCONT)
        await eventually(both, 2)
        await bus.publish_many(
            topic, [Event("a.b", None, n) for n in range(50, 100)], keys=[f"k{n}" for n in range(50)]
        )

        async def done() -> bool:
            return sum(g.lag or 0 for g in await setup.groups() if g.topic == topic) == 0

        await eventually(done)
        child.terminate()
        assert child.stdout is not None
        there = [int(line) for line in (await child.stdout.read()).split()]
        assert set(handled) | set(there) == set(range(100))
        assert there, "the one that woke up takes part again"
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await bus.close()
        await setup.close()


async def test_a_throttled_client_is_slower_and_loses_nothing(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, topic: str
) -> None:
    client = f"throttled-{uuid4().hex[:6]}"
    await asyncio.to_thread(
        broker.tool,
        "kafka.admin.ConfigCommand",
        *("--bootstrap-server", broker.servers(), "--alter", "--add-config", "producer_byte_rate=4500"),
        *("--entity-type", "clients", "--entity-name", client),
    )
    bus = EventBus(make(client_id=client, batch_size=4_096))
    handled: list[int] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload["n"]))
    began = time.monotonic()
    await asyncio.gather(
        *(bus.publish(topic, Event("a.b", None, {"n": n, "text": "x" * 500})) for n in range(100))
    )
    assert time.monotonic() - began > 0.5
    await until(lambda: len(handled) == 100)
    assert handled == list(range(100))
    await bus.close()


async def test_a_slow_handler_outlives_a_rebalance(make: Callable[..., KafkaBackend], topic: str) -> None:
    """The rebalance waits for it up to its time limit; after that, its partitions are reassigned and its event is handled
    again.
    """
    quick = {"session_timeout": 2.0, "rebalance_timeout": 3.0}
    one = EventBus(make(**quick))
    gate = asyncio.Event()
    calls: list[str] = []

    async def slow(event: Event) -> None:
        calls.append("slow")
        await gate.wait()

    await one.subscribe(topic, slow, "one", group="g")
    await one.publish(topic, Event("a.b"))
    await until(lambda: calls == ["slow"])
    two = EventBus(make(**quick))
    await two.subscribe(topic, lambda e: calls.append("two"), "two", group="g")
    # When a member joins, the first one briefly gives up all partitions; it may get them back.
    await until(lambda: len(calls) >= 2)
    gate.set()
    await one.close()
    await two.close()


async def test_start_at_a_time_across_partitions(make: Callable[..., KafkaBackend], topic: str) -> None:
    bus = EventBus(make())
    await bus.open()
    await bus.door.create_topic(topic, TopicConfig(partitions=3))
    old = [Event("a.b", None, n) for n in range(30)]
    await bus.publish_many(topic, old, keys=[f"k{n}" for n in range(30)])
    await asyncio.sleep(0.01)  # Kafka's times are milliseconds
    moment = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await bus.publish_many(
        topic, [Event("a.b", None, n) for n in range(30, 60)], keys=[f"k{n}" for n in range(30)]
    )
    handled: list[int] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), start=moment)
    await until(lambda: len(handled) == 30)
    assert sorted(handled) == list(range(30, 60))
    await bus.close()


async def test_partitions_that_were_added_are_published_to(
    make: Callable[..., KafkaBackend], topic: str
) -> None:
    """A publisher and a transaction, whose clients cached the old number of partitions, publish to the new ones."""
    bus = EventBus(make())
    await bus.open()
    await bus.door.create_topic(topic, TopicConfig(partitions=1))
    await bus.publish(topic, Event("a.b"))
    await bus.publish_many(topic, [Event("a.b")], state={"s": b"1"})
    await bus.door.create_topic(topic, TopicConfig(partitions=4))
    events, keys = [Event("a.b") for _ in range(20)], [f"k{n}" for n in range(20)]
    async with deadline():
        for state in (None, {"s": b"2"}):
            receipts = await bus.publish_many(topic, events, keys=keys, state=state)
            assert {r.position.partition for r in receipts if r.position} == {0, 1, 2, 3}
    await bus.close()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Return a function that lists what the bus logged about positions: level and message."""
    caplog.set_level(logging.INFO, "dimesh.bus.kafka")

    def find() -> list[tuple[str, str]]:
        return [(r.levelname, r.getMessage()) for r in caplog.records if "position" in r.getMessage()]

    return find


async def test_a_group_handles_events_of_partitions_that_were_added_while_it_was_stopped(
    make: Callable[..., KafkaBackend], topic: str, said: Callable[[], list[tuple[str, str]]]
) -> None:
    bus = EventBus(make())
    await bus.open()
    await bus.door.create_topic(topic, TopicConfig(partitions=1))
    handled: list[int] = []
    name = await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    ((level, message),) = said()
    assert level == "INFO"
    assert "starts at latest" in message
    assert "offsets.retention.minutes" in message
    await bus.unsubscribe(name)
    await bus.door.create_topic(topic, TopicConfig(partitions=4))
    await bus.publish_many(
        topic, [Event("a.b", None, n) for n in range(20)], keys=[f"k{n}" for n in range(20)]
    )
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await until(lambda: len(handled) == 20)
    assert sorted(handled) == list(range(20))
    level, message = said()[-1]
    assert level == "INFO"
    assert "partitions [1, 2, 3]" in message
    await bus.close()


async def test_partitions_that_were_added_while_members_run(
    make: Callable[..., KafkaBackend], topic: str, said: Callable[[], list[tuple[str, str]]]
) -> None:
    """A member that joins later does not report them as positions that the broker has dropped."""
    backends = make(), make()
    for backend in backends:  # their clients look for new partitions more often than every five minutes
        backend.clients.consumer = partial(backend.clients.consumer, metadata_max_age_ms=300)  # type: ignore[method-assign]
    one, two = map(EventBus, backends)
    await one.open()
    await one.door.create_topic(topic, TopicConfig(partitions=1))
    handled: list[int] = []
    await one.subscribe(topic, lambda e: handled.append(e.payload), "one", group="g")
    await one.publish(topic, Event("a.b", None, -1))
    await until(lambda: handled == [-1])
    await one.door.create_topic(topic, TopicConfig(partitions=4))
    await one.publish_many(
        topic, [Event("a.b", None, n) for n in range(20)], keys=[f"k{n}" for n in range(20)]
    )
    await two.subscribe(topic, lambda e: handled.append(e.payload), "two", group="g")
    await until(lambda: len(set(handled)) == 21)
    assert {level for level, _ in said()} == {"INFO"}
    assert any("added after" in message for _, message in said())
    await one.close()
    await two.close()


async def test_reading_a_topic_while_its_oldest_records_expire(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, topic: str
) -> None:
    """A read returns what is available, from the oldest record on, whenever records expire between two requests."""
    backend = make()
    await backend.open()
    await backend.create_topic(topic, TopicConfig(partitions=1))
    total = 3_000
    await backend.append(topic, [Record.of(Event("a.b", None, n), "k") for n in range(total)])
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers())
    await admin.start()

    async def remove() -> None:
        for below in range(5, total, 5):
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=below)})

    removal = asyncio.create_task(remove())
    looks = 0
    while not removal.done():
        looks += 1
        found = [d.record.event.payload for d in await backend.read(topic, StartAt.EARLIEST, 10)]
        assert found == list(range(found[0], found[0] + 10)) or found[-1] == total - 1
    await removal
    await admin.close()
    assert looks > 10


@pytest.mark.parametrize("opened", [False, True], ids=["away", "opened"])
async def test_a_position_that_the_broker_has_dropped_is_reported(
    make: Callable[..., KafkaBackend],
    topic: str,
    said: Callable[[], list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    opened: bool,
) -> None:
    """A position left on a later partition reveals the loss; so does the member's own, when it returns after a long time."""
    backend = make()
    bus = EventBus(backend)
    await bus.open()
    await backend.create_topic(topic, TopicConfig(partitions=2))
    for key in ("k0", "k3"):  # keys of different partitions
        await bus.publish(topic, Event("a.b", None, key), key=key)
    await backend.admin.move(topic, "g", {0 if opened else 1: 1})
    if opened:
        # If the broker had not dropped the position, it would have existed when the member joined.
        async def found(request: Subscribe, numbers: Sequence[int]) -> int:
            return len(numbers)

        monkeypatch.setattr(backend, "_set_first_positions", found)
    handled: list[str] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await until(lambda: handled == ["k0" if opened else "k3"])
    ((level, message),) = said()
    assert level == "WARNING"
    assert f"forgotten the position of group g on partitions [{int(opened)}]" in message
    await bus.close()


async def test_a_broker_that_is_not_there_is_a_clear_error(new_backend: Callable[..., KafkaBackend]) -> None:
    nobody = free_ports(1)[0]
    backend = new_backend(bootstrap_servers=f"127.0.0.1:{nobody}", request_timeout=2.0)
    with pytest.raises(BusError, match="cannot connect to"):
        await backend.open()
    await backend.close()


class FailsOnce(Listener):
    """A listener that cannot take partitions over the first time, as when the broker does not answer what it reads then."""

    failed = False

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        if not self.failed:
            self.failed = True
            raise BusError("cannot read: no answer")
        await super().assigned(partitions)


async def test_a_member_that_cannot_take_its_partitions_over_asks_for_them_again(
    new_backend: Callable[..., KafkaBackend],
) -> None:
    topic = f"t{uuid4().hex}"
    backend = new_backend()
    await backend.open()
    try:
        await backend.create_topic(topic, TopicConfig(partitions=3))
        await backend.append(topic, [Record.of(Event("a.b", None, n), f"k{n}") for n in range(9)])
        listener = FailsOnce()
        stream = await backend.subscribe(Subscribe(topic, "g", "m", StartAt.EARLIEST), listener)
        got: list[Any] = []
        async with deadline(2):
            while len(got) < 9:
                for batch in await stream.receive(100):
                    got += [delivery.record.event.payload for delivery in batch.deliveries]
        assert sorted(got) == list(range(9))
        assert listener.failed
        await stream.close()
    finally:
        await backend.close()
