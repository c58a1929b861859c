"""Prints the story of an event as a tree for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dimesh.cli.event_lines import content_of, key_of
from dimesh.cli.times import ago, duration_text

if TYPE_CHECKING:
    from dimesh.ops.dead_letters import DeadLetterSummary
    from dimesh.ops.explanation import (
        EventSummary,
        Explanation,
        GroupStory,
        HeldBack,
        Place,
        Result,
        SourceRecord,
        Step,
    )

FATES: Final = {
    "handled": "handled",
    "passed": "handled or passed over",
    "held-back": "failed, and is delivered again later",
    "retrying": "failed, and is tried again",
    "waiting": "not finished",
    "redriven": "redriven, not finished",
    "dead-lettered": "dead-lettered",
    "discarded": "dead-lettered, then discarded",
    "filtered": "left out by the filter of the handler",
    "absent": "not started yet: the group has no position",
    "unknown": "not known: the bus reports no positions",
}
COMMAND: Final = "    dimesh "
"""The beginning of a line that is a command."""
_FOUND_BY: Final = {
    "snapshot": "found by a snapshot",
    "repair": "found by the repair of a gap",
    "stream": "from the stream of changes",
}


def explanation_lines(story: Explanation) -> Iterator[str]:
    """Yield the lines. They may contain control characters of events: the output escapes them."""
    if story.event is None:
        yield f"{story.event_id}  the event itself was not found: removed by retention, or older than the search"
    else:
        yield from _event(story.event, "", now=True)
        if story.content is not None and story.event.record is None:
            yield f"  payload  {content_of(story.content)}"
    yield from _section("caused by", [_cause(step) for step in story.causes])
    if story.missing_cause is not None:
        yield f"  {story.missing_cause}  the cause, which was not found"
    yield from _section(
        "stored", [[_place(place, "later", number)] for number, place in enumerate(story.places)]
    )
    yield from _section("held back", [[_held(held)] for held in story.held_back])
    yield from _section("groups", [_group(group, story) for group in story.groups])
    if story.places and not story.groups:
        yield "groups: none reads the topic"
    yield from _section("results", [_result(result) for result in story.results])
    if story.more_results:
        yield "  … there are more results"


def _section(title: str, parts: Sequence[Sequence[str] | Iterator[str]]) -> Iterator[str]:
    if parts:
        yield title
    for part in parts:
        for line in part:
            yield f"  {line}"


def _event(event: EventSummary, margin: str, now: bool = False) -> Iterator[str]:
    yield f"{margin}{event.event_id}  {event.type}"
    if event.record is not None:
        yield from _record(event.record, f"{margin}  ")
    passed = f" UTC, {ago(datetime.fromisoformat(event.created))}" if now else ""
    yield f"{margin}  time     {_moment(event.created)}{passed}"
    if event.sender:
        yield f"{margin}  sender   {event.sender}"
    if now:
        yield f"{margin}  trace    {event.trace_id}"


def _record(record: SourceRecord, margin: str) -> Iterator[str]:
    yield f"{margin}record   {record.source} {record.object} {key_of(record.key)}".rstrip()
    position = f", position {record.position}" if record.position else ""
    yield f"{margin}change   {record.operation}, {_FOUND_BY[record.found_by]}{position}"
    if record.actor or record.transaction:
        made = (f"by {record.actor}" if record.actor else "", f"transaction {record.transaction}")
        yield f"{margin}made     {', '.join(filter(None, made if record.transaction else made[:1]))}"
    lags = (
        f"visible after {duration_text(record.lag_of_source)}" if record.lag_of_source is not None else "",
        f"captured in {duration_text(record.lag_of_capture)}" if record.lag_of_capture is not None else "",
    )
    if any(lags):
        yield f"{margin}lag      {', '.join(filter(None, lags))}"


def _cause(step: Step) -> Iterator[str]:
    yield from _event(step.event, "")
    yield f"  stored   {_where(step.place)}, {duration_text(step.before)} before its result"


def _place(place: Place, word: str, number: int = 1) -> str:
    kind = "" if place.kind == "published" else f", {place.kind} for {place.group}"
    if not number and not place.after:
        return f"{_where(place)}{kind}"
    return f"{_where(place)}{kind}, {duration_text(place.after)} {word}"


def _held(held: HeldBack) -> str:
    kind = "" if held.group is None else f", {held.kind} for {held.group}"
    due = datetime.fromisoformat(held.due)
    when = "due now" if due <= datetime.now(UTC) else ago(due)
    return f"{held.topic} until {_moment(held.due)}, {when}{kind}"


def _where(place: Place) -> str:
    return f"{place.topic} {place.partition}/{place.offset}  {_moment(place.stored)}"


def _group(group: GroupStory, story: Explanation) -> Iterator[str]:
    position = f" (position {group.committed})" if group.committed is not None else ""
    yield f"{group.group or 'no group'} of {group.topic}: {FATES[group.fate]}{position}"
    if group.handler is not None and group.handler != group.group:
        yield f"  handler  {group.handler}"
    if group.failing_since is not None:
        yield f"  failing  since {_moment(group.failing_since)}, {_attempts(group.attempts)}"
    if group.state:
        yield f"  {group.state}"
    if group.may_return and group.fate == "passed":
        yield "  or held back for a redelivery of the settings, which this bus does not show"
    if group.produced:
        yield f"  produced {len(group.produced)} of the results below"
    stored = story.places[0].stored if story.places else None
    for letter in group.dead_letters:
        yield from _letter(letter, stored)
    if any(letter.state == "open" for letter in group.dead_letters):
        topic, event_id = shlex.quote(group.topic), shlex.quote(story.event_id)
        yield f"  dimesh dlq show {topic} {event_id}"
        yield f"  dimesh dlq redrive {topic} --id {event_id}"


def _letter(letter: DeadLetterSummary, stored: str | None) -> Iterator[str]:
    attempts = _attempts(letter.attempts) if letter.attempts else ""
    state = letter.state if letter.state != "open" else ""
    yield f"  failed   {', '.join(filter(None, (_failed(letter, stored), attempts, state)))}"
    yield f"  error    {letter.reason}"


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"


def _failed(letter: DeadLetterSummary, stored: str | None) -> str:
    try:
        last = datetime.fromisoformat(letter.last)
        if stored is None:
            return _moment(letter.last)
        later = duration_text((last - datetime.fromisoformat(stored)).total_seconds())
    except (ValueError, TypeError):  # a broker has written it, or another program
        return letter.last or "at a time that is not known"
    return f"{_moment(letter.last)}, {later} later"


def _result(result: Result) -> Iterator[str]:
    reply = "  reply" if result.reply else ""
    yield f"{result.event.event_id}  {result.event.type}{reply}"
    yield f"  stored   {_where(result.place)}, {duration_text(result.after)} after its cause"
    if result.error is not None:
        yield f"  error    {result.error}"
    if result.dead_letters:
        yield f"  {result.dead_letters} open dead letter{'s' if result.dead_letters > 1 else ''}: explain this id"
    for inner in result.results:
        for line in _result(inner):
            yield f"  {line}"


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S.%f")[:23]
