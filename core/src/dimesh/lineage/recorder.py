"""From the caller to the graph, the log and the sinks.

The caller stamps, freezes and appends to a bounded queue. The event loop then turns what was queued into
records, puts the new ones into the graph and feeds them to the sinks. A query first does the same for what
still waits, so it sees everything that was recorded before it, however slow the disk is.

The first sink that can be read back is the log: the graph is rebuilt from it, and it is never skipped. When
it does not keep up, the queue fills.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from dimesh.capabilities import Capability
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, LineageError
from dimesh.lineage.facts import Expand
from dimesh.lineage.feeder import SinkFeeder
from dimesh.lineage.graph import LineageGraph
from dimesh.spi.lineage import LineageRecord, LineageSink

logger = logging.getLogger(__name__)

_TURN: Final = 500
"""Observations indexed in one turn of the event loop: about 20 ms."""
_FORGET_TURN: Final = 20_000
_EVICT: Final = 0.1

Observer = Callable[[LineageRecord], object]


class Recorder:
    """All methods from one event loop.

    Args:
        sinks: where records go; opened and closed here.
        clock: for stamps, waits and backoff.
        capacity: most observations that wait, in the queue and for the log.
        patience: seconds that an ordinary observation may wait for room before it is dropped and counted.
        max_facts: most nodes and edges in memory; beyond it the oldest tenth goes.
        sink_timeout: seconds for one write to a sink that is not the log.
        rng: for the jitter of the backoff.
        on_recorded: called with each record that reached the log (the graph, where there is no log).
    """

    def __init__(
        self,
        sinks: Sequence[LineageSink],
        clock: Clock,
        *,
        capacity: int,
        patience: float,
        max_facts: int,
        sink_timeout: float,
        rng: random.Random,
        on_recorded: Observer | None,
    ) -> None:
        if capacity < 1 or max_facts < 100 or patience < 0 or sink_timeout <= 0:
            raise ConfigurationError(
                "lineage: capacity must be 1 or more, max_facts 100 or more, patience not negative, "
                "sink_timeout positive"
            )
        self.graph = LineageGraph()
        self.opened = self.closed = False
        self.recorded = self.dropped = self.failed = self.evicted = 0
        self._clock = clock
        self._capacity = capacity
        self._patience = patience
        self._max_facts = max_facts
        self._observer = on_recorded
        self._queue: deque[tuple[Expand, float, tuple[Any, ...]]] = deque()
        self._scheduled = False
        self._room: deque[asyncio.Future[bool]] = deque()
        self._opening = asyncio.Lock()
        log = next((sink for sink in sinks if Capability.READ_BACK in sink.capabilities), None)
        self._feeders = [
            SinkFeeder(
                sink,
                clock,
                rng,
                essential=sink is log,
                capacity=max(capacity, _TURN),
                timeout=sink_timeout,
                on_written=self._written if sink is log else _nothing,
            )
            for sink in sorted(sinks, key=lambda sink: sink is not log)
        ]
        self._log = self._feeders[0] if log is not None else None

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sinks, rebuild the graph from the log. May be called again.

        Raises:
            StorageError, LineageError: a sink cannot be used; nothing stays open.
        """
        async with self._opening:
            if self.opened:
                return
            self._check_open()
            done: list[LineageSink] = []
            try:
                for feeder in self._feeders:
                    done.append(feeder.sink)
                    await feeder.sink.open()
                if self._log is not None:
                    await self._rebuild(self._log.sink)
            except BaseException:
                self.graph = LineageGraph()
                for sink in done:
                    with contextlib.suppress(Exception):
                        await sink.close()
                raise
            self.opened = True
            if self._queue:
                self._schedule()

    async def _rebuild(self, sink: LineageSink) -> None:
        async for batch in sink.read():
            for record in batch:
                self.graph.apply(record)
            self._evict()
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Index and write out what waits, then close the sinks. May be called twice.

        Raises:
            LineageError, StorageError: the log did not take everything; says how much is lost.
        """
        if self.closed:
            return
        if self._queue and not self.opened:
            await self.open()
        self.closed = True
        self.index()
        for waiter in self._room:
            _resolve(waiter, False)
        if not self.opened:
            return
        results = await asyncio.gather(*(feeder.close() for feeder in self._feeders), return_exceptions=True)
        if self._log is not None and self._log.lost:
            raise LineageError(
                f"{self._log.lost} lineage records were not written to the log: {self._log.last_error}"
            )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _check_open(self) -> None:
        if self.closed:
            raise LineageError(
                "the lineage service is closed: make a new one to record or to read the log again"
            )

    # -- recording -------------------------------------------------------------------------------

    def record_nowait(self, expand: Expand, *args: Any) -> bool:
        """Queue an observation if there is room; else (or when closed) count it as dropped and return False.

        ``args`` must be frozen: nobody may change them later.
        """
        if self._full or self.closed:
            self.dropped += 1
            return False
        self._queue.append((expand, self._clock.time(), args))
        if not self._scheduled:
            self._schedule()
        return True

    async def record(self, expand: Expand, *args: Any, must: bool = False) -> bool:
        """Queue an observation; waits for room where there is none, without limit if it ``must`` be kept.

        Returns:
            False if there was no room within the patience: it is dropped and counted.

        Raises:
            LineageError: closed (for one that must be kept, also if that happens while it waits).
        """
        if not self.opened:
            await self.open()
        self._check_open()
        if self._full and not await self._wait_for_room(must):
            if must:
                self._check_open()
            self.dropped += 1
            return False
        self._queue.append((expand, self._clock.time(), args))
        if not self._scheduled:
            self._schedule()
        if len(self._queue) * 2 > self._capacity:
            await asyncio.sleep(0)  # a loop that does nothing but record must let the index have its turn
        return True

    @property
    def _full(self) -> bool:
        return len(self._queue) + (self._log.pending if self._log else 0) >= self._capacity

    async def _wait_for_room(self, must: bool) -> bool:
        loop = asyncio.get_running_loop()
        until = self._clock.monotonic() + self._patience
        while self._full and not self.closed:
            left = math.inf if must else until - self._clock.monotonic()
            if left <= 0:
                return False
            waiter: asyncio.Future[bool] = loop.create_future()
            self._room.append(waiter)
            timer = None if must else self._clock.call_later(left, partial(_resolve, waiter, False))
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                with contextlib.suppress(ValueError):
                    self._room.remove(waiter)
        return not self.closed

    def _give_room(self) -> None:
        free = self._capacity - len(self._queue) - (self._log.pending if self._log else 0)
        for waiter in self._room:
            if free <= 0:
                break
            if not waiter.done():
                waiter.set_result(True)
                free -= 1

    # -- indexing --------------------------------------------------------------------------------

    def _schedule(self) -> None:
        with contextlib.suppress(RuntimeError):  # outside a loop: the next query or record does it
            asyncio.get_running_loop().call_soon(self._turn)
            self._scheduled = True

    def _turn(self) -> None:
        self._scheduled = False
        self.index(_TURN)
        if self._queue and (self.opened or not self._feeders):
            self._schedule()

    def index(self, limit: int | None = None) -> None:
        """Put what waits (at most ``limit`` observations) into the graph and hand it to the sinks. Does
        nothing until these are open.
        """
        if self._feeders and not self.opened:
            return
        queue, apply = self._queue, self.graph.apply
        fresh: list[LineageRecord] = []
        for _ in range(len(queue) if limit is None else min(limit, len(queue))):
            expand, at, args = queue.popleft()
            try:
                fresh.extend(record for record in expand(at, *args) if apply(record))
                self.recorded += 1
            except Exception:
                self.failed += 1
                if self.failed == 1:
                    logger.exception("an observation could not be recorded; further ones are only counted")
        self._evict()
        if fresh:
            for feeder in self._feeders:
                feeder.feed(fresh)
            if self._log is None:
                self._written(fresh)
        if self._room:
            self._give_room()

    def _written(self, records: Sequence[LineageRecord]) -> None:
        if self._observer is not None:
            for record in records:
                try:
                    self._observer(record)
                except Exception:
                    logger.exception("an observer of lineage records failed")
        if self._room:
            self._give_room()

    async def flush(self) -> None:
        """Wait until everything recorded so far is in the log, and in the other sinks or counted as lost
        there.

        Raises:
            LineageError: the log refuses.
        """
        if not self.opened:
            await self.open()
        self.index()
        for feeder in self._feeders:
            await feeder.flush()

    # -- forgetting ------------------------------------------------------------------------------

    def _evict(self) -> None:
        graph = self.graph
        while graph.node_count + graph.edge_count > self._max_facts:
            before = graph.quantile_time(_EVICT)
            assert before is not None
            gone = graph.forget_edges(before, graph.edge_count) + graph.forget_nodes(before)
            if not gone:  # a tenth or more have that very time
                before = math.nextafter(before, math.inf)
                gone = graph.forget_edges(before, graph.edge_count) + graph.forget_nodes(before)
            if not gone:
                return
            self.evicted += gone

    async def prune(self, before: float) -> int:
        """Forget what is older than ``before`` (epoch seconds), in memory and in every sink.

        Returns:
            How many nodes and edges went from memory.

        Raises:
            LineageError, StorageError: the log could not be pruned.
        """
        await self.flush()
        gone = 0
        while count := self.graph.forget_edges(before, _FORGET_TURN):
            gone += count
            await asyncio.sleep(0)
        gone += self.graph.forget_nodes(before)
        renewed = self.graph.restamp_nodes(before)
        for feeder in self._feeders:
            if renewed:
                feeder.feed(renewed)
            await feeder.flush()
            try:
                await feeder.forget(before)
            except Exception as error:
                if feeder.essential:
                    raise
                logger.warning("lineage sink %s could not forget: %s", feeder.sink.name, type(error).__name__)
        return gone

    def stats(self) -> dict[str, Any]:
        """Figures for operators."""
        return {
            "nodes": self.graph.node_count,
            "edges": self.graph.edge_count,
            "traces": self.graph.trace_count,
            "oldest": self.graph.oldest,
            "recorded": self.recorded,
            "queued": len(self._queue),
            "dropped": self.dropped,
            "failed": self.failed,
            "evicted": self.evicted,
            "sinks": [feeder.stats() for feeder in self._feeders],
        }


def _resolve(waiter: asyncio.Future[bool], value: bool) -> None:
    if not waiter.done():
        waiter.set_result(value)


def _nothing(_: Sequence[LineageRecord]) -> None:
    pass
