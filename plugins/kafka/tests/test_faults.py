"""What happens to brokers and networks, and what must not happen to events."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import be_patient, deadline, eventually, until
from dimesh_kafka.backend import KafkaBackend
from exercise import LEAKS, exercise
from servers.availability import available
from servers.kafka import KafkaCluster, kafka_cluster
from servers.processes import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(180)]

PROXY = free_ports(1)[0]


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """A broker that may be hurt; its listener PROXIED is behind a proxy."""
    with available(kafka_cluster(proxied={1: PROXY}), request) as cluster:
        yield cluster


@pytest.fixture
async def proxy(broker: KafkaCluster) -> AsyncIterator[FaultProxy]:
    """Between the bus and the broker."""
    async with FaultProxy(broker.brokers[0].ports["PROXIED"], PROXY) as made:
        yield made


@pytest.fixture(autouse=True)
def patience() -> None:
    """Brokers take their time."""
    be_patient(30.0)


@pytest.fixture
def topic() -> str:
    """Of the test's own."""
    return f"faults.{uuid4().hex[:10]}"


@pytest.fixture
def make(new_backend: Callable[..., KafkaBackend], broker: KafkaCluster) -> Callable[..., KafkaBackend]:
    """Makes backends on the broker that may be hurt."""
    return lambda **options: new_backend(bootstrap_servers=broker.servers(), **options)


@pytest.fixture
def through(new_backend: Callable[..., KafkaBackend], proxy: FaultProxy) -> Callable[..., KafkaBackend]:
    """Makes backends that reach the broker through the proxy."""
    return lambda **options: new_backend(bootstrap_servers=f"127.0.0.1:{proxy.port}", **options)


async def nothing() -> None:
    """Disturb nothing."""


@pytest.mark.parametrize("kill", [False, True], ids=["restarted", "killed"])
async def test_the_broker_restarts(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, tmp_path: Path, topic: str, kill: bool
) -> None:
    await exercise(
        make, tmp_path, lambda: asyncio.to_thread(broker.brokers[0].restart, kill), topic=topic, pause=0.005
    )


async def test_the_network_is_cut_and_heals(
    through: Callable[..., KafkaBackend], proxy: FaultProxy, tmp_path: Path, topic: str
) -> None:
    async def cut() -> None:
        proxy.cut()
        await asyncio.sleep(3.0)  # how long the cut lasts: longer than a request may take
        proxy.heal()

    await exercise(lambda: through(request_timeout=2.0), tmp_path, cut, topic=topic, pause=0.002)


async def test_connections_break_again_and_again(
    through: Callable[..., KafkaBackend], proxy: FaultProxy, tmp_path: Path, topic: str
) -> None:
    async def breaks() -> None:
        for _ in range(10):
            proxy.reset()
            await asyncio.sleep(0.1)  # how often they break

    await exercise(through, tmp_path, breaks, topic=topic, pause=0.002)


async def test_a_slow_and_narrow_network(
    through: Callable[..., KafkaBackend], proxy: FaultProxy, tmp_path: Path, topic: str
) -> None:
    async def slow() -> None:
        proxy.latency = 0.05
        proxy.bandwidth = 400_000

    await exercise(through, tmp_path, slow, topic=topic, events=300)


async def test_members_join_and_leave_while_events_flow(
    make: Callable[..., KafkaBackend], tmp_path: Path, topic: str
) -> None:
    admin = make()
    await admin.open()
    await admin.create_topic(topic, TopicConfig(partitions=4))
    await admin.close()

    await exercise(make, tmp_path, nothing, topic=topic, members=2, guests=3, pause=0.01)


async def test_no_answer_within_the_delivery_time_is_an_unknown_outcome(
    through: Callable[..., KafkaBackend], proxy: FaultProxy, topic: str
) -> None:
    """The publish fails in time and says so; published again the event is handled once."""
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


async def test_a_message_too_large_is_refused_and_the_next_is_taken(
    make: Callable[..., KafkaBackend], topic: str
) -> None:
    """By us, and by a broker whose topic takes less: after that the idempotent numbering goes on all the same."""
    bus = EventBus(make())
    with pytest.raises(PublishError, match="max_request_size"):
        await bus.publish(topic, Event("a.b", None, "x" * 1_200_000))
    await bus.open()
    await bus.backend.admin.create(topic + ".small", TopicConfig(), **{"max.message.bytes": "2000"})  # type: ignore[attr-defined]
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
    """One partition takes its batch, the other refuses its own; the error says nothing of the first. Publishing all of them
    again is safe.
    """
    bus = EventBus(make())
    await bus.open()
    await bus.backend.admin.create(topic, TopicConfig(partitions=2), **{"max.message.bytes": "2000"})  # type: ignore[attr-defined]
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    fits, too_large = Event("a.b", None, "fits"), Event("a.b", None, "x" * 5_000)
    for _ in range(2):
        with pytest.raises(PublishError, match="larger than the topic takes") as caught:
            await bus.publish_many(topic, [fits, too_large], keys=["k0", "k3"])  # of different partitions
        assert "nothing was published" not in str(caught.value)
    await until(lambda: handled == ["fits"])
    await bus.close()


async def test_a_batch_that_the_topic_does_not_take(make: Callable[..., KafkaBackend], topic: str) -> None:
    """The broker's limit is one of batches: what is refused may be many small events, and is taken in smaller batches."""
    buses = [EventBus(make()), EventBus(make(batch_size=1_500))]
    events = [Event("a.b", None, n) for n in range(100)]
    await buses[0].open()
    await buses[0].backend.admin.create(topic, TopicConfig(partitions=1), **{"max.message.bytes": "2000"})  # type: ignore[attr-defined]
    with pytest.raises(PublishError, match=r"a batch is larger than the topic takes.*lower batch_size"):
        await buses[0].publish_many(topic, events)
    await buses[1].publish_many(topic, events)
    for bus in buses:
        await bus.close()


async def test_a_topic_is_deleted_by_somebody_else(make: Callable[..., KafkaBackend], topic: str) -> None:
    """The subscription ends; a new one, on a new topic, works."""
    bus, other = EventBus(make()), EventBus(make())
    await other.open()
    name = await bus.subscribe(topic, lambda e: None, "g")
    await bus.publish(topic, Event("a.b"))
    await other.backend.delete_topic(topic)
    async with deadline():
        await bus.subscription(name).finished
    await bus.unsubscribe(name)
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g", start=StartAt.EARLIEST)
    await bus.publish(topic, Event("a.b", None, "anew"))
    await until(lambda: handled == ["anew"])
    await bus.close()
    await other.close()


async def test_a_consumer_that_was_paused_past_its_session(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, namespace: str, topic: str
) -> None:
    """While it sleeps another member takes its partitions over; when it wakes it is told, and all events are handled."""
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
    """It is waited for as long as a rebalance may take; beyond, its partitions go on without it, and its event is handled
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
    # A member that joins makes the first one give everything up for a moment; it may get it back.
    await until(lambda: len(calls) >= 2)
    gate.set()
    await one.close()
    await two.close()


async def test_start_at_a_time_across_partitions(make: Callable[..., KafkaBackend], topic: str) -> None:
    bus = EventBus(make())
    await bus.open()
    await bus.backend.create_topic(topic, TopicConfig(partitions=3))
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
    """By a publisher, and by a transaction, whose clients know the topic as it was."""
    bus = EventBus(make())
    await bus.open()
    await bus.backend.create_topic(topic, TopicConfig(partitions=1))
    await bus.publish(topic, Event("a.b"))
    await bus.publish_many(topic, [Event("a.b")], state={"s": b"1"})
    await bus.backend.create_topic(topic, TopicConfig(partitions=4))
    events, keys = [Event("a.b") for _ in range(20)], [f"k{n}" for n in range(20)]
    async with deadline():
        for state in (None, {"s": b"2"}):
            receipts = await bus.publish_many(topic, events, keys=keys, state=state)
            assert {r.position.partition for r in receipts if r.position} == {0, 1, 2, 3}
    await bus.close()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What the bus logged about positions: level and message."""
    caplog.set_level(logging.INFO, "dimesh.bus.kafka")

    def find() -> list[tuple[str, str]]:
        return [(r.levelname, r.getMessage()) for r in caplog.records if "position" in r.getMessage()]

    return find


async def test_a_group_handles_what_came_into_partitions_that_were_added_while_it_was_away(
    make: Callable[..., KafkaBackend], topic: str, said: Callable[[], list[tuple[str, str]]]
) -> None:
    bus = EventBus(make())
    await bus.open()
    await bus.backend.create_topic(topic, TopicConfig(partitions=1))
    handled: list[int] = []
    name = await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    ((level, message),) = said()
    assert level == "INFO"
    assert "begins at latest" in message
    assert "offsets.retention.minutes" in message
    await bus.unsubscribe(name)
    await bus.backend.create_topic(topic, TopicConfig(partitions=4))
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
    """A member that comes later does not take them for forgotten ones."""
    backends = make(), make()
    for backend in backends:  # whose clients look for partitions more often than every five minutes
        backend.clients.consumer = partial(backend.clients.consumer, metadata_max_age_ms=300)  # type: ignore[method-assign]
    one, two = map(EventBus, backends)
    await one.open()
    await one.backend.create_topic(topic, TopicConfig(partitions=1))
    handled: list[int] = []
    await one.subscribe(topic, lambda e: handled.append(e.payload), "one", group="g")
    await one.publish(topic, Event("a.b", None, -1))
    await until(lambda: handled == [-1])
    await one.backend.create_topic(topic, TopicConfig(partitions=4))
    await one.publish_many(
        topic, [Event("a.b", None, n) for n in range(20)], keys=[f"k{n}" for n in range(20)]
    )
    await two.subscribe(topic, lambda e: handled.append(e.payload), "two", group="g")
    await until(lambda: len(set(handled)) == 21)
    assert {level for level, _ in said()} == {"INFO"}
    assert any("added since" in message for _, message in said())
    await one.close()
    await two.close()


async def test_looking_at_a_topic_while_its_oldest_records_go(
    make: Callable[..., KafkaBackend], broker: KafkaCluster, topic: str
) -> None:
    """What is there is shown, from the oldest on, whenever it goes between two requests of a look."""
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
async def test_a_position_that_the_broker_has_forgotten_is_said(
    make: Callable[..., KafkaBackend],
    topic: str,
    said: Callable[[], list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    opened: bool,
) -> None:
    """One that is left on a later partition gives it away; so does the member's own, when it comes back after long."""
    backend = make()
    bus = EventBus(backend)
    await bus.open()
    await backend.create_topic(topic, TopicConfig(partitions=2))
    for key in ("k0", "k3"):  # of different partitions
        await bus.publish(topic, Event("a.b", None, key), key=key)
    await backend.admin.move(topic, "g", {0 if opened else 1: 1})
    if opened:
        # Had it not been forgotten since, it would have been there when the member came.
        async def found(request: Subscribe, numbers: Sequence[int]) -> int:
            return len(numbers)

        monkeypatch.setattr(backend, "_found_group", found)
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
