"""Schema drift: the source's own description of an object is registered as a schema, and its changes are published."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from dimesh.errors import DimeshError, IncompatibleSchemaError, SubjectNotFoundError
from dimesh.spi.cdc import Change, Describes

log = logging.getLogger("dimesh.cdc")

REFRESH_INTERVAL: Final = 3_600.0
"""Seconds between two refreshes of the description."""
_COMMENT: Final = "$comment"
_OBSERVED: Final = "seen in a change; the source does not describe it"


class Registrar(Protocol):
    """The part of a schema registry that the monitor needs."""

    async def get_schema(self, subject: str) -> Any:
        """Return the latest version."""
        ...

    async def register_schema(self, subject: str, schema: Mapping[str, Any]) -> int:
        """Add a version."""
        ...

    async def set_compatibility(self, subject: str | None, mode: str) -> None:
        """Set the mode of a subject."""
        ...


class SchemaDriftMonitor:
    """Keeps the registry's subject ``cdc.<system>.<object>`` up to date with the source's description of the object.

    Args:
        source: the source.
        object_: the object.
        subject: the subject in the registry.
        registry: the registry.
        publish: publishes a change of the schema.
    """

    def __init__(
        self,
        source: Describes,
        object_: str,
        subject: str,
        registry: Registrar,
        publish: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self.subject = subject
        self._source = source
        self._object = object_
        self._registry = registry
        self._publish = publish
        self._known: Mapping[str, Any] | None = None
        self._fields: frozenset[str] | None = None
        self._requested: set[str] = set()
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Ask the source for the description, register it and publish the differences. Errors are only logged, so that the
        capture of changes continues.
        """
        async with self._lock:
            try:
                described = await self._source.schema(self._object)
                if described is not None:
                    await self._apply(described)
            except DimeshError as error:
                log.warning("the schema of %s cannot be refreshed now: %s", self.subject, error)

    async def check(self, changes: Iterable[Change]) -> None:
        """Refresh the description if changes have fields that it lacks, once for each field. Fields that it still lacks are
        registered and published with the type of their value.
        """
        fields = self._fields
        if fields is None:
            return
        for change in changes:
            after = change.after
            if after is not None and not after.keys() <= fields:
                new = after.keys() - fields - self._requested
                if new:
                    self._requested |= new
                    await self.refresh()
                    fields = self._fields or fields
                    await self._add_observed_fields(
                        {name: after[name] for name in after if name in new - fields}
                    )
                    fields = self._fields or fields

    def forget_requested_fields(self) -> None:
        """Allow that undescribed fields cause a refresh again."""
        self._requested.clear()

    async def _add_observed_fields(self, values: Mapping[str, Any]) -> None:
        """Register fields that the source does not describe."""
        async with self._lock:
            if values and self._known is not None:
                seen = {name: {**_type_of(value), _COMMENT: _OBSERVED} for name, value in values.items()}
                try:
                    await self._apply({**self._known, "properties": {**_properties(self._known), **seen}})
                except DimeshError as error:
                    log.warning("new fields of %s cannot be registered: %s", self.subject, error)

    async def _apply(self, described: Mapping[str, Any]) -> None:
        try:
            latest = (await self._registry.get_schema(self.subject)).schema
        except SubjectNotFoundError:
            latest = None
        was = self._known if self._known is not None else latest
        if was is not None:
            described = _keep_observed(described, was)
        if was is None:
            # The source changes its objects regardless of compatibility; a mode that refuses versions would hide that.
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
                # The object is as it was once before: the registry returns the old version, but another one is the latest.
                again = {**described, _COMMENT: f"again as in version {version}"}
                version = await self._registry.register_schema(self.subject, again)
        except IncompatibleSchemaError as error:
            refused = [str(reason) for reason in error.reasons]
        before, after = _properties(was), _properties(described)
        await self._publish(
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


def _keep_observed(described: Mapping[str, Any], was: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the description with the fields that were observed before and are still not described."""
    properties = _properties(described)
    seen = {
        name: field
        for name, field in _properties(was).items()
        if name not in properties and isinstance(field, Mapping) and field.get(_COMMENT) == _OBSERVED
    }
    return {**described, "properties": {**properties, **seen}} if seen else described


def _type_of(value: Any) -> dict[str, Any]:
    """Return the schema of a field for one of its values. Any field may be null."""
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
    return json.dumps({k: v for k, v in schema.items() if k != _COMMENT}, sort_keys=True)
