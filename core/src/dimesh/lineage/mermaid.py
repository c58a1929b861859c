"""Diagrams of lineage as Mermaid text.

Mermaid's grammar has many words and characters with a meaning, and its pre-processing finds more of them inside labels.
Only letters, digits, spaces and ``_ - . / @ ,`` of a name are therefore written as they are; every other character is
written as a numeric entity, which Mermaid displays as the character itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from dimesh.lineage.model import implied_name, implied_type

MAX_EDGES: Final = 450
"""The maximum number of edges in a diagram. Mermaid refuses more than 500 by default."""
MAX_TEXT: Final = 50_000
"""The maximum length of a diagram in characters: Mermaid's default limit."""
_MAX_LABEL: Final = 80
_DIRECTION: Final = re.compile("(direction) ", re.IGNORECASE)

_SHAPES: Final = {
    "agent": ("([", "])"),
    "data_source": ("[(", ")]"),
    "data_sink": ("[(", ")]"),
    "decision": ("{{", "}}"),
    "event": (">", "]"),
    "tool": ("[[", "]]"),
}
_COLOURS: Final = {
    "agent": "fill:#dbeafe,stroke:#1d4ed8,color:#111827",
    "tool": "fill:#ede9fe,stroke:#6d28d9,color:#111827",
    "data_source": "fill:#dcfce7,stroke:#15803d,color:#111827",
    "data_sink": "fill:#ecfccb,stroke:#4d7c0f,color:#111827",
    "transform": "fill:#f3f4f6,stroke:#4b5563,color:#111827",
    "model": "fill:#fae8ff,stroke:#a21caf,color:#111827",
    "decision": "fill:#fef3c7,stroke:#b45309,color:#111827",
    "event": "fill:#ffe4e6,stroke:#be123c,color:#111827",
    "pillar": "fill:#e0f2fe,stroke:#0369a1,color:#111827",
}

_Node = tuple[str, str]
"""The label and the type of a node."""


class LineageVisualizer:
    """Draws the result of ``query_lineage``."""

    @staticmethod
    def generate_mermaid(lineage_data: Mapping[str, Any]) -> str:
        """Return a ``flowchart`` that Mermaid accepts, whatever the names are.

        Equal edges are drawn once, with their number. A diagram with more than 450 edges or 50,000 characters is grouped by
        pillar and type, or by type alone, with numbers; a note in the diagram explains that.

        Args:
            lineage_data: ``nodes`` and ``edges`` as dicts, as ``query_lineage`` returns them; other keys are
                optional.
        """
        nodes: dict[str, Mapping[str, Any]] = {
            node["node_id"]: node for node in lineage_data.get("nodes", ())
        }
        edges = list(lineage_data.get("edges", ()))
        for edge in edges:
            for node_id in (edge["source_id"], edge["target_id"]):
                if node_id not in nodes:
                    nodes[node_id] = {"node_type": implied_type(node_id).value, "name": implied_name(node_id)}
        notes = []
        if lineage_data.get("partial"):
            notes.append(f"partial: {lineage_data.get('reason') or 'the search is not complete'}")
        picture = _draw(
            {
                node_id: (str(node.get("name") or node_id), str(node["node_type"]))
                for node_id, node in nodes.items()
            },
            Counter((edge["source_id"], edge["target_id"], str(edge["edge_type"])) for edge in edges),
            notes,
        )
        size = f"{len(nodes):,} nodes and {len(edges):,} edges"
        if picture is None:
            groups = {
                key: (str(node.get("pillar") or "no pillar"), str(node["node_type"]))
                for key, node in nodes.items()
            }
            kinds = Counter(
                (groups[e["source_id"]], groups[e["target_id"]], str(e["edge_type"])) for e in edges
            )
            picture = _draw(_counted(groups), kinds, [f"{size}, drawn by pillar and type", *notes])
        if picture is None:
            by_type = {key: ("", str(node["node_type"])) for key, node in nodes.items()}
            pairs = Counter((by_type[e["source_id"]], by_type[e["target_id"]], "edges") for e in edges)
            picture = _draw(_counted(by_type), pairs, [f"{size}, drawn by type", *notes])
        assert picture is not None  # nine types have at most 81 pairs
        return picture


def _counted(groups: Mapping[str, _Node]) -> dict[Any, _Node]:
    """Return the groups as nodes, each with the number of its members."""
    sizes = Counter(groups.values())
    return {
        group: (" ".join(filter(None, (group[0], group[1].replace("_", " "), f"({size:,})"))), group[1])
        for group, size in sizes.items()
    }


def _draw(nodes: Mapping[Any, _Node], edges: Counter[Any], notes: list[str]) -> str | None:
    """Return the text of the diagram; None if it exceeds Mermaid's limits."""
    if len(edges) > MAX_EDGES:
        return None
    number = {key: f"n{index}" for index, key in enumerate(nodes)}
    lines = ["flowchart LR"]
    for key, (label, kind) in nodes.items():
        before, after = _SHAPES.get(kind, ("[", "]"))
        style = f":::{kind}" if kind in _COLOURS else ""
        lines.append(f'  {number[key]}{before}"{escape(label)}"{after}{style}')
    for (source, target, kind), count in edges.items():
        label = kind.replace("_", " ") + (f" ×{count:,}" if count > 1 else "")
        lines.append(f'  {number[source]} -->|"{escape(label)}"| {number[target]}')
    for index, note in enumerate(notes if nodes else ["no lineage", *notes]):
        lines.append(f'  note{index}["{escape(note)}"]')
    kinds = sorted({kind for _, kind in nodes.values()} & _COLOURS.keys())
    lines += [f"  classDef {kind} {_COLOURS[kind]}" for kind in kinds]
    text = "\n".join(lines) + "\n"
    return text if len(text) <= MAX_TEXT else None


def escape(text: str) -> str:
    """Return ``text`` for use between Mermaid's quotes: cut to 80 characters, on one line, never empty."""
    text = " ".join(text[: _MAX_LABEL * 4].split())
    if len(text) > _MAX_LABEL:
        text = text[: _MAX_LABEL - 1] + "…"
    # Mermaid treats a line that contains "direction LR" or the like anywhere as a statement.
    return _DIRECTION.sub(r"\1#32;", "".join(map(_entity, text))) or "#8203;"


def _entity(character: str) -> str:
    if character.isalnum() or character in " _-./@,":
        return character
    if unicodedata.category(character) in ("Cc", "Cs"):
        return "\N{REPLACEMENT CHARACTER}"
    return f"#{ord(character)};"
