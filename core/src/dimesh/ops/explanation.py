"""The story of an event, as :func:`dimesh.ops.explain.explain` returns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from dimesh.bus import headers as h
from dimesh.events.event import Event
from dimesh.ops.dead_letters import DeadLetterSummary
from dimesh.ops.trail import Copy, SearchedTopic


def iso(seconds: float) -> str:
    """Return a time in epoch seconds as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The record of a source system whose change an event reports, as far as the event states it. A webhook only wakes a source,
    so no event states that one was received.
    """

    source: str
    object: str
    key: Mapping[str, Any]
    operation: str
    found_by: Literal["snapshot", "repair", "stream"]
    """Whether the change was found by reading all rows, by such a reading after a gap, or in the stream of changes."""
    position: str | None
    """The position of the change in the source's stream; None where the source has none."""
    changed: str
    """The time of the change by the clock of the source, ISO 8601."""
    actor: str | None
    transaction: str | None
    lag_of_source: float | None
    """The seconds until the source made the change available; None if they are not known."""
    lag_of_capture: float | None
    """The seconds from then until the event was made; None if they are not known."""


@dataclass(frozen=True, slots=True)
class EventSummary:
    """One event without its payload."""

    event_id: str
    type: str
    sender: str
    created: str
    """The time that the event states, ISO 8601; of a change event, that of the change."""
    trace_id: str
    correlation_id: str | None
    causation_id: str | None
    record: SourceRecord | None
    """The record of the source system; None for an event that is not a change."""


class PlaceKind(StrEnum):
    """Why an event was stored at a place."""

    PUBLISHED = "published"
    REDRIVEN = "redriven"
    """Somebody has sent the dead letter back to its group."""
    REDELIVERED = "redelivered"
    """The engine has sent the event back to its group, after its attempts were used up."""


@dataclass(frozen=True, slots=True)
class Place:
    """One record of an event."""

    topic: str
    partition: int
    offset: int
    """The offset; on a bus without offsets, a number that means nothing to people."""
    stored: str
    """The time at which the bus took the record, ISO 8601."""
    after: float
    """The seconds between the event's time and ``stored``, or for a record that came later, since the first one."""
    kind: PlaceKind = PlaceKind.PUBLISHED
    group: str | None = None
    """The only group that handles the record; None: all groups of the topic do."""
    bytes: int = 0
    """The size of the payload."""

    @classmethod
    def of(cls, copy: Copy, since: float | None = None) -> Place:
        """Return the place of a record.

        Args:
            copy: the record.
            since: the time, in epoch seconds, from which ``after`` counts; None: that of the event.
        """
        delivery = copy.delivery
        kind, group = kind_of(copy.event)
        start = copy.event.metadata.timestamp.timestamp() if since is None else since
        return cls(
            copy.topic,
            delivery.partition,
            delivery.offset,
            iso(delivery.timestamp),
            max(delivery.timestamp - start, 0.0),
            kind,
            group,
            len(copy.event.data),
        )


def kind_of(event: Event) -> tuple[PlaceKind, str | None]:
    """Return why a record of an event was stored, and the only group that handles it; None: all groups do."""
    group = event.headers.get(h.REDRIVE_GROUP)
    if not isinstance(group, str):
        return PlaceKind.PUBLISHED, None
    return (PlaceKind.REDELIVERED if h.REDELIVERIES in event.headers else PlaceKind.REDRIVEN), group


def places_of(copies: Sequence[Copy]) -> Iterator[Place]:
    """Yield the places of the records of an event, which are given oldest first."""
    for number, copy in enumerate(copies):
        yield Place.of(copy, copies[0].delivery.timestamp if number else None)


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A record of an event that the bus delivers later, and which is in no place until then."""

    topic: str
    due: str
    """The time from which it is delivered, ISO 8601."""
    kind: PlaceKind
    group: str | None
    """The only group that will handle it; None: all groups of the topic will."""


@dataclass(frozen=True, slots=True)
class Step:
    """An event that caused another one."""

    event: EventSummary
    place: Place
    before: float
    """The seconds between the storing of this event and that of its effect."""


class Fate(StrEnum):
    """What a group made of an event."""

    HANDLED = "handled"
    """The events that its handler produced are there."""
    PASSED = "passed"
    """The position of the group is beyond the event: it was handled, left out by a filter, or was there before the group."""
    HELD_BACK = "held-back"
    """Its attempts are used up, and it is delivered to the group again later."""
    RETRYING = "retrying"
    """Attempts have failed, and the event waits for the next one, or is in it."""
    WAITING = "waiting"
    """The position is not beyond the event: it was not reached, is being handled, or an earlier event of its partition is."""
    REDRIVEN = "redriven"
    """It was dead-lettered and sent back, and the group is not beyond it."""
    DEAD_LETTERED = "dead-lettered"
    DISCARDED = "discarded"
    """Its dead letter was discarded."""
    FILTERED = "filtered"
    """The filter of the handler in the settings leaves it out."""
    ABSENT = "absent"
    """The group of a handler of the settings was never here."""
    UNKNOWN = "unknown"
    """The bus reports no positions of groups."""


@dataclass(frozen=True, slots=True)
class GroupStory:
    """An event as one group has met it."""

    topic: str
    group: str
    handler: str | None
    """The handler in the settings; None if they have none with this group."""
    fate: Fate
    place: Place | None
    """The last record of the event that the group handles; None if that is no longer known."""
    committed: int | None
    """The position of the group in that partition; None: nothing is committed, or the bus reports no positions."""
    attempts: int
    """The number of failed attempts of an event that is not finished, as far as the bus reports them."""
    failing_since: str | None
    """The time of the first of them, ISO 8601."""
    state: str
    """Empty, or why the group handles nothing: ``paused since …``, or that none of its members is running."""
    may_return: bool
    """Whether the event may be held back for the group unseen: the settings let it come back later, and the bus reports no such
    records.
    """
    produced: tuple[str, ...]
    """The ids of the events in the handler's ``produce_to`` that name this event as their cause."""
    dead_letters: tuple[DeadLetterSummary, ...]
    """The dead letters of the event, oldest first."""


@dataclass(frozen=True, slots=True)
class Result:
    """An event that names another one as its cause."""

    event: EventSummary
    place: Place
    after: float
    """The seconds since the cause was stored."""
    reply: bool
    error: str | None
    """The failure that a reply reports."""
    dead_letters: int
    """The number of its open dead letters."""
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of one event."""

    event_id: str
    event: EventSummary | None
    """None: it is known only by its results or as a reference; it lies beyond the search, or was removed by retention."""
    content: Event | None
    places: tuple[Place, ...]
    """The records of the event, oldest first."""
    held_back: tuple[HeldBack, ...]
    """The records that are delivered later, as far as the bus reports them."""
    causes: tuple[Step, ...]
    """The events that caused it, the nearest first."""
    missing_cause: str | None
    """The id of the next cause, which was not found."""
    groups: tuple[GroupStory, ...]
    results: tuple[Result, ...]
    more_results: bool
    """Whether there are more results than these."""
    searched: tuple[SearchedTopic, ...]
