"""Lineage: what agents, tools, events and data did to each other, what a change would affect, what happened in a trace."""

from __future__ import annotations

from dimesh.lineage.export import to_networkx
from dimesh.lineage.mermaid import LineageVisualizer
from dimesh.lineage.model import (
    LineageEdge,
    LineageEdgeType,
    LineageNode,
    LineageNodeType,
    LineageQuery,
)
from dimesh.lineage.service import LineageService

__all__ = [
    "LineageEdge",
    "LineageEdgeType",
    "LineageNode",
    "LineageNodeType",
    "LineageQuery",
    "LineageService",
    "LineageVisualizer",
    "to_networkx",
]
