"""What the tests of the kit are written with: records, and a reader that plays the engine's part."""

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
"""Makes a backend, not opened."""

QUIET = 0.15
"""Seconds that nothing has to come in, where a test shows that nothing comes."""


def record(payload: Any = None, key: str = "k", kind: str = "contract.event", **metadata: Any) -> Record:
    """A record of a fresh event."""
    return Record.of(Event(kind, EventMetadata(**metadata), payload), key)


def payloads(deliveries: Sequence[Delivery]) -> list[Any]:
    """What the events carry."""
    return [delivery.record.event.payload for delivery in deliveries]


class Listener:
    """Stands for the engine: knows what it owns, and commits when partitions are taken away."""

    def __init__(self) -> None:
        self.owned: dict[int, int] = {}
        self.stream: Stream | None = None
        self.handled: dict[int, int] = {}
        self.lost_partitions: list[int] = []
        self.log: list[tuple[str, tuple[int, ...]]] = []

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """Ours now."""
        self.log.append(("assigned", tuple(partitions)))
        self.owned.update(partitions)

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Commit what was handled of them."""
        self.log.append(("revoked", tuple(partitions)))
        if self.stream is not None:
            done = {p: at for p, at in self.handled.items() if p in partitions}
            if done:
                await self.stream.commit(done)
        self._drop(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Somebody else's already."""
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
        """Receive until there are ``count`` more deliveries, and no more than these."""
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
        """Assert that no delivery comes."""
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
        """Commit (or acknowledge) everything received."""
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

    async def close(self) -> None:
        """Leave."""
        if self._queue and self._unacknowledged:
            await self.stream.release(self._unacknowledged)
            self._unacknowledged = []
        await self.stream.close()


class BusHarness(Contract):
    """Fixtures and helpers of the kit. Every test has a topic of its own, so that tests may share a broker."""

    max_payload = 10_000_000
    """Bytes of the largest payload that the backend takes."""

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        """Makes a backend, not opened. Called again it makes one over the same storage, as another process would; a
        backend that keeps nothing beyond its instance may return a fresh one.
        """
        raise NotImplementedError("give your test class a new_backend fixture")

    @pytest.fixture
    def new_small_backend(self, new_backend: NewBackend) -> NewBackend:
        """Makes a backend whose buffers hold a hundred records, where that can be set; else an ordinary one."""
        return new_backend

    @pytest.fixture
    def driver(self) -> tuple[str, Mapping[str, Any]]:
        """Name and options by which another process reaches what ``new_backend`` makes; with MULTI_PROCESS."""
        raise NotImplementedError("a backend that offers multi-process needs the fixture 'driver'")

    @pytest.fixture
    async def backend(self, new_backend: NewBackend) -> AsyncIterator[BusBackend]:
        """An open one."""
        made = new_backend()
        await made.open()
        yield made
        await made.close()

    @pytest.fixture
    def topic(self) -> str:
        """A name that nobody used before."""
        return f"contract.{uuid4().hex[:12]}"

    @staticmethod
    async def open_reader(
        backend: BusBackend,
        topic: str,
        group: str | None = None,
        start: Start = StartAt.LATEST,
        **options: Any,
    ) -> Reader:
        """Subscribe."""
        listener = Listener()
        member = f"member-{uuid4().hex[:6]}"
        stream = await backend.subscribe(Subscribe(topic, group, member, start, **options), listener)
        return Reader(stream, listener, backend.family == "queue")
