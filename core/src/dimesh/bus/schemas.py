"""Checks payloads against a schema registry, at publish and before each handler.

An event carries the version that it was written with, in the header ``writer-schema``. Before a handler it is checked against
that version, not against the newest one: a compatible change must not turn the events that wait in a topic into dead letters.
The handler then gets the payload as a reader of the newest version sees it.

Which topics are checked, and what happens to an event that fails, is in :mod:`dimesh.bus.schema_rules`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from dimesh.bus.door import Operation
from dimesh.bus.schema_cache import WRITER_SCHEMA, Known, Registered, SchemaCache, SchemaSource
from dimesh.bus.schema_reports import SchemaReports
from dimesh.bus.schema_rules import Action, SchemaRule, SchemaRules, TopicRule, Unavailable, Unknown
from dimesh.clock import Clock
from dimesh.errors import DimeshError, PayloadError, SchemaValidationError, SubjectNotFoundError
from dimesh.events import strictjson
from dimesh.events.event import Event, restore
from dimesh.events.fields import JSON, NO_HEADERS, is_json
from dimesh.events.names import show
from dimesh.spi.interceptor import HandleNext, Handling

MAX_GUESSES: Final = 20
"""The number of older versions that an event without the header is compared with."""
PUBLISH: Final = "publish"
CONSUME: Final = "consume"

Refusals = Mapping[int, DimeshError]
"""The events that are to become dead letters, by their place in the list, with the reasons."""
NOTHING_REFUSED: Final[Refusals] = MappingProxyType({})

_FAILED: Final = (SchemaValidationError, PayloadError)
"""What a failed check raises; everything else is a failure of the registry."""


class SchemaCheck:
    """Checks what is published and what is handled. The innermost layer of both: interceptors see the event as its sender, or
    the topic, has it.

    Args:
        registry: where schemas come from.
        clock: time.
        rules: which topics are checked, and how; by default all of them.
        refresh: seconds for which the newest version of a subject is used without asking again. A numbered version never
            changes and is asked for once.
    """

    def __init__(
        self,
        registry: SchemaSource,
        clock: Clock,
        rules: Iterable[SchemaRule] = (SchemaRule(),),
        refresh: float = 10.0,
    ) -> None:
        self._cache = SchemaCache(registry, clock, refresh)
        self._rules = SchemaRules(rules)
        self._monotonic = clock.monotonic
        self.reports = SchemaReports(clock)

    # -- publishing ------------------------------------------------------------------------------

    async def outgoing(
        self, topic: str, operation: Operation, events: Sequence[Event]
    ) -> tuple[Sequence[Event], Refusals]:
        """Return the events to publish, each with the version of its schema, and those of them that become dead letters instead.

        Raises:
            SchemaValidationError, PayloadError: an event fails the check, and is to be rejected.
            DimeshError: the registry cannot be asked.
        """
        rule = self._rules.of(topic)
        action = None if rule is None else rule.publish
        if rule is None or action is None:
            return events, NOTHING_REFUSED
        fresh, now = self._cache.fresh, self._monotonic()
        checked: list[Event] = []
        refused: dict[int, DimeshError] = {}
        for event in events:
            subject = rule.subject(event._event_type)
            try:
                known = fresh.get(subject)
                # One await for each subject in ten seconds, and none for each event: that would be a third of the cost.
                if known is None or known.due < now:
                    known = await self._cache.ask(subject)
                newest = known.newest
                if newest is None:
                    self._pass_unchecked(rule, PUBLISH, subject, event, known.unavailable)
                elif WRITER_SCHEMA in event.headers and (writer := await self._writer(event, known, newest)):
                    writer.check_payload(event.data)
                else:
                    newest.check_payload(event.data, event._embeddable is True)
                    event = _stamped(event, known)
            except _FAILED as error:
                self._refuse(rule, action, operation, event, error)
                if action is Action.DEAD_LETTER:
                    refused[len(checked)] = error
            checked.append(event)
        return checked, refused or NOTHING_REFUSED

    def _refuse(
        self, rule: TopicRule, action: Action, operation: Operation, event: Event, error: DimeshError
    ) -> None:
        if action is Action.WARN:
            self.reports.warn(rule.topic, PUBLISH, event, error)
        elif action is Action.DEAD_LETTER and operation in (Operation.PUBLISH, Operation.PRODUCE):
            self.reports.count(rule.topic, PUBLISH, "dead-lettered")
        else:
            self.reports.count(rule.topic, PUBLISH, "rejected")
            raise error

    # -- handling --------------------------------------------------------------------------------

    async def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Any:
        """Call the handler with the events as a reader of the newest versions sees them; raise if one fails the check."""
        rule = self._rules.of(handling.topic)
        action = None if rule is None else rule.consume
        if rule is None or action is None:
            return await call_next(events)
        fresh, now = self._cache.fresh, self._monotonic()
        read: list[Event] = []
        for event in events:
            subject = rule.subject(event._event_type)
            try:
                known = fresh.get(subject)
                if known is None or known.due < now:
                    known = await self._cache.ask(subject)
                newest = known.newest
                if newest is None:
                    self._pass_unchecked(rule, CONSUME, subject, event, known.unavailable)
                elif event.headers.get(WRITER_SCHEMA) == known.stamp:
                    newest.check_payload(event.data, event._embeddable is True)
                else:
                    event = await self._read(event, known, newest)
            except _FAILED as error:
                if action is not Action.WARN:
                    self.reports.count(rule.topic, CONSUME, "dead-lettered")
                    raise
                self.reports.warn(rule.topic, CONSUME, event, error)
            read.append(event)
        return await call_next(read)

    async def _read(self, event: Event, known: Known, newest: Registered) -> Event:
        """Return an event that was written with another version than the newest one, or does not say with which."""
        writer = await self._writer(event, known, newest)
        if writer is None:
            writer = await self._guessed(event, newest)
        else:
            writer.check_payload(event.data)
        if writer.version == newest.version:
            return event
        if event.content_type != JSON and not is_json(event.content_type):
            return event  # whoever decodes the payload resolves it
        try:
            value = newest.read(event.data, writer)
        except SchemaValidationError:
            # The newest version is not compatible, as the mode of the subject permits. The event is right as it was written.
            return event
        data = strictjson.dumps(value)
        if data == event.data:
            return event
        return restore(
            event._event_type, event.metadata, data, event.schema_version, event.content_type, event.headers
        )

    async def _guessed(self, event: Event, newest: Registered) -> Registered:
        """Return the version that an event without the header satisfies, the newest one first: its sender has no registry, or
        wrote it before there was one. Raises SchemaValidationError, about the newest one, if there is none.
        """
        try:
            newest.check_payload(event.data)
            return newest
        except SchemaValidationError as refused:
            for version in range(newest.version - 1, max(0, newest.version - 1 - MAX_GUESSES), -1):
                with contextlib.suppress(SubjectNotFoundError, SchemaValidationError):
                    older = await self._cache.version(newest.subject, version)
                    older.check_payload(event.data)
                    newest.read(event.data, older)  # what the newest one cannot read is not passed on unasked
                    return older
            raise refused from None

    # -- schemas ---------------------------------------------------------------------------------

    def _pass_unchecked(
        self, rule: TopicRule, stage: str, subject: str, event: Event, unavailable: DimeshError | None
    ) -> None:
        """Return if an event without a schema is passed on, reported if that is wanted.

        Raises:
            SchemaValidationError: an event without a schema fails the check.
            DimeshError: the registry cannot be asked, and the event is not passed on unchecked.
        """
        if unavailable is not None:
            if rule.unavailable is Unavailable.FAIL:
                raise unavailable
            self.reports.warn(rule.topic, stage, event, unavailable, "unchecked")
        elif rule.unknown is not Unknown.PASS:
            error = SchemaValidationError(
                f"subject {show(subject)} has no schema, and topic {rule.topic} needs one for events of type "
                f"{event._event_type}: register it first"
            )
            if rule.unknown is Unknown.FAIL:
                raise error
            self.reports.warn(rule.topic, stage, event, error, "unchecked")

    async def _writer(self, event: Event, known: Known, newest: Registered) -> Registered | None:
        """Return the version that an event names; None: it names none, or one of another subject, from which a handler passed the
        headers on.
        """
        named = event.headers.get(WRITER_SCHEMA)
        if named is None:
            return None
        if named == known.stamp:
            return newest
        subject, _, number = (named if isinstance(named, str) else "").rpartition("/")
        if subject != newest.subject:
            return None
        if not (number.isascii() and number.isdigit() and len(number) <= 9):
            raise PayloadError(
                f"header {WRITER_SCHEMA!r} is {show(named)}: it names a version of subject {show(newest.subject)}, such as "
                f"'{newest.subject}/{newest.version}'"
            )
        try:
            return await self._cache.version(subject, int(number))
        except SubjectNotFoundError as error:
            raise PayloadError(f"the event was written with a schema that is not there: {error}") from error


def _stamped(event: Event, known: Known) -> Event:
    """Return the event with the version that it was written with."""
    headers = event.headers
    return restore(
        event._event_type,
        event.metadata,
        event.data,
        event.schema_version,
        event.content_type,
        known.headers if headers is NO_HEADERS else MappingProxyType({**headers, WRITER_SCHEMA: known.stamp}),
        event._embeddable,
    )
