"""The helpers of the kit's tests: records, and a reader in place of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import pytest

from dimesh.errors import FencedError
from dimesh.events import Event, EventMetadata
from dimesh.spi.bus import BusBackend, Delivery, Record, Start, StartAt, Stream, Subscribe
from dimesh_contracts.contract import Contract
from dimesh_contracts.waiting import deadline

NewBackend = Callable[..., BusBackend]
"""Makes a backend that is not open."""

Factory = tuple[str, Mapping[str, Any]]
"""The importable name of a function that makes a backend which is not open, and its keyword arguments."""

QUIET = 0.15
"""The seconds without a delivery after which a test concludes that nothing is delivered."""


def record(payload: Any = None, key: str = "k", kind: str = "contract.event", **metadata: Any) -> Record:
    """Return a record of a new event."""
    return Record.of(Event(kind, EventMetadata(**metadata), payload), key)


def event(payload: Any, agent: str = "a") -> Event:
    """Return an event of one sender, whose events keep their order."""
    return Event("contract.event", EventMetadata(source_pillar="P", source_agent=agent), payload)


def payloads(deliveries: Sequence[Delivery]) -> list[Any]:
    """Return the payloads of deliveries."""
    return [delivery.record.event.payload for delivery in deliveries]


class Listener:
    """A listener in place of the engine: it knows which partitions it owns, and commits when they are revoked."""

    def __init__(self) -> None:
        self.owned: dict[int, int] = {}
        self.stream: Stream | None = None
        self.handled: dict[int, int] = {}
        self.lost_partitions: list[int] = []
        self.log: list[tuple[str, tuple[int, ...]]] = []

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """Record partitions that were assigned."""
        self.log.append(("assigned", tuple(partitions)))
        self.owned.update(partitions)

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Commit what was handled of the partitions."""
        self.log.append(("revoked", tuple(partitions)))
        if self.stream is not None:
            done = {p: at for p, at in self.handled.items() if p in partitions}
            if done:
                await self.stream.commit(done)
        self._drop(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Record partitions that another member has already."""
        self.log.append(("lost", tuple(partitions)))
        self.lost_partitions += partitions
        self._drop(partitions)

    def _drop(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self.handled.pop(partition, None)


class Reader:
    """An open stream and its listener."""

    def __init__(self, stream: Stream, listener: Listener, queue: bool) -> None:
        self.stream = stream
        self.listener = listener
        self.got: list[Delivery] = []
        self._queue = queue
        self._unacknowledged: list[Delivery] = []
        listener.stream = stream

    async def take(self, count: int, limit: int = 1_000, times: float = 1.0) -> list[Delivery]:
        """Receive ``count`` more deliveries, and no more than these."""
        found: list[Delivery] = []
        async with deadline(times):
            while len(found) < count:
                batches = await self.stream.receive(min(limit, count - len(found)))
                assert batches, f"the stream ended after {len(found)} of {count} deliveries"
                for batch in batches:
                    found += batch.deliveries
                    self.listener.handled[batch.partition] = batch.next_offset
        self.got += found
        self._unacknowledged += found
        return found

    async def nothing(self, seconds: float = QUIET) -> None:
        """Assert that nothing is delivered."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    batches = await self.stream.receive(10)
                    surprise = [d for batch in batches for d in batch.deliveries]
                    assert not surprise, f"unexpected: {payloads(surprise)}"
                    if not batches:
                        return
        except TimeoutError:
            pass

    async def commit(self) -> None:
        """Commit or acknowledge everything that was received."""
        if self._queue:
            await self.stream.acknowledge(self._unacknowledged)
            self._unacknowledged = []
        elif self.listener.handled:
            await self.stream.commit(dict(self.listener.handled))

    async def consume(self) -> None:
        """Receive and commit until the stream is closed."""
        while batches := await self.stream.receive(10):
            for batch in batches:
                self.got += batch.deliveries
                self._unacknowledged += batch.deliveries
                if batch.partition in self.listener.owned:
                    self.listener.handled[batch.partition] = batch.next_offset
            try:
                await self.commit()
            except FencedError:
                pass  # it has moved on: its next owner gets these again

    async def look(self) -> None:
        """Receive until the stream is closed, and commit nothing."""
        while batches := await self.stream.receive(10):
            for batch in batches:
                self.got += batch.deliveries

    async def close(self) -> None:
        """Release what was not acknowledged, and leave."""
        if self._queue and self._unacknowledged:
            await self.stream.release(self._unacknowledged)
            self._unacknowledged = []
        await self.stream.close()


class BusHarness(Contract):
    """Fixtures and helpers of the kit. Every test has a topic of its own, so that tests may share a broker."""

    lease = 10.0
    """The seconds without a sign of life after which ``new_backend`` takes a member for dead and delivers elsewhere what it had;
    any short time where nothing depends on such a sign. Some tests wait longer than that."""
    max_payload = 10_000_000
    """The bytes of the largest payload that the backend accepts."""
    oversized: int | None = None
    """The bytes of a payload that the backend refuses for good; None if it has no limit that a test can reach."""
    max_text = 4_096
    """The bytes of the longest ordering key that the backend accepts, up to 4,096; what is longer is refused."""

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        """Return a function that makes a backend which is not open. Called again it makes one over the same storage, as
        another process would; a backend that stores nothing beyond its instance may return a new one.
        """
        raise NotImplementedError("give your test class a new_backend fixture")

    @pytest.fixture
    def new_small_backend(self, new_backend: NewBackend) -> NewBackend:
        """Return a function that makes a backend whose buffers hold a hundred records, where that can be set; otherwise an
        ordinary one.
        """
        return new_backend

    @pytest.fixture
    def driver(self) -> tuple[str, Mapping[str, Any]]:
        """Return the name and options by which another process reaches what ``new_backend`` makes; needed for MULTI_PROCESS, and
        for DURABLE without a ``factory``.
        """
        raise NotImplementedError(
            "a backend that offers 'multi-process' needs the fixture 'driver', one that offers 'durable' needs "
            "'factory' or 'driver'"
        )

    @pytest.fixture
    def factory(self, driver: tuple[str, Mapping[str, Any]]) -> Factory:
        """Return the function by which another process makes what ``new_backend`` makes: an importable name,
        ``package.module:function``, and keyword arguments for it that JSON can express. It is needed for DURABLE. By default it
        is the driver; a backend without an entry point needs a fixture of its own.
        """
        name, options = driver
        return "dimesh_contracts.bus.victim:from_driver", {"driver": name, "options": dict(options)}

    @pytest.fixture
    def hasty_factory(self, factory: Factory) -> Factory:
        """Return the same, for members that are evicted a second or two after they stopped, where that can be set."""
        return factory

    @pytest.fixture
    async def backend(self, new_backend: NewBackend) -> AsyncIterator[BusBackend]:
        """Open a backend, and close it after the test."""
        made = new_backend()
        async with deadline():
            await made.open()
        yield made
        async with deadline():
            await made.close()

    @pytest.fixture
    def topic(self) -> str:
        """Return a name that no other test uses."""
        return f"contract.{uuid4().hex[:12]}"

    @staticmethod
    async def open_reader(
        backend: BusBackend,
        topic: str,
        group: str | None = None,
        start: Start = StartAt.LATEST,
        *,
        listener: Listener | None = None,
        **options: Any,
    ) -> Reader:
        """Open a stream."""
        listener = listener or Listener()
        member = f"member-{uuid4().hex[:6]}"
        stream = await backend.subscribe(Subscribe(topic, group, member, start, **options), listener)
        return Reader(stream, listener, backend.family == "queue")
