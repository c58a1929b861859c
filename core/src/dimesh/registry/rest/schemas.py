"""Schemas by their ids, without asking which subject they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dimesh.errors import InvalidSchemaError
from dimesh.events.names import show
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest.answers import TYPES, Text, schema_of, version_of
from dimesh.registry.rest.failures import SCHEMA_NOT_FOUND, RestError
from dimesh.registry.rest.forms import form_of
from dimesh.registry.rest.requests import Request, qualified
from dimesh.registry.rest.routing import Handler
from dimesh.registry.rest.subjects import Subjects
from dimesh.spi.registry import DEFAULT_CONTEXT, IdIndex, StoredSchema, context_of

LANGUAGES: Final = ("AVRO", "JSON_SCHEMA", "PROTOBUF")
"""The languages that clients know. Some clients fail if they are told about another one."""


class Schemas:
    """The routes below ``/schemas``.

    Args:
        registry: the registry.
        subjects: the routes of subjects.
    """

    def __init__(self, registry: SchemaRegistry, subjects: Subjects) -> None:
        self._registry = registry
        self._store = registry.store
        self._subjects = subjects
        self.routes: Mapping[str, Handler] = {
            "GET /schemas": self.list_all,
            "GET /schemas/types": self.types,
            "GET /schemas/ids/{id}": self.by_id,
            "GET /schemas/ids/{id}/schema": self.text,
            "GET /schemas/ids/{id}/subjects": self.subjects_of,
            "GET /schemas/ids/{id}/versions": self.versions_of,
            "GET /schemas/guids/{guid}": self.by_guid,
            "GET /schemas/guids/{guid}/ids": self.ids,
        }

    async def list_all(self, request: Request) -> Any:
        """Return versions of all subjects, a page at a time."""
        deleted, latest = request.flag("deleted"), request.flag("latestOnly")
        offset, limit = request.window
        found: list[dict[str, Any]] = []
        for subject in await self._subjects.names(request, deleted=deleted):
            numbers = await self._store.numbers(subject, deleted=deleted)
            for number in numbers[-1:] if latest else numbers:
                if limit is not None and len(found) >= limit:
                    return found
                if offset > 0:
                    offset -= 1
                    continue
                stored = await self._store.get(subject, number, deleted=deleted)
                if stored is not None:
                    found.append(version_of(stored))
        return found

    async def types(self, request: Request) -> Any:
        """Return the languages that are installed."""
        found = []
        for name in LANGUAGES:
            try:
                self._registry.parser.language(name)
            except InvalidSchemaError:
                continue
            found.append(TYPES.get(name, name))
        return found

    async def by_id(self, request: Request) -> Any:
        """Return the schema of an id."""
        stored, context = await self._find(request)
        text = await form_of(self._registry, request, stored)
        answer = {**schema_of(stored, text), "subject": stored.subject, "version": stored.version}
        if request.flag("fetchMaxId") and isinstance(self._store, IdIndex):
            answer["maxId"] = await self._store.last_id(context)
        return answer

    async def text(self, request: Request) -> Any:
        """Return the text of the schema of an id."""
        stored, _ = await self._find(request)
        return Text(await form_of(self._registry, request, stored) or stored.text)

    async def subjects_of(self, request: Request) -> Any:
        """Return the subjects that have the schema of an id."""
        users = await self._users(request)
        return request.page(sorted({subject for subject, _ in users}))

    async def versions_of(self, request: Request) -> Any:
        """Return the subjects and versions that have the schema of an id."""
        users = await self._users(request)
        return request.page([{"subject": subject, "version": version} for subject, version in users])

    async def _users(self, request: Request) -> list[tuple[str, int]]:
        stored, context = await self._find(request)
        users = await self._store.users(stored.schema_id, context, deleted=request.flag("deleted"))
        wanted = request.text("subject")
        name = qualified(wanted, request.context) if wanted else None
        # A subject may only choose the context: one that does not have the schema leaves out nothing.
        own = [user for user in users if user[0] == name]
        return own or list(users)

    async def _find(self, request: Request) -> tuple[StoredSchema, str]:
        """Return a version with the schema of the id in the path, and the context in which it was found.

        The parameter ``subject`` chooses the context. If the id is not there, other contexts with that subject are tried, then
        the default context.
        """
        number = request.schema_id
        wanted = request.text("subject") or ""
        name = qualified(wanted, request.context)
        context = context_of(name) if name else request.context or DEFAULT_CONTEXT
        stored = await self._store.by_id(number, context) if number else None
        if stored is not None:
            return stored, context
        if number and wanted:
            for other in await self._store.contexts():
                users = await self._store.users(number, other, deleted=True) if other != context else ()
                if qualified(wanted, other) in {subject for subject, _ in users} or other == DEFAULT_CONTEXT:
                    stored = await self._store.by_id(number, other)
                    if stored is not None:
                        return stored, other
        raise RestError(SCHEMA_NOT_FOUND, f"there is no schema with id {show(request.name('id'))}")

    async def by_guid(self, request: Request) -> Any:
        """Return the schema of a globally unique id."""
        stored = await self._by_guid(request)
        return version_of(stored, await form_of(self._registry, request, stored))

    async def ids(self, request: Request) -> Any:
        """Return the ids that a schema has in the contexts."""
        stored = await self._by_guid(request)
        if isinstance(self._store, IdIndex):
            return [{"context": c, "id": number} for c, number in await self._store.ids_of(stored.guid)]
        found: dict[str, int] = {context_of(stored.subject): stored.schema_id}
        for subject in await self._store.subjects(deleted=True):
            context = context_of(subject)
            if context not in found:
                same = await self._store.find(subject, stored.content, deleted=True)
                if same is not None:
                    found[context] = same.schema_id
        return [{"context": context, "id": number} for context, number in sorted(found.items())]

    async def _by_guid(self, request: Request) -> StoredSchema:
        guid = request.name("guid")
        stored = await self._store.by_guid(guid.lower()) if guid.isascii() else None
        if stored is None:
            raise RestError(SCHEMA_NOT_FOUND, f"there is no schema with the GUID {show(guid)}")
        return stored
