"""What the rows of an object look like, by the source's own description: registered, watched, and said when it changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from dimesh.errors import DimeshError, IncompatibleSchemaError, SubjectNotFoundError
from dimesh.spi.cdc import Change, Describes

log = logging.getLogger("dimesh.cdc")

EVERY: Final = 3_600.0
"""Seconds between two questions."""
_OURS: Final = "$comment"
_SEEN: Final = "seen in a change; the source does not describe it"


class Registrar(Protocol):
    """What is needed of a schema registry."""

    async def get_schema(self, subject: str) -> Any:
        """The latest version."""
        ...

    async def register_schema(self, subject: str, schema: Mapping[str, Any]) -> int:
        """Add a version."""
        ...

    async def set_compatibility(self, subject: str | None, mode: str) -> None:
        """Set the mode of a subject."""
        ...


class SchemaWatch:
    """Keeps the registry's subject ``cdc.<system>.<object>`` as the source describes the object.

    Args:
        say: publishes what changed.
    """

    def __init__(
        self,
        source: Describes,
        object_: str,
        subject: str,
        registry: Registrar,
        say: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self.subject = subject
        self._source = source
        self._object = object_
        self._registry = registry
        self._say = say
        self._known: Mapping[str, Any] | None = None
        self._fields: frozenset[str] | None = None
        self._asked: set[str] = set()
        self._lock = asyncio.Lock()

    async def look(self) -> None:
        """Ask the source, and register and say what is different. What goes wrong is logged: changes go on."""
        async with self._lock:
            try:
                described = await self._source.schema(self._object)
                if described is not None:
                    await self._take(described)
            except DimeshError as error:
                log.warning("the schema of %s is not watched for now: %s", self.subject, error)

    async def before(self, changes: Iterable[Change]) -> None:
        """Ask again where a change has fields that the description lacks, once for each; those that it lacks still are
        registered and said all the same, as they are seen.
        """
        fields = self._fields
        if fields is None:
            return
        for change in changes:
            after = change.after
            if after is not None and not after.keys() <= fields:
                new = after.keys() - fields - self._asked
                if new:
                    self._asked |= new
                    await self.look()
                    fields = self._fields or fields
                    await self._see({name: after[name] for name in after if name in new - fields})
                    fields = self._fields or fields

    def forget_what_was_asked(self) -> None:
        """Fields that the description lacked are asked for again."""
        self._asked.clear()

    async def _see(self, values: Mapping[str, Any]) -> None:
        """Take in fields that nobody describes."""
        async with self._lock:
            if values and self._known is not None:
                seen = {name: {**_type_of(value), _OURS: _SEEN} for name, value in values.items()}
                try:
                    await self._take({**self._known, "properties": {**_properties(self._known), **seen}})
                except DimeshError as error:
                    log.warning("new fields of %s are not registered: %s", self.subject, error)

    async def _take(self, described: Mapping[str, Any]) -> None:
        try:
            latest = (await self._registry.get_schema(self.subject)).schema
        except SubjectNotFoundError:
            latest = None
        was = self._known if self._known is not None else latest
        if was is not None:
            described = _with_seen(described, was)
        if was is None:
            # A source changes as it does, whatever was promised to whom: a mode that refuses would hide it.
            await self._registry.set_compatibility(self.subject, "NONE")
            await self._registry.register_schema(self.subject, described)
        elif _plain(was) != _plain(described):
            await self._changed(was, latest, described)
        self._known = described
        self._fields = frozenset(_properties(described))

    async def _changed(
        self, was: Mapping[str, Any], latest: Mapping[str, Any] | None, described: Mapping[str, Any]
    ) -> None:
        version: int | None = None
        refused: list[str] = []
        try:
            version = await self._registry.register_schema(self.subject, described)
            now = (await self._registry.get_schema(self.subject)).schema
            if _plain(now) != _plain(described):
                # As it was once: the registry knows it by its old number, and another one is the latest.
                again = {**described, _OURS: f"again as in version {version}"}
                version = await self._registry.register_schema(self.subject, again)
        except IncompatibleSchemaError as error:
            refused = [str(reason) for reason in error.reasons]
        before, after = _properties(was), _properties(described)
        await self._say(
            {
                "subject": self.subject,
                "version": version,
                "refused": refused,
                "added": sorted(after.keys() - before.keys()),
                "removed": sorted(before.keys() - after.keys()),
                "changed": sorted(
                    name for name in before.keys() & after.keys() if before[name] != after[name]
                ),
            }
        )


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _with_seen(described: Mapping[str, Any], was: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the fields that were seen before and are not described still."""
    properties = _properties(described)
    seen = {
        name: field
        for name, field in _properties(was).items()
        if name not in properties and isinstance(field, Mapping) and field.get(_OURS) == _SEEN
    }
    return {**described, "properties": {**properties, **seen}} if seen else described


def _type_of(value: Any) -> dict[str, Any]:
    """What a value tells of its field: it may be null another time, whatever it is."""
    if value is None:
        return {}
    for kinds, name in (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (Mapping, "object"),
    ):
        if isinstance(value, kinds):
            return {"type": [name, "null"]}
    return {"type": ["array", "null"]}


def _plain(schema: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in schema.items() if k != _OURS}, sort_keys=True)
