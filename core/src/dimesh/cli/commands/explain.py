"""``dimesh explain``: the whole story of one event."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.output import fit
from dimesh.cli.progress import Progress
from dimesh.cli.times import parse_since

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.ops.trail import Reach

_PATIENCE = 1.0
"""The seconds of a search before its progress is shown."""


def explain(
    context: typer.Context,
    event_id: Annotated[
        str,
        typer.Argument(help="The id of the event, as the log, 'tail --ids' or 'dlq list --ids' print it."),
    ],
    last: Annotated[
        int | None,
        typer.Option(
            min=1, help="Search the newest N events of each partition; 50,000 by default.", metavar="N"
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Search all events since then: 2h, '10 minutes ago', yesterday, or a time."),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only this topic, or topics such as 'orders.*'; may be repeated.",
            autocompletion=topic_names,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=50, help="Follow causes and results for this many steps.")
    ] = 5,
) -> None:
    """Explain one event, from its source to its results.

    Prints its source record and causes, where it is stored, what each group made of it with its dead letters, and what resulted,
    with times. Read-only: no group moves. The topics are searched backwards from their ends.
    """
    from dimesh.ops.trail import LAST, Reach

    moment = parse_since(since) if since is not None else None
    if last is None and moment is None:
        last = LAST
    run(_explain(state_of(context), event_id, Reach(last, moment, steps, tuple(topic or ()))))


async def _explain(state: State, event_id: str, reach: Reach) -> None:
    from dimesh.cli.explanation_lines import COMMAND, explanation_lines
    from dimesh.ops.explain import explain as find

    out = state.output
    began = time.monotonic()
    with ExitStack() as stack:
        shown: list[Progress] = []

        def progress(position: int, total: int) -> None:
            if not shown and time.monotonic() - began > _PATIENCE:
                shown.append(stack.enter_context(Progress(out, "searching", total)))
            for one in shown:
                one.set_total(total)
                one.at(position, position)

        async with state.opened() as mesh:
            if mesh.bus.door.family == "queue":
                out.note(
                    f"the {mesh.bus.door.name} bus reports no end of a topic and no positions: all events that it holds are "
                    "read; --since shortens that"
                )
            story = await find(mesh, event_id, reach, progress)
    if out.as_json:
        content = None if story.content is None else json.loads(story.content.to_json())
        out.document({**asdict(replace(story, content=None)), "content": content})
        return
    # A command is to be copied as a whole, also where the line is too long for the terminal.
    out.say(*(line if line.startswith(COMMAND) else fit(line, 0) for line in explanation_lines(story)))
