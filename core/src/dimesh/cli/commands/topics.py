"""``dimesh topics``: the topics, and creating, describing and deleting them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.times import parse_duration
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.ops.topics import Retention, TopicDetail

topics = typer.Typer(
    help="List the topics; create, describe or delete one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="The topic.", autocompletion=topic_names)]


@topics.callback()
def _group(context: typer.Context) -> None:
    """List the topics; create, describe or delete one."""
    if context.invoked_subcommand is None:
        run(_list(state_of(context)))


@topics.command("list")
def list_(context: typer.Context) -> None:
    """List the topics with their size, as 'dimesh topics' does."""
    run(_list(state_of(context)))


async def _list(state: State) -> None:
    from dimesh.ops.topics import list_topics

    async with state.opened() as mesh:
        found = await list_topics(mesh.bus)
    state.output.table(
        ("topic", "partitions", "records", "bytes", "next_offset"),
        [(t.topic, t.partitions, t.records, t.bytes, t.next_offset) for t in found],
        "no topics yet: 'dimesh publish TOPIC FILE' creates one",
    )


@topics.command("create")
def create(
    context: typer.Context,
    topic: Name,
    partitions: Annotated[int | None, typer.Option(help="The number of its partitions.", min=1)] = None,
    retention: Annotated[
        str | None, typer.Option(help="Keep events for this time, such as 7d or '12 hours'.")
    ] = None,
    retention_bytes: Annotated[int | None, typer.Option(help="Keep this many bytes.", min=1)] = None,
    retention_records: Annotated[int | None, typer.Option(help="Keep this many events.", min=1)] = None,
) -> None:
    """Create a topic, or give one that exists more partitions or another retention."""
    seconds = parse_duration(retention).total_seconds() if retention is not None else None
    run(_create(state_of(context), topic, partitions, seconds, retention_bytes, retention_records))


async def _create(
    state: State,
    topic: str,
    partitions: int | None,
    seconds: float | None,
    size: int | None,
    records: int | None,
) -> None:
    from dimesh.ops.topics import Retention, create_topic, describe_topic

    async with state.opened() as mesh:
        new = await create_topic(mesh.bus, topic, partitions, Retention(seconds, size, records))
        detail = await describe_topic(mesh.bus, topic)
    if state.output.as_json:
        state.output.document({"created": new, **asdict(detail)})
        return
    text = f"{len(detail.partitions)} partitions, retention: {_retention(detail.retention)}"
    state.output.say(f"created {topic}: {text}" if new else f"{topic} existed already; it has {text}")


@topics.command("describe")
def describe(context: typer.Context, topic: Name) -> None:
    """Print the partitions, the retention and the groups of a topic."""
    run(_describe(state_of(context), topic))


async def _describe(state: State, topic: str) -> None:
    from dimesh.ops.topics import describe_topic

    async with state.opened() as mesh:
        detail = await describe_topic(mesh.bus, topic)
    out = state.output
    if out.as_json:
        out.document(asdict(detail))
        return
    out.say(
        f"topic      {detail.topic}",
        f"events     {_number(detail.records)}",
        f"bytes      {_number(detail.bytes)}",
        f"retention  {_retention(detail.retention)}",
    )
    out.table(
        ("partition", "first_offset", "next_offset"),
        [(p.partition, p.first_offset, p.next_offset) for p in detail.partitions],
        "no partitions",
    )
    out.table(
        ("group", "lag", "members", "state"),
        [(g.group, g.lag, g.members, g.state) for g in detail.groups],
        "no groups: a subscription with a group name creates one",
    )


@topics.command("delete")
def delete(
    context: typer.Context,
    topic: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a topic with its events and the positions of its groups. Its dead letters stay in their own topic."""
    state = state_of(context)
    if not yes:
        detail = run(_detail(state, topic))
        if not sys.stdin.isatty():
            raise ConfigurationError("add --yes: standard input is not a terminal, so nobody can confirm")
        groups = f", which {len(detail.groups)} groups read" if detail.groups else ""
        typer.confirm(f"Delete {topic} with {_number(detail.records)} events{groups}?", abort=True)
    run(_delete(state, topic))


async def _detail(state: State, topic: str) -> TopicDetail:
    from dimesh.ops.topics import describe_topic

    async with state.opened() as mesh:
        return await describe_topic(mesh.bus, topic)


async def _delete(state: State, topic: str) -> None:
    from dimesh.ops.topics import delete_topic

    async with state.opened() as mesh:
        await delete_topic(mesh.bus, topic)
    if state.output.as_json:
        state.output.document({"deleted": topic})
    else:
        state.output.say(f"deleted {topic}")


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _retention(retention: Retention) -> str:
    limits = (
        f"{retention.seconds:,g} seconds" if retention.seconds is not None else "",
        f"{retention.bytes:,} bytes" if retention.bytes is not None else "",
        f"{retention.records:,} events" if retention.records is not None else "",
    )
    return ", ".join(filter(None, limits)) or "the default of the backend"
