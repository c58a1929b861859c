"""``dimesh groups``, ``plugins`` and ``config``: the state of the mesh and its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from dimesh.cli.context import State


def groups(
    context: typer.Context,
    topic: Annotated[
        str | None, typer.Option(help="Only groups of this topic.", autocompletion=topic_names)
    ] = None,
    each: Annotated[bool, typer.Option("--partitions", help="One line per partition.")] = False,
) -> None:
    """List the consumer groups and their lag, which is the number of events not handled yet."""
    run(_groups(state_of(context), topic, each))


async def _groups(state: State, topic: str | None, each: bool) -> None:
    from dimesh.ops.topics import list_partitions, list_stopped, summarize_groups

    async with state.opened() as mesh:
        found = await list_partitions(mesh.bus, topic)
        stopped = await list_stopped(mesh.bus)
    if each:
        state.output.table(
            ("topic", "group", "partition", "committed", "latest", "lag", "member"),
            [(p.topic, p.group, p.partition, p.committed, p.latest, p.lag, p.member) for p in found],
            "no groups",
        )
        return
    state.output.table(
        ("topic", "group", "lag", "members", "state", "reason"),
        [(g.topic, g.group, g.lag, g.members, g.state, g.reason) for g in summarize_groups(found, stopped)],
        "no groups: a subscription with a group name creates one",
    )


def plugins(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Import each plugin, and show how long it takes.")
    ] = False,
) -> None:
    """List the installed plugins and their states. Imports none of them, unless --check is given."""
    from dimesh.ops.plugins import check_plugins, list_plugins

    state = state_of(context)
    if check:
        checked = check_plugins(state.loaded.settings)
        state.output.table(
            ("kind", "name", "distribution", "version", "state", "ms", "reason"),
            [(p.kind, p.name, p.distribution, p.version, p.state, p.milliseconds, p.reason) for p in checked],
            "no plugins are installed",
        )
        raise typer.Exit(ExitCode.PLUGIN if any(p.state == "failed" for p in checked) else ExitCode.OK)
    state.output.table(
        ("kind", "name", "distribution", "version", "state", "reason"),
        [
            (p.kind, p.name, p.distribution, p.version, p.state, p.reason)
            for p in list_plugins(state.loaded.settings)
        ],
        "no plugins are installed",
    )


config = typer.Typer(help="Show the settings.", no_args_is_help=True, rich_markup_mode=None)


@config.command("show")
def config_show(context: typer.Context) -> None:
    """Print every setting and its origin, with secrets masked."""
    state = state_of(context)
    loaded = state.loaded
    if loaded.path is None:
        state.output.note("no dimesh.toml: defaults and environment only")
    state.output.table(("setting", "value", "origin"), loaded.rows(), "no settings")
