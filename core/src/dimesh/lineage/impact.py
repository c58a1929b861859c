"""Impact analysis: what a change of one node would affect.

An edge propagates an effect only if its time is not before the arrival of the effect at its source: an agent that read from
a table before a bad write is not affected by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dimesh.lineage.graph import LineageGraph
from dimesh.lineage.model import moment
from dimesh.lineage.query import Budget, Monotonic, find

RAISING: Final = ("delete", "remove", "drop", "rename", "schema", "breaking")
"""The words in a ``change_type`` that add one point to the risk."""


def find_impact(
    graph: LineageGraph,
    node_id: str,
    change_type: str,
    monotonic: Monotonic,
    *,
    since: float,
    respect_time: bool,
    max_depth: int,
    max_nodes: int,
    max_ms: float,
    missing: Sequence[str] = (),
) -> dict[str, Any]:
    """Find what a change affects; see :meth:`dimesh.lineage.LineageService.find_impact`.

    The walk proceeds in layers of hops. A label is one way to reach a node: an earlier arrival than all known ones creates a
    new label, because more edges can be followed from it. The first label has the fewest hops.
    """
    start = find(graph, node_id)
    budget = Budget(monotonic, max_nodes, max_nodes, max_ms)
    label_node, label_edge, label_parent = [start], [-1], [-1]
    arrival = {start: since}
    first_label: dict[int, int] = {}
    depth = {start: 0}
    frontier = {start: 0}
    for hops in range(1, max_depth + 1):
        if not frontier or budget.over():
            break
        # The arrivals of the previous layer, so that a hop of this layer is not extended within it.
        reached = {number: arrival[number] for number in frontier}
        layer: dict[int, int] = {}
        for number, parent in frontier.items():
            earliest = reached[number]
            for edge in graph.node(number).out:
                if not budget.step():
                    break
                at = graph.time[edge]
                if respect_time and at < earliest:
                    continue
                end = graph.target[edge]
                known = arrival.get(end)
                if known is not None and (not respect_time or at >= known):
                    continue
                if known is None:
                    if not budget.room(len(depth), 0):
                        break
                    depth[end] = hops
                    first_label[end] = len(label_node)
                arrival[end] = at
                layer[end] = len(label_node)
                label_node.append(end)
                label_edge.append(edge)
                label_parent.append(parent)
            if budget.over():
                break
        frontier = layer

    def path(label: int) -> list[str]:
        steps = []
        while label >= 0:
            steps.append(graph.node(label_node[label]).node_id)
            label = label_parent[label]
        return steps[::-1]

    affected = [
        {
            **graph.node(number).view().to_dict(include_metadata=False),
            "depth": depth[number],
            "path": path(label),
            "reached_at": moment(graph.time[label_edge[label]]).isoformat(),
        }
        for number, label in first_label.items()
    ]
    own = graph.node(start).pillar
    pillars = sorted({node["pillar"] for node in affected if node["pillar"]})
    reasons = [*([budget.reason] if budget.over() else []), *missing]
    level, why = risk(len(affected), len([p for p in pillars if p != own]), change_type, bool(reasons))
    return {
        "node_id": node_id,
        "change_type": change_type,
        "affected_nodes": affected,
        "affected_pillars": pillars,
        "risk_level": level,
        "risk_reasons": why,
        "max_depth": max((node["depth"] for node in affected), default=0),
        "partial": bool(reasons),
        "reasons": reasons,
        "reason": "; ".join(reasons),
        "visited": len(depth),
    }


def risk(nodes: int, pillars_crossed: int, change_type: str, partial: bool) -> tuple[str, list[str]]:
    """Return the risk, ``low``, ``medium`` or ``high``, with the reasons.

    Points: affected nodes 1-9: 1, 10-49: 2, 50 or more: 3; other pillars than the node's own: 1 for one, 2 for more; a change
    that removes or reshapes (:data:`RAISING`): 1. Up to 1 point is low, up to 3 medium, more is high. No affected node is low.
    A search that a limit ended is at least medium, because its count is too low.
    """
    if not nodes:
        return ("medium", ["the search is not complete"]) if partial else ("low", ["nothing is affected"])
    points = 1 + (nodes >= 10) + (nodes >= 50) + min(pillars_crossed, 2)
    why = [f"{nodes} nodes affected"]
    if pillars_crossed:
        why.append(f"{pillars_crossed} other pillars reached")
    if any(word in change_type.lower() for word in RAISING):
        points += 1
        why.append(f"the change type is {change_type}")
    level = "low" if points <= 1 else "medium" if points <= 3 else "high"
    if partial:
        why.append("the search is not complete")
        level = "medium" if level == "low" else level
    return level, why
