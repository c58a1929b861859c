"""The whole story of one event: its origin, its places, what each group made of it, and what resulted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.deadletter import REFERENCES, DeadLetter
from dimesh.bus.engine import EventBus
from dimesh.bus.patterns import TopicSelection
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.replies import REPLY_PREFIX
from dimesh.capabilities import Capability
from dimesh.errors import CodecError, EventNotFoundError, NotOfferedError, TopicNotFoundError
from dimesh.events.event import Event
from dimesh.events.names import show
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.mesh import Mesh
from dimesh.ops.changes import summarize_change
from dimesh.ops.explanation import (
    EventSummary,
    Explanation,
    HeldBack,
    Place,
    Result,
    SourceRecord,
    Step,
    iso,
    kind_of,
    places_of,
)
from dimesh.ops.group_stories import group_stories
from dimesh.ops.topics import topic_info
from dimesh.ops.trail import Progress, Reach, SearchedTopic, Trail
from dimesh.spi.bus import TopicInfo

_NAMED: Final = 3
"""The number of topics that a message names."""


async def explain(
    mesh: Mesh, event_id: str, reach: Reach | None = None, progress: Progress | None = None
) -> Explanation:
    """Return the story of an event. No group moves.

    All topics are searched backwards; the search ends a minute before the event where its time is known. Topics of dead letters
    are read as a whole.

    Args:
        mesh: an open mesh.
        event_id: the id of the event.
        reach: how far to search; None: as far as by default.
        progress: is called while topics are read.

    Raises:
        EventNotFoundError: neither the event nor a dead letter or result of it was found.
        TopicNotFoundError: one of the topics of ``reach`` does not exist.
        NotOfferedError: the bus cannot read records again.
    """
    bus, reach = mesh.bus, reach or Reach()
    if Capability.LOOK_BACK not in bus.capabilities:
        note = bus.capabilities.note(Capability.LOOK_BACK)
        raise NotOfferedError(
            f"the {bus.door.name} bus cannot read events again, so none can be explained{f' ({note})' if note else ''}: search "
            "the logs of the processes for the id"
        )
    topics = await _chosen(bus, reach)
    trail = Trail(bus, topics, reach, progress)
    await trail.find(event_id)
    letters = _Letters(mesh, [info.name for info in topics])
    copies = trail.copies.get(event_id, [])
    failed = await letters.of(event_id, dict.fromkeys(copy.topic for copy in copies) if copies else None)
    waiting = [held async for held in _held_back(bus, event_id)]
    if not (copies or failed or waiting or trail.results.get(event_id)):
        raise EventNotFoundError(_not_found(mesh, event_id, reach, list(trail.searched.values())))
    content = copies[0].event if copies else await letters.content(failed)
    if content is None and waiting:
        content = waiting[0][1]
    held = tuple(HeldBack(topic, due, *kind_of(event)) for topic, event, due in waiting)
    causes = await trail.spread(event_id, content.metadata.causation_id if content is not None else None)
    first = copies[0].delivery.timestamp if copies else None
    steps = list(_steps(trail, causes, first))
    results = [await _result(trail, id, first, letters, {event_id}) for id in trail.results.get(event_id, ())]
    results.sort(key=lambda result: result.place.stored)
    return Explanation(
        event_id,
        None if content is None else _summary(content),
        content,
        tuple(places_of(copies)),
        held,
        tuple(steps),
        causes[len(steps)] if len(steps) < len(causes) else None,
        tuple(await group_stories(mesh, copies, failed, results, held)),
        tuple(results),
        trail.more,
        tuple(trail.searched.values()),
    )


async def _chosen(bus: EventBus, reach: Reach) -> list[TopicInfo]:
    """Return the topics to search, and the topics of their dead letters."""
    topics = list(await bus.door.topics())
    if not reach.topics:
        return topics
    selection = TopicSelection(reach.topics)
    for name in selection.names:
        await topic_info(bus, name)  # a name with a typo is no topic without the event
    chosen = [info.name for info in topics if selection.wants(info.name)]
    names = {*chosen, *map(dead_letter_topic, chosen)}
    return [info for info in topics if info.name in names]


async def _held_back(bus: EventBus, event_id: str) -> AsyncIterator[tuple[str, Event, str]]:
    """Yield the topic, the event and the due time of each record of the event that is delivered later."""
    async for topic, record in bus.door.held_back():
        try:
            event = record.event
        except CodecError:
            continue
        if event.event_id == event_id:
            yield topic, event, iso(record.deliver_at or 0.0)


class _Letters:
    """The dead letters of a mesh. Each topic of them is read once.

    Args:
        mesh: an open mesh.
        topics: the names of all topics.
    """

    def __init__(self, mesh: Mesh, topics: Sequence[str]) -> None:
        self._letters = DeadLetters(mesh.bus)
        self._topics = [name for name in topics if name.endswith(DEAD_LETTER_SUFFIX)]
        self._read: dict[str, dict[str, list[DeadLetter]]] = {}

    async def of(self, event_id: str, topics: Mapping[str, None] | None) -> list[DeadLetter]:
        """Return the dead letters of an event, oldest first.

        Args:
            event_id: the id of the event.
            topics: the topics in which it may have failed; None: all.
        """
        names = self._topics if topics is None else list(dict.fromkeys(map(dead_letter_topic, topics)))
        found: list[DeadLetter] = []
        for name in names:
            if name in self._topics:
                found += (await self._entries(name)).get(event_id, ())
        return sorted(found, key=lambda entry: (entry.last, entry.position))

    async def _entries(self, name: str) -> dict[str, list[DeadLetter]]:
        if name not in self._read:
            entries: dict[str, list[DeadLetter]] = {}
            try:
                for entry in await self._letters.entries(name, include_closed=True):
                    entries.setdefault(entry.event_id, []).append(entry)
            except (TopicNotFoundError, NotOfferedError):  # deleted meanwhile; or without retention
                pass
            self._read[name] = entries
        return self._read[name]

    async def content(self, entries: Sequence[DeadLetter]) -> Event | None:
        """Return the event of the first entry that has it, or that refers to where it still is."""
        for entry in entries:
            original = await self._letters.original(entry)
            if original is not None or entry.form not in REFERENCES:
                return entry.event if original is None else original[0]
        return None


def _summary(event: Event) -> EventSummary:
    metadata = event.metadata
    return EventSummary(
        metadata.event_id,
        event.event_type.value,
        f"{metadata.source_pillar}:{metadata.source_agent}".strip(":"),
        metadata.timestamp.isoformat(),
        metadata.trace_id,
        metadata.correlation_id,
        metadata.causation_id,
        _record(event),
    )


def _record(event: Event) -> SourceRecord | None:
    change = summarize_change(event)
    if change is None:
        return None
    payload = event.payload
    lag = payload.get("lag")
    lags = lag if isinstance(lag, dict) else {}
    more = payload.get("metadata")
    repair = isinstance(more, dict) and more.get("found_by") == "repair"
    return SourceRecord(
        change.source,
        change.object,
        change.key,
        change.operation,
        "repair" if repair else "snapshot" if payload.get("snapshot") else "stream",
        _text(payload.get("sequence")),
        _text(payload.get("timestamp")) or event.metadata.timestamp.isoformat(),
        _text(payload.get("actor")),
        _text(payload.get("transaction")),
        _seconds(lags.get("source")),
        _seconds(lags.get("ours")),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _steps(trail: Trail, causes: Sequence[str], stored: float | None) -> Iterator[Step]:
    for cause in causes:
        copies = trail.copies.get(cause)
        if not copies:
            return
        time = copies[0].delivery.timestamp
        yield Step(
            _summary(copies[0].event), Place.of(copies[0]), 0.0 if stored is None else max(stored - time, 0.0)
        )
        stored = time


async def _result(
    trail: Trail, event_id: str, caused: float | None, letters: _Letters, above: set[str]
) -> Result:
    copies = trail.copies[event_id]
    event, time = copies[0].event, copies[0].delivery.timestamp
    failed = await letters.of(event_id, dict.fromkeys(copy.topic for copy in copies))
    above = {*above, event_id}
    results = [
        await _result(trail, id, time, letters, above)
        for id in trail.results.get(event_id, ())
        if id not in above  # a circle of causes, which only a sender can make
    ]
    error = event.headers.get(h.REPLY_ERROR)
    return Result(
        _summary(event),
        Place.of(copies[0]),
        0.0 if caused is None else max(time - caused, 0.0),
        copies[0].topic.startswith(REPLY_PREFIX),
        error if isinstance(error, str) else None,
        sum(entry.open for entry in failed),
        tuple(sorted(results, key=lambda result: result.place.stored)),
    )


# -- not found -----------------------------------------------------------------------------------------------


def _not_found(mesh: Mesh, event_id: str, reach: Reach, searched: Sequence[SearchedTopic]) -> str:
    """Return what was searched, and what to do."""
    start = f"no event has the id {show(event_id)}"
    if not searched and reach.topics:
        return f"{start}: no topic is one of {', '.join(map(show, reach.topics))}; 'dimesh topics' lists them"
    if not searched:
        return f"{start}: the {mesh.bus.door.name} bus has no topics of users; 'dimesh config show' names the bus of the settings"
    names = ", ".join(one.topic for one in searched[:_NAMED])
    more = f" and {len(searched) - _NAMED} more" if len(searched) > _NAMED else ""
    count = sum(one.events for one in searched)
    text = f"{start} among the {count:,} events that were searched in {len(searched)} topics ({names}{more})"
    cut = [one for one in searched if not one.complete]
    if not cut:
        return (
            f"{text}, which is all that they hold, nor among the dead letters: check the id and the bus ('dimesh config show'). "
            "Retention removes old events"
        )
    back = max((one.oldest for one in cut if one.oldest is not None), default=None)
    limits = [
        f"since {reach.since.isoformat(sep=' ', timespec='seconds')}" if reach.since is not None else "",
        f"the newest {reach.last:,} of each partition" if reach.last is not None else "",
        f"in {cut[0].topic} back to {back[:19].replace('T', ' ')} UTC" if back is not None else "",
    ]
    return (
        f"{text}: {', '.join(filter(None, limits))}; nor among the dead letters. Search further back with --since, such as "
        "--since '2 days ago', or a larger --last"
    )
