"""The recorder: it takes observations from callers to the graph, the log and the other sinks.

A caller appends a frozen observation with its time to a bounded queue. Later, the event loop converts queued observations
to records, adds the new ones to the graph and passes them to the sinks. A query first processes the whole queue, so it sees
everything that was recorded before it, however slow the disk is.

The first sink that can be read back is the log: the graph is rebuilt from it, and it gets every record. If it does not keep
up, the queue fills.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal
from uuid import uuid4

from dimesh.capabilities import Capability
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, DimeshError, LineageError, StorageError
from dimesh.lineage.facts import Expand
from dimesh.lineage.feeder import SinkFeeder
from dimesh.lineage.graph import LineageGraph
from dimesh.spi.lineage import LineageRecord, LineageSink
from dimesh.storage.room import WaitQueue

logger = logging.getLogger(__name__)

_TURN: Final = 500
"""The number of observations that are indexed in one turn of the event loop: about 20 ms."""
_FORGET_TURN: Final = 20_000
_EVICT: Final = 0.1

Observer = Callable[[LineageRecord], object]


class Recorder:
    """Records observations. All methods are called from one event loop.

    Args:
        sinks: the sinks of the records; the recorder opens and closes them.
        clock: the clock for time stamps, time-outs and retries.
        capacity: the maximum number of observations that are pending, in the queue and for the log.
        patience: seconds that an observation may wait for space before it is dropped and counted.
        max_facts: the maximum number of nodes and edges in memory; beyond it the oldest tenth is removed.
        sink_timeout: seconds that one write to a sink other than the log may take.
        rng: the source of the jitter of retries.
        on_recorded: called with each record that is in the log (in the graph, if there is no log).
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
        self._report_at = 1
        """The number of dropped observations from which on the log is to report them again."""
        self._prefix = f"{uuid4().hex[:16]}-"
        """The beginning of the ids of the observations of this recorder."""
        self._number = 0
        self._evicted_until = -math.inf
        """The latest time of what was evicted from memory."""
        self._clock = clock
        self._capacity = capacity
        self._patience = patience
        self._max_facts = max_facts
        self._observer = on_recorded
        self._queue: deque[tuple[Expand, float, tuple[Any, ...]]] = deque()
        self._scheduled = False
        self._space = WaitQueue(clock)
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
        """Open the sinks and rebuild the graph from the log. May be called again.

        Raises:
            StorageError, LineageError: a sink cannot be opened. No sink stays open.
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
        """Index and write everything that is pending, then close the sinks. May be called twice.

        Raises:
            LineageError, StorageError: records could not be written to the log; the message gives their number.
        """
        if self.closed:
            return
        if self._queue and not self.opened:
            try:
                await self.open()
            except DimeshError as error:
                kind = StorageError if isinstance(error, StorageError) else LineageError
                lost = len(self._queue) + self.dropped
                raise kind(f"{lost:,} lineage observations were not written: {error}") from error
        self.closed = True
        self.index()
        self._space.close()
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
                "the lineage service is closed: create a new one to record, or to read the log again"
            )

    # -- recording -------------------------------------------------------------------------------

    def record_nowait(self, expand: Expand, *args: Any) -> bool:
        """Queue an observation if there is space. If there is none, or the recorder is closed, count it as dropped and return
        False.

        ``args`` must be immutable.
        """
        if self._full or self.closed:
            return self._drop()
        self._queue.append((expand, self._clock.time(), args))
        if not self._scheduled:
            self._schedule()
        return True

    async def record(self, expand: Expand, *args: Any, must: bool = False) -> bool:
        """Queue an observation; wait for space if there is none.

        Args:
            expand: converts the observation to records.
            args: the arguments of ``expand``; they must be immutable.
            must: whether the observation must not be dropped: then it waits without limit.

        Returns:
            False if there was no space within the patience: the observation is dropped and counted.

        Raises:
            LineageError: the recorder is closed, or is closed while an observation waits that must not be dropped.
        """
        if not self.opened:
            await self.open()
        self._check_open()
        if self._full and not await self._space.wait(
            lambda: not self._full, math.inf if must else self._patience
        ):
            if must:
                self._check_open()
            return self._drop()
        self._queue.append((expand, self._clock.time(), args))
        if not self._scheduled:
            self._schedule()
        if len(self._queue) * 2 > self._capacity:
            await asyncio.sleep(0)  # lets the index run, even if the caller does nothing but record
        return True

    def _drop(self) -> Literal[False]:
        self.dropped += 1
        if self.dropped >= self._report_at and not self.closed:
            self._report_at *= 10
            logger.warning(
                "lineage has no space: %s observations were dropped so far; is its log written?",
                f"{self.dropped:,}",
            )
        return False

    @property
    def _full(self) -> bool:
        return len(self._queue) + (self._log.pending if self._log else 0) >= self._capacity

    # -- indexing --------------------------------------------------------------------------------

    def _schedule(self) -> None:
        with contextlib.suppress(RuntimeError):  # outside an event loop, the next query or record does it
            asyncio.get_running_loop().call_soon(self._turn)
            self._scheduled = True

    def _turn(self) -> None:
        self._scheduled = False
        self.index(_TURN)
        if self._queue and (self.opened or not self._feeders):
            self._schedule()

    def index(self, limit: int | None = None) -> None:
        """Add queued observations (at most ``limit``) to the graph and pass them to the sinks. Does nothing until the sinks are
        open.
        """
        if self._feeders and not self.opened:
            return
        queue, apply = self._queue, self.graph.apply
        fresh: list[LineageRecord] = []
        for _ in range(len(queue) if limit is None else min(limit, len(queue))):
            expand, at, args = queue.popleft()
            self._number += 1
            try:
                fresh.extend(
                    record for record in expand(at, f"{self._prefix}{self._number:x}", *args) if apply(record)
                )
                self.recorded += 1
            except Exception:
                self.failed += 1
                if self.failed == 1:
                    logger.exception(
                        "an observation could not be recorded; further failures are only counted"
                    )
        self._evict()
        if fresh:
            for feeder in self._feeders:
                feeder.feed(fresh)
            if self._log is None:
                self._written(fresh)
        self._space.wake()

    def _written(self, records: Sequence[LineageRecord]) -> None:
        if self._observer is not None:
            for record in records:
                try:
                    self._observer(record)
                except Exception:
                    logger.exception("the observer of lineage records failed")
        self._space.wake()

    async def flush(self) -> None:
        """Wait until everything recorded so far is in the log, and in the other sinks or counted as lost there.

        Raises:
            LineageError: the log cannot be written.
        """
        if not self.opened:
            await self.open()
        self.index()
        for feeder in self._feeders:
            await feeder.flush()

    # -- removing --------------------------------------------------------------------------------

    def _evict(self) -> None:
        graph = self.graph
        while graph.node_count + graph.edge_count > self._max_facts:
            before = graph.quantile_time(_EVICT)
            assert before is not None
            gone = graph.forget_edges(before, graph.edge_count) + graph.forget_nodes(before)
            if not gone:  # a tenth or more have exactly this time
                before = math.nextafter(before, math.inf)
                gone = graph.forget_edges(before, graph.edge_count) + graph.forget_nodes(before)
            if not gone:
                return
            self.evicted += gone
            self._evicted_until = max(self._evicted_until, before)

    def missing(self, since: float = -math.inf) -> list[str]:
        """Return why answers about the time from ``since`` on may lack something that happened; empty: they do not."""
        reasons = []
        if self.evicted and self._evicted_until > since:
            reasons.append(f"{self.evicted:,} older facts were evicted from memory: raise max_facts")
        if self.dropped:
            reasons.append(f"{self.dropped:,} observations were dropped for lack of space")
        if self.failed:
            reasons.append(f"{self.failed:,} observations could not be recorded")
        damaged = self._log.sink.stats().get("damaged_bytes", 0) if self._log is not None else 0
        if damaged:
            reasons.append(f"{damaged:,} bytes of the log are damaged")
        return reasons

    async def prune(self, before: float) -> int:
        """Remove everything that is older than ``before`` (epoch seconds), from memory and from every sink.

        Returns:
            The number of nodes and edges that were removed from memory.

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
                logger.warning(
                    "lineage sink %s could not be pruned: %s", feeder.sink.name, type(error).__name__
                )
        return gone

    def counts(self) -> dict[str, int]:
        """Return the figures that cost nothing, however large the graph is; see :meth:`LineageService.counts`."""
        pending = len(self._queue) + sum(feeder.pending for feeder in self._feeders)
        return {"recorded": self.recorded, "dropped": self.dropped, "pending": pending}

    def stats(self) -> dict[str, Any]:
        """Return figures for operators."""
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


def _nothing(_: Sequence[LineageRecord]) -> None:
    pass
