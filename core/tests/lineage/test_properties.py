"""The graph against a plain model, on random graphs."""

from __future__ import annotations

import asyncio
import itertools
import json

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh.clock import ManualClock
from dimesh.lineage import LineageQuery, LineageService, to_networkx
from dimesh.lineage.graph import LineageGraph
from dimesh.lineage.query import whole_graph
from dimesh.spi.lineage import LineageRecord

NODES = [f"x:{n}" for n in range(8)]
edges = st.lists(
    st.tuples(
        st.sampled_from(NODES), st.sampled_from(NODES), st.integers(0, 9), st.sampled_from(["t1", "t2"])
    ),
    max_size=25,
)


async def recorded(drawn) -> LineageService:
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    for node in NODES:
        await lineage.add_node(node, "agent", node)
    for number, (source, target, at, trace) in enumerate(drawn):
        clock.set_wall(float(at))
        await lineage.add_edge(source, target, "triggers", trace, {"number": number})
    return lineage


@settings(max_examples=60, deadline=None)
@given(
    drawn=edges, start=st.sampled_from(NODES), depth=st.integers(0, 6), trace=st.sampled_from([None, "t1"])
)
def test_queries_agree_with_networkx(drawn, start, depth, trace):
    model = nx.MultiDiGraph()
    model.add_nodes_from(NODES)
    model.add_edges_from((s, t) for s, t, _, tr in drawn if trace in (None, tr))
    down = nx.single_source_shortest_path_length(model, start, cutoff=depth)
    up = nx.single_source_shortest_path_length(model.reverse(), start, cutoff=depth)

    async def run():
        lineage = await recorded(drawn)
        for direction, expected in (("downstream", set(down)), ("upstream", set(up)), ("both", {*down, *up})):
            result = await lineage.query_lineage(
                LineageQuery(node_id=start, direction=direction, max_depth=depth, trace_id=trace)
            )
            assert {node["node_id"] for node in result["nodes"]} == expected
            graph = to_networkx(result)
            assert graph.number_of_edges() == result["stats"]["total_edges"] == len(result["edges"])
            if direction == "downstream":
                assert graph.number_of_edges() == sum(
                    down.get(s, depth) < depth for s, _, _, tr in drawn if trace in (None, tr)
                )

    asyncio.run(run())


def temporal_reach(drawn, start, depth):
    """Search exhaustively for the fewest hops to each node along edges whose times never decrease."""
    best: dict[str, int] = {}
    states = {(start, -1)}
    for hops in range(1, depth + 1):
        states = {
            (target, at)
            for node, time in states
            for source, target, at, _ in drawn
            if source == node and at >= time
        }
        for node, _ in states:
            if node != start:
                best.setdefault(node, hops)
    return best


@settings(max_examples=60, deadline=None)
@given(drawn=edges, start=st.sampled_from(NODES), depth=st.integers(0, 8))
def test_impact_agrees_with_an_exhaustive_search(drawn, start, depth):
    async def run():
        lineage = await recorded(drawn)
        impact = await lineage.find_impact(start, max_depth=depth)
        assert {n["node_id"]: n["depth"] for n in impact["affected_nodes"]} == temporal_reach(
            drawn, start, depth
        )
        times = {}
        for source, target, at, _ in drawn:
            times.setdefault((source, target), []).append(at)
        for node in impact["affected_nodes"]:
            path = node["path"]
            assert (path[0], path[-1], len(path)) == (start, node["node_id"], node["depth"] + 1)
            now = -1
            for hop in itertools.pairwise(path):
                now = min(at for at in times[hop] if at >= now)
        unlimited = await lineage.find_impact(start, respect_time=False)
        model = nx.DiGraph((s, t) for s, t, _, _ in drawn)
        model.add_node(start)
        assert {n["node_id"] for n in unlimited["affected_nodes"]} == nx.descendants(model, start)

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(drawn=edges, start=st.sampled_from(NODES), end=st.sampled_from(NODES))
def test_paths_agree_with_an_exhaustive_search(drawn, start, end):
    async def run():
        lineage = await recorded(drawn)
        found = await lineage.find_path(start, end)
        depth = 0 if start == end else temporal_reach(drawn, start, 8).get(end)
        assert found["found"] == (depth is not None)
        assert not found["partial"]
        assert len(found["edges"]) == (depth or 0)
        if depth:
            assert [node["node_id"] for node in found["nodes"]] == [
                start,
                *(edge["target_id"] for edge in found["edges"]),
            ]
            assert found["nodes"][-1]["node_id"] == end
            times = [edge["created_at"] for edge in found["edges"]]
            assert times == sorted(times)

    asyncio.run(run())


records = st.lists(
    st.one_of(
        st.builds(
            LineageRecord,
            kind=st.just("node"),
            id=st.sampled_from(NODES),
            type=st.sampled_from(["agent", "tool"]),
            timestamp=st.integers(0, 5).map(float),
            name=st.sampled_from(["", "A", "B"]),
            pillar=st.sampled_from([None, "P", "Q"]),
        ),
        st.builds(
            lambda number, s, t, at: LineageRecord(
                "edge", f"e{number}-{s}-{t}", "invokes", float(at), source=s, target=t, trace_id="t"
            ),
            st.integers(0, 3),
            st.sampled_from(NODES),
            st.sampled_from(NODES),
            st.integers(0, 5),
        ),
    ),
    max_size=15,
)


def picture(graph: LineageGraph):
    whole = whole_graph(graph)
    return (
        sorted(whole["nodes"], key=lambda node: node["node_id"]),
        sorted(whole["edges"], key=lambda edge: edge["edge_id"]),
    )


def graph_of(given_records) -> LineageGraph:
    graph = LineageGraph()
    for record in given_records:
        graph.apply(record)
    return graph


@settings(max_examples=100, deadline=None)
@given(drawn=records, data=st.data())
def test_order_and_repetition_change_nothing(drawn, data):
    shuffled = data.draw(st.permutations(drawn + drawn[: len(drawn) // 2]))
    assert picture(graph_of(drawn)) == picture(graph_of(shuffled))


@settings(max_examples=100, deadline=None)
@given(drawn=records, before=st.integers(0, 6).map(float), limit=st.integers(1, 30))
def test_removing_edges_keeps_what_newer_edges_imply(drawn, before, limit):
    graph = graph_of(drawn)
    while graph.forget_edges(before, limit):
        pass
    graph.forget_nodes(before)
    edges = {}
    for record in drawn:
        if record.kind == "edge":
            edges[record.id] = min(edges.get(record.id, record.timestamp), record.timestamp)
    assert {e["edge_id"] for e in whole_graph(graph)["edges"]} == {
        i for i, at in edges.items() if at >= before
    }
    for number in graph.nodes():
        node = graph.node(number)
        assert node.out or node.into or node.last >= before
        for edge in node.out:
            assert graph.source[edge] == number
        for edge in node.into:
            assert graph.target[edge] == number
    # Freed places are taken again, and nothing of the old shows.
    for record in drawn:
        graph.apply(record)
    assert {e["edge_id"] for e in whole_graph(graph)["edges"]} == set(edges)


def test_the_whole_graph_is_plain_json():
    graph = graph_of([LineageRecord("edge", "e", "invokes", 1.0, source="a", target="b")])
    json.dumps(whole_graph(graph))
