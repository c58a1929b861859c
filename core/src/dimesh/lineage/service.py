"""The lineage service: it records what agents, tools, events and data do to each other, and answers queries."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from dimesh.clock import Clock, SystemClock
from dimesh.errors import InvalidLineageError, LineageError
from dimesh.events.event import Event
from dimesh.lineage import facts
from dimesh.lineage.export import export
from dimesh.lineage.impact import find_impact
from dimesh.lineage.model import (
    MAX_NAME,
    LineageQuery,
    check_text,
    edge_type,
    epoch,
    node_type,
)
from dimesh.lineage.model import LineageEdgeType as _EdgeType
from dimesh.lineage.model import LineageNodeType as _NodeType
from dimesh.lineage.opener import Opener
from dimesh.lineage.query import Budget, find_path, run_query, timeline, whole_graph
from dimesh.lineage.recorder import Observer, Recorder
from dimesh.lineage.redact import freeze, freeze_arguments
from dimesh.spi.lineage import LineageSink

if TYPE_CHECKING:
    from typing import Self

    from dimesh import EventHandler


class LineageService:
    """Records lineage and answers queries about it. It opens at first use.

    The ``add_…`` and ``track_…`` coroutines return as soon as the observation is queued: True, or False if the queue was full
    for ``patience`` seconds and the observation was dropped (``stats()["dropped"]`` is their number). Decisions are never
    dropped: they wait for space. A query sees everything that was recorded before it. Each call is an observation of its own;
    what has an id (an event, a tool call with ``call_id``, a decision) counts once, however often it is recorded.

    Args:
        path: the folder of the log; None: the graph is kept in memory only.
        sinks: further sinks of the records. Without a ``path``, the first sink that can be read back is the log.
        clock: the clock; by default the system's.
        durability: what the log survives. ``interval``: a killed process, and a power cut except for the last second.
            ``always``: both completely, at the price of a disk sync for each batch.
        read_only: read a log, as it is at the time of opening, while another process may be writing it. Recording is an
            error.
        capacity: the maximum number of queued observations.
        patience: seconds that an observation other than a decision waits for space in the queue.
        max_facts: the maximum number of nodes and edges in memory. Beyond it, the oldest tenth is removed from memory (not
            from the log) and counted in ``stats()["evicted"]``.
        sink_timeout: seconds that one write to a sink other than the log may take.
        seed: the seed of the jitter of retries.
        on_recorded: called with each record once it is in the log.

    Raises:
        ConfigurationError: a number is out of range.
    """

    LineageNodeType = _NodeType
    LineageEdgeType = _EdgeType

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        sinks: Sequence[LineageSink] = (),
        clock: Clock | None = None,
        durability: Literal["interval", "always"] = "interval",
        read_only: bool = False,
        capacity: int = 10_000,
        patience: float = 1.0,
        max_facts: int = 1_000_000,
        sink_timeout: float = 30.0,
        seed: int | None = None,
        on_recorded: Observer | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._read_only = read_only
        if path is not None:
            from dimesh.backends.lineage.file import FileSink, FileSinkOptions

            options = FileSinkOptions(path=fspath(path), durability=durability, read_only=read_only)
            sinks = [FileSink(options, self._clock), *sinks]
        self._recorder = Recorder(
            sinks,
            self._clock,
            capacity=capacity,
            patience=patience,
            max_facts=max_facts,
            sink_timeout=sink_timeout,
            rng=random.Random(seed),  # noqa: S311 - jitter, not a secret
            on_recorded=on_recorded,
        )
        self._has_sinks = bool(sinks)
        self._opener = Opener(self.open, self._clock)

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sinks and read the log, now instead of at first use.

        Raises:
            StorageError: the log is damaged, has a newer format, or is in use.
            LineageError: a sink cannot be opened.
        """
        if not self._recorder.opened:
            await self._recorder.open()

    def open_in_background(self) -> None:
        """Start to open the sinks, and try again until they can be opened or the service is closed: the log may be in use by
        another process. The log of the program reports the first failure, and the success after it.
        """
        self._opener.start()

    async def flush(self) -> None:
        """Wait until everything recorded so far is in the log, and in the other sinks or counted as lost there.

        Raises:
            LineageError: the log cannot be written. The pending records are kept and tried again.
        """
        await self._recorder.flush()

    async def close(self) -> None:
        """Write all pending records and close the sinks. Queries still work. May be called twice.

        Raises:
            LineageError, StorageError: some records could not be written to the log; the message gives their number.
        """
        await self._opener.stop()
        await self._recorder.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- recording -------------------------------------------------------------------------------

    async def _record(self, expand: facts.Expand, *args: Any, must: bool = False) -> bool:
        if self._read_only:
            raise LineageError("this lineage service was opened with read_only=True: it cannot record")
        return await self._recorder.record(expand, *args, must=must)

    async def add_node(
        self,
        node_id: str,
        node_type: _NodeType | str,
        name: str,
        pillar: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Declare a node. If it was declared before, the latest declaration is valid.

        Values whose names look secret are masked; metadata over 16 KiB is replaced by its size and keys.

        Raises:
            InvalidLineageError: an id, name or type is not valid.
        """
        return await self._record(
            facts.node_facts,
            check_text(node_id, "node id"),
            _node_type(node_type),
            check_text(name, "node name", MAX_NAME),
            _pillar(pillar),
            freeze(metadata),
        )

    async def add_edge(
        self,
        source_id: str,
        target_id: str,
        edge_type: _EdgeType | str,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add an edge, in the direction in which data or control flows. Nodes that were not declared are added. The same edge
        again is another observation of it.

        Raises:
            InvalidLineageError: an id or type is not valid.
        """
        return await self._record(
            facts.edge_facts,
            check_text(source_id, "source id"),
            check_text(target_id, "target id"),
            _edge_type(edge_type),
            _trace(trace_id),
            freeze(metadata),
        )

    async def track_event(self, event: Event) -> bool:
        """Record that the sender PRODUCES ``event:<id>``, its named receiver CONSUMES it, and its cause TRIGGERS it.

        Agents are ``<pillar>:<agent>``, or ``pillar:<pillar>`` if the event names no agent. The time is that of the event.
        """
        if not isinstance(event, Event):
            raise InvalidLineageError(f"track_event needs an Event, not {type(event).__name__}")
        return await self._record(facts.event_facts, event)

    def track_event_nowait(self, event: Event) -> bool:
        """Record an event as :meth:`track_event` does, without waiting for space. For hooks and other plain functions that run
        in the event loop. If there is a log, events that are tracked before :meth:`open` are queued until then.
        """
        if self._read_only:
            return False
        return self._recorder.record_nowait(facts.event_facts, event)

    async def track_tool_invocation(
        self,
        agent_id: str,
        tool_name: str,
        trace_id: str | None,
        inputs: Any = None,
        outputs: Any = None,
        pillar: str | None = None,
        *,
        call_id: str | None = None,
    ) -> bool:
        """Record that an agent INVOKES ``tool:<name>``. Of inputs and outputs, only names, types, sizes and hashes are stored.

        Args:
            agent_id: the agent.
            tool_name: the name of the tool.
            trace_id: the trace of the call.
            inputs: the arguments of the call.
            outputs: the result of the call.
            pillar: the pillar of the agent.
            call_id: the id of the call within its trace: the same id again is the same call.
        """
        return await self._record(
            facts.tool_facts,
            check_text(agent_id, "agent id"),
            _prefixed("tool", tool_name),
            _trace(trace_id),
            freeze_arguments(inputs),
            freeze_arguments(outputs),
            _pillar(pillar),
            None if call_id is None else check_text(call_id, "call id"),
        )

    async def track_data_flow(
        self,
        source_id: str,
        sink_id: str,
        trace_id: str | None,
        data_schema: Mapping[str, Any] | None = None,
        record_count: int | None = None,
    ) -> bool:
        """Record that data went from ``source_id`` to ``sink_id``, with its schema and the number of records as metadata.

        The edge is READS_FROM if ``data:…`` goes to an agent or tool, else WRITES_TO.

        Raises:
            InvalidLineageError: an id is not valid, or the number is negative.
        """
        if record_count is not None and (not isinstance(record_count, int) or not 0 <= record_count < 2**63):
            raise InvalidLineageError("record_count must be a whole number, 0 or more")
        return await self._record(
            facts.flow_facts,
            check_text(source_id, "source id"),
            check_text(sink_id, "sink id"),
            _trace(trace_id),
            freeze(data_schema) if data_schema else b"",
            record_count,
        )

    async def track_decision(
        self,
        agent_id: str,
        decision_id: str,
        trace_id: str | None,
        decision_type: str,
        result: Any,
        factors: Any = None,
    ) -> bool:
        """Record that an agent PRODUCES ``decision:<id>``. A decision is never dropped: it waits for space without limit.

        Raises:
            InvalidLineageError: an id or the type is not valid.
            LineageError: the service was closed before there was space.
        """
        return await self._record(
            facts.decision_facts,
            check_text(agent_id, "agent id"),
            _prefixed("decision", decision_id),
            _trace(trace_id),
            check_text(decision_type, "decision type", MAX_NAME),
            freeze({"result": result, "factors": factors}),
            must=True,
        )

    def create_event_handler(self) -> EventHandler:
        """Return a handler that records every event that it gets: ``await bus.subscribe(topic,
        lineage.create_event_handler())``.
        """
        from dimesh import EventHandler  # by its public name, because lineage does not know the bus

        async def lineage(event: Event) -> None:  # returns None, because a result would answer a request
            await self.track_event(event)

        return EventHandler(lineage, name="lineage")

    # -- queries ---------------------------------------------------------------------------------

    async def _ready(self) -> None:
        if not self._recorder.closed:
            await self.open()
            self._recorder.index()

    async def query_lineage(self, query: LineageQuery) -> dict[str, Any]:
        """Answer a query; see :class:`LineageQuery`.

        Returns:
            ``nodes`` and ``edges`` as dicts, nearest first; ``stats`` of the answer (``total_nodes``, ``total_edges``,
            ``node_types``, ``edge_types``, ``pillars_involved``); ``partial`` with all ``reasons`` (and as one text,
            ``reason``) if a limit of the query ended it early, or if something that happened is not known: it was evicted
            from memory, dropped, or is damaged in the log; ``visited``, the number of nodes that were visited;
            ``observations``, the number of observations that the edges stand for.

        Raises:
            NodeNotFoundError: there is no node ``query.node_id``.
        """
        await self._ready()
        missing = self._recorder.missing(query.seconds()[0])
        return run_query(self._recorder.graph, query, self._clock.monotonic, missing)

    async def find_impact(
        self,
        node_id: str,
        change_type: str = "update",
        *,
        since: datetime | None = None,
        respect_time: bool = True,
        max_depth: int = 100,
        max_nodes: int = 10_000,
        max_ms: float = 1_000.0,
    ) -> dict[str, Any]:
        """Find what a change of a node affects, forward in time: an edge counts only if the change could have reached its source
        before the time of the edge.

        Args:
            node_id: the node that changes.
            change_type: the kind of change; some words raise the risk level.
            since: the time of the change; edges before it do not count. None: the beginning.
            respect_time: False follows every edge, whatever its time.
            max_depth: the maximum number of edges between the node and an affected node.
            max_nodes: the maximum number of affected nodes.
            max_ms: the maximum number of milliseconds to spend.

        Returns:
            ``affected_nodes`` (nearest first: a node's fields, ``depth``, ``path`` of ids from the start,
            ``reached_at``), ``affected_pillars``, ``risk_level`` (``low``, ``medium``, ``high``: see
            :func:`dimesh.lineage.impact.risk`) and ``risk_reasons``, ``max_depth``, ``partial``, ``reasons``,
            ``reason``, ``visited``.

        Raises:
            NodeNotFoundError: there is no such node.
            InvalidLineageError: a number, the time or the change type is not valid.
        """
        check_text(change_type, "change type", MAX_NAME)
        if max_depth < 0 or max_nodes < 1 or max_ms <= 0:
            raise InvalidLineageError("max_depth must not be negative, max_nodes and max_ms must be positive")
        start = float("-inf") if since is None else epoch(since)
        await self._ready()
        return find_impact(
            self._recorder.graph,
            node_id,
            change_type,
            self._clock.monotonic,
            since=start,
            respect_time=respect_time,
            max_depth=max_depth,
            max_nodes=max_nodes,
            max_ms=max_ms,
            missing=self._recorder.missing(start),
        )

    async def find_path(
        self,
        source_id: str,
        target_id: str,
        *,
        since: datetime | None = None,
        respect_time: bool = True,
        max_nodes: int = 100_000,
        max_ms: float = 1_000.0,
    ) -> dict[str, Any]:
        """Find how something got from one node to another: a way with the fewest edges along the arrows, on which no edge is
        older than the one before.

        Args:
            source_id: the node that the way begins at.
            target_id: the node that the way ends at.
            since: edges before this time do not count. None: the beginning.
            respect_time: False follows every edge, whatever its time.
            max_nodes: the maximum number of nodes to visit.
            max_ms: the maximum number of milliseconds to spend.

        Returns:
            The fields of :meth:`query_lineage`, with the ``nodes`` and ``edges`` of the way in order, and ``found``: whether
            there is a way. Not found and ``partial`` means that there may be one.

        Raises:
            NodeNotFoundError: one of the nodes does not exist.
            InvalidLineageError: a number or the time is not valid.
        """
        if max_nodes < 1 or max_ms <= 0:
            raise InvalidLineageError("max_nodes and max_ms must be positive")
        start = float("-inf") if since is None else epoch(since)
        await self._ready()
        return find_path(
            self._recorder.graph,
            source_id,
            target_id,
            Budget(self._clock.monotonic, max_nodes, max_nodes, max_ms),
            since=start,
            respect_time=respect_time,
            missing=self._recorder.missing(start),
        )

    async def get_trace_timeline(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the steps of a trace in order of time; empty if there is no such trace.

        Each has ``timestamp`` (ISO 8601), ``source`` and ``target`` (``id``, ``name``, ``type``), ``action`` (the edge type)
        and ``metadata``.
        """
        await self._ready()
        return timeline(self._recorder.graph, trace_id)

    async def prune_old_data(self, days: float = 30) -> int:
        """Forget edges older than that, and nodes that have none and were not seen since: in memory, log and
        sinks.

        Returns:
            How many nodes and edges went from memory.

        Raises:
            InvalidLineageError: ``days`` is negative.
            LineageError, StorageError: the log could not be pruned.
        """
        if not isinstance(days, (int, float)) or not 0 <= days < float("inf"):
            raise InvalidLineageError("days must be a number, 0 or more")
        if self._read_only or self._recorder.closed:
            raise LineageError(
                "a lineage service that is read-only or closed cannot prune: use the service that records"
            )
        return await self._recorder.prune(self._clock.time() - days * 86_400)

    def export_graph(self, format: str = "json") -> str:
        """Return the whole graph as text.

        Args:
            format: ``json`` (node-link, which networkx can read), ``graphml`` or ``dot``.

        Raises:
            ValueError: there is no such format.
            LineageError: there is a log, and it is not open yet.
        """
        if self._has_sinks and not self._recorder.opened:
            raise LineageError("the lineage log is not open yet: call await service.open() first")
        self._recorder.index()
        return export(whole_graph(self._recorder.graph), format)

    def counts(self) -> dict[str, int]:
        """Return the numbers of observations that were ``recorded`` and ``dropped``, and of observations and records that are
        ``pending`` for the sinks. Unlike :meth:`stats`, it costs nothing, however large the graph is.
        """
        return self._recorder.counts()

    def stats(self) -> dict[str, Any]:
        """Return figures for operators: the size of the graph, ``recorded``, ``queued``, ``dropped``, ``failed``, ``evicted``,
        the time of the ``oldest`` edge (epoch seconds), and for each of the ``sinks`` what it has written, what is pending
        and what was lost.
        """
        return self._recorder.stats()


# The methods have parameters with the names of these functions.
_node_type, _edge_type = node_type, edge_type


def _trace(trace_id: str | None) -> str:
    return check_text(trace_id, "trace id") if trace_id else ""


def _pillar(pillar: str | None) -> str | None:
    return check_text(pillar, "pillar", MAX_NAME) if pillar else None


def _prefixed(kind: str, name: str) -> str:
    check_text(name, f"{kind} name")
    return name if name.startswith(f"{kind}:") else f"{kind}:{name}"
