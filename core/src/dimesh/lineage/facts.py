"""The conversion of observations to records: each function takes a frozen observation and yields nodes and edges.

Each observation has an id of its own, so that the same call or flow twice is two edges; only what carries an id itself (an event,
a call with an id, a decision) is the same observation again.

A node record without a name only means that the node was seen: it provides what no record with a name declares, so a tool
call never overwrites the name that ``add_node`` gave to an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dimesh.events.event import Event
from dimesh.lineage.model import LineageEdgeType, LineageNodeType, content_id, implied_type
from dimesh.lineage.redact import thaw, thaw_arguments
from dimesh.spi.lineage import LineageRecord

Expand = Callable[..., Iterable[LineageRecord]]
"""A function that is called with the time (epoch seconds), the id and the frozen arguments of an observation."""

DATA_TYPES = (LineageNodeType.DATA_SOURCE, LineageNodeType.DATA_SINK)


def seen(at: float, node_id: str, kind: LineageNodeType, pillar: str | None = None) -> LineageRecord:
    """Return the record of a node that took part in something, without a declaration."""
    return LineageRecord("node", node_id, kind.value, at, pillar=pillar)


def edge(
    at: float,
    source: str,
    target: str,
    kind: LineageEdgeType,
    trace: str,
    metadata: dict[str, Any] | None = None,
    *,
    pillar: str | None = None,
    identity: object = None,
) -> LineageRecord:
    """Return an edge whose id is derived from its ends, type, trace and ``identity``, which distinguishes observations."""
    edge_id = content_id(source, target, kind.value, trace, identity)
    return LineageRecord(
        "edge",
        edge_id,
        kind.value,
        at,
        pillar=pillar,
        source=source,
        target=target,
        trace_id=trace,
        metadata=metadata or {},
    )


def node_facts(
    at: float, _: str, node_id: str, kind: LineageNodeType, name: str, pillar: str | None, metadata: bytes
) -> Iterator[LineageRecord]:
    """Yield the node of an ``add_node``."""
    yield LineageRecord("node", node_id, kind.value, at, name=name, pillar=pillar, metadata=thaw(metadata))


def edge_facts(
    at: float, own_id: str, source: str, target: str, kind: LineageEdgeType, trace: str, metadata: bytes
) -> Iterator[LineageRecord]:
    """Yield the edge of an ``add_edge``."""
    yield edge(at, source, target, kind, trace, thaw(metadata), identity=own_id)


def event_facts(_: float, own_id: str, event: Event) -> Iterator[LineageRecord]:
    """Yield the records of an event: its sender PRODUCES it, its named receiver CONSUMES it, its cause TRIGGERS it.

    The time is that of the event. Only the type, priority and size are stored, never the payload.
    """
    metadata = event.metadata
    at = metadata.timestamp.timestamp()
    node_id = f"event:{metadata.event_id}"
    trace = metadata.trace_id
    yield LineageRecord(
        "node",
        node_id,
        LineageNodeType.EVENT.value,
        at,
        name=event.event_type.value,
        pillar=metadata.source_pillar or None,
        trace_id=trace,
        metadata={"priority": metadata.priority.value, "size": len(event.data)},
    )
    sender = _party(at, metadata.source_pillar, metadata.source_agent)
    if sender:
        yield sender
        yield edge(at, sender.id, node_id, LineageEdgeType.PRODUCES, trace, pillar=sender.pillar)
    receiver = _party(at, metadata.target_pillar, metadata.target_agent)
    if receiver:
        yield receiver
        yield edge(at, node_id, receiver.id, LineageEdgeType.CONSUMES, trace, pillar=receiver.pillar)
    if metadata.causation_id and metadata.causation_id != metadata.event_id:
        cause = f"event:{metadata.causation_id}"
        yield edge(at, cause, node_id, LineageEdgeType.TRIGGERS, trace, pillar=metadata.source_pillar or None)


def _party(at: float, pillar: str | None, agent: str | None) -> LineageRecord | None:
    """Return the node ``<pillar>:<agent>``; the pillar if there is no agent; None if there is neither."""
    if agent:
        return seen(at, f"{pillar or ''}:{agent}", LineageNodeType.AGENT, pillar or None)
    return seen(at, f"pillar:{pillar}", LineageNodeType.PILLAR, pillar) if pillar else None


def tool_facts(
    at: float,
    own_id: str,
    agent: str,
    tool: str,
    trace: str,
    inputs: tuple[bytes, bool],
    outputs: tuple[bytes, bool],
    pillar: str | None,
    call_id: str | None,
) -> Iterator[LineageRecord]:
    """Yield the records of a tool call: an agent INVOKES a tool. A ``call_id`` identifies the call in its trace."""
    details = {"inputs": thaw_arguments(inputs), "outputs": thaw_arguments(outputs)}
    if call_id:
        details["call_id"] = call_id  # type: ignore[assignment]
    yield seen(at, agent, implied_type(agent), pillar)
    yield seen(at, tool, LineageNodeType.TOOL)
    yield edge(
        at, agent, tool, LineageEdgeType.INVOKES, trace, details, pillar=pillar, identity=call_id or own_id
    )


def flow_facts(
    at: float,
    own_id: str,
    source: str,
    sink: str,
    trace: str,
    data_schema: bytes,
    record_count: int | None,
) -> Iterator[LineageRecord]:
    """Yield the records of a data flow: READS_FROM if data goes to an agent or tool, else WRITES_TO."""
    source_type, sink_type = implied_type(source), implied_type(sink)
    reads = source_type in DATA_TYPES and sink_type not in DATA_TYPES
    if sink_type in DATA_TYPES:
        sink_type = LineageNodeType.DATA_SINK
    details: dict[str, Any] = {}
    if data_schema:
        details["data_schema"] = thaw(data_schema)
    if record_count is not None:
        details["record_count"] = record_count
    yield seen(at, source, source_type)
    yield seen(at, sink, sink_type)
    kind = LineageEdgeType.READS_FROM if reads else LineageEdgeType.WRITES_TO
    yield edge(at, source, sink, kind, trace, details, identity=own_id)


def decision_facts(
    at: float, _: str, agent: str, decision: str, trace: str, decision_type: str, details: bytes
) -> Iterator[LineageRecord]:
    """Yield the records of a decision: an agent PRODUCES it. Its metadata has its type, result and factors."""
    metadata = {"decision_type": decision_type, **thaw(details)}
    yield seen(at, agent, implied_type(agent))
    yield LineageRecord(
        "node",
        decision,
        LineageNodeType.DECISION.value,
        at,
        name=decision_type,
        trace_id=trace,
        metadata=metadata,
    )
    yield edge(at, agent, decision, LineageEdgeType.PRODUCES, trace, metadata, identity=metadata)
