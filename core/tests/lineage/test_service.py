"""What users of the lineage service rely on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from dimesh.clock import ManualClock
from dimesh.errors import InvalidLineageError, LineageError, NodeNotFoundError
from dimesh.events import Event, EventMetadata
from dimesh.lineage import LineageEdgeType, LineageNodeType, LineageQuery, LineageService

UTC = timezone.utc  # noqa: UP017


def ids(result) -> set[str]:
    return {node["node_id"] for node in result["nodes"]}


def arrows(result) -> set[tuple[str, str, str]]:
    return {(edge["source_id"], edge["edge_type"], edge["target_id"]) for edge in result["edges"]}


async def test_the_document_example():
    lineage = LineageService()
    await lineage.add_node(
        node_id="agent:marketing",
        node_type=LineageNodeType.AGENT,
        name="Marketing Agent",
        pillar="Growth Engine",
    )
    await lineage.track_tool_invocation(
        agent_id="agent:marketing",
        tool_name="email_sender",
        trace_id="trace_001",
        inputs={"recipients": 100},
        outputs={"sent": 95},
        pillar="Growth Engine",
    )
    query = LineageQuery(node_id="agent:marketing", direction="downstream", max_depth=5)
    results = await lineage.query_lineage(query)
    assert arrows(results) == {("agent:marketing", "invokes", "tool:email_sender")}
    assert results["nodes"][0]["name"] == "Marketing Agent"
    assert results["stats"] == {
        "total_nodes": 2,
        "total_edges": 1,
        "node_types": {"agent": 1, "tool": 1},
        "edge_types": {"invokes": 1},
        "pillars_involved": ["Growth Engine"],
    }
    stats = {}
    for pillar in ["Growth Engine", "Customer Success"]:
        results = await lineage.query_lineage(LineageQuery(pillar=pillar, direction="both"))
        stats[pillar] = results["stats"]
    assert stats["Growth Engine"]["total_edges"] == 1
    assert stats["Customer Success"]["total_nodes"] == 0
    assert lineage.LineageNodeType is LineageNodeType
    assert lineage.LineageEdgeType is LineageEdgeType


def event(event_id: str, **metadata) -> Event:
    return Event("deal.won", EventMetadata(event_id=event_id, trace_id="t1", **metadata), {"amount": 5})


async def test_events_record_senders_receivers_and_causes():
    lineage = LineageService()
    first = event("e1", source_pillar="Growth", source_agent="sales")
    second = event(
        "e2",
        source_pillar="Success",
        source_agent="onboarding",
        target_pillar="People",
        target_agent="hr",
        causation_id="e1",
    )
    for item in (second, first, second):  # late, and twice
        await lineage.track_event(item)
    result = await lineage.query_lineage(LineageQuery(trace_id="t1"))
    assert arrows(result) == {
        ("Growth:sales", "produces", "event:e1"),
        ("event:e1", "triggers", "event:e2"),
        ("Success:onboarding", "produces", "event:e2"),
        ("event:e2", "consumes", "People:hr"),
    }
    assert len(result["edges"]) == 4
    nodes = {node["node_id"]: node for node in result["nodes"]}
    assert nodes["event:e1"]["name"] == "deal.won"
    assert (nodes["Growth:sales"]["node_type"], nodes["Growth:sales"]["pillar"]) == ("agent", "Growth")
    assert nodes["Growth:sales"]["name"] == "sales"
    assert "amount" not in json.dumps(result)


async def test_an_event_without_an_agent_comes_from_its_pillar():
    lineage = LineageService()
    await lineage.track_event(event("e1", source_pillar="Growth", target_pillar="People"))
    await lineage.track_event(event("e2"))
    result = await lineage.query_lineage(LineageQuery())
    assert arrows(result) == {
        ("pillar:Growth", "produces", "event:e1"),
        ("event:e1", "consumes", "pillar:People"),
    }
    assert "event:e2" in ids(result)


async def test_the_event_handler_records_and_returns_nothing():
    lineage = LineageService()
    handler = lineage.create_event_handler()
    assert await handler.handler_func(event("e1", source_pillar="Growth", source_agent="sales")) is None
    assert "event:e1" in ids(await lineage.query_lineage(LineageQuery()))


async def test_data_flows_and_decisions():
    lineage = LineageService()
    await lineage.track_data_flow("data:crm", "agent:etl", "t", {"id": "integer"}, 10)
    await lineage.track_data_flow("agent:etl", "data:warehouse", "t", record_count=10)
    await lineage.track_decision(
        "agent:etl", "d-1", "t", "load", "approved", {"risk": 0.2, "api_key": "sk_live"}
    )
    result = await lineage.query_lineage(LineageQuery(node_id="data:crm", direction="downstream"))
    assert arrows(result) == {
        ("data:crm", "reads_from", "agent:etl"),
        ("agent:etl", "writes_to", "data:warehouse"),
        ("agent:etl", "produces", "decision:d-1"),
    }
    nodes = {node["node_id"]: node for node in result["nodes"]}
    assert nodes["data:crm"]["node_type"] == "data_source"
    assert nodes["data:warehouse"]["node_type"] == "data_sink"
    assert nodes["decision:d-1"]["metadata"] == {
        "decision_type": "load",
        "result": "approved",
        "factors": {"risk": 0.2, "api_key": "********"},
    }
    flow = next(edge for edge in result["edges"] if edge["source_id"] == "data:crm")
    assert flow["metadata"] == {"data_schema": {"id": "integer"}, "record_count": 10}


async def test_a_tool_call_never_overwrites_a_declared_name():
    lineage = LineageService()
    await lineage.track_tool_invocation("agent:a", "mail", "t", {}, {}, "Growth")
    await lineage.add_node("agent:a", "agent", "Ada")
    await lineage.track_tool_invocation("agent:a", "mail", "t2", {}, {}, "Growth")
    node = (await lineage.query_lineage(LineageQuery(node_id="agent:a", max_depth=0)))["nodes"][0]
    assert (node["name"], node["pillar"]) == ("Ada", "Growth")


async def test_each_call_is_an_observation_unless_it_has_an_id():
    lineage = LineageService()
    for call in (None, None, "c1", "c2", "c2"):
        await lineage.track_tool_invocation("agent:a", "poll", "t", {"x": 1}, {"y": 2}, call_id=call)
    await lineage.track_tool_invocation("agent:a", "poll", "t", {"x": 1}, {"y": 3})
    assert len(await lineage.get_trace_timeline("t")) == 5


async def test_three_daily_runs_are_three_observations_of_one_flow():
    """They were one edge of day 1: a change on day 2 affected nothing, and pruning deleted a flow that was in use."""
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    for _ in range(3):
        await lineage.track_data_flow("data:orders", "agent:report", "", None, 10)
        await clock.advance(86_400)
    second_day = datetime.fromtimestamp(clock.time() - 1.5 * 86_400, UTC)
    impact = await lineage.find_impact("data:orders", since=second_day)
    assert [node["node_id"] for node in impact["affected_nodes"]] == ["agent:report"]
    query = LineageQuery(node_id="data:orders", level="entities")
    answer = await lineage.query_lineage(query)
    (edge,) = answer["edges"]
    assert (edge["count"], answer["stats"]["total_edges"], answer["observations"]) == (3, 1, 3)
    days = datetime.fromisoformat(edge["updated_at"]) - datetime.fromisoformat(edge["created_at"])
    assert days.total_seconds() == 2 * 86_400
    assert len((await lineage.query_lineage(LineageQuery(node_id="data:orders")))["edges"]) == 3
    await lineage.prune_old_data(days=1.5)
    (edge,) = (await lineage.query_lineage(query))["edges"]
    assert edge["count"] == 1
    with pytest.raises(InvalidLineageError, match="use one of observations, entities"):
        LineageQuery(level="nodes")


async def test_answers_say_what_they_lack():
    clock = ManualClock()
    lineage = LineageService(clock=clock, max_facts=100)
    for number in range(200):
        await lineage.add_edge("agent:a", f"data:{number}", "writes_to", "t")
        await clock.advance(1)
    answer = await lineage.query_lineage(LineageQuery(node_id="agent:a"))
    assert answer["partial"]
    assert "evicted" in answer["reason"]
    assert answer["reasons"] == [answer["reason"]]
    # Nothing of the last seconds was evicted.
    recent = datetime.fromtimestamp(clock.time() - 5, UTC)
    assert not (await lineage.query_lineage(LineageQuery(time_range=(recent, None))))["partial"]
    assert (await lineage.find_impact("agent:a"))["partial"]
    assert not (await lineage.find_impact("agent:a", since=recent))["partial"]


# -- queries -----------------------------------------------------------------------------------------


async def chain(length: int = 6, clock: ManualClock | None = None) -> LineageService:
    lineage = LineageService(clock=clock)
    for number in range(length):
        await lineage.add_node(f"n{number}", "transform", f"N{number}", "even" if number % 2 == 0 else "odd")
        if number:
            await lineage.add_edge(f"n{number - 1}", f"n{number}", "triggers", f"t{number % 2}")
            if clock:
                await clock.advance(10)
    return lineage


@pytest.mark.parametrize(
    ("direction", "depth", "expected"),
    [
        ("downstream", 0, {"n2"}),
        ("downstream", 2, {"n2", "n3", "n4"}),
        ("upstream", 1, {"n1", "n2"}),
        ("both", 1, {"n1", "n2", "n3"}),
        ("both", 10, {"n0", "n1", "n2", "n3", "n4", "n5"}),
    ],
)
async def test_depth_counts_edges_exactly(direction, depth, expected):
    lineage = await chain()
    result = await lineage.query_lineage(LineageQuery(node_id="n2", direction=direction, max_depth=depth))
    assert ids(result) == expected
    assert len(result["edges"]) == len(expected) - 1
    assert not result["partial"]


async def test_both_is_not_the_neighbours_of_neighbours():
    lineage = LineageService()
    await lineage.add_edge("agent:a", "tool:t", "invokes", "t")
    await lineage.add_edge("agent:b", "tool:t", "invokes", "t")
    assert ids(await lineage.query_lineage(LineageQuery(node_id="agent:a"))) == {"agent:a", "tool:t"}


async def test_filters():
    clock = ManualClock()
    start = datetime.fromtimestamp(clock.time(), UTC)
    lineage = await chain(clock=clock)
    ask = lineage.query_lineage
    assert ids(await ask(LineageQuery(node_id="n0", pillar="odd"))) == {"n0", "n1", "n3", "n5"}
    assert len((await ask(LineageQuery(node_id="n0", pillar="odd")))["edges"]) == 1
    assert ids(await ask(LineageQuery(node_id="n0", trace_id="t1"))) == {"n0", "n1"}
    assert ids(await ask(LineageQuery(trace_id="t0"))) == {"n1", "n2", "n3", "n4"}
    assert (await ask(LineageQuery(trace_id="unknown")))["nodes"] == []
    assert ids(await ask(LineageQuery(node_type="agent"))) == set()
    window = (start + timedelta(seconds=5), start + timedelta(seconds=20))
    assert ids(await ask(LineageQuery(time_range=window))) == {"n1", "n2", "n3"}
    assert ids(await ask(LineageQuery(time_range=(None, start)))) == {"n0", "n1"}
    assert ids(await ask(LineageQuery(node_id="n0", time_range=(None, window[1])))) == {
        "n0",
        "n1",
        "n2",
        "n3",
    }
    leaving = await ask(LineageQuery(pillar="even", direction="downstream"))
    assert {edge["source_id"] for edge in leaving["edges"]} == {"n0", "n2", "n4"}
    plain = await ask(LineageQuery(node_id="n0", include_metadata=False))
    assert "metadata" not in plain["nodes"][0]
    assert "metadata" not in plain["edges"][0]


async def test_limits_end_a_query_and_are_reported():
    lineage = LineageService()
    for number in range(100):
        await lineage.add_edge("agent:hub", f"tool:{number}", "invokes", "t")
    few = await lineage.query_lineage(LineageQuery(node_id="agent:hub", max_nodes=10))
    assert (len(few["nodes"]), few["partial"], few["visited"]) == (10, True, 10)
    assert "max_nodes" in few["reason"]
    edges = await lineage.query_lineage(LineageQuery(max_edges=5))
    assert (len(edges["edges"]), edges["partial"]) == (5, True)
    exact = await lineage.query_lineage(LineageQuery(node_id="agent:hub", max_nodes=101))
    assert not exact["partial"]


async def test_time_budget():
    class Racing(ManualClock):
        def monotonic(self) -> float:
            self._mono += 0.01
            return self._mono

    lineage = LineageService(clock=Racing())
    for number in range(2_000):
        await lineage.add_edge("agent:hub", f"tool:{number}", "invokes", "t")
    slow = await lineage.query_lineage(LineageQuery(node_id="agent:hub", max_nodes=10_000, max_ms=30))
    assert slow["partial"]
    assert "max_ms" in slow["reason"]
    assert 0 < slow["visited"] < 2_000
    impact = await lineage.find_impact("agent:hub", max_ms=30)
    assert impact["partial"]


async def test_unknown_nodes_and_bad_arguments():
    lineage = LineageService()
    for call in (
        lineage.query_lineage(LineageQuery(node_id="agent:nobody")),
        lineage.find_impact("agent:nobody"),
    ):
        with pytest.raises(NodeNotFoundError, match="agent:nobody"):
            await call
    assert await lineage.get_trace_timeline("nothing") == []
    for wrong in (
        {"direction": "sideways"},
        {"max_depth": -1},
        {"max_nodes": 0},
        {"node_type": "robot"},
        {"time_range": (datetime(2024, 1, 1), None)},  # noqa: DTZ001
        {"time_range": "today"},
    ):
        with pytest.raises(InvalidLineageError):
            LineageQuery(**wrong)
    for args in (
        ("", "agent", "A"),
        ("a" * 5_000, "agent", "A"),
        ("a\ud800", "agent", "A"),
        (7, "agent", "A"),
        ("a", "robot", "A"),
        ("a", "agent", ""),
    ):
        with pytest.raises(ValueError, match=r"node|robot"):
            await lineage.add_node(*args)
    with pytest.raises(InvalidLineageError):
        await lineage.add_edge("a", "b", "likes", "t")
    with pytest.raises(InvalidLineageError):
        await lineage.track_data_flow("a", "b", "t", record_count=-1)
    with pytest.raises(InvalidLineageError):
        await lineage.prune_old_data(days=-1)
    with pytest.raises(InvalidLineageError):
        await lineage.track_event("not an event")
    with pytest.raises(ValueError, match=r"json, graphml, dot"):
        lineage.export_graph("pdf")


async def test_the_timeline_of_a_trace():
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    await lineage.track_tool_invocation("agent:a", "search", "t", {"q": "x"}, {"n": 1})
    await clock.advance(1)
    await lineage.track_decision("agent:a", "d", "t", "reply", True, [])
    await lineage.add_edge("agent:a", "agent:b", "triggers", "other")
    steps = await lineage.get_trace_timeline("t")
    assert [step["action"] for step in steps] == ["invokes", "produces"]
    assert steps[0]["source"] == {"id": "agent:a", "name": "a", "type": "agent"}
    assert steps[0]["target"] == {"id": "tool:search", "name": "search", "type": "tool"}
    assert steps[0]["timestamp"] < steps[1]["timestamp"]
    assert datetime.fromisoformat(steps[0]["timestamp"]).tzinfo is not None


# -- impact ------------------------------------------------------------------------------------------


async def test_impact_goes_forward_in_time_only():
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    await lineage.add_node("agent:late", "agent", "Late", "Success")
    await lineage.add_edge("data:report", "agent:early", "reads_from", "t1")
    await clock.advance(10)
    await lineage.add_edge("agent:etl", "data:report", "writes_to", "t2")
    written = datetime.fromtimestamp(clock.time(), UTC)
    await clock.advance(10)
    await lineage.add_edge("data:report", "agent:late", "reads_from", "t3")
    impact = await lineage.find_impact("agent:etl")
    assert [node["node_id"] for node in impact["affected_nodes"]] == ["data:report", "agent:late"]
    late = impact["affected_nodes"][1]
    assert (late["depth"], late["path"]) == (2, ["agent:etl", "data:report", "agent:late"])
    assert impact["affected_pillars"] == ["Success"]
    everything = await lineage.find_impact("agent:etl", respect_time=False)
    assert len(everything["affected_nodes"]) == 3
    after = await lineage.find_impact("agent:etl", since=written + timedelta(seconds=1))
    assert after["affected_nodes"] == []
    assert after["risk_level"] == "low"


async def test_a_longer_way_that_arrives_earlier_reaches_more():
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    for source, target, at in [("s", "a", 1), ("a", "b", 2), ("b", "c", 3), ("s", "b", 9), ("c", "d", 4)]:
        clock.set_wall(float(at))
        await lineage.add_edge(f"x:{source}", f"x:{target}", "triggers", "t")
    impact = await lineage.find_impact("x:s")
    found = {node["node_id"]: node for node in impact["affected_nodes"]}
    assert found["x:b"]["depth"] == 1
    assert found["x:c"]["path"] == ["x:s", "x:a", "x:b", "x:c"]
    assert set(found) == {"x:a", "x:b", "x:c", "x:d"}
    short = await lineage.find_impact("x:s", max_depth=2)
    assert {node["node_id"] for node in short["affected_nodes"]} == {"x:a", "x:b"}


@pytest.mark.parametrize(
    ("nodes", "pillars", "change", "level"),
    [
        (0, 0, "delete", "low"),
        (1, 0, "update", "low"),
        (1, 0, "delete", "medium"),
        (9, 1, "update", "medium"),
        (12, 1, "update", "medium"),
        (12, 1, "schema_change", "high"),
        (60, 2, "update", "high"),
    ],
)
async def test_risk_follows_from_counts_pillars_and_kind_of_change(nodes, pillars, change, level):
    lineage = LineageService()
    await lineage.add_node("data:x", "data_source", "X", "Home")
    for number in range(nodes):
        pillar = f"P{number % pillars}" if pillars else "Home"
        await lineage.add_node(f"agent:{number}", "agent", "A", pillar)
        await lineage.add_edge("data:x", f"agent:{number}", "reads_from", "t")
    impact = await lineage.find_impact("data:x", change)
    assert impact["risk_level"] == level
    assert len(impact["affected_nodes"]) == nodes


async def test_an_impact_that_its_budget_ended_is_never_low():
    lineage = LineageService()
    for number in range(5):
        await lineage.add_edge("data:x", f"agent:{number}", "reads_from", "t")
    impact = await lineage.find_impact("data:x", max_nodes=2)
    assert impact["partial"]
    assert impact["risk_level"] == "medium"


# -- recording ---------------------------------------------------------------------------------------


async def test_what_the_caller_changes_later_does_not_show():
    lineage = LineageService()
    details = {"list": [1]}
    await lineage.add_node("agent:a", "agent", "A", metadata=details)
    details["list"].append(2)
    details["more"] = True
    node = (await lineage.query_lineage(LineageQuery(node_id="agent:a")))["nodes"][0]
    assert node["metadata"] == {"list": [1]}


async def test_overflow_is_counted_and_decisions_wait(tmp_path):
    clock = ManualClock()
    lineage = LineageService(capacity=3, patience=0, clock=clock)
    for number in range(5):
        lineage.track_event_nowait(event(f"e{number}"))
    assert lineage.stats()["dropped"] == 2
    assert not await lineage.add_node("agent:a", "agent", "A")
    assert await lineage.track_decision("agent:a", "d", "t", "type", "yes", [])
    assert lineage.stats()["dropped"] == 3
    assert "decision:d" in ids(await lineage.query_lineage(LineageQuery(trace_id="t")))


async def test_a_decision_that_waits_when_the_service_closes_is_an_error():
    lineage = LineageService(capacity=1)
    await lineage.open()
    lineage._recorder.index = lambda limit=None: None  # nothing makes room
    lineage.track_event_nowait(event("e1"))
    waiting = asyncio.create_task(lineage.track_decision("agent:a", "d", "t", "type", "yes"))
    await asyncio.sleep(0)
    await lineage.close()
    with pytest.raises(LineageError, match="closed"):
        await waiting


async def test_a_tight_loop_loses_nothing(tmp_path):
    async with LineageService(path=tmp_path / "log", capacity=200, patience=30) as lineage:
        for number in range(3_000):
            assert await lineage.add_edge("agent:a", f"tool:{number}", "invokes", "t")
        assert lineage.stats()["dropped"] == 0
        await lineage.flush()
        assert lineage.stats()["edges"] == 3_000


async def test_closed_services_answer_queries_but_do_not_record():
    async with LineageService() as lineage:
        await lineage.add_node("agent:a", "agent", "A")
    await lineage.close()
    assert ids(await lineage.query_lineage(LineageQuery())) == {"agent:a"}
    with pytest.raises(LineageError, match="closed"):
        await lineage.add_node("agent:b", "agent", "B")
    assert not lineage.track_event_nowait(event("e1"))
    assert lineage.stats()["dropped"] == 1


async def test_memory_is_bounded():
    clock = ManualClock()
    lineage = LineageService(max_facts=1_000, clock=clock)
    for number in range(3_000):
        clock.set_wall(float(number))
        await lineage.add_edge("agent:a", f"tool:{number}", "invokes", f"t{number}")
    result = await lineage.query_lineage(LineageQuery(node_id="agent:a", max_nodes=10_000))
    stats = lineage.stats()
    assert stats["nodes"] + stats["edges"] <= 1_000
    assert stats["evicted"] + stats["nodes"] + stats["edges"] == 6_001
    assert "tool:2999" in ids(result)
    assert "tool:0" not in ids(result)
    assert stats["oldest"] > 0


async def test_pruning_removes_old_edges_and_isolated_nodes():
    clock = ManualClock()
    lineage = LineageService(clock=clock)
    await lineage.add_edge("agent:a", "tool:old", "invokes", "t-old")
    await clock.advance(31 * 86_400)
    await lineage.add_edge("agent:a", "tool:new", "invokes", "t-new")
    assert await lineage.prune_old_data() == 2
    assert ids(await lineage.query_lineage(LineageQuery())) == {"agent:a", "tool:new"}
    assert await lineage.get_trace_timeline("t-old") == []
    assert await lineage.prune_old_data() == 0
    await lineage.add_edge("agent:b", "tool:old", "invokes", "t")  # freed places are used again
    result = await lineage.query_lineage(LineageQuery(node_id="agent:b"))
    assert arrows(result) == {("agent:b", "invokes", "tool:old")}


async def test_an_observer_sees_every_record_and_cannot_break_anything(tmp_path):
    seen = []

    def observe(record):
        seen.append(record.kind)
        raise RuntimeError("broken observer")

    async with LineageService(path=tmp_path, on_recorded=observe) as lineage:
        await lineage.add_edge("agent:a", "tool:t", "invokes", "t")
        await lineage.flush()
        assert seen == ["edge"]


# -- privacy -----------------------------------------------------------------------------------------


async def test_values_of_tools_are_never_stored():
    lineage = LineageService()
    inputs = {
        "customer": "Ada Lovelace",
        "api_key": "sk_live_123",
        "nested": {"password": "hunter2", "page": 3},
        "max_tokens": 50,
    }
    await lineage.track_tool_invocation("agent:a", "crm", "t", inputs, ["row one", "row two"])
    steps = await lineage.get_trace_timeline("t")
    text = json.dumps(steps)
    for secret in ("Lovelace", "sk_live_123", "hunter2", "row one"):
        assert secret not in text
    kept = steps[0]["metadata"]["inputs"]
    assert kept["keys"]["api_key"] == {"type": "string", "redacted": True}
    assert kept["keys"]["customer"]["type"] == "string"
    assert kept["keys"]["max_tokens"]["size"] == 1
    assert kept["size"] > 0
    assert steps[0]["metadata"]["outputs"]["keys"]["value"]["type"] == "array"


async def test_secrets_do_not_affect_hashes():
    lineage = LineageService()
    for password in ("one", "two"):
        await lineage.track_tool_invocation(
            "agent:a", "login", "t", {"cfg": {"password": password}, "u": 1}, None
        )
    one, two = await lineage.get_trace_timeline("t")
    assert one["metadata"] == two["metadata"]


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("must not be called")

    __str__ = __repr__


def cyclic() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def deep() -> list:
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "hostile",
    [
        {"x": Opaque()},
        {"x": float("nan")},
        {"x": 10**5_000},
        {"x": "\ud800"},
        {("a", 1): 2, 3: {4}},
        {"x": cyclic()},
        {"x": deep()},
        {"x" * 10_000: "y" * 1_000_000},
        {str(n): n for n in range(50_000)},
        {"x": b"\x00" * 100, "when": datetime(2024, 1, 1, tzinfo=UTC)},
    ],
    ids=lambda value: next(iter(map(type, value.values()))).__name__,
)
async def test_hostile_values_are_cut_not_raised(tmp_path, hostile):
    async with LineageService(path=tmp_path) as lineage:
        await lineage.add_node("agent:a", "agent", "A", metadata=hostile)
        await lineage.add_edge("agent:a", "agent:b", "triggers", "t", hostile)
        await lineage.track_tool_invocation("agent:a", "t", "t", hostile, list(hostile.values()))
        await lineage.track_decision("agent:a", "d", "t", "x", hostile, hostile)
        await lineage.flush()
        text = lineage.export_graph("json")
        json.loads(text, parse_constant=pytest.fail)
        assert len(text) < 300_000
        stats = lineage.stats()
        assert (stats["failed"], stats["recorded"]) == (0, 4)


def test_lineage_loads_neither_networkx_nor_the_bus():
    code = "import sys, dimesh.lineage; print([m for m in ('networkx', 'sqlite3', 'dimesh.bus') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
