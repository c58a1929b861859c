"""The rows of an object: by id in pages, or as the files of a Bulk API 2.0 job where there are many.

Pages by id go on anywhere and are not disturbed by what changes meanwhile. They end at the greatest id of the beginning: what
is made later is in the stream.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import msgspec

from dimesh.clock import Clock
from dimesh.errors import CDCError, SourceObjectError, SourceUnavailableError
from dimesh.spi.budget import Urgency
from dimesh_salesforce.client import Client, QueryError
from dimesh_salesforce.fields import Fields, time_of
from dimesh_salesforce.options import SalesforceOptions

Row = dict[str, Any]
_LONGEST: Final = 12_000
"""Characters of a query that fit into an address with room for the rest: Salesforce takes 16,384 bytes."""
_IDS: Final = 200
"""Ids in one query."""
_JOB_LOOK: Final = 2.0
_SHORTEST: Final = timedelta(minutes=4)
"""A time in which too many deletes to list is no more divided."""


class JobLostError(CDCError):
    """A Bulk API job that will not give its rows any more."""


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a snapshot of one object stands."""

    last: str = ""
    """Greatest id that was read."""
    end: str = ""
    """Greatest id that there was at the beginning."""
    total: int | None = None
    """Rows, about."""
    job: str = ""
    """Of the Bulk API."""
    locator: str = ""
    """Of the job's next file."""
    done: bool = False


class Rows:
    """Reads rows."""

    def __init__(self, options: SalesforceOptions, clock: Clock, client: Client) -> None:
        self._options = options
        self._clock = clock
        self._client = client

    async def describe(self, object: str, urgency: Urgency) -> Fields:
        """The fields of an object.

        Raises:
            SourceObjectError: there is none, or it cannot be read.
        """
        path = self._client.path(f"sobjects/{quote(object, safe='')}/describe")
        found = await self._client.get(path, {}, urgency, object)
        if not found.get("queryable", True):
            raise SourceObjectError(f"{object} cannot be queried")
        return Fields(object, found)

    # -- all of them -------------------------------------------------------------------------------

    async def read(self, fields: Fields, place: Place | None) -> AsyncIterator[tuple[list[Row], Place]]:
        """Pages, each with the place after it."""
        name = fields.object
        if place is None:
            place = Place(total=await self._count(name))
            try:
                newest = await self._query(
                    f"SELECT Id FROM {name} ORDER BY Id DESC LIMIT 1", name, Urgency.SNAPSHOT
                )
                place.end, place.done = newest[0]["Id"] if newest else "", not newest
            except QueryError as error:
                if error.code != "QUERY_TIMEOUT":
                    raise  # else it ends where no more rows are found
        bulk = (place.total or 0) > self._options.bulk_above or len(_select(fields)) > _LONGEST
        if place.done:
            yield [], place
            return
        pages = self._bulk(fields, place) if bulk else self._by_id(fields, place)
        async for page in pages:
            yield page

    async def _by_id(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        size = self._options.page
        while not place.done:
            bounds = [f"Id <= '{place.end}'"] * bool(place.end) + [f"Id > '{place.last}'"] * bool(place.last)
            where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
            text = f"{_select(fields)}{where} ORDER BY Id LIMIT {size}"
            try:
                found = await self._query(text, fields.object, Urgency.SNAPSHOT)
            except QueryError as error:
                if error.code != "QUERY_TIMEOUT" or size <= 50:
                    raise
                size //= 2
                continue
            # A short page is no end: rows may have been held back, and the last of the beginning may be deleted.
            done = not found or found[-1]["Id"] == place.end
            place = Place(found[-1]["Id"] if found else place.last, place.end, place.total, done=done)
            yield [fields.row(row) for row in found], place

    async def _count(self, object: str) -> int | None:
        try:
            found = await self._client.get(
                self._client.path("query"), {"q": f"SELECT COUNT() FROM {object}"}, Urgency.SNAPSHOT, object
            )
        except (QueryError, SourceObjectError):
            return None  # it takes too long, or is not allowed: nobody needs to know it
        return int(found["totalSize"])

    async def _query(self, text: str, object: str, urgency: Urgency, resource: str = "query") -> list[Row]:
        """All rows of a query; it has a LIMIT. An answer that is cut short is an error: who fetches rows by id would take those
        that lack for deleted.
        """
        found = await self._client.get(self._client.path(resource), {"q": text}, urgency, object)
        rows, total = list(found["records"]), int(found["totalSize"])
        while not found["done"]:
            found = await self._client.get(found["nextRecordsUrl"], {}, urgency, object)
            rows += found["records"]
        if len(rows) < total:
            raise SourceUnavailableError(f"{object}: a query was answered with {len(rows)} of {total} rows")
        return rows

    # -- Bulk API 2.0 ------------------------------------------------------------------------------

    async def _bulk(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        name = fields.object
        if place.job and not await self._is_there(place.job, name):
            place = Place(end=place.end, total=place.total)  # it was kept for a week: from the beginning
        if not place.job:
            answer = await self._client.send(
                "POST",
                self._client.path("jobs/query"),
                Urgency.SNAPSHOT,
                name,
                json={"operation": "query", "query": _select(fields)},
            )
            place = Place(end=place.end, total=place.total, job=str(answer.json()["id"]))
            yield [], place
        try:
            async for page in self._files(fields, place):
                yield page
        except JobLostError as error:
            # Going on with it would fail for ever: the next try begins with a new one.
            yield [], Place(end=place.end, total=place.total)
            raise SourceUnavailableError(str(error)) from error

    async def _files(self, fields: Fields, place: Place) -> AsyncIterator[tuple[list[Row], Place]]:
        name = fields.object
        await self._finished(place.job, name)
        while not place.done:
            params = {
                "maxRecords": str(self._options.page),
                **({"locator": place.locator} if place.locator else {}),
            }
            try:
                answer = await self._client.send(
                    "GET",
                    self._client.path(f"jobs/query/{place.job}/results"),
                    Urgency.SNAPSHOT,
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
                raise SourceUnavailableError(
                    f"{name}: a file of {len(rows)} rows that should have {expected}"
                )
            done = locator in ("null", "")
            place = Place("", place.end, place.total, place.job, "" if done else locator, done)
            yield rows, place

    async def _is_there(self, job: str, name: str) -> bool:
        try:
            await self._client.get(self._client.path(f"jobs/query/{job}"), {}, Urgency.SNAPSHOT, name)
        except SourceObjectError:
            return False
        return True

    async def _finished(self, job: str, object: str) -> None:
        wait = 0.05
        while True:
            found = await self._client.get(
                self._client.path(f"jobs/query/{job}"), {}, Urgency.SNAPSHOT, object
            )
            state = found.get("state")
            if state == "JobComplete":
                return
            if state in ("Failed", "Aborted"):
                raise JobLostError(f"{object}: the job {job} is {state}: {found.get('errorMessage', '')}")
            await self._clock.sleep(wait)
            wait = min(wait * 2, _JOB_LOOK)

    # -- some of them ------------------------------------------------------------------------------

    async def some(self, fields: Fields, ids: Sequence[str]) -> dict[str, Row]:
        """Those of these ids that are there."""
        found: dict[str, Row] = {}
        for begin in range(0, len(ids), _IDS):
            some = ids[begin : begin + _IDS]
            for names in _groups(list(fields.types), _LONGEST - 24 * len(some)):
                listed = ", ".join(f"'{_checked(id)}'" for id in some)
                text = f"SELECT {', '.join(dict.fromkeys(['Id', *names]))} FROM {fields.object} WHERE Id IN ({listed})"
                for row in await self._query(f"{text} LIMIT {len(some)}", fields.object, Urgency.STREAM):
                    found.setdefault(row["Id"], {}).update(fields.row(row))
        return found

    async def deleted(self, object: str, since: datetime, until: datetime) -> dict[str, datetime | None]:
        """Ids of rows that were deleted in between, with the time: those in the recycle bin, and those that the log of deletes
        has (getDeleted), in which they stay when the bin is emptied. Both go back about 15 days.
        """
        return {**await self._in_the_bin(object, since), **await self._in_the_log(object, since, until)}

    async def _in_the_bin(self, object: str, since: datetime) -> dict[str, datetime | None]:
        moment = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = (
            f"SELECT Id, SystemModstamp FROM {object} WHERE IsDeleted = true AND SystemModstamp >= {moment}"
        )
        try:
            rows = await self._query(text, object, Urgency.SNAPSHOT, "queryAll")
        except QueryError:
            return {}  # some objects have neither field
        return {row["Id"]: time_of(row.get("SystemModstamp")) for row in rows}

    async def _in_the_log(self, object: str, since: datetime, until: datetime) -> dict[str, datetime | None]:
        path = self._client.path(f"sobjects/{quote(object, safe='')}/deleted/")
        span = {"start": since.isoformat(timespec="seconds"), "end": until.isoformat(timespec="seconds")}
        try:
            found = await self._client.get(path, span, Urgency.SNAPSHOT, object)
        except QueryError as error:
            if error.code != "EXCEEDED_ID_LIMIT" or until - since < _SHORTEST:
                raise
            middle = since + (until - since) / 2
            # Seconds are dropped: a minute that both halves have loses nothing.
            first = await self._in_the_log(object, since, middle + timedelta(minutes=1))
            return {**first, **await self._in_the_log(object, middle, until)}
        except SourceObjectError:
            return {}  # some objects are not replicated
        return {entry["id"]: time_of(entry.get("deletedDate")) for entry in found["deletedRecords"]}


def _select(fields: Fields) -> str:
    return f"SELECT {', '.join(fields.types)} FROM {fields.object}"


def _groups(names: list[str], longest: int) -> Iterable[list[str]]:
    group: list[str] = []
    length = 0
    for name in names:
        if group and length + len(name) + 2 > longest:
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
                f"{fields.object}: a row of {len(values)} values under {len(names)} names"
            )
        yield fields.csv_row(names, values)


def _checked(id: str) -> str:
    if not (id.isalnum() and id.isascii() and len(id) in (15, 18)):
        raise SourceObjectError(f"{id[:40]!r} is no id of Salesforce's")
    return id
