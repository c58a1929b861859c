"""``dimesh lineage``: what was recorded about agents, tools, events and data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.times import parse_since

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.lineage import LineageService

lineage = typer.Typer(
    help="Ask what was recorded: where data came from, what a change affects.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NodeId = Annotated[str, typer.Argument(help="The id of a node, such as agent:marketing or event:ID.")]
Since = Annotated[
    str | None, typer.Option(help="Only what happened since then: 15m, '2 hours ago', yesterday, or a time.")
]
Limit = Annotated[int, typer.Option(min=1, help="The maximum number of nodes in the answer.")]


class Way(StrEnum):
    """The directions of a query."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    BOTH = "both"


class Form(StrEnum):
    """The forms of an export."""

    JSON = "json"
    GRAPHML = "graphml"
    DOT = "dot"
    MERMAID = "mermaid"


@lineage.callback()
def _group() -> None:
    """Ask what was recorded: where data came from, what a change affects."""


@asynccontextmanager
async def _opened(state: State) -> AsyncIterator[LineageService]:
    mesh = state.mesh()
    service = mesh.lineage_reader()
    try:
        async with service:
            yield service
    finally:
        await mesh.close()


def _moment(text: str | None) -> datetime | None:
    return parse_since(text) if text is not None else None


def _warn(state: State, answer: Mapping[str, Any]) -> None:
    for reason in answer["reasons"]:
        state.output.warn(f"the answer is partial: {reason}")


@lineage.command("query")
def query(
    context: typer.Context,
    node: Annotated[
        str, typer.Argument(help="Begin at this node; without it, all nodes that match are listed.")
    ] = "",
    direction: Annotated[Way, typer.Option(help="Along the arrows, against them, or both.")] = Way.BOTH,
    depth: Annotated[int, typer.Option(min=0, help="The maximum number of edges from the node.")] = 10,
    trace: Annotated[str | None, typer.Option(help="Only what happened in this trace.")] = None,
    pillar: Annotated[str | None, typer.Option(help="Only nodes of this pillar.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only nodes of this type, such as agent or tool.")
    ] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option(help="Only what happened until then.")] = None,
    observations: Annotated[
        bool, typer.Option("--observations", help="Show each time that something happened.")
    ] = False,
    limit: Limit = 1_000,
) -> None:
    """Show what a node is connected with: where its data came from, and where it went. Without a node, show everything that
    matches the other options.
    """
    run(
        _query(
            state_of(context),
            {
                "node_id": node or None,
                "direction": direction.value,
                "max_depth": depth,
                "trace_id": trace,
                "pillar": pillar,
                "node_type": kind,
                "level": "observations" if observations else "entities",
                "max_nodes": limit,
            },
            since,
            until,
        )
    )


async def _query(state: State, fields: dict[str, Any], since: str | None, until: str | None) -> None:
    from dimesh.lineage import LineageQuery

    first, last = _moment(since), _moment(until)
    wanted = LineageQuery(**fields, time_range=(first, last) if first or last else None)
    async with _opened(state) as service:
        answer = await service.query_lineage(wanted)
    if state.output.as_json:
        state.output.document(answer)
        return
    _warn(state, answer)
    alone = {n["node_id"] for n in answer["nodes"]}
    alone -= {edge[end] for edge in answer["edges"] for end in ("source_id", "target_id")}
    state.output.table(
        ("from", "what", "to", "times", "last"),
        [
            (
                e["source_id"],
                e["edge_type"],
                e["target_id"],
                e.get("count", 1),
                e.get("updated_at", e["created_at"]),
            )
            for e in answer["edges"]
        ]
        + [(node, "", "", "", "") for node in sorted(alone)],
        "nothing was recorded that matches",
    )


@lineage.command("impact")
def impact(
    context: typer.Context,
    node: NodeId,
    change: Annotated[
        str, typer.Option(help="The kind of change; words such as delete or schema raise the risk.")
    ] = "update",
    since: Since = None,
    limit: Limit = 1_000,
) -> None:
    """Show what a change of a node would affect, with a way to each affected node and the risk."""
    run(_impact(state_of(context), node, change, since, limit))


async def _impact(state: State, node: str, change: str, since: str | None, limit: int) -> None:
    moment = _moment(since)
    async with _opened(state) as service:
        answer = await service.find_impact(node, change, since=moment, max_nodes=limit)
    if state.output.as_json:
        state.output.document(answer)
        return
    _warn(state, answer)
    state.output.table(
        ("node", "type", "pillar", "depth", "way"),
        [
            (n["node_id"], n["node_type"], n["pillar"], n["depth"], " > ".join(n["path"]))
            for n in answer["affected_nodes"]
        ],
        "nothing is affected",
    )
    state.output.say(f"risk: {answer['risk_level']} ({'; '.join(answer['risk_reasons'])})")


@lineage.command("path")
def path(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The node to begin at.")],
    target: Annotated[str, typer.Argument(help="The node to end at.")],
    since: Since = None,
) -> None:
    """Show how something got from one node to another. Exit code 1: there is no way."""
    raise typer.Exit(run(_path(state_of(context), source, target, since)))


async def _path(state: State, source: str, target: str, since: str | None) -> int:
    moment = _moment(since)
    async with _opened(state) as service:
        answer = await service.find_path(source, target, since=moment)
    if state.output.as_json:
        state.output.document(answer)
    else:
        _warn(state, answer)
        state.output.table(
            ("from", "what", "to", "at", "trace"),
            [
                (e["source_id"], e["edge_type"], e["target_id"], e["created_at"], e["trace_id"])
                for e in answer["edges"]
            ],
            "both are the same node" if answer["found"] else f"no way leads from {source} to {target}",
        )
    return ExitCode.OK if answer["found"] else ExitCode.FAILED


@lineage.command("timeline")
def timeline(
    context: typer.Context, trace: Annotated[str, typer.Argument(help="The id of a trace.")]
) -> None:
    """Show what happened in a trace, in order."""
    run(_timeline(state_of(context), trace))


async def _timeline(state: State, trace: str) -> None:
    async with _opened(state) as service:
        steps = await service.get_trace_timeline(trace)
    if state.output.as_json:
        state.output.document(steps)
        return
    state.output.table(
        ("at", "from", "what", "to"),
        [(s["timestamp"], s["source"]["id"], s["action"], s["target"]["id"]) for s in steps],
        "nothing was recorded in this trace",
    )


@lineage.command("export")
def export(
    context: typer.Context,
    form: Annotated[Form, typer.Option("--format", help="The form of the text.")] = Form.JSON,
    node: Annotated[str, typer.Option(help="Only what is connected with this node.")] = "",
    depth: Annotated[int, typer.Option(min=0, help="The maximum number of edges from that node.")] = 3,
    limit: Limit = 10_000,
) -> None:
    """Print what was recorded for other programs: node-link JSON, GraphML, DOT or Mermaid."""
    run(_export(state_of(context), form, node, depth, limit))


async def _export(state: State, form: Form, node: str, depth: int, limit: int) -> None:
    from dimesh.lineage import LineageQuery, LineageVisualizer
    from dimesh.lineage.export import export as as_text

    async with _opened(state) as service:
        answer = await service.query_lineage(
            LineageQuery(
                node_id=node or None, max_depth=depth, max_nodes=limit, max_edges=10 * limit, level="entities"
            )
        )
    _warn(state, answer)
    text = (
        LineageVisualizer().generate_mermaid(answer) if form is Form.MERMAID else as_text(answer, form.value)
    )
    typer.echo(text)


@lineage.command("stats")
def stats(context: typer.Context) -> None:
    """Show how much was recorded, and what is damaged."""
    run(_stats(state_of(context)))


async def _stats(state: State) -> None:
    async with _opened(state) as service:
        found = service.stats()
    (log,) = found["sinks"]
    rows = {name: found[name] for name in ("nodes", "edges", "traces", "oldest", "evicted")}
    rows |= {name: log[name] for name in ("damaged_bytes", "damaged_places") if name in log}
    if rows["oldest"] is not None:
        from dimesh.lineage.model import moment

        rows["oldest"] = moment(rows["oldest"]).isoformat()
    if state.output.as_json:
        state.output.document(rows)
        return
    state.output.table(("figure", "value"), rows.items(), "")


@lineage.command("prune")
def prune(
    context: typer.Context,
    days: Annotated[float, typer.Option(min=0, help="Forget what is older than so many days.")],
) -> None:
    """Forget what is older than some days, in the log too. No other process may be recording."""
    run(_prune(state_of(context), days))


async def _prune(state: State, days: float) -> None:
    mesh = state.mesh()
    try:
        gone = await mesh.lineage.prune_old_data(days)
    finally:
        await mesh.close()
    if state.output.as_json:
        state.output.document({"forgotten": gone})
        return
    state.output.say(f"forgotten: {gone} nodes and edges")
