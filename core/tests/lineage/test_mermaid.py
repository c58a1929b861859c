"""The Mermaid picture keeps to a grammar that no name can break."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh.lineage import LineageEdgeType, LineageNodeType, LineageQuery, LineageService, LineageVisualizer

LABEL = r'"(?:[\w @,./-]|[^\x00-\x7f]|#\d+;)+"'
LINES = (
    r"flowchart LR",
    rf"  n\d+(?:\(\[{LABEL}\]\)|\[\({LABEL}\)\]|\{{\{{{LABEL}\}}\}}|>{LABEL}\]|\[\[{LABEL}\]\]|\[{LABEL}\])"
    r"(?::::[a-z_]+)?",
    rf"  n\d+ -->\|{LABEL}\| n\d+",
    rf"  note\d+\[{LABEL}\]",
    r"  classDef [a-z_]+ [a-z0-9:#,]+",
)
names = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        'say "hi"',
        "a[b](c){d}",
        "end",
        "graph",
        "`code`",
        "50%% off",
        "%%{init}%%",
        "<script>",
        "#quot;",
        "style a:b#c;",
        "🙂",
    ]
)


def data_of(edges, node_type="agent"):
    ids = {node: None for edge in edges for node in edge[:2]}
    return {
        "nodes": [{"node_id": i, "name": i, "node_type": node_type, "pillar": i[:1] or None} for i in ids],
        "edges": [{"source_id": s, "target_id": t, "edge_type": k} for s, t, k in edges],
    }


def check(text: str) -> list[str]:
    assert text.endswith("\n")
    assert len(text) <= 50_000
    lines = text[:-1].split("\n")
    for line in lines:
        assert any(re.fullmatch(pattern, line) for pattern in LINES), line
    assert sum("-->" in line for line in lines) <= 450
    return lines


@settings(max_examples=200, deadline=None)
@given(
    edges=st.lists(st.tuples(names, names, st.sampled_from([k.value for k in LineageEdgeType])), max_size=10),
    kind=st.sampled_from([k.value for k in LineageNodeType]) | st.just("strange"),
    reason=st.none() | names,
)
@pytest.mark.slow
def test_names_do_not_affect_the_structure_of_the_diagram(edges, kind, reason):
    data = data_of(edges, kind)
    lines = check(
        LineageVisualizer.generate_mermaid({**data, "partial": reason is not None, "reason": reason})
    )
    assert sum("-->" in line for line in lines) == len(set(edges))
    assert sum(bool(re.match(r"  n\d+\W", line)) and "-->" not in line for line in lines) == len(
        data["nodes"]
    )
    assert any("note" in line and "partial" in line for line in lines) == (reason is not None)


def test_names_are_written_as_entities():
    text = LineageVisualizer().generate_mermaid(data_of([('a "b"', "c\nd", "reads_from")]))
    assert '"a #34;b#34;"' in text
    assert '"c d"' in text
    assert '-->|"reads from"|' in text
    assert "direction#32;LR" in LineageVisualizer.generate_mermaid(
        data_of([("my direction LR", "b", "invokes")])
    )


def test_equal_edges_are_drawn_once_with_their_count():
    text = LineageVisualizer.generate_mermaid(data_of([("a", "b", "invokes")] * 3))
    assert text.count("-->") == 1
    assert "invokes #215;3" in text


def test_ends_that_are_not_among_the_nodes_are_drawn_too():
    text = LineageVisualizer.generate_mermaid(
        {"edges": [{"source_id": "agent:a", "target_id": "tool:t", "edge_type": "invokes"}]}
    )
    assert ":::agent" in text
    assert ":::tool" in text


def test_a_large_graph_is_grouped_with_a_note():
    data = data_of([(f"{n % 5}-{n}", f"x-{n}", "invokes") for n in range(1_000)])
    text = LineageVisualizer.generate_mermaid(data)
    check(text)
    assert "2,000 nodes and 1,000 edges, drawn by pillar and type" in text
    assert text.count("-->") == 5
    assert "×200".replace("×", "#215;") in text
    many = data_of([(f"{chr(200 + n)}-{n}", f"{chr(5_000 + n)}-{n}", "invokes") for n in range(1_000)])
    text = LineageVisualizer.generate_mermaid(many)
    check(text)
    assert "drawn by type" in text
    assert "(2,000)".replace("(", "#40;").replace(")", "#41;") in text


def test_many_long_names_are_grouped_because_of_their_length():
    data = data_of([(f"{n}" + "<" * 100, "b", "invokes") for n in range(400)])
    text = LineageVisualizer.generate_mermaid(data)
    check(text)
    assert "drawn by" in text


async def test_from_a_service():
    lineage = LineageService()
    await lineage.track_decision("agent:a", "d", "t", "refund", "yes")
    text = LineageVisualizer.generate_mermaid(await lineage.query_lineage(LineageQuery(trace_id="t")))
    assert '{{"refund"}}:::decision' in text
    check(text)
    check(LineageVisualizer.generate_mermaid({"nodes": [], "edges": []}))
