"""Rows below tickets and users: all of them are read when their parent appears in its export.

Old ones change, too: a comment is made private or redacted, on archived tickets as well, and its ticket is then in the export.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from dimesh.errors import SourceObjectError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import Change, Operation
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.changes import (
    SCRUB_SLACK,
    Row,
    digest,
    epoch,
    is_deleted,
    moment,
    snapshot_change,
    stamp_of,
)
from dimesh_zendesk.client import Client, MissingError
from dimesh_zendesk.exports import Page
from dimesh_zendesk.lists import together
from dimesh_zendesk.watch import next_page

log = logging.getLogger("dimesh.cdc.zendesk")


class ChildReader:
    """Reads the rows of one object below the rows of an export."""

    def __init__(self, client: Client, resource: Resource) -> None:
        self._client = client
        self._resource = resource
        self._owner = f"{resource.parent.removesuffix('s')}_id"
        self.refused = 0
        """The number of parents whose rows Zendesk refused."""

    async def read(self, page: Page, mark: int | None, priority: Priority) -> Sequence[Change]:
        """Return the rows below those of a page; see :class:`dimesh_zendesk.exports.Children`."""
        read = self._client.time()
        if not self._resource.path:
            # Deleted tickets have null in place of their metrics.
            rows = [row for row in page.answer.get(self._resource.field) or () if isinstance(row, dict)]
            return [self._change(row, mark, read) for row in rows]
        parents = [row["id"] for row in page.rows if not is_deleted(row)]
        found = await together([self._below(parent, priority) for parent in parents])
        return [self._change(row, mark, read) for rows in found for row in rows if self._wanted(row, mark)]

    async def _below(self, parent: Any, priority: Priority) -> list[Row]:
        resource = self._resource
        path, params = resource.path.replace("{}", str(parent)), {"page[size]": "100"}
        rows: list[Row] = []
        while path:
            try:
                found = await self._client.get(
                    path, params, priority, resource.name, judge_empty=resource.apart
                )
            except MissingError:
                return []  # it was deleted meanwhile
            except SourceObjectError as error:
                if not resource.apart:
                    raise
                # It says nothing about the others (airbytehq/airbyte #84353).
                self.refused += 1
                log.warning("%s of %s %s are left out: %s", resource.name, resource.parent, parent, error)
                return []
            rows += [{**row, self._owner: parent} for row in found.get(resource.field) or ()]
            before, path, params = path, next_page(found), {}
            if path == before:
                break
        return rows

    def _wanted(self, row: Row, mark: int | None) -> bool:
        """Return whether a row can be news: those that never change are returned once."""
        if not self._resource.appends or mark is None:
            return True
        stamp = stamp_of(row, self._resource)
        return stamp is None or stamp > mark - SCRUB_SLACK

    def _change(self, row: Row, mark: int | None, read: float) -> Change:
        resource = self._resource
        created = epoch(row.get("created_at"))
        if mark is None or created is None or (created <= mark and not resource.appends):
            # Whether it has changed, the engine finds out from what was published last.
            return snapshot_change(row, resource, read)
        return Change(
            identity=f"{row.get('id')}" if resource.appends else f"{row.get('id')}:{digest(row)}",
            operation=Operation.INSERT,
            object=resource.name,
            primary_key={resource.key: row.get(resource.key)},
            before=None,
            after=row,
            timestamp=moment(created),
            sequence=str(created),
        )
