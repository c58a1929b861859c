"""Dead letters that failed the check of their schema: checked again with a version that an operator chooses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dimesh.bus.deadletter import DeadLetter
from dimesh.bus.schema_cache import WRITER_SCHEMA
from dimesh.bus.schema_rules import SchemaRule, SchemaRules
from dimesh.errors import PayloadError, SchemaValidationError, SubjectNotFoundError
from dimesh.events import strictjson
from dimesh.events.event import Event, restore
from dimesh.events.fields import JSON, freeze_headers, is_json
from dimesh.registry import SchemaRegistry
from dimesh.registry.registered import RegisteredSchema

_CHECKED: Final = frozenset(
    f"{kind.__module__}.{kind.__qualname__}" for kind in (SchemaValidationError, PayloadError)
)
"""The errors of the check of schemas."""


class SchemaMending:
    """Prepares dead letters for a redrive; see :meth:`dimesh.bus.redrive.DeadLetters.redrive`.

    Args:
        registry: the registry.
        rules: the rules of the bus, which name the subjects.
        version: the version of each event's subject; None: the newest one.
    """

    def __init__(
        self, registry: SchemaRegistry, rules: Iterable[SchemaRule], version: int | None = None
    ) -> None:
        self._registry = registry
        self._rules = SchemaRules([*rules, SchemaRule()])
        self._version = version
        self._known: dict[str, RegisteredSchema | None] = {}

    async def prepare(self, entry: DeadLetter, event: Event) -> Event | str:
        """Return the event with missing properties that have a default, and with the version in its header ``writer-schema``;
        or the reason why the event does not satisfy the version.

        Raises:
            DimeshError: the registry cannot be asked.
        """
        if entry.error_type not in _CHECKED:
            return "it did not fail the check of its schema: redrive it without a version"
        rule = self._rules.of(entry.topic)
        subject = f"event.{event._event_type}" if rule is None else rule.subject(event._event_type)
        schema = await self._schema(subject)
        if schema is None:
            which = "no schema" if self._version is None else f"no version {self._version}"
            return f"subject {subject} has {which}"
        try:
            data = _completed(event, schema)
            schema.check_payload(data)
        except SchemaValidationError as error:
            problems = "; ".join(error.problems[:5]) or str(error)
            return f"it does not satisfy {subject} (version {schema.version}): {problems}"
        headers = {**event.headers, WRITER_SCHEMA: f"{subject}/{schema.version}"}
        return restore(
            event._event_type,
            event.metadata,
            data,
            event.schema_version,
            event.content_type,
            freeze_headers(headers),
        )

    async def _schema(self, subject: str) -> RegisteredSchema | None:
        if subject not in self._known:
            try:
                self._known[subject] = await self._registry.registered(subject, self._version)
            except SubjectNotFoundError:
                self._known[subject] = None
        return self._known[subject]


def _completed(event: Event, schema: RegisteredSchema) -> bytes:
    """Return the payload with the defaults of a schema. One that only its writer's schema can read stays as it is."""
    if event.content_type != JSON and not is_json(event.content_type):
        return event.data
    value = schema.completed(event.data)
    data = strictjson.dumps(value)
    return event.data if value == strictjson.loads(event.data) else data
