"""What each group made of an event: the groups that the bus knows, and those of the handlers of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.deadletter import DeadLetter
from dimesh.bus.failures import unmarked
from dimesh.bus.patterns import TopicSelection
from dimesh.bus.redelivery import in_all
from dimesh.bus.replies import REPLY_PREFIX
from dimesh.errors import TopicNotFoundError
from dimesh.mesh import Mesh
from dimesh.ops.dead_letters import summarize
from dimesh.ops.explanation import Fate, GroupStory, HeldBack, Place, Result, iso, places_of
from dimesh.ops.topics import list_stopped
from dimesh.ops.trail import Copy
from dimesh.settings import HandlerSection
from dimesh.spi.bus import Filter, GroupInfo, Position

_UNFINISHED: Final = (Fate.WAITING, Fate.REDRIVEN)
"""The fates of an event that the position of its group is not beyond."""


async def group_stories(
    mesh: Mesh,
    copies: Sequence[Copy],
    failed: Sequence[DeadLetter],
    results: Sequence[Result],
    held: Sequence[HeldBack],
) -> list[GroupStory]:
    """Return an event as each group has met it, by topic and name.

    Args:
        mesh: an open mesh.
        copies: the records of the event, oldest first.
        failed: its dead letters, oldest first.
        results: the events that name it as their cause.
        held: its records that are delivered later.
    """
    topics = {copy.topic for copy in copies if not copy.topic.startswith(REPLY_PREFIX)}
    names: dict[tuple[str, str], HandlerSection | None] = {(e.topic, e.group): None for e in failed}
    positions: dict[tuple[str, str], list[GroupInfo]] = {}
    for info in await mesh.bus.door.groups():
        if info.topic in topics:
            names[info.topic, info.group] = None
            positions.setdefault((info.topic, info.group), []).append(info)
    for section in mesh.settings.handlers:
        selection = TopicSelection(section.topic)
        names |= {
            (topic, section.group or section.call): section for topic in topics if selection.wants(topic)
        }
    stopped = {
        (s.topic, s.group): f"{s.state.value} since {s.since}: {s.reason}"
        for s in await list_stopped(mesh.bus)
    }
    stories = [
        _story(
            mesh,
            (topic, group),
            section,
            [copy for copy in copies if copy.topic == topic],
            [entry for entry in failed if (entry.topic, entry.group) == (topic, group)],
            positions.get((topic, group)),
            stopped.get((topic, group), ""),
            results,
        )
        for (topic, group), section in sorted(names.items(), key=lambda item: item[0])
    ]
    later = {(one.topic, one.group) for one in held}
    return [
        replace(story, fate=Fate.HELD_BACK)
        if (story.topic, story.group) in later
        else await _with_attempts(mesh, story, copies)
        for story in stories
    ]


async def _with_attempts(mesh: Mesh, story: GroupStory, copies: Sequence[Copy]) -> GroupStory:
    """Return the story with the failed attempts, if the group is not beyond the event and the bus reports them."""
    place = story.place
    if place is None or story.fate not in _UNFINISHED:
        return story
    position = Position(place.partition, place.offset)
    try:
        kept = (await mesh.bus.door.read_attempts(place.topic, story.group, (position,))).get(position)
    except TopicNotFoundError:  # deleted meanwhile
        return story
    attempts = unmarked(kept)
    if attempts is None:
        return story
    (copy,) = (copy for copy in copies if copy.place == (place.topic, *position))
    total = in_all(copy.delivery, attempts)
    return replace(story, fate=Fate.RETRYING, attempts=total.failures, failing_since=iso(total.first))


def _story(
    mesh: Mesh,
    name: tuple[str, str],
    section: HandlerSection | None,
    copies: Sequence[Copy],
    failed: Sequence[DeadLetter],
    positions: Sequence[GroupInfo] | None,
    state: str,
    results: Sequence[Result],
) -> GroupStory:
    topic, group = name
    mine = [
        (copy, place)
        for copy, place in zip(copies, places_of(copies), strict=True)
        if place.group in (None, group)
    ]
    copy, place = mine[-1] if mine else (None, None)
    committed = next(
        (p.committed for p in positions or () if place is not None and p.partition == place.partition), None
    )
    produced = tuple(
        result.event.event_id
        for result in results
        if section is not None and section.produce_to is not None and result.place.topic == section.produce_to
    )
    fate = _fate(mesh, section, copy, place, failed, positions, committed, bool(produced))
    if not state and fate in _UNFINISHED and positions and all(p.member is None for p in positions):
        state = "no member of the group is running"
    return GroupStory(
        topic,
        group,
        None if section is None else section.call,
        fate,
        place,
        committed,
        0,
        None,
        state,
        section is not None and bool(section.redeliver) and not mesh.bus.door.reports_held_back,
        produced,
        tuple(summarize(entry) for entry in failed),
    )


def _fate(
    mesh: Mesh,
    section: HandlerSection | None,
    copy: Copy | None,
    place: Place | None,
    failed: Sequence[DeadLetter],
    positions: Sequence[GroupInfo] | None,
    committed: int | None,
    produced: bool,
) -> Fate:
    last = failed[-1] if failed else None
    if last is not None and not last.redriven:
        return Fate.DEAD_LETTERED if last.open else Fate.DISCARDED
    beyond = committed is not None and place is not None and committed > place.offset
    if last is not None:
        sent_back = copy is not None and h.number(copy.event.headers.get(h.REDRIVES)) > last.redrives
        if not (sent_back and beyond):
            return Fate.REDRIVEN
    if produced:
        return Fate.HANDLED
    if section is not None and copy is not None:
        wanted = Filter(
            frozenset(section.event_types), frozenset(section.pillars), frozenset(section.priorities)
        )
        record = copy.delivery.record
        if not wanted.wants(record.event_type, record.pillar, record.priority):
            return Fate.FILTERED
    if positions is None:
        return Fate.ABSENT
    if mesh.bus.door.family == "queue":
        return Fate.UNKNOWN
    return Fate.PASSED if beyond else Fate.WAITING
