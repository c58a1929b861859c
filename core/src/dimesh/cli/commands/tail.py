"""``dimesh tail`` and ``dimesh replay``: print a topic's events, or have them handled again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import group_names, topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.times import parse_since
from dimesh.errors import CodecError, ConfigurationError, TopicNotFoundError
from dimesh.printable import printable_json

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.mesh import Mesh
    from dimesh.ops.newest import NewestRecords
    from dimesh.ops.search import Search
    from dimesh.ops.topics import StartPoint
    from dimesh.spi.bus import Delivery

NEWEST = 10
"""The number of events that are printed by default."""
MOST = 100_000
"""The largest number of events that are printed newest first: they are held in memory."""
MAX_DIGITS = 18
"""The number of digits of the largest offset."""


def tail(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="The topic to print.", autocompletion=topic_names)],
    newest: Annotated[
        int | None,
        typer.Option(
            "-n", "--newest", min=0, max=MOST, help=f"The number of newest events; {NEWEST} by default."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All events, from the oldest on.")] = False,
    since: Annotated[
        str | None, typer.Option(help="All events since then: 15m, '10 minutes ago', yesterday, or a time.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep waiting for new events.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Only events whose field has this value (or another: !=), such as payload.order=7; may be repeated.",
        ),
    ] = None,
    event_id: Annotated[
        list[str] | None, typer.Option("--id", help="Only the event with this id; may be repeated.")
    ] = None,
    trace: Annotated[str | None, typer.Option(help="Only events of this trace id.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only events of this type; may be repeated.")] = None,
    pillar: Annotated[list[str] | None, typer.Option(help="Only events from this pillar.")] = None,
    priority: Annotated[list[str] | None, typer.Option(help="Only events of this priority.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many events.")] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="Print the id and the trace of each event, too.")
    ] = False,
) -> None:
    """Print the newest events of a topic, the newest last. Read-only: no group moves.

    With --output json each line is an event that 'dimesh publish' accepts.
    """
    if everything and newest is not None:
        raise ConfigurationError("give either --newest or --all")
    moment = parse_since(since) if since is not None else None
    by_default = newest is None and not everything and moment is None and limit is None
    if newest is None and not everything and moment is None:
        newest = min(limit, MOST) if limit is not None else NEWEST
    state = state_of(context)
    printer = _Printer(state, limit, ids)

    async def work() -> None:
        from dimesh.bus.handler import EventHandler
        from dimesh.ops.records import read_records
        from dimesh.ops.search import FieldCondition, Search

        wanted = Search(
            EventHandler(print, type, pillar, priority).filter,
            frozenset(event_id or ()),
            trace,
            tuple(FieldCondition.parse(text) for text in where or ()),
        )
        async with state.opened() as mesh:
            start: datetime | Mapping[int, int] | None = moment
            if newest is not None:
                if mesh.bus.door.family == "queue" and moment is None:
                    state.output.note(
                        f"the {mesh.bus.door.name} bus reports no end of a topic: the newest are found by reading all "
                        "events that it holds; --since shortens that"
                    )
                found = await _newest(mesh, topic, newest, wanted, moment, follow)
                if found is not None:
                    if found.older and by_default and not follow:
                        state.output.note(f"the newest {NEWEST} at most: -n N prints N, --all every event")
                    printer.print(found.records)
                    start = found.following
                if not follow:
                    return
            if not printer.full():
                async for delivery in read_records(mesh.bus, topic, start, follow=follow):
                    if wanted.wants(delivery):
                        printer.print((delivery,))
                        if printer.full():
                            return

    run(work())
    if not printer.shown and not follow:
        state.output.note("no such events")


async def _newest(
    mesh: Mesh, topic: str, count: int, wanted: Search, since: datetime | None, follow: bool
) -> NewestRecords | None:
    """Return the newest events; None if there is no topic yet, and it is to be waited for."""
    from dimesh.ops.newest import newest_records

    try:
        return await newest_records(mesh.bus, topic, count, wanted, since)
    except TopicNotFoundError:
        if not follow:
            raise
        return None


class _Printer:
    """Prints events until there were enough."""

    def __init__(self, state: State, limit: int | None, ids: bool) -> None:
        self._state = state
        self._limit = limit
        self._ids = ids
        self.shown = 0

    def full(self) -> bool:
        """Return whether no more events are to be printed."""
        return self._limit is not None and self.shown >= self._limit

    def print(self, deliveries: Iterable[Delivery]) -> None:
        """Print events, as far as they are not too many."""
        for delivery in deliveries:
            if self.full():
                break
            self.shown += 1
            self._print(delivery)
        sys.stdout.flush()

    def _print(self, delivery: Delivery) -> None:
        out = self._state.output
        if not out.as_json:
            from dimesh.cli.event_lines import event_line

            out.say(event_line(delivery, self._ids))
            return
        try:
            event = delivery.record.event
        except CodecError as error:
            out.line({"partition": delivery.partition, "offset": delivery.offset, "error": str(error)})
            return
        sys.stdout.write(printable_json(event.to_json()) + "\n")


def replay(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="The topic whose events to handle again.", autocompletion=topic_names)
    ],
    group: Annotated[
        str | None,
        typer.Option(help="Move this group; its members must be stopped.", autocompletion=group_names),
    ] = None,
    to_topic: Annotated[
        str | None, typer.Option(help="Publish the events again, to this topic.", autocompletion=topic_names)
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="earliest, latest, a duration ago (15m, 2h), a time, or an offset.")
    ] = "earliest",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report what the command would do.")
    ] = False,
) -> None:
    """Have events handled again. Moves a group back (or forward), or publishes a range of events again.

    Events published again keep their ids, so a handler that has handled one recently drops it as a duplicate.
    """
    if (group is None) == (to_topic is None):
        raise ConfigurationError("give either --group (move a group) or --to-topic (publish again)")
    where = _start_point(start)
    if group is not None:
        run(_move(state_of(context), topic, group, where, start, dry_run))
    elif to_topic is not None:
        run(_copy(state_of(context), topic, to_topic, where, dry_run))


def _start_point(text: str) -> StartPoint:
    from dimesh.spi.bus import StartAt

    if text in ("earliest", "latest"):
        return StartAt(text)
    if text.isascii() and text.isdigit():
        if len(text) > MAX_DIGITS:
            raise ConfigurationError(
                f"{text[:20]}… is not an offset: offsets have at most {MAX_DIGITS} digits"
            )
        return int(text)
    return parse_since(text)


async def _move(state: State, topic: str, group: str, where: StartPoint, start: str, dry_run: bool) -> None:
    from dimesh.ops.topics import move_group

    async with state.opened() as mesh:
        moved = await move_group(mesh.bus, topic, group, where, dry_run=dry_run)
    if dry_run:
        state.output.say(f"would move group {group} of {topic} to {start}")
        return
    state.output.table(
        ("partition", "before", "now"), [(p.partition, p.before, p.after) for p in moved], "no partitions"
    )


async def _copy(state: State, topic: str, to_topic: str, where: StartPoint, dry_run: bool) -> None:
    from dimesh.ops.records import copy_records

    async with state.opened() as mesh:
        result = await copy_records(mesh.bus, topic, to_topic, where, dry_run=dry_run)
    if state.output.as_json:
        state.output.document(
            {"topic": topic, "to_topic": to_topic, "events": result.events, "dry_run": dry_run}
        )
        return
    verb = "would publish" if dry_run else "published"
    state.output.say(f"{verb} {result.events} events of {topic} to {to_topic}")
