"""``dimesh topics``, ``groups``, ``plugins`` and ``config``: how things stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import run, state_of

if TYPE_CHECKING:
    from dimesh.cli.context import State


def topics(context: typer.Context) -> None:
    """List the topics with their size."""
    run(_topics(state_of(context)))


async def _topics(state: State) -> None:
    async with state.opened() as mesh:
        rows = [
            (t.name, t.partitions, t.records, t.size, max(t.latest.values(), default=0))
            for t in await mesh.bus.backend.topics()
        ]
    state.output.table(
        ("topic", "partitions", "records", "bytes", "next_offset"),
        rows,
        "no topics yet: 'dimesh publish TOPIC FILE' makes one",
    )


def groups(
    context: typer.Context,
    topic: Annotated[str | None, typer.Option(help="Only groups of this topic.")] = None,
    each: Annotated[bool, typer.Option("--partitions", help="A line for each partition.")] = False,
) -> None:
    """List the groups with their lag: how many events they have not handled yet."""
    run(_groups(state_of(context), topic, each))


async def _groups(state: State, topic: str | None, each: bool) -> None:
    async with state.opened() as mesh:
        infos = [g for g in await mesh.bus.backend.groups() if topic is None or g.topic == topic]
    if each:
        state.output.table(
            ("topic", "group", "partition", "committed", "latest", "lag", "member"),
            [(g.topic, g.group, g.partition, g.committed, g.latest, g.lag, g.member) for g in infos],
            "no groups",
        )
        return
    totals: dict[tuple[str, str], tuple[int | None, set[str]]] = {}
    for g in infos:
        lag, members = totals.get((g.topic, g.group), (0, set()))
        total = None if g.lag is None or lag is None else lag + g.lag
        totals[g.topic, g.group] = (total, members | ({g.member} if g.member else set()))
    state.output.table(
        ("topic", "group", "lag", "members"),
        [(t, name, lag, len(members)) for (t, name), (lag, members) in totals.items()],
        "no groups: a subscription with a name makes one",
    )


def plugins(context: typer.Context) -> None:
    """List every installed plugin with its state, and why. Imports none of them."""
    from dimesh.plugins import PluginManager

    state = state_of(context)
    section = state.loaded.settings.plugins
    rows = PluginManager(section.allow, section.block).rows()
    state.output.table(
        ("kind", "name", "distribution", "version", "state", "reason"),
        [(r.kind, r.name, r.distribution, r.version, r.state, r.reason) for r in rows],
        "no plugins are installed",
    )


config = typer.Typer(help="Look at the settings.", no_args_is_help=True, rich_markup_mode=None)


@config.command("show")
def config_show(context: typer.Context) -> None:
    """Print every setting, where it comes from, secrets masked."""
    state = state_of(context)
    loaded = state.loaded
    if loaded.path is None:
        state.output.note("no dimesh.toml: defaults and environment only")
    state.output.table(("setting", "value", "origin"), loaded.rows(), "no settings")
