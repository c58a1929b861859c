"""``dimesh lineage`` over a log that another process wrote, or writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimesh.clock import ManualClock
from dimesh.lineage import LineageService


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    """Return the folder of a log in which a report was made from orders on three days."""
    (tmp_path / "dimesh.toml").write_text('[mesh]\ndata_dir = "data"\n[bus]\ndriver = "memory"\n')
    folder = tmp_path / "data" / "lineage"
    clock = ManualClock()
    async with LineageService(path=folder, clock=clock) as lineage:
        for day in range(3):
            await lineage.track_data_flow("data:orders", "agent:report", f"t{day}", None, 10)
            await lineage.track_tool_invocation("agent:report", "mail", f"t{day}", {}, {}, "Growth")
            await lineage.track_data_flow("agent:report", "data:report", f"t{day}")
            await clock.advance(86_400)
    return folder


async def test_questions_about_a_report(dimesh: Any, log: Path) -> None:
    shown = dimesh("lineage", "query", "agent:report").out
    assert {tuple(line.split()[:4]) for line in shown.splitlines() if "agent:report" in line} == {
        ("data:orders", "reads_from", "agent:report", "3"),
        ("agent:report", "invokes", "tool:mail", "3"),
        ("agent:report", "writes_to", "data:report", "3"),
    }
    answer = dimesh("--output", "json", "lineage", "query", "agent:report").json
    assert {(e["source_id"], e["target_id"], e["count"]) for e in answer["edges"]} == {
        ("data:orders", "agent:report", 3),
        ("agent:report", "tool:mail", 3),
        ("agent:report", "data:report", 3),
    }
    every = dimesh("--output", "json", "lineage", "query", "--trace", "t1", "--observations").json
    assert {edge["trace_id"] for edge in every["edges"]} == {"t1"}
    assert len(every["edges"]) == 3

    affected = dimesh("lineage", "impact", "data:orders", "--change", "schema").out
    assert "data:orders > agent:report > tool:mail" in affected
    assert "risk: medium (3 nodes affected; 1 other pillars reached; the change type is schema)" in affected

    way = dimesh("--output", "json", "lineage", "path", "data:orders", "data:report").json
    assert [node["node_id"] for node in way["nodes"]] == ["data:orders", "agent:report", "data:report"]
    assert (
        "no way leads from data:report to data:orders"
        in dimesh("lineage", "path", "data:report", "data:orders", code=1).err
    )

    steps = dimesh("--output", "json", "lineage", "timeline", "t2").json
    assert [step["action"] for step in steps] == ["reads_from", "invokes", "writes_to"]
    assert dimesh("lineage", "export", "--format", "mermaid").out.startswith("flowchart")
    assert "digraph" in dimesh("lineage", "export", "--format", "dot", "--node", "data:report").out
    assert dimesh("--output", "json", "lineage", "stats").json["edges"] == 9

    assert "no lineage node has the id" in dimesh("lineage", "query", "agent:nobody", code=7).err
    assert "is not a time" in dimesh("lineage", "query", "--since", "soon", code=3).err
    assert "use one of" in dimesh("lineage", "query", "--type", "robot", code=1).err


async def test_a_log_that_another_process_writes_is_read(dimesh: Any, log: Path) -> None:
    async with LineageService(path=log) as lineage:
        await lineage.add_edge("agent:a", "agent:b", "triggers", "t9")
        await lineage.flush()
        assert len(dimesh("--output", "json", "lineage", "query", "agent:a").json["edges"]) == 1
        assert "in use by another" in dimesh("lineage", "prune", "--days", "30", code=5).err
    assert dimesh("--output", "json", "lineage", "prune", "--days", "0").json["forgotten"] > 0
    assert dimesh("--output", "json", "lineage", "stats").json["edges"] == 0


async def test_a_partial_answer_says_so(dimesh: Any, log: Path) -> None:
    (segment,) = log.glob("*.lineage")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    found = dimesh("lineage", "impact", "data:orders")
    assert "warning: the answer is partial" in found.err
    assert "bytes of the log are damaged" in found.err
    assert "the search is not complete" in found.out
    assert dimesh("--output", "json", "lineage", "stats").json["damaged_places"] == 1


async def test_without_a_log(dimesh: Any, tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text('[mesh]\ndata_dir = "data"\n')
    assert "there is no lineage log" in dimesh("lineage", "query", code=5).err
    assert not (tmp_path / "data" / "lineage").exists()
    (tmp_path / "dimesh.toml").write_text('[lineage]\ndriver = "memory"\n')
    assert "keeps nothing that another process can read" in dimesh("lineage", "query", code=3).err
