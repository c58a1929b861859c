"""Export: lineage as text for other programs, and as a networkx graph for analyses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dimesh.events.names import show

if TYPE_CHECKING:
    import networkx as nx

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export(result: Mapping[str, Any], name: str) -> str:
    """Return the result of a query in an export format.

    Raises:
        ValueError: there is no such format.
    """
    try:
        writer = _WRITERS[name]
    except (KeyError, TypeError):
        raise ValueError(f"{show(name)} is not an export format: use one of {', '.join(_WRITERS)}") from None
    return writer(result)


def to_networkx(result: Mapping[str, Any]) -> nx.MultiDiGraph:
    """Return the result of a query as a graph: nodes are node ids, keys are edge ids, and attributes are the other fields."""
    import networkx as nx

    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    for node in result["nodes"]:
        graph.add_node(node["node_id"], **_without(node, "node_id"))
    for edge in result["edges"]:
        attributes = _without(edge, "edge_id", "source_id", "target_id")
        graph.add_edge(edge["source_id"], edge["target_id"], key=edge["edge_id"], **attributes)
    return graph


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _json(result: Mapping[str, Any]) -> str:
    nodes = [{"id": node["node_id"], **_without(node, "node_id")} for node in result["nodes"]]
    edges = [
        {
            "source": edge["source_id"],
            "target": edge["target_id"],
            "key": edge["edge_id"],
            **_without(edge, "edge_id", "source_id", "target_id"),
        }
        for edge in result["edges"]
    ]
    graph = {"directed": True, "multigraph": True, "graph": {}, "nodes": nodes, "edges": edges}
    return json.dumps(graph, ensure_ascii=False, allow_nan=False)


def _graphml(result: Mapping[str, Any]) -> str:
    import networkx as nx

    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    for node in result["nodes"]:
        graph.add_node(_xml(node["node_id"]), **_flat(_without(node, "node_id")))
    for edge in result["edges"]:
        attributes = _flat(_without(edge, "edge_id", "source_id", "target_id"))
        graph.add_edge(
            _xml(edge["source_id"]), _xml(edge["target_id"]), key=_xml(edge["edge_id"]), **attributes
        )
    buffer = io.BytesIO()
    nx.write_graphml_xml(graph, buffer)
    return buffer.getvalue().decode("utf-8")


def _flat(fields: Mapping[str, Any]) -> dict[str, str]:
    """Flatten fields for GraphML, which has neither nesting nor null: metadata becomes JSON text, None is omitted."""
    return {
        name: _xml(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in fields.items()
        if value is not None
    }


def _xml(text: str) -> str:
    # XML 1.0 cannot represent most control characters.
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _dot(result: Mapping[str, Any]) -> str:
    nodes = (
        f"  {_quoted(node['node_id'])} [label={_quoted(node['name'])}, type={_quoted(node['node_type'])}];"
        for node in result["nodes"]
    )
    edges = (
        f"  {_quoted(edge['source_id'])} -> {_quoted(edge['target_id'])} "
        f"[label={_quoted(edge['edge_type'])}];"
        for edge in result["edges"]
    )
    return "\n".join(["digraph lineage {", "  rankdir=LR;", "  node [shape=box];", *nodes, *edges, "}", ""])


def _quoted(text: str) -> str:
    """Return a DOT string. Quotes, backslashes and line ends must be escaped; NUL would end the file."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\r\n", "\n").replace("\n", "\\n").replace("\r", "\\n") + '"'


_WRITERS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "json": _json,
    "graphml": _graphml,
    "dot": _dot,
}
