"""The lineage service: record what agents, tools, data and events do to each other, and ask about it."""

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
from dimesh.lineage.query import run_query, timeline, whole_graph
from dimesh.lineage.recorder import Observer, Recorder
from dimesh.lineage.redact import freeze, freeze_arguments
from dimesh.spi.lineage import LineageSink

if TYPE_CHECKING:
    from typing import Self

    from dimesh.bus.handler import EventHandler


class LineageService:
    """Records lineage and answers questions about it.

    The ``add_…`` and ``track_…`` coroutines return as soon as the observation is queued: True, or False if
    there was no room for ``patience`` seconds and it was dropped (``stats()["dropped"]`` counts those).
    Decisions are never dropped; they wait. A query sees everything that was recorded before it. Ids follow
    from the content: the same observation twice is one. Opens by itself at first use.

    Args:
        path: folder of the log; None: the graph lives in memory only.
        sinks: further places for the records. Without a ``path`` the first that can be read back is the log.
        clock: where time comes from.
        durability: of the log: ``interval`` survives a killed process, and a power cut from a second before;
            ``always`` survives both, with a disk sync for each batch.
        read_only: look at a log, as it is at the time of opening, that another process may be writing; recording
            raises.
        capacity: most observations that wait.
        patience: seconds that an ordinary observation waits for room.
        max_facts: most nodes and edges in memory; beyond it the oldest tenth is forgotten (not in the log)
            and counted in ``stats()["evicted"]``.
        sink_timeout: seconds for one write to a sink other than the log.
        seed: of the backoff's jitter.
        on_recorded: called with each record once it is in the log.

    Raises:
        ConfigurationError: a figure is out of range.
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
            from dimesh.backends.lineage_file import FileSink, FileSinkOptions

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

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sinks and read the log. Done by itself at first use.

        Raises:
            StorageError: the log is damaged, of a newer format or in use.
            LineageError: a sink cannot be used.
        """
        if not self._recorder.opened:
            await self._recorder.open()

    async def flush(self) -> None:
        """Wait until everything recorded so far is in the log and, as far as they take it, in the sinks.

        Raises:
            LineageError: the log refuses; what waits is tried again.
        """
        await self._recorder.flush()

    async def close(self) -> None:
        """Write out what waits and close the sinks. Queries still work. May be called twice.

        Raises:
            LineageError: the log did not take everything.
        """
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
            raise LineageError("this lineage service was opened with read_only=True: it records nothing")
        return await self._recorder.record(expand, *args, must=must)

    async def add_node(
        self,
        node_id: str,
        node_type: _NodeType | str,
        name: str,
        pillar: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Declare a node, or declare it anew: the latest declaration holds.

        Values under secret-looking names are masked; metadata over 16 KiB is replaced by its size and keys.

        Raises:
            InvalidLineageError: an id, name or type is not acceptable.
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
        """Draw an edge, in the direction that data or control flows. Nodes that nobody declared appear by
        themselves. The same edge with other metadata is another edge.

        Raises:
            InvalidLineageError: an id or type is not acceptable.
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
        """The sender PRODUCES ``event:<id>``, the receiver it names CONSUMES it, its cause TRIGGERS it.

        Agents are ``<pillar>:<agent>``, or ``pillar:<pillar>`` where no agent is named. Times are the event's
        own.
        """
        if not isinstance(event, Event):
            raise InvalidLineageError(f"track_event needs an Event, not {type(event).__name__}")
        return await self._record(facts.event_facts, event)

    def track_event_nowait(self, event: Event) -> bool:
        """As :meth:`track_event`, without waiting for room: for hooks and other plain functions that the
        event loop calls. With a log, what is tracked before :meth:`open` waits for it.
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
        """The agent INVOKES ``tool:<name>``. Of inputs and outputs only names, types, sizes and hashes are
        kept.

        Args:
            call_id: tells calls of one trace apart; without it, equal inputs and outputs are one call.
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
        """Data went from ``source_id`` to ``sink_id``: READS_FROM where ``data:…`` reaches an agent or tool,
        else WRITES_TO, with schema and count as metadata.

        Raises:
            InvalidLineageError: an id is not acceptable, or the count negative.
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
        """The agent PRODUCES ``decision:<id>``. Never dropped: waits for room as long as it takes.

        Raises:
            InvalidLineageError: an id or the type is not acceptable.
            LineageError: the service was closed first.
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
        """A handler that tracks every event it gets: ``await bus.subscribe(topic,
        lineage.create_event_handler())``.
        """
        from dimesh.bus.handler import EventHandler

        async def lineage(event: Event) -> None:  # returns nothing: a result would answer a request
            await self.track_event(event)

        return EventHandler(lineage, name="lineage")

    # -- asking ----------------------------------------------------------------------------------

    async def _ready(self) -> None:
        if not self._recorder.closed:
            await self.open()
            self._recorder.index()

    async def query_lineage(self, query: LineageQuery) -> dict[str, Any]:
        """What a query selects; see :class:`LineageQuery`.

        Returns:
            ``nodes`` and ``edges`` as dicts, nearest first; ``stats`` of what is shown (``total_nodes``,
            ``total_edges``, ``node_types``, ``edge_types``, ``pillars_involved``); ``partial`` and ``reason``
            when a budget of the query ended it early; ``visited``: nodes looked at.

        Raises:
            NodeNotFoundError: ``query.node_id`` is unknown.
        """
        await self._ready()
        return run_query(self._recorder.graph, query, self._clock.monotonic)

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
        """What a change of a node reaches, forward in time: an edge counts only if it was drawn when the
        change could already have arrived at its source.

        Args:
            since: when the change was made; edges before it do not count. None: at the beginning.
            respect_time: False follows every edge, whenever it was drawn.

        Returns:
            ``affected_nodes`` (nearest first: a node's fields, ``depth``, ``path`` of ids from the start,
            ``reached_at``), ``affected_pillars``, ``risk_level`` (``low``, ``medium``, ``high``: see
            :func:`dimesh.lineage.impact.risk`) and ``risk_reasons``, ``max_depth``, ``partial``, ``reason``,
            ``visited``.

        Raises:
            NodeNotFoundError: the node is unknown.
            InvalidLineageError: a figure, time or change type is not acceptable.
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
        )

    async def get_trace_timeline(self, trace_id: str) -> list[dict[str, Any]]:
        """The steps of a trace in order of time: ``timestamp`` (ISO 8601), ``source`` and ``target`` (``id``,
        ``name``, ``type``), ``action`` (the edge type), ``metadata``. Empty if the trace is unknown.
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
            raise LineageError("a read-only or closed lineage service cannot prune: use the one that records")
        return await self._recorder.prune(self._clock.time() - days * 86_400)

    def export_graph(self, format: str = "json") -> str:
        """The whole graph as text: ``json`` (node-link, as networkx reads it), ``graphml`` or ``dot``.

        Raises:
            ValueError: another format.
            LineageError: there is a log and it is not open yet.
        """
        if self._has_sinks and not self._recorder.opened:
            raise LineageError("the lineage log is not open yet: await service.open() first")
        self._recorder.index()
        return export(whole_graph(self._recorder.graph), format)

    def stats(self) -> dict[str, Any]:
        """Figures for operators: sizes of the graph, ``recorded``, ``queued``, ``dropped``, ``failed``,
        ``evicted``, the ``oldest`` edge (epoch seconds), and for each of the ``sinks`` what it took, what
        waits, what was lost.
        """
        return self._recorder.stats()


# The methods' parameters bear these functions' names.
_node_type, _edge_type = node_type, edge_type


def _trace(trace_id: str | None) -> str:
    return check_text(trace_id, "trace id") if trace_id else ""


def _pillar(pillar: str | None) -> str | None:
    return check_text(pillar, "pillar", MAX_NAME) if pillar else None


def _prefixed(kind: str, name: str) -> str:
    check_text(name, f"{kind} name")
    return name if name.startswith(f"{kind}:") else f"{kind}:{name}"
