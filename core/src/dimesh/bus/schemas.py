"""Checks payloads against a schema registry, at publish and before each handler.

An event carries the version that it was written with, in the header ``writer-schema``. Before a handler it is checked against
that version, not against the newest one: a compatible change must not turn the events that wait in a topic into dead letters.
The handler then gets the payload as a reader of the newest version sees it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from dimesh.clock import Clock
from dimesh.errors import DimeshError, PayloadError, SchemaValidationError, SubjectNotFoundError
from dimesh.events import strictjson
from dimesh.events.event import Event, restore
from dimesh.events.fields import JSON, freeze_headers, is_json
from dimesh.events.names import show
from dimesh.spi.interceptor import HandleNext, Handling, Publishing, PublishNext
from dimesh.spi.receipt import Receipt

log = logging.getLogger("dimesh.bus")

MAX_GUESSES: Final = 20
"""The number of older versions that an event without the header is compared with."""
MAX_CACHED: Final = 1_000
"""The number of event types whose schemas are kept."""
WRITER_SCHEMA: Final = "writer-schema"
"""The header with the subject and version that a payload was written with, such as ``event.order.created/3``. A sender may set
it, to write with an older version."""


class Registered(Protocol):
    """A version of a subject."""

    @property
    def subject(self) -> str:
        """The subject."""
        ...

    @property
    def version(self) -> int:
        """The number of the version."""
        ...

    def check_payload(self, payload: bytes) -> None:
        """Return if the payload belongs to the schema. Raises SchemaValidationError if not."""
        ...

    def read(self, payload: bytes, writer: Any) -> Any:
        """Return the value of a payload of another version. Raises SchemaValidationError if this one cannot read it."""
        ...


class SchemaSource(Protocol):
    """The part of a schema registry that the bus needs."""

    async def registered(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> Registered:
        """Return a version of a subject; None: the newest one. ``deleted``: a soft-deleted one, too.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
        """
        ...


class SchemaCheck:
    """An interceptor that checks payloads against the subject ``event.<type>``. A type without a subject passes.

    Args:
        registry: where schemas come from.
        clock: time.
        refresh: seconds for which the newest version of a subject is used without asking again. A numbered version never
            changes and is asked for once.
    """

    def __init__(self, registry: SchemaSource, clock: Clock, refresh: float = 10.0) -> None:
        self._registry = registry
        self._clock = clock
        self._refresh = refresh
        self._known: dict[str, tuple[float, Registered | None]] = {}
        self._written: dict[tuple[str, int], Registered] = {}

    async def publish(
        self, publishing: Publishing, events: Sequence[Event], call_next: PublishNext
    ) -> Sequence[Receipt]:
        """Publish the events, each with the version of its schema, if all of them satisfy their schemas; raise otherwise."""
        return await call_next([await self._stamped(event) for event in events])

    async def _stamped(self, event: Event) -> Event:
        newest = await self._newest(event._event_type)
        if newest is None:
            return event
        writer = await self._writer(event, newest)
        if writer is not None:
            writer.check_payload(event.data)
            return event
        newest.check_payload(event.data)
        return event.replace(headers={**event.headers, WRITER_SCHEMA: f"{newest.subject}/{newest.version}"})

    async def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Any:
        """Call the handler with the events as a reader of the newest versions sees them; raise if one does not satisfy the
        schema that it was written with.
        """
        return await call_next([await self._read(event) for event in events])

    async def _read(self, event: Event) -> Event:
        newest = await self._newest(event._event_type)
        if newest is None:
            return event
        writer = await self._writer(event, newest)
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
            event._event_type,
            event.metadata,
            data,
            event.schema_version,
            event.content_type,
            freeze_headers(event.headers),
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
                    older = await self._version(newest.subject, version)
                    older.check_payload(event.data)
                    newest.read(event.data, older)  # what the newest one cannot read is not passed on unasked
                    return older
            raise refused from None

    async def _newest(self, name: str) -> Registered | None:
        now = self._clock.monotonic()
        known = self._known.get(name)
        if known is None or known[0] < now:
            try:
                newest: Registered | None = await self._registry.registered(f"event.{name}")
            except SubjectNotFoundError:
                newest = None
            except DimeshError as error:
                if known is None or error.permanent:
                    raise  # of an unknown type nobody can say whether it has a schema
                log.warning(
                    "the registry cannot be asked, so what is known of event.%s is used: %s", name, error
                )
                newest = known[1]
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            known = self._known[name] = (now + self._refresh, newest)
        return known[1]

    async def _writer(self, event: Event, newest: Registered) -> Registered | None:
        """Return the version that an event names; None: it names none, or one of another type, from which a handler passed the
        headers on.
        """
        named = event.headers.get(WRITER_SCHEMA)
        if named is None:
            return None
        subject, _, number = (named if isinstance(named, str) else "").rpartition("/")
        if subject != newest.subject:
            return None
        if not (number.isascii() and number.isdigit() and len(number) <= 9):
            raise PayloadError(
                f"header {WRITER_SCHEMA!r} is {show(named)}: it names a version of subject {show(newest.subject)}, such as "
                f"'{newest.subject}/{newest.version}'"
            )
        version = int(number)
        if version == newest.version:
            return newest
        try:
            return await self._version(subject, version)
        except SubjectNotFoundError as error:
            raise PayloadError(f"the event was written with a schema that is not there: {error}") from error

    async def _version(self, subject: str, version: int) -> Registered:
        known = self._written.get((subject, version))
        if known is None:
            # A soft-deleted version, too: events that were written with it may still wait.
            known = await self._registry.registered(subject, version, deleted=True)
            if len(self._written) >= MAX_CACHED:
                self._written.clear()
            self._written[subject, version] = known
        return known
