"""Objects without an export: their lists are read again and compared, and rows are read by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_zendesk.catalogue import Deletes, Resource
from dimesh_zendesk.changes import Row, gone_change, is_deleted, snapshot_change
from dimesh_zendesk.client import Client, MissingError
from dimesh_zendesk.late import PAGES, ListPosition
from dimesh_zendesk.watch import next_page

SHOWN: Final = 100
"""The largest number of ids that one request may name (recorded: error TooManyValues)."""
AT_ONCE: Final = 8


class CallerPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of an object that is listed again: the user whose lists were read."""

    caller: int


POSITIONS: Final = PositionCodec(CallerPosition, "Zendesk")


class Lists:
    """Reads lists and single rows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._callers: dict[str, int] = {}
        """By object, the user whose lists the capture began with."""

    async def caller(self, about: str) -> Row:
        """Return the user that the credentials act for."""
        found = await self._client.get("users/me.json", {}, Priority.STREAM, about)
        user = found.get("user")
        return user if isinstance(user, dict) else {}

    async def position(self, resource: Resource) -> bytes:
        """Return the current position."""
        caller = int((await self.caller(resource.name)).get("id") or 0)
        self._callers[resource.name] = caller
        return POSITIONS.encode(CallerPosition(caller))

    def begin(self, resource: Resource, position: bytes) -> None:
        """Note the user whose lists the capture began with."""
        self._callers[resource.name] = POSITIONS.decode(position, resource.name).caller

    async def snapshot(self, resource: Resource, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows."""
        path: str | None = resource.all or resource.path
        params: dict[str, str] = {**resource.params, **({"page[size]": "100"} if resource.paged else {})}
        if resource.all:
            params = {"page[size]": "100"}
        if resume is not None:
            path, params = PAGES.decode(resume, resource.name).following, {}
        while path:
            found = await self._client.get(path, params, Priority.SNAPSHOT, resource.name)
            rows = found.get(resource.field)
            if not isinstance(rows, list):
                raise SourceObjectError(
                    f"Zendesk answered {resource.name} without the field {resource.field}"
                )
            read = self._client.time()
            params, before, path = {}, path, next_page(found)
            if path == before:
                path = ""  # a page that names itself would be read for ever
            items = [snapshot_change(row, resource, read) for row in rows if not is_deleted(row)]
            yield ChangeBatch(items, PAGES.encode(ListPosition(path or None)))

    async def rows(
        self,
        resource: Resource,
        keys: Sequence[Mapping[str, Any]],
        tombstones: Callable[[], Awaitable[set[int]]],
    ) -> Sequence[Change | None]:
        """Return the current rows with these keys; see :class:`dimesh.spi.cdc.ReadsRows`.

        Args:
            resource: the object.
            keys: the primary keys.
            tombstones: returns the ids of the rows that the export shows as deleted.
        """
        if not (resource.single or resource.many):
            return [None] * len(keys)
        certain = await self._may_tell(resource)
        found: list[Change | None] = []
        for begin in range(0, len(keys), SHOWN):
            part = keys[begin : begin + SHOWN]
            if resource.many:
                found += await self._many(resource, part, tombstones, certain)
            else:
                found += await together([self._one(resource, key, certain) for key in part])
        return found

    async def _may_tell(self, resource: Resource) -> bool:
        """Return whether a row that is not found counts as deleted for these credentials."""
        if resource.deletes is Deletes.NEVER:
            return False
        user = await self.caller(resource.name)
        if resource.deletes is Deletes.CALLER and self._callers.get(resource.name) != user.get("id"):
            return False
        return user.get("role") == "admin"

    async def _many(
        self,
        resource: Resource,
        keys: Sequence[Mapping[str, Any]],
        tombstones: Callable[[], Awaitable[set[int]]],
        certain: bool,
    ) -> list[Change | None]:
        ids = [str(key[resource.key]) for key in keys]
        answer = await self._client.get(resource.many, {"ids": ",".join(ids)}, Priority.STREAM, resource.name)
        read = self._client.time()
        rows = {str(row.get(resource.key)): row for row in answer.get(resource.field) or ()}
        found: list[Change | None] = []
        gone: set[int] = set()
        if resource.deletes is Deletes.EXPORT and not rows.keys() >= set(ids):
            gone = await tombstones()
        for id, key in zip(ids, keys, strict=True):
            row = rows.get(id)
            if row is not None and not is_deleted(row):
                found.append(snapshot_change(row, resource, read))
            elif row is not None or (id.isdigit() and int(id) in gone):
                found.append(gone_change(key, resource, read))
            elif resource.deletes is Deletes.EXPORT:
                # A deleted row has a tombstone in the export; what is only absent may be archived, or out of reach.
                found.append(None)
            else:
                found.append(await self._one(resource, key, certain))
        return found

    async def _one(self, resource: Resource, key: Mapping[str, Any], certain: bool) -> Change | None:
        id = quote(str(key[resource.key]), safe="")
        if id in (".", ".."):
            return None
        try:
            answer = await self._client.get(
                resource.single.replace("{}", id), {}, Priority.STREAM, resource.name
            )
        except MissingError:
            return gone_change(key, resource, self._client.time()) if certain else None
        except SourceObjectError:
            return None  # a refusal says nothing about the row
        row = next(
            (value for value in answer.values() if isinstance(value, dict) and resource.key in value), None
        )
        if row is None:
            return None
        read = self._client.time()
        return gone_change(key, resource, read) if is_deleted(row) else snapshot_change(row, resource, read)


async def together(calls: Sequence[Any]) -> list[Any]:
    """Await calls, a few at the same time, and return their results in order; if one fails, the others of its part are
    cancelled.
    """
    results: list[Any] = []
    for begin in range(0, len(calls), AT_ONCE):
        tasks = [asyncio.ensure_future(call) for call in calls[begin : begin + AT_ONCE]]
        try:
            results += await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            for call in calls[begin + AT_ONCE :]:
                call.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
    return results
