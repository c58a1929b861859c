"""``dimesh dlq``: events that could not be handled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.output import fit
from dimesh.errors import ConfigurationError, PayloadError

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.ops.dead_letters import DeadLetterCause, DeadLetterChange

dlq = typer.Typer(
    help="List events that could not be handled; redrive or discard them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Topic = Annotated[
    str,
    typer.Argument(
        help="The topic in which they failed, with or without '.dlq'.", autocompletion=topic_names
    ),
]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Only the event with this id; may be repeated.")]


@dlq.command("list")
def list_(
    context: typer.Context,
    topic: Annotated[
        str | None, typer.Argument(help="Only this topic; by default all.", autocompletion=topic_names)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Include those already redriven or discarded.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Print the events of each cause, too.")] = False,
) -> None:
    """List the open dead letters by cause, the most frequent first. With --output json, list each dead letter."""
    run(_list(state_of(context), topic, everything, ids))


async def _list(state: State, topic: str | None, everything: bool, ids: bool) -> None:
    from dimesh.ops.dead_letters import group_by_cause, list_dead_letters

    async with state.opened() as mesh:
        found = await list_dead_letters(mesh.bus, topic, include_closed=everything)
    out = state.output
    if out.as_json:
        out.document([asdict(entry) for entry in found])
        return
    if not found:
        out.note("no dead letters")
        return
    for cause in group_by_cause(found):
        out.say(*_lines_of(cause, ids))
    if ids:
        out.note("'dimesh dlq show TOPIC ID' prints one of them, 'dimesh explain ID' its whole story")
    else:
        out.note("--ids lists the events; 'dimesh dlq show TOPIC ID' prints one of them")


def _lines_of(cause: DeadLetterCause, ids: bool) -> Iterator[str]:
    count = f"{len(cause.entries):6}  "
    margin = " " * len(count)
    more = f" (and {cause.reasons - 1} other messages)" if cause.reasons > 1 else ""
    yield count + fit(cause.reason, len(count) + len(more)) + more
    closed = [
        f"{n} {state}"
        for state in ("redriven", "discarded")
        if (n := sum(e.state == state for e in cause.entries))
    ]
    yield margin + fit("  ".join([f"{_some(cause.topics)} -> {_some(cause.groups)}", *closed]), len(margin))
    yield f"{margin}first {_moment(cause.first)}, last {_moment(cause.last)}"
    if ids:
        for entry in cause.entries:
            state = "" if entry.state == "open" else f"  {entry.state}"
            yield f"{margin}{entry.event_id}  {entry.topic}  {entry.attempts} attempts{state}"


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _moment(iso: str) -> str:
    return iso[:19].replace("T", " ")


@dlq.command("show")
def show(
    context: typer.Context,
    topic: Topic,
    event_id: Annotated[str, typer.Argument(help="The id of the event, as 'dlq list --ids' prints it.")],
) -> None:
    """Print a dead letter: why it failed, its headers and its payload."""
    run(_show(state_of(context), topic, event_id))


async def _show(state: State, topic: str, event_id: str) -> None:
    from dimesh.ops.dead_letters import find_dead_letters

    async with state.opened() as mesh:
        found = await find_dead_letters(mesh.bus, topic, event_id)
    for entry in found:
        if state.output.as_json:
            state.output.line({**asdict(entry.summary), "event": json.loads(entry.event.to_json())})
            continue
        for name, value in asdict(entry.summary).items():
            state.output.say(f"{name:13} {value}")
        try:
            text = json.dumps(entry.event.payload, ensure_ascii=False, indent=2)
        except PayloadError:
            text = repr(entry.event.data)
        state.output.say("payload", *text.split("\n"))


@dlq.command("redrive")
def redrive(
    context: typer.Context,
    topic: Topic,
    ids: Ids = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most events to send back.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Include events that were already redriven three times.")
    ] = False,
    to_schema: Annotated[
        str | None,
        typer.Option(
            "--to-schema",
            metavar="VERSION|newest",
            help="Only events that failed the check of their schema and satisfy this version, once its defaults are filled in.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be redriven, and redrive nothing.")
    ] = False,
) -> None:
    """Send dead letters back to the group that failed. Fix the handler, or the schema (--to-schema), first."""
    raise typer.Exit(run(_redrive(state_of(context), topic, ids, limit, force, to_schema, dry_run)))


async def _redrive(
    state: State,
    topic: str,
    ids: list[str] | None,
    limit: int | None,
    force: bool,
    to_schema: str | None,
    dry_run: bool,
) -> int:
    from dimesh.mesh import schema_rules
    from dimesh.ops import dead_letters
    from dimesh.ops.mending import SchemaMending

    version = None if to_schema is None else _version(to_schema)
    async with state.opened() as mesh:
        prepare = None
        if to_schema is not None:
            prepare = SchemaMending(mesh.registry, schema_rules(mesh.settings), version).prepare
        change = await dead_letters.redrive(
            mesh.bus, topic, ids=ids, limit=limit, force=force, prepare=prepare, dry_run=dry_run
        )
    return _report(state, change, "would be redriven" if dry_run else "redriven")


def _version(text: str) -> int | None:
    """Return the number of a version; None: the newest one."""
    if text in ("newest", "latest"):
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 2**31):
        raise ConfigurationError(
            f"--to-schema {text[:60]} is no version: use a number such as 2, or 'newest'"
        )
    return int(text)


@dlq.command("discard")
def discard(
    context: typer.Context,
    topic: Topic,
    ids: Ids = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Discard dead letters: they are marked, and no longer listed."""
    state = state_of(context)
    if not yes:
        import sys

        if not sys.stdin.isatty():
            raise ConfigurationError("add --yes: standard input is not a terminal, so nobody can confirm")
        typer.confirm(f"Discard {'these' if ids else 'all'} dead letters of {topic}?", abort=True)
    raise typer.Exit(run(_discard(state, topic, ids)))


async def _discard(state: State, topic: str, ids: list[str] | None) -> int:
    from dimesh.ops import dead_letters

    async with state.opened() as mesh:
        change = await dead_letters.discard(mesh.bus, topic, ids=ids)
    return _report(state, change, "discarded")


def _report(state: State, change: DeadLetterChange, verb: str) -> int:
    if state.output.as_json:
        state.output.document(
            {
                "done": [asdict(entry) for entry in change.done],
                "skipped": [{**asdict(entry.summary), "why": entry.reason} for entry in change.skipped],
            }
        )
    else:
        skipped = f", skipped: {len(change.skipped)}" if change.skipped else ""
        state.output.say(f"{verb}: {len(change.done)}{skipped}")
        for entry in change.skipped:
            state.output.note(f"skipped {entry.summary.event_id}: {entry.reason}")
    return ExitCode.PARTIAL if change.skipped else ExitCode.OK
