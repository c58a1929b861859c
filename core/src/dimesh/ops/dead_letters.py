"""Dead letters as an operator sees them: listing, redriving and discarding."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from dimesh.bus.deadletter import DeadLetter
from dimesh.bus.engine import EventBus
from dimesh.bus.redrive import DeadLetters, Prepare, RedriveResult
from dimesh.errors import DeadLetterNotFoundError
from dimesh.events import names
from dimesh.events.event import Event


@dataclass(frozen=True, slots=True)
class DeadLetterSummary:
    """One dead letter without its payload."""

    event_id: str
    type: str
    topic: str
    group: str
    handler: str
    reason: str
    attempts: int
    redrives: int
    first: str
    """The time of the first failure, ISO 8601."""
    last: str
    """The time of the last failure, ISO 8601."""
    stack_digest: str
    """A digest that is equal for failures of the same kind at the same place."""
    state: Literal["open", "redriven", "discarded"]
    form: str
    """``whole``, or what the backend took of an event that was too large: ``without-headers``, ``short-reason``, ``reference`` or
    ``bare-reference``."""


@dataclass(frozen=True, slots=True)
class DeadLetterCause:
    """The dead letters that failed in the same way: with an error of one type, raised at one place in the code."""

    reason: str
    """The reason of the newest of them."""
    reasons: int
    """The number of different reasons, such as messages that name different products."""
    topics: tuple[str, ...]
    groups: tuple[str, ...]
    first: str
    """The time of the first failure, ISO 8601."""
    last: str
    """The time of the last failure, ISO 8601."""
    entries: tuple[DeadLetterSummary, ...]
    """The dead letters, oldest first."""


@dataclass(frozen=True, slots=True)
class DeadLetterDetail:
    """One dead letter with the event that failed."""

    summary: DeadLetterSummary
    event: Event
    """The event; of an entry that is not whole, the one that it refers to if that is still in its topic."""


@dataclass(frozen=True, slots=True)
class SkippedDeadLetter:
    """A dead letter that was left as it is."""

    summary: DeadLetterSummary
    reason: str
    """Why it was skipped."""


@dataclass(frozen=True, slots=True)
class DeadLetterChange:
    """The outcome of a redrive or a discard."""

    done: tuple[DeadLetterSummary, ...]
    skipped: tuple[SkippedDeadLetter, ...]


def summarize(entry: DeadLetter) -> DeadLetterSummary:
    """Return the summary of an entry."""
    return DeadLetterSummary(
        event_id=entry.event_id,
        type=entry.event.event_type.value,
        topic=entry.topic,
        group=entry.group,
        handler=entry.handler,
        reason=entry.reason,
        attempts=entry.attempts,
        redrives=entry.redrives,
        first=entry.first,
        last=entry.last,
        stack_digest=entry.stack_digest,
        state="open" if entry.open else ("redriven" if entry.redriven else "discarded"),
        form=entry.form.value,
    )


async def list_dead_letters(
    bus: EventBus, topic: str | None = None, *, include_closed: bool = False
) -> list[DeadLetterSummary]:
    """Return the dead letters, oldest first.

    Args:
        bus: the bus.
        topic: the topic whose dead letters to list, with or without ``.dlq``; None: all topics.
        include_closed: include those that were redriven or discarded.

    Raises:
        TopicNotFoundError: no event of that topic was ever dead-lettered.
    """
    entries = await DeadLetters(bus).entries(topic, include_closed=include_closed)
    return [summarize(entry) for entry in entries]


def group_by_cause(entries: Iterable[DeadLetterSummary]) -> list[DeadLetterCause]:
    """Return the causes of dead letters, the most frequent first."""
    found: dict[str, list[DeadLetterSummary]] = {}
    for entry in entries:
        # A dead letter that a broker created has no digest: there the text of the reason is all that is known.
        found.setdefault(entry.stack_digest or entry.reason, []).append(entry)
    causes = [
        DeadLetterCause(
            max(some, key=lambda e: e.last).reason,
            len({e.reason for e in some}),
            tuple(sorted({e.topic for e in some})),
            tuple(sorted({e.group for e in some})),
            min(e.first for e in some),
            max(e.last for e in some),
            tuple(some),
        )
        for some in found.values()
    ]
    return sorted(causes, key=lambda cause: (-len(cause.entries), cause.first))


async def find_dead_letters(bus: EventBus, topic: str, event_id: str) -> list[DeadLetterDetail]:
    """Return the dead letters of one event: one for each group that failed.

    Raises:
        TopicNotFoundError: no event of that topic was ever dead-lettered.
        DeadLetterNotFoundError: none of the dead letters has that id.
    """
    letters = DeadLetters(bus)
    found = []
    for entry in await letters.entries(topic, include_closed=True):
        if entry.event_id == event_id:
            original = await letters.original(entry)
            found.append(DeadLetterDetail(summarize(entry), entry.event if original is None else original[0]))
    if not found:
        raise DeadLetterNotFoundError(
            f"no dead letter of {topic} has the id {names.show(event_id)}; 'dimesh dlq list --all --ids' lists them"
        )
    return found


async def redrive(
    bus: EventBus,
    topic: str,
    *,
    ids: Collection[str] | None = None,
    limit: int | None = None,
    force: bool = False,
    prepare: Prepare | None = None,
    dry_run: bool = False,
) -> DeadLetterChange:
    """Send open dead letters back to the group that failed.

    Args:
        bus: the bus.
        topic: the origin topic, with or without ``.dlq``.
        ids: only events with these ids; None: all.
        limit: the most to send back.
        force: include events that were redriven three times already.
        prepare: returns the event to send in place of the one that failed, or the reason why it is left, such as
            :meth:`dimesh.ops.mending.SchemaMending.prepare`.
        dry_run: send nothing.
    """
    result = await DeadLetters(bus).redrive(
        topic, ids=ids, limit=limit, force=force, prepare=prepare, dry_run=dry_run
    )
    return _change(result)


async def discard(bus: EventBus, topic: str, *, ids: Collection[str] | None = None) -> DeadLetterChange:
    """Mark open dead letters as discarded.

    Args:
        bus: the bus.
        topic: the origin topic, with or without ``.dlq``.
        ids: only events with these ids; None: all.
    """
    return _change(await DeadLetters(bus).discard(topic, ids=ids))


def _change(result: RedriveResult) -> DeadLetterChange:
    return DeadLetterChange(
        tuple(summarize(entry) for entry in result.done),
        tuple(SkippedDeadLetter(summarize(entry), reason) for entry, reason in result.skipped),
    )
