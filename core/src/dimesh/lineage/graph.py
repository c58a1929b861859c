"""The graph in memory: nodes and edges are numbered, so that a walk uses lists of integers only.

The graph depends on the records alone: the same records in another order, or twice, give the same graph.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from dimesh.errors import LineageError
from dimesh.events.names import show
from dimesh.lineage.model import (
    LineageEdge,
    LineageEdgeType,
    LineageNode,
    LineageNodeType,
    implied_name,
    implied_type,
    moment,
)
from dimesh.spi.lineage import LineageRecord

_EDGE_TYPES: Final = tuple(LineageEdgeType)
_EDGE_CODE: Final = {kind.value: code for code, kind in enumerate(_EDGE_TYPES)}
_NODE_TYPE: Final = {kind.value: kind for kind in LineageNodeType}
_FREE: Final = -1

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Node:
    """A node: its declaration, the latest record without one, and the numbers of its edges."""

    __slots__ = ("declared", "first", "into", "last", "node_id", "out", "seen")

    def __init__(self, node_id: str, at: float) -> None:
        self.node_id = node_id
        self.declared: LineageRecord | None = None
        self.seen: LineageRecord | None = None
        self.first = self.last = at
        self.out: list[int] = []
        self.into: list[int] = []

    @property
    def type(self) -> LineageNodeType:
        record = self.declared or self.seen
        return _NODE_TYPE[record.type] if record else implied_type(self.node_id)

    @property
    def name(self) -> str:
        return self.declared.name if self.declared else implied_name(self.node_id)

    @property
    def pillar(self) -> str | None:
        return (self.declared.pillar if self.declared else None) or (self.seen.pillar if self.seen else None)

    def view(self) -> LineageNode:
        metadata = self.declared.metadata if self.declared else {}
        return LineageNode(
            self.node_id, self.type, self.name, self.pillar, metadata, moment(self.first), moment(self.last)
        )


class LineageGraph:
    """Interned nodes, a column for each property of an edge, and the edges of each node and trace and in order of time."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._nodes: list[Node | None] = []
        self._free_nodes: list[int] = []
        self._edge: dict[str, int] = {}
        self._ids: list[str] = []
        self.source = array("q")
        self.target = array("q")
        self.time = array("d")
        self.trace: list[str] = []
        self._code = array("b")
        self._metadata: list[bytes] = []
        self._free_edges: list[int] = []
        self._traces: dict[str, list[int]] = {}
        self._by_time: list[int] = []
        self._in_order = True

    # -- reading ---------------------------------------------------------------------------------

    @property
    def node_count(self) -> int:
        return len(self._number)

    @property
    def edge_count(self) -> int:
        return len(self._edge)

    @property
    def trace_count(self) -> int:
        return len(self._traces)

    def number(self, node_id: str) -> int | None:
        """Return the number of a node; None if there is no such node."""
        return self._number.get(node_id)

    def node(self, number: int) -> Node:
        """Return the node with a number."""
        node = self._nodes[number]
        assert node is not None
        return node

    def nodes(self) -> Iterator[int]:
        """Return the numbers of all nodes."""
        return iter(self._number.values())

    def edges(self) -> Iterable[int]:
        """Return the numbers of all edges, oldest first."""
        return self._ordered()

    def edges_between(self, first: float, last: float) -> Sequence[int]:
        """Return the edges from ``first`` to ``last``, both included, oldest first."""
        order = self._ordered()
        key = self.time.__getitem__
        return order[bisect_left(order, first, key=key) : bisect_right(order, last, key=key)]

    def edges_of_trace(self, trace_id: str) -> Sequence[int]:
        """Return the edges of a trace in the order of their arrival; empty if there is no such trace."""
        return self._traces.get(trace_id, ())

    def edge_kind(self, edge: int) -> LineageEdgeType:
        """Return the type of an edge."""
        return _EDGE_TYPES[self._code[edge]]

    def edge_view(self, edge: int) -> LineageEdge:
        """Return the edge with a number as a value for users."""
        return LineageEdge(
            self._ids[edge],
            self.node(self.source[edge]).node_id,
            self.node(self.target[edge]).node_id,
            self.edge_kind(edge),
            self.trace[edge],
            _decode(self._metadata[edge]),
            moment(self.time[edge]),
        )

    @property
    def oldest(self) -> float | None:
        """The time of the oldest edge; None if there are no edges."""
        order = self._ordered()
        return self.time[order[0]] if order else None

    # -- adding ----------------------------------------------------------------------------------

    def apply(self, record: LineageRecord) -> bool:
        """Add a record; return False if it contains nothing new.

        Raises:
            LineageError: the type of the record is unknown.
        """
        return self._apply_node(record) if record.kind == "node" else self._apply_edge(record)

    def _apply_node(self, record: LineageRecord) -> bool:
        if record.type not in _NODE_TYPE:
            raise LineageError(
                f"lineage record {show(record.id)} has the unknown node type {show(record.type)}"
            )
        known = record.id in self._number
        node = self.node(self._intern(record.id, record.timestamp))
        if record.name:
            if known and node.declared and _rank(record) <= _rank(node.declared):
                return False
            node.declared = record
            return True
        held = node.seen
        if held is not None and _seen_rank(record) <= _seen_rank(held):
            return False
        node.seen = record
        return held is None or (held.type, held.pillar) != (record.type, record.pillar)

    def _apply_edge(self, record: LineageRecord) -> bool:
        code = _EDGE_CODE.get(record.type)
        if code is None:
            raise LineageError(
                f"lineage record {show(record.id)} has the unknown edge type {show(record.type)}"
            )
        at = record.timestamp
        source, target = self._intern(record.source, at), self._intern(record.target, at)
        edge = self._edge.get(record.id)
        if edge is not None:
            if at >= self.time[edge]:
                return False
            self.time[edge] = at  # the same edge, whose later record arrived first
            self._in_order = False
            return True
        # All edges of a trace share one string object.
        trace = record.trace_id
        members = self._traces.get(trace)
        if members is None:
            members = self._traces[trace] = []
        elif members:
            trace = self.trace[members[0]]
        metadata = _encode(record.metadata)
        if self._free_edges:
            edge = self._free_edges.pop()
            self._ids[edge], self.source[edge], self.target[edge] = record.id, source, target
            self.time[edge], self._code[edge], self.trace[edge] = at, code, trace
            self._metadata[edge] = metadata
        else:
            edge = len(self._ids)
            self._ids.append(record.id)
            self.source.append(source)
            self.target.append(target)
            self.time.append(at)
            self._code.append(code)
            self.trace.append(trace)
            self._metadata.append(metadata)
        self._edge[record.id] = edge
        members.append(edge)
        self.node(source).out.append(edge)
        self.node(target).into.append(edge)
        if self._by_time and at < self.time[self._by_time[-1]]:
            self._in_order = False
        self._by_time.append(edge)
        return True

    def _intern(self, node_id: str, at: float) -> int:
        number = self._number.get(node_id)
        if number is not None:
            node = self.node(number)
            node.first, node.last = min(node.first, at), max(node.last, at)
            return number
        node = Node(node_id, at)
        if self._free_nodes:
            number = self._free_nodes.pop()
            self._nodes[number] = node
        else:
            number = len(self._nodes)
            self._nodes.append(node)
        self._number[node_id] = number
        return number

    def _ordered(self) -> list[int]:
        if not self._in_order:
            self._by_time.sort(key=self.time.__getitem__)
            self._in_order = True
        return self._by_time

    # -- removing --------------------------------------------------------------------------------

    def forget_edges(self, before: float, limit: int) -> int:
        """Remove up to ``limit`` edges that are older than ``before``, oldest first; return their number."""
        order = self._ordered()
        count = min(bisect_left(order, before, key=self.time.__getitem__), limit)
        gone, self._by_time = order[:count], order[count:]
        outs, intos, traces = set(), set(), set()
        for edge in gone:
            outs.add(self.source[edge])
            intos.add(self.target[edge])
            traces.add(self.trace[edge])
            del self._edge[self._ids[edge]]
            self.source[edge] = _FREE
            self._metadata[edge] = b""
            self._ids[edge] = self.trace[edge] = ""
        source = self.source
        for number in outs:
            node = self.node(number)
            node.out = [edge for edge in node.out if source[edge] != _FREE]
        for number in intos:
            node = self.node(number)
            node.into = [edge for edge in node.into if source[edge] != _FREE]
        for trace in traces:
            left = [edge for edge in self._traces[trace] if source[edge] != _FREE]
            if left:
                self._traces[trace] = left
            else:
                del self._traces[trace]
        self._free_edges += gone
        return count

    def forget_nodes(self, before: float) -> int:
        """Remove nodes without edges that were last seen before ``before``; return their number."""
        gone = [
            number
            for number in self._number.values()
            if (node := self.node(number)).last < before and not node.out and not node.into
        ]
        for number in gone:
            del self._number[self.node(number).node_id]
            self._nodes[number] = None
        self._free_nodes += gone
        return len(gone)

    def restamp_nodes(self, before: float) -> list[LineageRecord]:
        """Return the records older than ``before`` of nodes that are kept, with the time at which the node was last seen. Once
        they are in the log, its older part can be removed.
        """
        renewed: list[LineageRecord] = []
        for number in self._number.values():
            node = self.node(number)
            for slot in ("declared", "seen"):
                record: LineageRecord | None = getattr(node, slot)
                if record is not None and record.timestamp < before <= node.last:
                    record = replace(record, timestamp=node.last)
                    setattr(node, slot, record)
                    renewed.append(record)
            if node.first < before:
                times = [self.time[edge] for edge in (*node.out, *node.into)]
                times += [record.timestamp for record in (node.declared, node.seen) if record]
                node.first = min(times, default=node.last)
        return renewed

    def quantile_time(self, part: float) -> float | None:
        """Return the approximate time before which a part of all nodes and edges was last seen; None if the graph is empty."""
        step = max(1, (self.node_count + self.edge_count) // 50_000)
        order = self._ordered()
        sample = [self.time[edge] for edge in order[::step]]
        sample += [node.last for node in self._nodes[::step] if node is not None]
        sample.sort()
        return sample[int(len(sample) * part)] if sample else None


def _rank(record: LineageRecord) -> tuple[float, str, str, str, bytes]:
    """Return the rank of a declaration. The latest one is valid; the choice among equally late ones is always the same."""
    return (
        record.timestamp,
        record.name,
        record.type,
        record.pillar or "",
        _encode(record.metadata),
    )


def _seen_rank(record: LineageRecord) -> tuple[bool, float, str, str]:
    return (record.pillar is not None, record.timestamp, record.type, record.pillar or "")
