"""The rows of an object: in pages by id, or as the files of a Bulk API 2.0 job if there are many.

Pages by id resume anywhere, and changes meanwhile do not disturb them. They end at the greatest id that existed at the
start: rows that are created later are in the stream. An object that the Bulk API refuses is read in pages, however large it is
(jsforce/jsforce #413, airbytehq/airbyte #13088, singer-io/tap-salesforce Blacklisting.md).
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from dimesh.clock import Clock
from dimesh.errors import CDCError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh_salesforce.client import Client, QueryError
from dimesh_salesforce.fields import Fields
from dimesh_salesforce.objects import NEEDS_FILTER, refusal
from dimesh_salesforce.options import SalesforceOptions

Row = dict[str, Any]
_MAX_QUERY: Final = 12_000
"""The number of characters of a query that fit into an address with room for the rest: Salesforce accepts 16,384 bytes."""
MAX_IDS: Final = 200
"""The number of ids in one query."""
_JOB_POLL: Final = 2.0
"""The longest interval, in seconds, at which the state of a job is polled."""


class JobLostError(CDCError):
    """A Bulk API job failed, or its files are gone."""


class _BulkRefusedError(CDCError):
    """The Bulk API cannot read an object."""


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position within one object."""

    last: str = ""
    """The greatest id that was read."""
    end: str = ""
    """The greatest id that existed at the start."""
    total: int | None = None
    """The approximate number of rows."""
    job: str = ""
    """The id of the Bulk API job."""
    locator: str = ""
    """The locator of the job's next file."""
    done: bool = False
    paged: bool = False
    """Whether the Bulk API refuses the object, so that it is read in pages."""


class Rows:
    """Reads rows of one org."""

    def __init__(self, options: SalesforceOptions, clock: Clock, client: Client) -> None:
        self._options = options
        self._clock = clock
        self._client = client

    async def describe(self, object: str, priority: Priority) -> Fields:
        """Return the fields of an object.

        Raises:
            SourceObjectError: the object does not exist, or cannot be read.
        """
        reason = refusal(object)
        if reason:
            raise SourceObjectError(f"{object} cannot be captured: {reason}")
        path = self._client.path(f"sobjects/{quote(object, safe='')}/describe")
        found = await self._client.get(path, {}, priority, object)
        if not found.get("queryable", True):
            raise SourceObjectError(f"{object} cannot be queried")
        return Fields(object, found)

    # -- all of them -------------------------------------------------------------------------------

    async def read(self, fields: Fields, place: Place | None) -> AsyncIterator[tuple[list[Row], Place]]:
        """Yield pages, each with the place after it."""
        name = fields.object
        if place is None:
            place = Place(total=await self._count(fields))
            try:
                newest = await self.query(
                    f"SELECT Id FROM {name}{_where(fields)} ORDER BY Id DESC LIMIT 1",
                    name,
                    Priority.SNAPSHOT,
                    _resource(fields),
                )
                place.end, place.done = newest[0]["Id"] if newest else "", not newest
            except QueryError as error:
                _raise_for_filter(name, error)
                if error.code != "QUERY_TIMEOUT":
                    raise  # without an end, reading ends when there are no more rows
        bulk = (place.total or 0) > self._options.bulk_above or len(_select(fields)) > _MAX_QUERY
        if place.done:
            yield [], place
            return
        if bulk and not place.paged:
            try:
                async for page in self._bulk(fields, place):
                    yield page
                return
            except _BulkRefusedError:
                place = Place(end=place.end, total=place.total, paged=True)
                yield [], place
        async for page in self._by_id(fields, place):
            yield page

    async def _by_id(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        size = self._options.page
        while not place.done:
            bounds = [f"Id <= '{place.end}'"] * bool(place.end) + [f"Id > '{place.last}'"] * bool(place.last)
            try:
                found, rows = await self._page(fields, bounds, size)
            except QueryError as error:
                if error.code != "QUERY_TIMEOUT" or size <= 50:
                    raise
                size //= 2
                continue
            # A short page is not the end: rows may have been held back, and the row with the greatest id may be deleted.
            done = not found or found[-1] == place.end
            last = found[-1] if found else place.last
            place = Place(last, place.end, place.total, done=done, paged=place.paged)
            yield rows, place

    async def since(self, fields: Fields, moment: datetime) -> AsyncIterator[list[Row]]:
        """Yield the rows whose stamp is at or after a time, in pages by id."""
        size, last = self._options.page, ""
        begin = f"{fields.stamp} >= {moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        while True:
            bounds = [begin] + [f"Id > '{last}'"] * bool(last)
            try:
                ids, rows = await self._page(fields, bounds, size, Priority.STREAM)
            except QueryError as error:
                _raise_for_filter(fields.object, error)
                if error.code != "QUERY_TIMEOUT" or size <= 50:
                    raise
                size //= 2
                continue
            yield rows
            if len(ids) < size:
                return
            last = ids[-1]

    async def ids_after(self, fields: Fields, id: str) -> list[str]:
        """Return the next ids of an object after one, as many as fit into a query."""
        bounds = [f"Id > '{id}'"] * bool(id)
        text = f"SELECT Id FROM {fields.object}{_where(fields, *bounds)} ORDER BY Id LIMIT {MAX_IDS}"
        found = await self.query(text, fields.object, Priority.SNAPSHOT, _resource(fields))
        return [str(row["Id"]) for row in found]

    async def of_parents(self, fields: Fields, ids: Sequence[str]) -> list[Row]:
        """Return the rows that belong to the rows with these ids."""
        condition = f"{fields.parent_field} IN ({id_list(ids)})"
        text = f"{_select(fields)}{_where(fields, condition)}"
        found = await self.query(text, fields.object, Priority.SNAPSHOT, _resource(fields))
        return [fields.row(row) for row in found]

    async def parents_with_rows(self, fields: Fields, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that any rows belong to."""
        found: set[str] = set()
        name = str(fields.parent_field)
        for begin in range(0, len(ids), MAX_IDS):
            among = f"{name} IN ({id_list(ids[begin : begin + MAX_IDS])})"
            text = f"SELECT {name} FROM {fields.object}{_where(fields, among)} GROUP BY {name}"
            rows = await self.query(text, fields.object, Priority.STREAM, _resource(fields))
            found |= {str(row[name]) for row in rows}
        return found

    async def _page(
        self,
        fields: Fields,
        conditions: Sequence[str],
        size: int,
        priority: Priority = Priority.SNAPSHOT,
    ) -> tuple[list[str], list[Row]]:
        """Return ids in their order, and the rows with these ids."""
        select = _select(fields)
        whole = len(select) <= _MAX_QUERY
        if not whole:
            select = f"SELECT Id FROM {fields.object}"
        text = f"{select}{_where(fields, *conditions)} ORDER BY Id LIMIT {size}"
        found = await self.query(text, fields.object, priority, _resource(fields))
        ids = [row["Id"] for row in found]
        if whole:
            return ids, [fields.row(row) for row in found]
        return ids, list((await self.rows_by_id(fields, ids)).values())

    async def after(self, fields: Fields, id: str | None, limit: int) -> list[Row] | None:
        """Return rows in the order of their ids, after the row with an id (None: from the first one on); None if that row cannot
        be found.
        """
        bounds = [f"Id >= {id_list([id])}"] if id is not None else []
        ids, rows = await self._page(fields, bounds, limit + len(bounds))
        if id is not None and ids[:1] != [id]:
            return None
        place = {id: number for number, id in enumerate(ids)}
        return sorted((row for row in rows if row["Id"] != id), key=lambda row: place[row["Id"]])

    async def _count(self, fields: Fields) -> int | None:
        text = f"SELECT COUNT() FROM {fields.object}{_where(fields)}"
        try:
            found = await self._client.get(
                self._client.path(_resource(fields)), {"q": text}, Priority.SNAPSHOT, fields.object
            )
        except (QueryError, SourceObjectError):
            return None  # counting takes too long or is not allowed, and the total is not essential
        return int(found["totalSize"])

    async def query(self, text: str, object: str, priority: Priority, resource: str = "query") -> list[Row]:
        """Return all rows of a query. An answer with too few rows is an error: a caller that fetches rows by id would take the
        missing ones for deleted.
        """
        found = await self._client.get(self._client.path(resource), {"q": text}, priority, object)
        rows, total = list(found["records"]), int(found["totalSize"])
        while not found["done"]:
            found = await self._client.get(str(found["nextRecordsUrl"]), {}, priority, object)
            rows += found["records"]
        if len(rows) < total:
            raise SourceUnavailableError(f"{object}: a query was answered with {len(rows)} of {total} rows")
        return rows

    # -- Bulk API 2.0 ------------------------------------------------------------------------------

    async def _bulk(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        name = fields.object
        if place.job and not await self._exists(place.job, name):
            place = Place(end=place.end, total=place.total)  # jobs are kept for a week: restart
        if not place.job:
            job = {"operation": _resource(fields), "query": f"{_select(fields)}{_where(fields)}"}
            try:
                answer = await self._client.send(
                    "POST", self._client.path("jobs/query"), Priority.SNAPSHOT, name, json=job
                )
            except QueryError as error:
                if error.code == "BULK_REFUSED":
                    raise _BulkRefusedError(str(error)) from error
                raise
            place = Place(end=place.end, total=place.total, job=str(answer.json()["id"]))
            yield [], place
        try:
            async for page in self._files(fields, place):
                yield page
        except JobLostError as error:
            # Resuming this job would fail for ever: the next attempt creates another one.
            yield [], Place(end=place.end, total=place.total)
            raise SourceUnavailableError(str(error)) from error

    async def _files(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        name = fields.object
        await self._wait_for(place.job, name)
        while not place.done:
            params = {
                "maxRecords": str(self._options.page),
                **({"locator": place.locator} if place.locator else {}),
            }
            try:
                answer = await self._client.send(
                    "GET",
                    self._client.path(f"jobs/query/{_path_part(place.job)}/results"),
                    Priority.SNAPSHOT,
                    name,
                    params=params,
                    headers={"accept": "text/csv"},
                )
            except SourceObjectError as error:
                raise JobLostError(f"{name}: the files of job {place.job} are gone: {error}") from error
            locator = answer.headers.get("sforce-locator", "null")
            rows = list(_csv(fields, answer.content.decode("utf-8-sig")))
            expected = answer.headers.get("sforce-numberofrecords", "")
            if expected.isdigit() and int(expected) != len(rows):
                raise SourceUnavailableError(f"{name}: a file has {len(rows)} rows instead of {expected}")
            done = locator in ("null", "")
            place = Place("", place.end, place.total, place.job, "" if done else locator, done)
            yield rows, place

    async def _exists(self, job: str, name: str) -> bool:
        try:
            await self._client.get(
                self._client.path(f"jobs/query/{_path_part(job)}"), {}, Priority.SNAPSHOT, name
            )
        except SourceObjectError:
            return False
        return True

    async def _wait_for(self, job: str, object: str) -> None:
        wait = 0.05
        while True:
            found = await self._client.get(
                self._client.path(f"jobs/query/{_path_part(job)}"), {}, Priority.SNAPSHOT, object
            )
            state = found.get("state")
            if state == "JobComplete":
                return
            reason = str(found.get("errorMessage", ""))
            if state == "Failed" and ("INVALIDENTITY" in reason or "serialize value" in reason):
                raise _BulkRefusedError(f"{object}: the job {job} is {state}: {reason}")
            if state in ("Failed", "Aborted"):
                raise JobLostError(f"{object}: the job {job} is {state}: {reason}")
            await self._clock.sleep(wait)
            wait = min(wait * 2, _JOB_POLL)

    # -- some of them ------------------------------------------------------------------------------

    async def rows_by_id(self, fields: Fields, ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows with these ids, by id; rows that do not exist are missing."""
        found: dict[str, Row] = {}
        for begin in range(0, len(ids), MAX_IDS):
            part = ids[begin : begin + MAX_IDS]
            for names in _groups(list(fields.types), _MAX_QUERY - 24 * len(part)):
                select = ", ".join(dict.fromkeys(["Id", *names]))
                text = f"SELECT {select} FROM {fields.object}{_where(fields, f'Id IN ({id_list(part)})')}"
                for row in await self.query(
                    f"{text} LIMIT {len(part)}", fields.object, Priority.STREAM, _resource(fields)
                ):
                    found.setdefault(row["Id"], {}).update(fields.row(row))
        return found


def _raise_for_filter(object: str, error: QueryError) -> None:
    """Raise if a query was refused since it needs a filter that selects a part of the rows."""
    if error.code == "MALFORMED_QUERY" and any(text in str(error) for text in NEEDS_FILTER):
        raise SourceObjectError(f"{object} cannot be read as a whole: {error}") from error


def _resource(fields: Fields) -> str:
    """Return the resource that has all rows of an object."""
    return "queryAll" if fields.archived else "query"


def _where(fields: Fields, *conditions: str) -> str:
    """Return the conditions of a query for rows that are not deleted."""
    every = [*(["IsDeleted = false"] if fields.archived else []), *conditions]
    return f" WHERE {' AND '.join(every)}" if every else ""


def _select(fields: Fields) -> str:
    return f"SELECT {', '.join(fields.types)} FROM {fields.object}"


def _groups(names: list[str], max_length: int) -> Iterable[list[str]]:
    group: list[str] = []
    length = 0
    for name in names:
        if group and length + len(name) + 2 > max_length:
            yield group
            group, length = [], 0
        group.append(name)
        length += len(name) + 2
    yield group


def _csv(fields: Fields, text: str) -> Iterable[Row]:
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader, [])
    for values in reader:
        if len(values) != len(names):
            raise SourceUnavailableError(
                f"{fields.object}: a row has {len(values)} values for {len(names)} columns"
            )
        yield fields.csv_row(names, values)


def _path_part(id: str) -> str:
    return quote(id, safe="")


def id_list(ids: Sequence[str]) -> str:
    """Return ids as they are written in a query."""
    return ", ".join(f"'{_checked(id)}'" for id in ids)


def _checked(id: str) -> str:
    if not (id.isalnum() and id.isascii() and len(id) in (15, 18)):
        raise SourceObjectError(f"{id[:40]!r} is not a Salesforce id")
    return id
