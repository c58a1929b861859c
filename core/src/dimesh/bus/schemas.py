"""Schema checks at publish and at consume, through whatever registry the bus was given."""

from __future__ import annotations

from typing import Any, Final, Protocol

from dimesh.clock import Clock
from dimesh.errors import SubjectNotFoundError
from dimesh.events.event import Event

MAX_CACHED: Final = 1_000


class Validator(Protocol):
    """A compiled schema."""

    def check(self, data: Any) -> None:
        """Raises SchemaValidationError if ``data`` does not satisfy it."""
        ...


class ValidatorSource(Protocol):
    """The part of a schema registry that the bus needs."""

    async def validator(self, subject: str) -> Validator:
        """The newest version of the subject.

        Raises:
            SubjectNotFoundError: there is none.
        """
        ...


class SchemaGate:
    """Checks payloads against subject ``event.<type>``; a type without a subject passes.

    What the registry said is believed for ``refresh`` seconds.
    """

    def __init__(self, registry: ValidatorSource, clock: Clock, refresh: float = 10.0) -> None:
        self._registry = registry
        self._clock = clock
        self._refresh = refresh
        self._known: dict[str, tuple[float, Validator | None]] = {}

    async def check(self, event: Event) -> None:
        """Return if the payload is as its schema says.

        Raises:
            SchemaValidationError: it is not; lists each problem.
            PayloadError: it is not JSON.
        """
        name = event._event_type
        now = self._clock.monotonic()
        known = self._known.get(name)
        if known is None or known[0] < now:
            try:
                validator: Validator | None = await self._registry.validator(f"event.{name}")
            except SubjectNotFoundError:
                validator = None
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            known = self._known[name] = (now + self._refresh, validator)
        if known[1] is not None:
            known[1].check(event.payload)
