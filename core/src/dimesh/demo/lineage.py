"""The demo of lineage: the actions of some agents, an impact analysis and a diagram."""

from __future__ import annotations

from dimesh.demo.stage import Stage


async def play(stage: Stage) -> None:
    """Record, query and draw."""
    from dimesh.lineage import LineageNodeType, LineageQuery, LineageService, LineageVisualizer

    async with LineageService(path=stage.folder / "lineage") as service:
        await service.add_node("data:crm.leads", LineageNodeType.DATA_SOURCE, "CRM leads", "Growth Engine")
        await service.add_node("agent:marketing", LineageNodeType.AGENT, "Marketing Agent", "Growth Engine")
        await service.add_node("agent:support", LineageNodeType.AGENT, "Support Agent", "Customer Success")
        await service.add_node("data:campaigns", LineageNodeType.DATA_SINK, "Campaigns", "Growth Engine")
        await service.track_data_flow("data:crm.leads", "agent:marketing", "trace_001", record_count=100)
        await service.track_tool_invocation(
            agent_id="agent:marketing",
            tool_name="email_sender",
            trace_id="trace_001",
            inputs={"recipients": 100},
            outputs={"sent": 95},
            pillar="Growth Engine",
        )
        await service.track_decision(
            "agent:marketing", "launch-camp_001", "trace_001", "launch", "approved", {"budget": 5_000}
        )
        await service.track_data_flow("agent:marketing", "data:campaigns", "trace_001", record_count=1)
        await service.track_data_flow("data:campaigns", "agent:support", "trace_001", record_count=1)
        result = await service.query_lineage(
            LineageQuery(node_id="data:crm.leads", direction="downstream", max_depth=10)
        )
        stats = result["stats"]
        stage.step(
            "the reads, writes, calls and decisions of the agents were recorded",
            stats["total_nodes"] >= 5,
            f"{stats['total_nodes']} nodes, {stats['total_edges']} edges",
        )
        impact = await service.find_impact("data:crm.leads", "schema")
        affected = sorted(n["node_id"] if isinstance(n, dict) else n for n in impact["affected_nodes"])
        stage.step(
            "impact: what would a change of the schema of the CRM leads affect?",
            "agent:support" in affected,
            f"{len(affected)} nodes in {len(impact['affected_pillars'])} pillars, risk {impact['risk_level']}",
        )
        timeline = await service.get_trace_timeline("trace_001")
        stage.step("the trace, step by step", len(timeline) >= 4)
        stage.table(
            ("from", "action", "to"),
            [(t["source"]["name"], t["action"], t["target"]["name"]) for t in timeline],
        )
        mermaid = LineageVisualizer().generate_mermaid(result)
        picture = stage.folder / "lineage.mmd"
        picture.write_text(mermaid, "utf-8")
        stage.step("drawn as Mermaid", mermaid.startswith(("graph", "flowchart")), str(picture))
        stage.block(mermaid)
