"""The schemas that a bus knows: the newest version of each subject for some seconds, and numbered versions for ever."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import Any, Final, Protocol

from dimesh.clock import Clock
from dimesh.errors import DimeshError, SubjectNotFoundError
from dimesh.events.fields import NO_HEADERS, Headers

log = logging.getLogger("dimesh.bus")

MAX_CACHED: Final = 1_000
"""The number of subjects, and of numbered versions, that are kept."""
FAILURE_KEPT: Final = 1.0
"""Seconds for which a registry that did not answer about a subject is not asked again, since a question may take until a
time-out."""
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

    def check_payload(self, payload: bytes, strict: bool = False) -> None:
        """Return if the payload belongs to the schema. Raises SchemaValidationError if not. ``strict``: whether the payload is
        known to be strict JSON.
        """
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


class Known:
    """What is known of a subject."""

    __slots__ = ("due", "headers", "newest", "stamp", "unavailable")

    def __init__(
        self, due: float, newest: Registered | None = None, unavailable: DimeshError | None = None
    ) -> None:
        self.due = due
        """The time, by the monotonic clock, until which the registry is not asked again."""
        self.newest = newest
        """The newest version; None: there is none, or it is not known."""
        self.unavailable = unavailable
        """The reason why it is not known."""
        self.stamp = "" if newest is None else f"{newest.subject}/{newest.version}"
        self.headers: Headers = (
            NO_HEADERS if newest is None else MappingProxyType({WRITER_SCHEMA: self.stamp})
        )
        """The headers of an event that has no others. Shared by all of them."""


class SchemaCache:
    """Asks a registry, and keeps the answers.

    Args:
        registry: the registry.
        clock: time.
        refresh: seconds for which the newest version of a subject is kept.
    """

    def __init__(self, registry: SchemaSource, clock: Clock, refresh: float) -> None:
        self.fresh: dict[str, Known] = {}
        """By subject. An entry counts until it is due; it is read where an event must not cost a call."""
        self._registry = registry
        self._clock = clock
        self._refresh = refresh
        self._versions: dict[tuple[str, int], Registered] = {}

    async def ask(self, subject: str) -> Known:
        """Return what the registry says about a subject now. If it does not answer, return what is known, or why nothing is."""
        before = self.fresh.get(subject)
        due = self._clock.monotonic() + self._refresh
        if before is not None and before.unavailable is None:
            # One caller asks; the others go on with what is known meanwhile.
            before.due = due
        try:
            known = await self._answer(subject, before, due)
        except BaseException:
            if before is not None:
                before.due = 0.0
            raise
        if len(self.fresh) >= MAX_CACHED and subject not in self.fresh:
            self.fresh.clear()
        self.fresh[subject] = known
        return known

    async def _answer(self, subject: str, before: Known | None, due: float) -> Known:
        try:
            return Known(due, await self._registry.registered(subject))
        except SubjectNotFoundError:
            return Known(due)
        except DimeshError as error:
            if before is None or before.unavailable is not None or error.permanent:
                return Known(due - self._refresh + FAILURE_KEPT, None, error)
            log.warning("the registry cannot be asked, so what is known of %s is used: %s", subject, error)
            before.due = due
            return before

    async def version(self, subject: str, version: int) -> Registered:
        """Return a numbered version, also a soft-deleted one: events that were written with it may still wait.

        Raises:
            SubjectNotFoundError: there is no such version.
            DimeshError: the registry cannot be asked.
        """
        known = self._versions.get((subject, version))
        if known is None:
            known = await self._registry.registered(subject, version, deleted=True)
            if len(self._versions) >= MAX_CACHED:
                self._versions.clear()
            self._versions[subject, version] = known
        return known
