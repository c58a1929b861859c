"""The registry as a store of dimesh: the server decides, and this passes on what it decides."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    IncompatibleSchemaError,
    InvalidSchemaError,
    NotPermittedError,
    ReferencedError,
    ReferenceNotFoundError,
    RegistryUnavailableError,
    SchemaError,
    SchemaIdConflictError,
    VersionConflictError,
)
from dimesh.events.names import show
from dimesh.spi.registry import (
    DEFAULT_CONTEXT,
    SchemaContent,
    Snapshot,
    StoredSchema,
    context_of,
    scopes_of,
)
from dimesh.spi.schema import PROVED, Difference, Outcome, Verdict
from dimesh_confluent.answers import body_of, listed, stored_of, string, table, whole
from dimesh_confluent.cache import Key, SchemaCache
from dimesh_confluent.failures import RefusalError
from dimesh_confluent.options import ConfluentOptions
from dimesh_confluent.settings import Scopes
from dimesh_confluent.transport import Transport

log = logging.getLogger("dimesh.registry")

MOST_AT_ONCE = 16
"""The greatest number of requests for one list at the same time."""


class ConfluentStore:
    """See :class:`dimesh.spi.registry.RegistryStore` and :class:`dimesh.spi.registry.DecidingStore`.

    Schemas that were read are used while the registry is down; what was never read raises RegistryUnavailableError then.

    Args:
        options: of the registry.
        clock: time.
    """

    name = "confluent"
    capabilities = Capabilities(
        Capability.DECIDES_COMPATIBILITY, Capability.SOFT_DELETE, Capability.PERSISTENT
    )

    def __init__(self, options: ConfluentOptions, clock: Clock) -> None:
        self._options = options
        self._transport = Transport(options, clock)
        self._scopes = Scopes(self._transport)
        self._cache = SchemaCache(clock, options.max_cached)

    async def open(self) -> None:
        """Prepare the connections. The registry need not answer yet."""
        await self._transport.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    # -- registering -----------------------------------------------------------------------------

    async def register(
        self,
        subject: str,
        content: SchemaContent,
        *,
        version: int | None = None,
        schema_id: int | None = None,
    ) -> StoredSchema:
        """Register a schema, or return the version that has it already."""
        body = body_of(content)
        if version is not None:
            body["version"] = version
        if schema_id is not None:
            body["id"] = schema_id
        try:
            answer = table(
                await self._transport.request(
                    "POST", *_subject(subject), "versions", query=self._normalize(), body=body
                )
            )
        except RefusalError as refusal:
            raise await self._refused(refusal, subject, content, version) from None
        finally:
            self._cache.forget(subject)
        number = answer.get("version")
        if isinstance(number, int) and number > 0:
            stored = await self._fetch(subject, number)
        else:  # older servers give the id only
            stored = await self.find(subject, content)
        if stored is None:
            raise RegistryUnavailableError(
                f"subject {show(subject)} does not have the schema that the registry accepted: it was deleted meanwhile"
            )
        return stored

    def _normalize(self) -> dict[str, str | int | bool] | None:
        return {"normalize": True} if self._options.normalize else None

    async def _refused(
        self, refusal: RefusalError, subject: str, content: SchemaContent, version: int | None
    ) -> Exception:
        """Return the error of a refused registration. The codes of the API do not tell all reasons apart."""
        error = refusal.error(f"the schema cannot be registered as subject {show(subject)}")
        if isinstance(error, (IncompatibleSchemaError, SchemaIdConflictError)) or refusal.status != 422:
            return error
        for reference in content.references:
            if await self.get(reference.subject, reference.version, deleted=True) is None:
                return ReferenceNotFoundError(
                    f"the reference {show(reference.name)} leads to subject {show(reference.subject)}, version "
                    f"{reference.version}, which does not exist: register it first"
                )
        if version is not None and version in await self.numbers(subject, deleted=True):
            return VersionConflictError(f"subject {show(subject)} has a version {version} already")
        return error

    async def check(self, subject: str, content: SchemaContent, version: int | None = None) -> Verdict:
        """Return whether the registry would accept a schema."""
        path = ["compatibility", *_subject(subject), "versions"]
        if version is not None:
            path.append(str(version))
        query: dict[str, str | int | bool] = {"verbose": True, **(self._normalize() or {})}
        try:
            answer = table(await self._transport.request("POST", *path, query=query, body=body_of(content)))
        except RefusalError as refusal:
            if refusal.missing and version is None:
                return PROVED  # of an unknown subject, as older servers say it
            raise refusal.error(f"the schema cannot be compared with subject {show(subject)}") from None
        if answer.get("is_compatible") is True:
            return PROVED
        messages = [text for text in listed(answer.get("messages")) if isinstance(text, str)]
        reasons = messages or ["the registry finds the schema incompatible, and does not say why"]
        return Verdict(Outcome.REFUTED, tuple(Difference("incompatible", "#", text) for text in reasons))

    async def snapshot(self, subject: str) -> Snapshot:
        """Return a subject as the registry shows it. The numbers of versions that were removed for good are not known."""
        scopes = scopes_of(subject)
        everything, live, *own = await asyncio.gather(
            self.numbers(subject, deleted=True), self.numbers(subject), *map(self._scopes.read, scopes)
        )
        settings: dict[str, Any] = {}
        for of_scope in own:
            settings.update(of_scope)
        text = json.dumps([list(everything), list(live), settings], sort_keys=True)
        revision = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        return Snapshot(revision, live, max(everything, default=0), settings)

    async def append(
        self,
        subject: str,
        content: SchemaContent,
        *,
        revision: str,
        version: int | None = None,
        schema_id: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version. The registry compares the number of the version itself; settings are compared just before."""
        if notes:
            raise _no_notes()
        snapshot = await self.snapshot(subject)
        if snapshot.revision != revision:
            raise _changed(subject)
        number = version
        if version is None and schema_id is None:
            number = snapshot.highest + 1
        try:
            return await self.register(subject, content, version=number, schema_id=schema_id)
        except ReferenceNotFoundError:
            raise
        except (InvalidSchemaError, NotPermittedError):
            if (await self.snapshot(subject)).revision != revision:
                raise _changed(subject) from None
            if number == version:
                raise
        # Nothing has changed, so the registry counts on from a version that was removed for good.
        return await self.register(subject, content)

    async def set_notes(self, subject: str, version: int, notes: Mapping[str, Any]) -> StoredSchema:
        """Refuse: the API has no place for notes."""
        raise _no_notes()

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Delete versions."""
        path = [*_subject(subject), *([] if version is None else ["versions", str(version)])]
        query: dict[str, str | int | bool] | None = {"permanent": True} if permanent else None
        what = f"subject {show(subject)}" + ("" if version is None else f", version {version},")
        try:
            answer = await self._transport.request("DELETE", *path, query=query, repeat=False)
        except RefusalError as refusal:
            if refusal.status == 409:  # as some servers say that it is referred to
                raise ReferencedError(f"{what} cannot be deleted: {refusal.message}") from None
            raise refusal.error(f"{what} cannot be deleted") from None
        finally:
            self._cache.forget(subject)
        if isinstance(answer, list):
            return sorted(whole(number, "version") for number in answer)
        return [whole(answer, "version")]

    # -- reading ---------------------------------------------------------------------------------

    async def get(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return one version, or the latest one."""
        key = ("version", subject, version, deleted)
        return await self._known(
            key, self._options.latest_ttl, lambda: self._fetch(subject, version, deleted)
        )

    async def _known(
        self, key: Key, ttl: float | None, fetch: Callable[[], Awaitable[StoredSchema | None]]
    ) -> StoredSchema | None:
        """Return what is known and fresh, else what the registry answers, else, while it is down, what is known."""
        known = self._cache.get(key, ttl)
        if known is not None:
            return known
        changes = self._cache.changes
        try:
            found = await fetch()
        except RegistryUnavailableError as error:
            known = self._cache.get(key)
            if known is None:
                raise
            log.warning(
                "what is known of subject %s is used, since the registry does not answer: %s",
                show(known.subject),
                error,
            )
            return known
        if found is not None:
            self._cache.put(key, found, changes)
        return found

    async def _fetch(self, subject: str, version: int | None, deleted: bool = False) -> StoredSchema | None:
        number = "latest" if version is None else str(version)
        stored = await self._version(
            f"subject {show(subject)}, version {number}, cannot be read",
            "GET",
            *_subject(subject),
            "versions",
            number,
            query={"deleted": True} if deleted else None,
        )
        if stored is None or not deleted or stored.deleted:
            return stored
        # Older servers do not say which of the versions are deleted.
        return replace(stored, deleted=stored.version not in await self.numbers(subject))

    async def _version(self, about: str, *request: Any, **options: Any) -> StoredSchema | None:
        try:
            return stored_of(await self._transport.request(*request, **options))
        except RefusalError as refusal:
            if refusal.missing:
                return None
            raise refusal.error(about) from None

    async def numbers(
        self, subject: str, *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[int]:
        """Return the version numbers of a subject."""
        found = await self._list(offset, limit, *_subject(subject), "versions", deleted=deleted)
        return sorted(whole(number, "version") for number in found)

    async def _list(self, offset: int, limit: int | None, *path: str | int, **query: str | bool) -> list[Any]:
        """Return a part of a list; empty if there is none. Older servers ignore limits, so the list is cut here, too."""
        if limit == 0:
            return []
        wanted: dict[str, str | int | bool] = {name: value for name, value in query.items() if value}
        if limit is not None:
            wanted["limit"] = offset + limit
        try:
            found = listed(await self._transport.request("GET", *path, query=wanted or None))
        except RefusalError as refusal:
            if refusal.missing:
                return []
            raise refusal.error("a list cannot be read") from None
        return found[offset:] if limit is None else found[offset : offset + limit]

    async def find(
        self, subject: str, content: SchemaContent, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return the version with a content."""
        return await self._version(
            f"the schema cannot be looked up in subject {show(subject)}",
            "POST",
            *_subject(subject),
            query={"deleted": deleted, **(self._normalize() or {})},
            body=body_of(content),
        )

    async def by_id(self, schema_id: int, context: str = DEFAULT_CONTEXT) -> StoredSchema | None:
        """Return some version with the content of this id. It is asked for once."""
        return await self._known(("id", context, schema_id), None, lambda: self._by_id(schema_id, context))

    async def _by_id(self, schema_id: int, context: str) -> StoredSchema | None:
        for deleted in (False, True):
            for subject, version in await self.users(schema_id, context, deleted=deleted):
                found = await self._fetch(subject, version, deleted)
                if found is not None:
                    return found
        return None

    async def by_guid(self, guid: str) -> StoredSchema | None:
        """Return some version with the content of this globally unique id. It is asked for once."""
        return await self._known(("guid", guid), None, lambda: self._by_guid(guid))

    async def _by_guid(self, guid: str) -> StoredSchema | None:
        for row in await self._list(0, None, "schemas", "guids", guid, "ids"):
            found = table(row)
            context = found.get("context") or DEFAULT_CONTEXT
            stored = await self._by_id(whole(found.get("id"), "id"), str(context))
            if stored is not None:
                return stored
        return None

    async def users(
        self, schema_id: int, context: str = DEFAULT_CONTEXT, *, deleted: bool = False
    ) -> Sequence[tuple[str, int]]:
        """Return the subjects and versions with the content of this id."""
        path = () if context == DEFAULT_CONTEXT else ("contexts", context)
        rows = await self._list(0, None, *path, "schemas", "ids", schema_id, "versions", deleted=deleted)
        return sorted(
            (string(table(row), "subject"), whole(table(row).get("version"), "version")) for row in rows
        )

    async def referenced_by(self, subject: str, version: int) -> Sequence[StoredSchema]:
        """Return the versions in the context of the subject that refer to a version."""
        path = (*_subject(subject), "versions", version, "referencedby")
        ids = await self._list(0, None, *path, deleted=True)
        context = context_of(subject)
        places: set[tuple[str, int]] = set()
        for number in ids:
            places.update(await self.users(whole(number, "id"), context, deleted=True))
        slots = asyncio.Semaphore(MOST_AT_ONCE)

        async def read(place: tuple[str, int]) -> StoredSchema | None:
            async with slots:
                return await self.get(*place, deleted=True)

        found = await asyncio.gather(*map(read, sorted(places)))
        return [
            stored
            for stored in found
            if stored is not None
            and any((r.subject, r.version) == (subject, version) for r in stored.content.references)
        ]

    async def subjects(
        self, prefix: str = "", *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[str]:
        """Return the sorted names of the subjects."""
        # A part of a context's name is no prefix that the API knows: everything is read, then.
        known = bool(prefix) and (not prefix.startswith(":") or context_of(prefix) != DEFAULT_CONTEXT)
        if prefix and not known:
            rows = await self._list(0, None, "subjects", deleted=deleted)
            names = [name for name in rows if isinstance(name, str) and name.startswith(prefix)]
            return sorted(names)[offset : None if limit is None else offset + limit]
        asked: dict[str, str | bool] = {"subjectPrefix": prefix, "deleted": deleted}
        rows = await self._list(offset, limit, "subjects", **asked)
        return sorted(name for name in rows if isinstance(name, str) and name.startswith(prefix))

    async def contexts(self) -> Sequence[str]:
        """Return the sorted names of the contexts."""
        rows = await self._list(0, None, "contexts")
        return sorted({DEFAULT_CONTEXT, *(name for name in rows if isinstance(name, str))})

    # -- settings --------------------------------------------------------------------------------

    async def get_settings(self, scope: str | None) -> Mapping[str, Any]:
        """Return the settings of a scope."""
        return await self._scopes.read(scope)

    async def set_settings(self, scope: str | None, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a scope."""
        await self._scopes.write(scope, settings)


def _subject(subject: str) -> tuple[str, str]:
    if subject in ("", ".", ".."):
        raise SchemaError(
            f"a Confluent registry cannot have a subject with the name {show(subject)}: choose another one"
        )
    return "subjects", subject


def _changed(subject: str) -> VersionConflictError:
    return VersionConflictError(
        f"subject {show(subject)} or its settings have changed since the decision: decide again"
    )


def _no_notes() -> NotPermittedError:
    return NotPermittedError(
        "a Confluent registry keeps no notes about a version, such as its deprecation: put it into the metadata of a new version"
    )
