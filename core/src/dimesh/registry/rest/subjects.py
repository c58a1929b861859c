"""Subjects and their versions: register, look up, read, delete, compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from dimesh.errors import (
    InvalidSchemaError,
    NotSoftDeletedError,
    ReferenceNotFoundError,
    SoftDeletedError,
    SubjectNotFoundError,
)
from dimesh.events.names import show
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest.answers import Text, version_of
from dimesh.registry.rest.failures import (
    INVALID_SCHEMA,
    SCHEMA_NOT_FOUND,
    SUBJECT_NOT_FOUND,
    SUBJECT_NOT_SOFT_DELETED,
    SUBJECT_SOFT_DELETED,
    VERSION_NOT_FOUND,
    VERSION_NOT_SOFT_DELETED,
    VERSION_SOFT_DELETED,
    RestError,
)
from dimesh.registry.rest.forms import form_of
from dimesh.registry.rest.requests import LATEST, Request, qualified
from dimesh.registry.rest.routing import Handler
from dimesh.spi.registry import DEFAULT_CONTEXT, Reference, StoredSchema, context_of


class Subjects:
    """The routes below ``/subjects`` and ``/compatibility``.

    Args:
        registry: the registry.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._store = registry.store
        version = "/subjects/{subject}/versions/{version}"
        self.routes: Mapping[str, Handler] = {
            "GET /subjects": self.list_all,
            "POST /subjects/{subject}": self.look_up,
            "DELETE /subjects/{subject}": self.delete,
            "GET /subjects/{subject}/versions": self.versions,
            "POST /subjects/{subject}/versions": self.register,
            f"GET {version}": self.get,
            f"DELETE {version}": self.delete_version,
            f"GET {version}/schema": self.text,
            f"GET {version}/referencedby": self.referenced_by,
            f"POST {version}/tags": self.tag,
            "GET /subjects/{subject}/metadata": self.with_metadata,
            "POST /compatibility/subjects/{subject}/versions": self.compatible_with_all,
            "POST /compatibility/subjects/{subject}/versions/{version}": self.compatible_with_one,
        }

    # -- lists -----------------------------------------------------------------------------------

    async def list_all(self, request: Request) -> Any:
        """Return the names of the subjects."""
        return request.page(await self.names(request, deleted=request.flag("deleted")))

    async def names(self, request: Request, *, deleted: bool) -> list[str]:
        """Return the names of the subjects that a request asks for, of all pages."""
        prefix = request.text("subjectPrefix")
        context = request.context
        anywhere = context is None and (prefix is None or prefix.startswith(":*:"))
        if anywhere:
            wanted = ""
        else:
            wanted = qualified(prefix or "", context) or ""
        only_deleted = request.flag("deletedOnly") or request.flag("deleted_only")
        names = list(await self._store.subjects(wanted, deleted=deleted or only_deleted))
        if only_deleted:
            live = set(await self._store.subjects(wanted))
            names = [name for name in names if name not in live]
        if anywhere and prefix:
            tail = prefix[3:]
            return [name for name in names if _plain(name).startswith(tail)]
        if not anywhere and not wanted.startswith(":."):
            return [name for name in names if context_of(name) == DEFAULT_CONTEXT]
        return names

    async def versions(self, request: Request) -> Any:
        """Return the numbers of the versions."""
        subject = request.subject
        only_deleted = request.flag("deletedOnly") or request.flag("deleted_only")
        negative = request.flag("deletedAsNegative")
        deleted = request.flag("deleted") or only_deleted or negative
        numbers = list(await self._store.numbers(subject, deleted=deleted))
        if not numbers:
            raise _no_subject(subject)
        if only_deleted or negative:
            live = set(await self._store.numbers(subject))
            if only_deleted:
                numbers = [number for number in numbers if number not in live]
            else:
                numbers = [number if number in live else -number for number in numbers]
        return request.page(numbers)

    # -- writing ---------------------------------------------------------------------------------

    async def register(self, request: Request) -> Any:
        """Register a schema."""
        subject = request.subject
        stored = await self._registry.register(
            subject,
            request.schema,
            request.format,
            references=await self._references(request),
            metadata=request.table("metadata"),
            rule_set=request.table("ruleSet"),
            version=request.number("version"),
            schema_id=request.number("id"),
        )
        return _registered(stored, await form_of(self._registry, request, stored))

    async def tag(self, request: Request) -> Any:
        """Register the schema of a version again, with other tags."""
        stored = await self._version(request)
        tags: dict[str, list[str]] = {
            path: list(names) for path, names in dict(stored.content.metadata.get("tags") or {}).items()
        }
        for path, names in _tags(request, "tagsToAdd"):
            tags[path] = sorted({*tags.get(path, []), *names})
        for path, names in _tags(request, "tagsToRemove"):
            tags[path] = [name for name in tags.get(path, []) if name not in names]
        metadata = {
            **stored.content.metadata,
            "tags": {path: names for path, names in tags.items() if names},
        }
        if not metadata["tags"]:
            del metadata["tags"]
        return _registered(
            await self._registry.register(
                stored.subject,
                stored.text,
                stored.format,
                references=stored.content.references,
                metadata=metadata,
                rule_set=stored.content.rule_set,
            )
        )

    async def delete(self, request: Request) -> Any:
        """Delete a subject."""
        subject = request.subject
        try:
            return list(await self._registry.delete_versions(subject, permanent=request.flag("permanent")))
        except SoftDeletedError as error:
            raise RestError(SUBJECT_SOFT_DELETED, str(error)) from None
        except NotSoftDeletedError as error:
            raise RestError(SUBJECT_NOT_SOFT_DELETED, str(error)) from None

    async def delete_version(self, request: Request) -> Any:
        """Delete a version."""
        subject, number, permanent = request.subject, request.version, request.flag("permanent")
        if number is None:
            latest = await self._store.get(subject, deleted=permanent)
            if latest is None:
                raise _no_subject(subject)
            number = latest.version
        try:
            await self._registry.delete_versions(subject, number, permanent=permanent)
        except SoftDeletedError as error:
            raise RestError(VERSION_SOFT_DELETED, str(error)) from None
        except NotSoftDeletedError as error:
            raise RestError(VERSION_NOT_SOFT_DELETED, str(error)) from None
        except SubjectNotFoundError as error:
            known = await self._store.numbers(subject, deleted=True, limit=1)
            raise RestError(VERSION_NOT_FOUND if known else SUBJECT_NOT_FOUND, str(error)) from None
        return number

    # -- reading ---------------------------------------------------------------------------------

    async def look_up(self, request: Request) -> Any:
        """Return the version that has a schema."""
        subject, deleted = request.subject, request.flag("deleted")
        if not await self._store.numbers(subject, deleted=deleted, limit=1):
            raise _no_subject(subject)
        content, _ = await self._registry.parser.content(
            subject,
            request.schema,
            request.format,
            await self._references(request),
            request.table("metadata"),
            request.table("ruleSet"),
        )
        stored = await self._store.find(subject, content, deleted=deleted)
        if stored is None:
            raise RestError(SCHEMA_NOT_FOUND, f"subject {show(subject)} does not have that schema")
        return version_of(stored, await form_of(self._registry, request, stored))

    async def get(self, request: Request) -> Any:
        """Return a version."""
        stored = await self._version(request)
        return version_of(stored, await form_of(self._registry, request, stored))

    async def text(self, request: Request) -> Any:
        """Return the text of a version's schema."""
        stored = await self._version(request)
        return Text(await form_of(self._registry, request, stored) or stored.text)

    async def referenced_by(self, request: Request) -> Any:
        """Return the ids of the schemas that refer to a version."""
        stored = await self._version(request, deleted=True)
        deleted = request.flag("deleted")
        referring = await self._store.referenced_by(stored.subject, stored.version)
        return request.page(sorted({s.schema_id for s in referring if deleted or not s.deleted}))

    async def with_metadata(self, request: Request) -> Any:
        """Return the latest version whose metadata has the given properties."""
        subject, deleted = request.subject, request.flag("deleted")
        keys, values = request.texts("key"), request.texts("value")
        if not keys or len(keys) != len(values):
            raise RestError(400, "give as many parameters 'value' as 'key', and at least one")
        numbers = await self._store.numbers(subject, deleted=deleted)
        if not numbers:
            raise _no_subject(subject)
        for number in reversed(numbers):
            stored = await self._store.get(subject, number, deleted=deleted)
            if stored is None:
                continue
            have = stored.content.metadata.get("properties") or {}
            if all(_has(have, key, value) for key, value in zip(keys, values, strict=True)):
                return version_of(stored)
        raise RestError(SCHEMA_NOT_FOUND, f"no version of subject {show(subject)} has these properties")

    async def _version(self, request: Request, *, deleted: bool = False) -> StoredSchema:
        subject, number = request.subject, request.version
        deleted = deleted or request.flag("deleted")
        stored = await self._store.get(subject, number, deleted=deleted)
        if stored is not None:
            return stored
        if number is None or not await self._store.numbers(subject, deleted=deleted, limit=1):
            raise _no_subject(subject)
        raise RestError(VERSION_NOT_FOUND, f"subject {show(subject)} has no version {number}")

    async def _references(self, request: Request) -> list[Reference]:
        """Return the references of a request, with real version numbers."""
        found = request.references
        for index, one in enumerate(found):
            if one.version == LATEST:
                subject = qualified(one.subject, context_of(request.subject))
                latest = await self._store.get(subject) if subject else None
                if latest is None:
                    raise ReferenceNotFoundError(
                        f"the reference {show(one.name)} leads to subject {show(one.subject)}, which has no version"
                    )
                found[index] = Reference(one.name, one.subject, latest.version)
        return found

    # -- compatibility ---------------------------------------------------------------------------

    async def compatible_with_all(self, request: Request) -> Any:
        """Return whether a schema could be registered now."""
        return await self._compatible(request, None)

    async def compatible_with_one(self, request: Request) -> Any:
        """Return whether a schema is compatible with one version."""
        subject, number = request.subject, request.version
        stored = await self._store.get(subject, number)
        if stored is None and number is not None:
            raise RestError(VERSION_NOT_FOUND, f"subject {show(subject)} has no version {number}")
        return await self._compatible(request, None if stored is None else stored.version)

    async def _compatible(self, request: Request, version: int | None) -> Any:
        verbose = request.flag("verbose")
        try:
            result = await self._registry.compatibility(
                request.subject,
                request.schema,
                request.format,
                references=await self._references(request),
                version=version,
            )
        except InvalidSchemaError as error:
            if not verbose:
                raise RestError(INVALID_SCHEMA, str(error)) from None
            return {"is_compatible": False, "messages": [str(error)]}
        answer: dict[str, Any] = {"is_compatible": result.compatible}
        if verbose:
            answer["messages"] = list(result.reasons)
        return answer


def _registered(stored: StoredSchema, text: str | None = None) -> dict[str, Any]:
    answer = version_of(stored, text)
    del answer["subject"]
    return answer


def _no_subject(subject: str) -> RestError:
    return RestError(
        SUBJECT_NOT_FOUND, f"there is no subject {show(subject)}: register a schema for it first"
    )


def _plain(name: str) -> str:
    context = context_of(name)
    return name if context == DEFAULT_CONTEXT else name[len(context) + 2 :]


def _has(properties: Mapping[str, Any], key: str, value: str) -> bool:
    # confluent-kafka-python encodes both twice.
    return properties.get(key) == value or properties.get(unquote(key)) == unquote(value)


def _tags(request: Request, member: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for one in request.body.get(member) or []:
        entity = one.get("schemaEntity") if isinstance(one, dict) else None
        path = entity.get("entityPath") if isinstance(entity, dict) else None
        names = one.get("tags") if isinstance(one, dict) else None
        if (
            not isinstance(path, str)
            or not isinstance(names, list)
            or not all(isinstance(n, str) for n in names)
        ):
            raise RestError(
                INVALID_SCHEMA, f"each of {member!r} needs a 'schemaEntity' with an 'entityPath', and 'tags'"
            )
        found.append((path, names))
    return found
