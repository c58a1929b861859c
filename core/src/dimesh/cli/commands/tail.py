"""``dimesh tail`` and ``dimesh replay``: look at a topic's events, or have them handled again."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.times import parse_since
from dimesh.errors import CodecError, ConfigurationError, PayloadError, TopicNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dimesh.bus.engine import EventBus
    from dimesh.cli.context import State
    from dimesh.spi.bus import Delivery

PAGE = 500


def tail(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="The topic to look at.")],
    type: Annotated[
        list[str] | None, typer.Option(help="Only events of this type; may be given again.")
    ] = None,
    pillar: Annotated[list[str] | None, typer.Option(help="Only events of senders of this pillar.")] = None,
    priority: Annotated[list[str] | None, typer.Option(help="Only events of this priority.")] = None,
    since: Annotated[str | None, typer.Option(help="Begin here: a duration ago (15m, 2h) or a time.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
) -> None:
    """Print the events of a topic, oldest first. Looks only: no group moves.

    With --output json each line is an event that 'dimesh publish' takes.
    """
    state = state_of(context)
    moment = parse_since(since) if since is not None else None
    raise typer.Exit(run(_tail(state, topic, type, pillar, priority, moment, limit, follow)))


async def _tail(
    state: State,
    topic: str,
    types: list[str] | None,
    pillars: list[str] | None,
    priorities: list[str] | None,
    since: datetime | None,
    limit: int | None,
    follow: bool,
) -> int:
    from dimesh.bus.handler import EventHandler

    wanted = EventHandler(print, types, pillars, priorities).filter
    async with state.opened() as mesh:
        shown = 0
        async for delivery in records(mesh.bus, topic, since, follow):
            record = delivery.record
            if wanted.wants(record.event_type, record.pillar, record.priority):
                show(state, delivery)
                shown += 1
                if limit is not None and shown >= limit:
                    break
        if not shown and not follow:
            state.output.note("no such events")
    return ExitCode.OK


async def records(bus: EventBus, topic: str, since: datetime | None, follow: bool) -> AsyncIterator[Delivery]:
    """The records of a topic, page by page."""
    from dimesh.spi.bus import StartAt

    backend = bus.backend
    while True:
        try:
            page = list(await backend.read(topic, since or StartAt.EARLIEST, PAGE))
            break
        except TopicNotFoundError:
            if not follow:
                raise
            await asyncio.sleep(0.2)
    infos = [t for t in await backend.topics() if t.name == topic]
    position = dict(infos[0].earliest) if infos else {}
    if since is not None and not page:
        position = dict(infos[0].latest)
    while True:
        for delivery in page:
            yield delivery
            position[delivery.partition] = max(delivery.offset + 1, position.get(delivery.partition, 0))
        if not page:
            if not follow:
                return
            await asyncio.sleep(0.2)
        elif since is not None:
            # Partitions that had nothing since then begin where this page did, not at the beginning of time.
            floor = min(delivery.offset for delivery in page)
            position = {p: max(at, floor) for p, at in position.items()}
            since = None
        page = list(await backend.read(topic, position, PAGE))


def show(state: State, delivery: Delivery) -> None:
    """One event."""
    out = state.output
    try:
        event = delivery.record.event
    except CodecError as error:
        if out.as_json:
            out.line({"partition": delivery.partition, "offset": delivery.offset, "error": str(error)})
        else:
            out.say(f"{delivery.partition}/{delivery.offset}  not an event: {error}")
        return
    if out.as_json:
        import sys

        sys.stdout.write(event.to_json() + "\n")
        sys.stdout.flush()
        return
    metadata = event.metadata
    try:
        import json

        text = json.dumps(event.payload, ensure_ascii=False)
    except PayloadError:
        text = repr(event.data[:200])
    text = text if len(text) <= 300 else f"{text[:300]}… ({len(event.data):,} bytes)"
    who = f"{metadata.source_pillar}:{metadata.source_agent}".strip(":")
    out.say(
        f"{metadata.timestamp:%Y-%m-%d %H:%M:%S}  {delivery.partition}/{delivery.offset}  {event.event_type.value}  "
        f"{who}  {text}"
    )


def replay(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="The topic whose events are to be handled again.")],
    group: Annotated[str | None, typer.Option(help="Move this group; its members must be stopped.")] = None,
    to_topic: Annotated[str | None, typer.Option(help="Publish the events again, to this topic.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="earliest, latest, a duration ago (15m, 2h), a time, or an offset.")
    ] = "earliest",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Have events handled again: move a group back (or forward), or publish a range once more.

    Published again, events keep their ids, so handlers that saw them lately drop them as repeats.
    """
    if (group is None) == (to_topic is None):
        raise ConfigurationError("give either --group (move a group) or --to-topic (publish again)")
    raise typer.Exit(run(_replay(state_of(context), topic, group, to_topic, start, dry_run)))


async def _replay(
    state: State, topic: str, group: str | None, to_topic: str | None, start: str, dry_run: bool
) -> int:
    from dimesh.events.names import check_topic
    from dimesh.spi.bus import Record, StartAt

    out = state.output
    async with state.opened() as mesh:
        backend = mesh.bus.backend
        infos = [t for t in await backend.topics() if t.name == topic]
        if not infos:
            raise TopicNotFoundError(f"no topic is named {topic!r}; 'dimesh topics' lists them")
        where: Any
        if start in ("earliest", "latest"):
            where = StartAt(start)
        elif start.isascii() and start.isdigit():
            if len(start) > 18:
                raise ConfigurationError(f"{start[:20]}… is no offset: no log is that long")
            where = dict.fromkeys(range(infos[0].partitions), int(start))
        else:
            where = parse_since(start)
        if group is not None:
            before = {g.partition: g for g in await backend.groups() if g.topic == topic and g.group == group}
            if not before:
                from dimesh.errors import GroupNotFoundError

                raise GroupNotFoundError(
                    f"topic {topic!r} has no group {group!r}; 'dimesh groups' lists them"
                )
            if dry_run:
                out.say(f"would move group {group} of {topic} to {start}")
                return ExitCode.OK
            moved = await backend.seek_group(topic, group, where)
            out.table(
                ("partition", "before", "now"),
                [(p, before[p].committed if p in before else None, at) for p, at in sorted(moved.items())],
                "no partitions",
            )
            return ExitCode.OK
        assert to_topic is not None
        check_topic(to_topic)
        if to_topic == topic:
            raise ConfigurationError("--to-topic is the topic itself: its events would never end")
        page = list(await backend.read(topic, where, PAGE))
        count = 0
        position: dict[int, int] = {}
        while page:
            if not dry_run:
                await backend.append(to_topic, [Record.of(d.record.event, d.record.key) for d in page])
            count += len(page)
            for delivery in page:
                position[delivery.partition] = delivery.offset + 1
            page = list(await backend.read(topic, position, PAGE))
        if out.as_json:
            out.document({"topic": topic, "to_topic": to_topic, "events": count, "dry_run": dry_run})
        else:
            out.say(f"{'would publish' if dry_run else 'published'} {count} events of {topic} to {to_topic}")
    return ExitCode.OK
