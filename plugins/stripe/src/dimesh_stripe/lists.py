"""Reading rows: whole lists, lists for each row of a parent, and single rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_stripe.changes import Row, deleted_row, row_of
from dimesh_stripe.client import Client, CursorGoneError, MissingError
from dimesh_stripe.descriptions import list_params
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.resource import Resource, Way
from dimesh_stripe.resources import RESOURCES


class SnapshotPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot."""

    after: str
    """The id of the last row that was read; on a list for each parent, of the last parent whose rows were read."""
    created: int
    """When that row was created; 0: unknown."""
    done: bool = False
    """Whether that was the last row of its list."""
    list: int = 0
    """The number of the list that the row is on; some objects have several."""


POSITIONS: Final = PositionCodec(SnapshotPosition, "Stripe")
AT_ONCE: Final = 20
"""The number of requests that are made together; the account's budget decides how many of them are in flight."""


class Lists:
    """Reads the rows of one account."""

    def __init__(self, options: StripeOptions, client: Client) -> None:
        self._options = options
        self._client = client

    # -- whole lists -------------------------------------------------------------------------------

    async def snapshot(self, resource: Resource, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows, newest first; rows that are created meanwhile are in the feed."""
        begin = POSITIONS.decode(resume, resource.name) if resume else None
        for number in range(begin.list if begin is not None else 0, len(resource.ways)):
            read = self._children if resource.ways[number].under else self._list
            async for rows, at in read(resource, number, begin):
                yield ChangeBatch(rows, POSITIONS.encode(at))
            begin = None

    async def _list(
        self, resource: Resource, number: int, at: SnapshotPosition | None
    ) -> AsyncIterator[tuple[list[Change], SnapshotPosition]]:
        """Yield the pages of one of an object's lists, each with the position after it."""
        async for rows, read, position in self.pages(resource, number, at):
            yield [self._change(resource, row, read) for row in rows], position

    async def pages(
        self, resource: Resource, number: int, at: SnapshotPosition | None = None, expand: bool = True
    ) -> AsyncIterator[tuple[list[Row], float, SnapshotPosition]]:
        """Yield the pages of one of an object's lists: rows, the time of their reading, and the position after them."""
        path, given = resource.ways[number].request("")
        accepted = list_params(path)
        params: dict[str, Any] = {**self._limit(path), **given}
        if expand and resource.expand:
            params["expand[]"] = [f"data.{name}" for name in resource.expand]
        while at is None or not at.done:
            cursor: dict[str, Any] = {"starting_after": at.after} if at else {}
            try:
                found = await self._read(resource, path, {**params, **cursor})
            except CursorGoneError:
                # The row was deleted in between. Restart at its second, or at the first row: some rows may come twice.
                assert at is not None
                if at.created and "created" in accepted:
                    params = {**params, "created[lte]": at.created}
                at = None
                continue
            read = self._client.time()
            rows = _rows(found)
            if expand and resource.nested:
                rows = [await self._complete(resource, row) for row in rows]
            if not rows:
                return
            at = SnapshotPosition(
                str(rows[-1].get("id")), created(rows[-1]), not found.get("has_more"), number
            )
            yield rows, read, at

    async def after(
        self, resource: Resource, key: Mapping[str, Any] | None, limit: int
    ) -> list[Change] | None:
        """Return rows after one of them, as the object's list has them: those of several lists merged by the time of their
        creation. None: the list lacks that row, or the object has no list of all rows.
        """
        found: list[Row] = []
        for way in resource.ways:
            path, given = way.request("")
            if way.under or not {"limit", "starting_after"} <= set(list_params(path)):
                return None
            params: dict[str, Any] = {**given, "limit": limit}
            if key is not None:
                params["starting_after"] = str(key["id"])
            if resource.expand:
                params["expand[]"] = [f"data.{name}" for name in resource.expand]
            try:
                found += _rows(await self._read(resource, path, params))
            except CursorGoneError:
                return None
        if len(resource.ways) > 1:
            found.sort(key=created, reverse=True)
        read = self._client.time()
        return [self._change(resource, await self._complete(resource, row), read) for row in found[:limit]]

    async def _children(
        self, resource: Resource, number: int, at: SnapshotPosition | None
    ) -> AsyncIterator[tuple[list[Change], SnapshotPosition]]:
        """Yield the rows that are listed for each row of a parent, with the position after each group of parents."""
        way = resource.ways[number]
        walk = SnapshotPosition(at.after, at.created, at.done) if at is not None and at.after else None
        before = at or SnapshotPosition("", 0, False, number)
        async for parents, _, end in self.pages(RESOURCES[way.under], 0, walk, expand=False):
            for begin in range(0, len(parents), AT_ONCE):
                group = parents[begin : begin + AT_ONCE]
                ids = [str(parent["id"]) for parent in group]
                first = await together([self._children_of(resource, way, id) for id in ids])
                long: list[tuple[str, Row]] = []
                changes: list[Change] = []
                read = self._client.time()
                for id, page in zip(ids, first, strict=True):
                    rows = [await self._complete(resource, row) for row in _rows(page)]
                    changes += [self._change(resource, row, read, id) for row in rows]
                    if page.get("has_more"):
                        long.append((id, page))
                if long:
                    yield changes, before
                    changes = []
                for id, page in long:
                    more = page
                    while more.get("has_more"):
                        more = await self._children_of(resource, way, id, _rows(more)[-1]["id"])
                        read = self._client.time()
                        rows = [await self._complete(resource, row) for row in _rows(more)]
                        yield [self._change(resource, row, read, id) for row in rows], before
                last = begin + AT_ONCE >= len(parents)
                before = SnapshotPosition(ids[-1], created(group[-1]), end.done and last, number)
                yield changes, before

    async def _children_of(self, resource: Resource, way: Way, parent: str, after: str | None = None) -> Row:
        """Return a page of the list of a parent, empty if the parent was deleted in between."""
        path, params = way.request(parent)
        given: dict[str, Any] = {**self._limit(way.path), **params}
        if resource.expand:
            given["expand[]"] = [f"data.{name}" for name in resource.expand]
        if after is not None:
            given["starting_after"] = after
        try:
            return await self._read(resource, path, given)
        except MissingError:
            return {"object": "list", "data": [], "has_more": False}

    async def all_of(self, resource: Resource, parent: str) -> list[Row]:
        """Return all rows that are listed for one parent."""
        way = next(way for way in resource.ways if way.under)
        page = await self._children_of(resource, way, parent)
        rows = _rows(page)
        while page.get("has_more"):
            page = await self._children_of(resource, way, parent, rows[-1]["id"])
            rows += _rows(page)
        return rows

    # -- single rows -------------------------------------------------------------------------------

    async def rows(self, resource: Resource, keys: Sequence[Mapping[str, Any]]) -> list[Change | None]:
        """Return the current rows of primary keys; see :class:`dimesh.spi.cdc.ReadsRows`."""
        found: list[Change | None] = []
        for begin in range(0, len(keys), AT_ONCE):
            group = keys[begin : begin + AT_ONCE]
            found += await together([self.row(resource, key, Priority.SNAPSHOT) for key in group])
        return found

    async def row(self, resource: Resource, key: Mapping[str, Any], priority: Priority) -> Change | None:
        """Return the row with a key, or that it is deleted; None if it cannot be read alone, or may not be."""
        address = resource.address(key)
        if address is None:
            return None
        params = {"expand[]": list(resource.expand)} if resource.expand else {}
        path = f"/{'v2' if resource.family else 'v1'}/{address}"
        try:
            row = await self._client.get(path, params, priority, resource.name)
        except MissingError:
            return deleted_row(key, resource, self._client.time())
        except SourceObjectError:
            return None
        read = self._client.time()
        if row.get("deleted"):
            return deleted_row(key, resource, read)
        # A row need not name its parent, which is part of the key.
        found = self._change(resource, await self._complete(resource, row), read)
        return replace(found, primary_key=dict(key))

    async def _complete(self, resource: Resource, row: Row) -> Row:
        """Return a row with its nested lists complete."""
        for name in resource.nested:
            part = row.get(name)
            if isinstance(part, dict) and part.get("has_more"):
                items = list(part["data"])
                more = True
                while more:
                    found = await self._get(
                        resource, str(part["url"]), {"limit": 100, "starting_after": items[-1]["id"]}
                    )
                    items += found["data"]
                    more = found["has_more"]
                row = {**row, name: {**part, "data": items, "has_more": False}}
        return row

    def _limit(self, path: str) -> dict[str, int]:
        """Return the size of a page; nothing for a list that has no pages, such as that of capabilities."""
        return {"limit": self._options.page} if "limit" in list_params(path) else {}

    def _change(self, resource: Resource, row: Row, read: float, parent: str = "") -> Change:
        change = row_of(row, resource, read, self._options.api_version, parent)
        return self.marked(resource, change) if resource.final else change

    def marked(self, resource: Resource, change: Change) -> Change:
        """Return a change with a mark if later changes of its row would stay unknown: it is not final, and not listed again."""
        if not resource.final or change.after is None or resource.is_final(change.after):
            return change
        oldest = self._client.time() - self._options.refresh_days * 86_400
        if self._options.refresh and created(change.after) >= oldest:
            return change
        return replace(change, metadata={**change.metadata, "updates": "incomplete"})

    async def _read(self, resource: Resource, path: str, params: Mapping[str, Any]) -> Row:
        return await self._get(resource, f"/v1/{path}", params)

    async def _get(self, resource: Resource, path: str, params: Mapping[str, Any]) -> Row:
        return await self._client.get(path, params, Priority.SNAPSHOT, resource.name)


def created(row: Mapping[str, Any]) -> int:
    """Return when a row was created; 0: unknown. An invoice item has a date instead."""
    found = row.get("created") or row.get("date") or 0
    return found if isinstance(found, int) else 0


def _rows(page: Row) -> list[Row]:
    """Return the rows of a page; an address of a single row answers with that row."""
    data = page.get("data")
    return list(data) if isinstance(data, list) else [page]


async def together(requests: Sequence[Any]) -> list[Any]:
    """Return the answers to requests that are made together, in their order."""
    answers = await asyncio.gather(*requests, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
