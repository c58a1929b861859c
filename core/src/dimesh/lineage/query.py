"""Queries: walks over the graph to the ancestors and descendants of a node.

Each walk has a budget, and the answer reports it if the budget ended the walk. Depth is the exact number of edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from dimesh.errors import NodeNotFoundError
from dimesh.events.names import show
from dimesh.lineage.graph import LineageGraph
from dimesh.lineage.model import LineageQuery, content_id

Monotonic = Callable[[], float]
_STEPS_PER_CLOCK_CHECK: Final = 256


class Budget:
    """The limits of a walk. :attr:`reason` names the limit that was reached."""

    def __init__(self, monotonic: Monotonic, max_nodes: int, max_edges: int, max_ms: float) -> None:
        self._monotonic = monotonic
        self._until = monotonic() + max_ms / 1_000
        self._max_ms = max_ms
        self.max_nodes = max_nodes
        self.max_edges = max_edges
        self._steps = 0
        self.reason = ""

    def step(self) -> bool:
        """Count one visited edge; return False if the time is over."""
        self._steps += 1
        if self._steps % _STEPS_PER_CLOCK_CHECK == 0 and self._monotonic() > self._until:
            self.reason = f"stopped after {self._max_ms:g} ms: raise max_ms, or narrow the query"
        return not self.reason

    def over(self) -> bool:
        """Return whether a limit was reached."""
        return bool(self.reason)

    def room(self, nodes: int, edges: int) -> bool:
        """Return whether the answer may have that many nodes and edges."""
        if nodes > self.max_nodes:
            self.reason = f"stopped at {self.max_nodes} nodes: raise max_nodes, or narrow the query"
        elif edges > self.max_edges:
            self.reason = f"stopped at {self.max_edges} edges: raise max_edges, or narrow the query"
        return not self.reason


def find(graph: LineageGraph, node_id: str) -> int:
    """Return the number of a node.

    Raises:
        NodeNotFoundError: there is no such node.
    """
    number = graph.number(node_id) if isinstance(node_id, str) else None
    if number is None:
        raise NodeNotFoundError(
            f"no lineage node has the id {show(node_id)}: query without node_id (by pillar, node_type or "
            "trace_id) to list the nodes"
        )
    return number


def run_query(
    graph: LineageGraph, query: LineageQuery, monotonic: Monotonic, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Answer a query.

    Returns:
        ``nodes`` and ``edges`` as dicts, nearest first; ``stats`` with ``total_nodes``, ``total_edges``,
        ``node_types``, ``edge_types`` (numbers by value) and ``pillars_involved`` (sorted) of the answer;
        ``partial``, ``reasons`` (empty if complete), ``reason`` (the same as one text) and ``visited`` (the number of visited
        nodes).

    Raises:
        NodeNotFoundError: there is no node ``query.node_id``.
    """
    budget = Budget(monotonic, query.max_nodes, query.max_edges, query.max_ms)
    if query.node_id is None:
        nodes, edges = _select(graph, query, budget)
        shown = nodes
    else:
        start = find(graph, query.node_id)
        nodes, edges = _walk(graph, start, query, budget)
        shown = {n: None for n in nodes if n == start or _wanted(graph, n, query)}
        edges = {e: None for e in edges if graph.source[e] in shown and graph.target[e] in shown}
    grouped = query.level == "entities"
    return _answer(graph, shown, edges, query.include_metadata, budget, len(nodes), missing, grouped)


def _walk(
    graph: LineageGraph, start: int, query: LineageQuery, budget: Budget
) -> tuple[dict[int, None], dict[int, None]]:
    """Walk in both directions alternately, so that a wide one does not use up the budget of the other."""
    first, last = query.seconds()
    trace = query.trace_id
    nodes, edges = {start: None}, dict[int, None]()
    sides = [name for name in ("downstream", "upstream") if query.direction in (name, "both")]
    reached = {side: {start} for side in sides}
    frontier = {side: [start] for side in sides}
    for _ in range(query.max_depth):
        if not any(frontier.values()):
            break
        for side in sides:
            forward = side == "downstream"
            ends = graph.target if forward else graph.source
            layer: list[int] = []
            for number in frontier[side]:
                node = graph.node(number)
                for edge in node.out if forward else node.into:
                    if not budget.step():
                        return nodes, edges
                    if not first <= graph.time[edge] <= last or (
                        trace is not None and graph.trace[edge] != trace
                    ):
                        continue
                    end = ends[edge]
                    if not budget.room(len(nodes) + (end not in nodes), len(edges) + (edge not in edges)):
                        return nodes, edges
                    nodes[end] = edges[edge] = None
                    if end not in reached[side]:
                        reached[side].add(end)
                        layer.append(end)
            frontier[side] = layer
    return nodes, edges


def _select(
    graph: LineageGraph, query: LineageQuery, budget: Budget
) -> tuple[dict[int, None], dict[int, None]]:
    nodes, edges = dict[int, None](), dict[int, None]()
    first, last = query.seconds()
    by_node = query.pillar is not None or query.node_type is not None
    by_edge = query.trace_id is not None or query.time_range is not None
    if not by_edge:
        for number in graph.nodes():
            if not budget.step():
                return nodes, edges
            if _wanted(graph, number, query):
                if not budget.room(len(nodes) + 1, 0):
                    return nodes, edges
                nodes[number] = None
        matching: Iterable[int] = list(nodes)
    else:
        matching = ()
    for edge in _candidates(graph, query, matching, by_edge, by_node):
        if not budget.step():
            break
        source, target = graph.source[edge], graph.target[edge]
        if not first <= graph.time[edge] <= last:
            continue
        if by_node and not (
            (query.direction != "upstream" and _wanted(graph, source, query))
            or (query.direction != "downstream" and _wanted(graph, target, query))
        ):
            continue
        new = (source not in nodes) + (target not in nodes and target != source)
        if not budget.room(len(nodes) + new, len(edges) + (edge not in edges)):
            break
        nodes[source] = nodes[target] = edges[edge] = None
    return nodes, edges


def _candidates(
    graph: LineageGraph, query: LineageQuery, matching: Iterable[int], by_edge: bool, by_node: bool
) -> Iterable[int]:
    if query.trace_id is not None:
        return graph.edges_of_trace(query.trace_id)
    if by_edge:
        return graph.edges_between(*query.seconds())
    if not by_node:
        return graph.edges()
    return _touching(graph, matching)


def _touching(graph: LineageGraph, matching: Iterable[int]) -> Iterable[int]:
    for number in matching:
        node = graph.node(number)
        yield from node.out
        yield from node.into


def _wanted(graph: LineageGraph, number: int, query: LineageQuery) -> bool:
    node = graph.node(number)
    return (query.pillar is None or node.pillar == query.pillar) and (
        query.node_type is None or node.type == query.node_type
    )


def _answer(
    graph: LineageGraph,
    nodes: Iterable[int],
    edges: Iterable[int],
    include_metadata: bool,
    budget: Budget,
    visited: int,
    missing: Sequence[str] = (),
    grouped: bool = False,
) -> dict[str, Any]:
    node_views = [graph.node(number).view() for number in nodes]
    edge_views = [graph.edge_view(edge) for edge in edges]
    shown = [edge.to_dict(include_metadata) for edge in edge_views]
    if grouped:
        shown = _grouped(shown)
    reasons = [*([budget.reason] if budget.over() else []), *missing]
    return {
        "nodes": [node.to_dict(include_metadata) for node in node_views],
        "edges": shown,
        "stats": {
            "total_nodes": len(node_views),
            "total_edges": len(shown),
            "node_types": dict(Counter(node.node_type.value for node in node_views)),
            "edge_types": dict(Counter(edge["edge_type"] for edge in shown)),
            "pillars_involved": sorted({node.pillar for node in node_views if node.pillar}),
        },
        "partial": bool(reasons),
        "reasons": reasons,
        "reason": "; ".join(reasons),
        "visited": visited,
        "observations": len(edge_views),
    }


def _grouped(edges: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one edge for all observations between two nodes that have the same type: the newest, with the ``count`` of all and
    the times of the first (``created_at``) and the last one (``updated_at``).
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for edge in edges:
        groups.setdefault((edge["source_id"], edge["target_id"], edge["edge_type"]), []).append(edge)
    found = []
    for ends, observed in groups.items():
        observed.sort(key=lambda edge: (edge["created_at"], edge["edge_id"]))
        newest = observed[-1]
        found.append(
            {
                **newest,
                "edge_id": content_id(*ends),
                "count": len(observed),
                "created_at": observed[0]["created_at"],
                "updated_at": newest["created_at"],
            }
        )
    return found


def find_path(
    graph: LineageGraph,
    source: str,
    target: str,
    budget: Budget,
    *,
    since: float,
    respect_time: bool,
    missing: Sequence[str] = (),
) -> dict[str, Any]:
    """Find a shortest way along the arrows; see :meth:`dimesh.lineage.LineageService.find_path`.

    The walk proceeds in layers of hops. A node is visited again if it is reached earlier than before, because more edges can be
    followed from it then.
    """
    start, end = find(graph, source), find(graph, target)
    # For each label: the node, the edge that led to it, and the label before.
    labels: list[tuple[int, int, int]] = [(start, -1, -1)]
    arrival = {start: since}
    frontier = [0]
    found = 0 if start == end else -1
    while frontier and found < 0 and not budget.over():
        layer: list[int] = []
        for label in frontier:
            number, led, _ = labels[label]
            earliest = since if led < 0 else graph.time[led]
            for edge in graph.node(number).out:
                if not budget.step() or not budget.room(len(arrival), 0):
                    break
                at, other = graph.time[edge], graph.target[edge]
                if respect_time and at < earliest:
                    continue
                known = arrival.get(other)
                if known is not None and (not respect_time or at >= known):
                    continue
                arrival[other] = at
                layer.append(len(labels))
                labels.append((other, edge, label))
                if other == end:
                    found = len(labels) - 1
                    break
            if found >= 0 or budget.over():
                break
        frontier = layer
    nodes: dict[int, None] = {}
    edges: dict[int, None] = {}
    while found >= 0:
        number, edge, found = labels[found]
        nodes[number] = None
        if edge >= 0:
            edges[edge] = None
    answer = _answer(graph, reversed(list(nodes)), reversed(list(edges)), True, budget, len(arrival), missing)
    return {"found": bool(nodes), **answer}


def whole_graph(graph: LineageGraph) -> dict[str, Any]:
    """Return the whole graph, in the form of an answer of :func:`run_query`."""
    unlimited = Budget(lambda: 0.0, 1, 1, 1.0)
    return _answer(graph, graph.nodes(), graph.edges(), True, unlimited, graph.node_count)


def timeline(graph: LineageGraph, trace_id: str) -> list[dict[str, Any]]:
    """Return the steps of a trace in order of time; steps with equal times are in the order of recording."""

    def side(number: int) -> dict[str, str]:
        node = graph.node(number)
        return {"id": node.node_id, "name": node.name, "type": node.type.value}

    # Traces arrive nearly sorted, and sorting is stable.
    steps: Sequence[int] = sorted(graph.edges_of_trace(trace_id), key=graph.time.__getitem__)
    return [
        {
            "timestamp": (view := graph.edge_view(edge)).created_at.isoformat(),
            "source": side(graph.source[edge]),
            "target": side(graph.target[edge]),
            "action": view.edge_type.value,
            "metadata": dict(view.metadata),
        }
        for edge in steps
    ]
