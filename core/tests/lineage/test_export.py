"""Exports read back by the programs that they are for."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh.lineage import LineageQuery, LineageService, to_networkx
from dimesh.lineage.export import export

NASTY = [
    '"',
    "\\",
    '\\"',
    "a\nb",
    "\r\n",
    "\x00\x07",
    "<b>&amp;",
    "🙂",
    "end",
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "]]>",
    "\ufffe",
]


async def sample(names: list[str]) -> LineageService:
    lineage = LineageService()
    for name in names:
        await lineage.add_node(f"agent:{name}", "agent", name, name, {"text": name, "n": {"deep": [1, None]}})
        await lineage.add_edge(f"agent:{name}", "tool:t", "invokes", f"trace {name}", {"x": name})
        await lineage.add_edge(f"agent:{name}", "tool:t", "invokes", f"trace {name}", {"x": 2})
    return lineage


async def test_json_is_the_node_link_format():
    lineage = await sample(NASTY)
    graph = nx.node_link_graph(json.loads(lineage.export_graph("json")), edges="edges")
    assert graph.number_of_edges() == 2 * len(NASTY)
    assert graph.nodes["agent:🙂"]["metadata"]["n"] == {"deep": [1, None]}
    assert {f"agent:{name}" for name in NASTY} < set(graph)


async def test_networkx_reads_the_graphml_export():
    lineage = await sample(NASTY)
    graph = nx.read_graphml(io.BytesIO(lineage.export_graph("graphml").encode()), force_multigraph=True)
    assert graph.number_of_nodes() == len(NASTY) + 1
    assert graph.number_of_edges() == 2 * len(NASTY)
    assert json.loads(graph.nodes["agent:🙂"]["metadata"])["text"] == "🙂"


async def test_a_query_result_as_networkx():
    lineage = await sample(["a", "b"])
    graph = to_networkx(await lineage.query_lineage(LineageQuery(node_id="agent:a")))
    assert sorted(graph) == ["agent:a", "tool:t"]
    assert graph.nodes["agent:a"]["pillar"] == "a"
    assert {data["edge_type"] for _, _, data in graph.edges(data=True)} == {"invokes"}


@settings(max_examples=200, deadline=None)
@given(name=st.text(min_size=1, max_size=20))
def test_dot_strings_can_have_any_name(name):
    node = {"node_id": name, "name": name, "node_type": "agent"}
    text = export({"nodes": [node], "edges": []}, "dot")
    line = text.split("\n")[3]
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert re.sub(r'"(?:[^"\\]|\\.)*"', "S", line) == "  S [label=S, type=S];"
    back = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], strings[0])
    assert back == name.replace("\0", "\ufffd").replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
async def test_graphviz_accepts_the_dot_export():
    lineage = await sample(NASTY)
    subprocess.run(
        ["dot", "-Tcanon"], input=lineage.export_graph("dot").encode(), check=True, capture_output=True
    )


async def test_export_before_open_is_an_error_with_a_hint(tmp_path):
    lineage = LineageService(path=tmp_path)
    with pytest.raises(Exception, match=r"await service\.open"):
        lineage.export_graph()


async def test_an_empty_graph_exports():
    lineage = LineageService()
    assert json.loads(lineage.export_graph("json"))["nodes"] == []
    assert "digraph" in lineage.export_graph("dot")
    assert "graphml" in lineage.export_graph("graphml")
