"""``dimesh dlq``: events that could not be handled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import ConfigurationError, DeadLetterNotFoundError, PayloadError

if TYPE_CHECKING:
    from dimesh.bus.deadletter import DeadLetter
    from dimesh.bus.redrive import RedriveResult
    from dimesh.cli.context import State

dlq = typer.Typer(
    help="Look at events that could not be handled; send them back or give them up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Topic = Annotated[str, typer.Argument(help="The topic they failed in, with or without '.dlq'.")]
Ids = Annotated[
    list[str] | None, typer.Option("--id", help="Only the event with this id; may be given again.")
]


def as_dict(entry: DeadLetter) -> dict[str, Any]:
    """An entry for JSON."""
    return {
        "event_id": entry.event_id,
        "type": entry.event.event_type.value,
        "topic": entry.topic,
        "group": entry.group,
        "handler": entry.handler,
        "reason": entry.reason,
        "attempts": entry.attempts,
        "redrives": entry.redrives,
        "first": entry.first,
        "last": entry.last,
        "stack_digest": entry.stack_digest,
        "state": "open" if entry.open else ("redriven" if entry.redriven else "discarded"),
    }


@dlq.command("list")
def list_(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(help="Only of this topic; by default of all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those sent back or given up.")] = False,
) -> None:
    """List the dead letters that are open."""
    run(_list(state_of(context), topic, everything))


async def _list(state: State, topic: str | None, everything: bool) -> None:
    from dimesh.bus.redrive import DeadLetters

    async with state.opened() as mesh:
        entries = await DeadLetters(mesh.bus).entries(topic, include_closed=everything)
    if state.output.as_json:
        state.output.document([as_dict(entry) for entry in entries])
        return
    state.output.table(
        ("event", "topic", "type", "group", "attempts", "last", "reason"),
        [
            (e.event_id, e.topic, e.event.event_type.value, e.group, e.attempts, e.last[:19], e.reason)
            for e in entries
        ],
        "no dead letters",
    )


@dlq.command("show")
def show(
    context: typer.Context,
    topic: Topic,
    event_id: Annotated[str, typer.Argument(help="Id of the event (as 'dlq list' prints it).")],
) -> None:
    """Print one dead letter: headers and payload."""
    raise typer.Exit(run(_show(state_of(context), topic, event_id)))


async def _show(state: State, topic: str, event_id: str) -> int:
    from dimesh.bus.redrive import DeadLetters
    from dimesh.events import names

    async with state.opened() as mesh:
        entries = [
            e
            for e in await DeadLetters(mesh.bus).entries(topic, include_closed=True)
            if e.event_id == event_id
        ]
    if not entries:
        raise DeadLetterNotFoundError(
            f"no dead letter of {topic} has the id {names.show(event_id)}; 'dimesh dlq list --all' lists them"
        )
    for entry in entries:
        if state.output.as_json:
            state.output.line({**as_dict(entry), "event": json.loads(entry.event.to_json())})
            continue
        for name, value in as_dict(entry).items():
            state.output.say(f"{name:13} {value}")
        try:
            text = json.dumps(entry.event.payload, ensure_ascii=False, indent=2)
        except PayloadError:
            text = repr(entry.event.data)
        state.output.say(f"payload\n{text}")
    return ExitCode.OK


@dlq.command("redrive")
def redrive(
    context: typer.Context,
    topic: Topic,
    ids: Ids = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also those that came back three times.")] = False,
) -> None:
    """Send dead letters back to the group that failed. Mend the handler first."""
    raise typer.Exit(run(_redrive(state_of(context), topic, ids, limit, force)))


async def _redrive(state: State, topic: str, ids: list[str] | None, limit: int | None, force: bool) -> int:
    from dimesh.bus.redrive import DeadLetters

    async with state.opened() as mesh:
        result = await DeadLetters(mesh.bus).redrive(topic, ids=ids, limit=limit, force=force)
    return _report(state, result, "sent back")


@dlq.command("discard")
def discard(
    context: typer.Context,
    topic: Topic,
    ids: Ids = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give dead letters up: they are marked, and no longer listed."""
    state = state_of(context)
    if not yes:
        import sys

        if not sys.stdin.isatty():
            raise ConfigurationError("add --yes: there is nobody to ask")
        typer.confirm(f"Give up {'these' if ids else 'all'} dead letters of {topic}?", abort=True)
    raise typer.Exit(run(_discard(state, topic, ids)))


async def _discard(state: State, topic: str, ids: list[str] | None) -> int:
    from dimesh.bus.redrive import DeadLetters

    async with state.opened() as mesh:
        result = await DeadLetters(mesh.bus).discard(topic, ids=ids)
    return _report(state, result, "discarded")


def _report(state: State, result: RedriveResult, what: str) -> int:
    if state.output.as_json:
        state.output.document(
            {
                "done": [as_dict(e) for e in result.done],
                "skipped": [{**as_dict(e), "why": why} for e, why in result.skipped],
            }
        )
    else:
        state.output.say(
            f"{what}: {len(result.done)}" + (f", skipped: {len(result.skipped)}" if result.skipped else "")
        )
        for entry, why in result.skipped:
            state.output.note(f"skipped {entry.event_id}: {why}")
    return ExitCode.PARTIAL if result.skipped else ExitCode.OK
