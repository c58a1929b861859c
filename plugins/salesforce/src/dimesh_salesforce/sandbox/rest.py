"""The REST side of the sandbox: queries, records, Bulk API 2.0.

Paths, bodies and headers are those of the documentation. The HTTP statuses of ``MALFORMED_QUERY``, ``INVALID_FIELD``,
``INVALID_QUERY_LOCATOR`` and ``NOT_FOUND`` are unconfirmed.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dimesh.sourcekit.sandbox import Row
from dimesh_salesforce.sandbox.org import Org, SalesforceRefused
from dimesh_salesforce.sandbox.soql import Query, parse
from dimesh_salesforce.sandbox.table import moment

_PAGE: Final = 2_000
"""The largest number of records of a page (documentation)."""
_ALWAYS: Final = (
    "Id", "IsDeleted", "SystemModstamp", "CreatedById", "CreatedDate", "LastModifiedById", "LastModifiedDate",
)  # fmt: skip
"""The fields that every record has."""
_UPDATED: Final = timedelta(days=30)
_DELETED: Final = timedelta(days=15)
"""How far back ``updated`` and ``deleted`` may begin (documentation)."""
_SHORTEST: Final = timedelta(minutes=1)
"""The time span that ``updated`` and ``deleted`` must exceed (documentation)."""


class Rest:
    """The answers of the REST API of an org."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self.page = _PAGE
        """The largest number of records of a page: Salesforce sends fewer where they are wide (documentation)."""
        self._cursors: dict[str, tuple[Query, int, int, bool, int | None]] = {}
        self._jobs: dict[str, Row] = {}

    async def answer(self, request: Request, parts: list[str], version: str) -> Response:
        """Answer a request below ``/services/data/vXX.X/``.

        Raises:
            SalesforceRefused: as Salesforce would refuse the request.
        """
        method = request.method
        body = await request.body()
        given: Any = json.loads(body) if body and method in ("POST", "PATCH") else {}
        base = f"/services/data/{version}"
        match method, parts:
            case "GET", ["query" | "queryAll", cursor]:
                return JSONResponse(self._more(cursor, base))
            case "GET", ["query" | "queryAll" as how]:
                return JSONResponse(self._query(request.query_params.get("q", ""), base, how == "queryAll"))
            case "GET", ["sobjects"]:
                return JSONResponse({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": self._objects()})
            case "GET", ["sobjects", name, "describe"]:
                return JSONResponse(self.describe(self._known(name)))
            case "GET", ["sobjects", name, "updated" | "deleted" as which]:
                return JSONResponse(self._changes(self._known(name), which, request))
            case "POST", ["sobjects", name]:
                id = self.org.create(self._known(name), given, origin=_origin(request))
                return JSONResponse({"id": id, "success": True, "errors": []}, 201)
            case "GET", ["sobjects", name, id]:
                return JSONResponse(self._rendered(self.org.find(self._known(name), id), name, base))
            case "PATCH", ["sobjects", name, id]:
                self.org.update(self._known(name), id, given, origin=_origin(request))
                return Response(status_code=204)
            case "DELETE", ["sobjects", name, id]:
                self.org.delete(self._known(name), id, origin=_origin(request))
                return Response(status_code=204)
            case "GET", ["event", "eventSchema", id]:
                text = self.org.schemas.get(id)
                if text is None:
                    raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
                return JSONResponse({**json.loads(text), "uuid": id})
            case "GET", ["limits"]:
                left = self.org.allocation if self.org.allocation is not None else 25_000
                return JSONResponse({"DailyDeliveredPlatformEvents": {"Max": 25_000, "Remaining": left}})
            case _, ["jobs", "query", *rest]:
                return self._job(method, rest, given, request, version)
        raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")

    def _known(self, name: str) -> str:
        if name not in self.org.kinds or name in self.org.forbidden:
            raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
        return name

    # -- descriptions ------------------------------------------------------------------------------

    def _objects(self) -> list[Row]:
        found: list[Row] = []
        for kind in self.org.kinds.values():
            if kind.name not in self.org.forbidden:
                found.append(
                    {
                        "name": kind.name,
                        "keyPrefix": kind.prefix,
                        "queryable": True,
                        "replicateable": kind.replicateable,
                    }
                )
                if kind.tracked:
                    found.append(
                        {"name": kind.event, "keyPrefix": None, "queryable": False, "replicateable": False}
                    )
        return found

    def describe(self, name: str) -> Row:
        """Return the description of an object, as ``describe`` gives it."""
        kind = self.org.kinds[name]
        return {
            "name": name,
            "keyPrefix": kind.prefix,
            "queryable": True,
            "replicateable": kind.replicateable,
            "custom": name.endswith("__c"),
            "childRelationships": [
                {"childSObject": child.name, "field": one.name, "cascadeDelete": one.cascades}
                for child in self.org.kinds.values()
                for one in child.fields
                if one.reference == name
            ],
            "fields": [
                {
                    "name": column,
                    "label": column,
                    "type": type_,
                    "compoundFieldName": compound,
                    "nillable": column not in _ALWAYS,
                    "custom": column.endswith(("__c", "__s")),
                }
                for column, type_, compound in kind.columns()
                if (name, column) not in self.org.hidden
            ],
        }

    # -- queries -----------------------------------------------------------------------------------

    def _rendered(self, row: Row, name: str, base: str, columns: list[str] | None = None) -> Row:
        wanted = columns if columns is not None else list(row)
        return {
            "attributes": {"type": name, "url": f"{base}/sobjects/{name}/{row['Id']}"},
            **{column: row.get(column) for column in wanted},
        }

    def _query(self, text: str, base: str, deleted: bool) -> Row:
        query = parse(text, self.org)
        wanted = self.org.kinds[query.object].filters
        if wanted and not any(name in wanted for name, _, _ in query.conditions):
            text = (
                f"Implementation restriction: {query.object} requires a filter by a single Id on {' or '.join(wanted[1:])} "
                "using the equals operator or multiple Id's using the IN operator."
            )
            raise SalesforceRefused(400, "MALFORMED_QUERY", text)  # simple-salesforce/simple-salesforce #275
        if not query.columns:
            if not query.conditions and not deleted and query.object not in self.org.archives:
                return {"totalSize": len(self.org.tables[query.object]), "done": True, "records": []}
            count = sum(1 for _ in query.rows(self.org, deleted=deleted))
            return {"totalSize": count, "done": True, "records": []}
        return self._page(query, 0, 0, base, deleted, None)

    def _page(self, query: Query, after: int, sent: int, base: str, deleted: bool, total: int | None) -> Row:
        most = min(self.page, query.limit - sent) if query.limit is not None else self.page
        rows = list(itertools.islice(query.rows(self.org, after, deleted), most + 1))
        more = len(rows) > most and (query.limit is None or sent + most < query.limit)
        rows = rows[:most]
        if more and total is None:
            total = sum(1 for _ in itertools.islice(query.rows(self.org, 0, deleted), query.limit))
        answer: Row = {
            "totalSize": total if total is not None else len(rows),
            "done": not more,
            "records": [self._rendered(row, query.object, base, query.columns) for row in rows],
        }
        if more:
            cursor = f"01g{len(self._cursors):012}-{sent + len(rows)}"
            last = self.org.tables[query.object].number(rows[-1]["Id"])
            self._cursors[cursor] = (query, last, sent + len(rows), deleted, total)
            answer["nextRecordsUrl"] = f"{base}/query/{cursor}"
        return answer

    def _more(self, cursor: str, base: str) -> Row:
        found = self._cursors.get(cursor)
        if found is None:
            raise SalesforceRefused(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        query, after, sent, deleted, total = found
        return self._page(query, after, sent, base, deleted, total)

    def _changes(self, name: str, which: str, request: Request) -> Row:
        now = datetime.fromtimestamp(self.org.now(), UTC)
        begin, end = (_minute(request.query_params.get(key, "")) for key in ("start", "end"))
        table = self.org.tables[name]
        oldest = now - _UPDATED
        if which == "deleted":
            oldest = max(now - _DELETED, datetime.fromtimestamp(table.logged_since, UTC))
        if begin < oldest:
            raise SalesforceRefused(
                400, "INVALID_REPLICATION_DATE", "startDate before org replication enabled"
            )
        if end - begin <= _SHORTEST:
            raise SalesforceRefused(400, "INVALID_REPLICATION_DATE", "endDate must be after startDate")

        def within(row: Row) -> bool:
            if self.org.unseen.get(row["Id"], 0.0) > self.org.now():
                return False  # the log respects sharing (documentation)
            return begin <= datetime.fromisoformat(row["SystemModstamp"]) < end

        if which == "updated":
            return {
                "ids": [row["Id"] for row in table.rows() if within(row)],
                "latestDateCovered": _text(end),
            }
        return {
            "deletedRecords": [
                {"id": row["Id"], "deletedDate": row["SystemModstamp"]}
                for row in table.deleted.values()
                if within(row)
            ],
            "earliestDateAvailable": _text(oldest),
            "latestDateCovered": _text(end),
        }

    # -- Bulk API 2.0 ------------------------------------------------------------------------------

    def _job(self, method: str, parts: list[str], given: Row, request: Request, version: str) -> Response:
        if method == "POST" and not parts:
            query = parse(str(given.get("query", "")), self.org)
            kinds = {c: k for c, k, _ in self.org.kinds[query.object].columns()}
            if any(kinds[column] in ("address", "location") for column in query.columns):
                text = "Selecting compound data not supported in Bulk Query"  # recorded
                raise SalesforceRefused(400, "FUNCTIONALITY_NOT_ENABLED", text)
            refused = self.org.kinds[query.object].bulk
            if refused.startswith("Entity"):
                raise SalesforceRefused(400, "INVALIDENTITY", refused)
            id = f"750000{len(self._jobs):09}AAA"
            self._jobs[id] = {
                "id": id,
                "operation": given.get("operation", "query"),
                "object": query.object,
                "createdDate": moment(self.org.now()),
                "state": "UploadComplete",
                "apiVersion": float(version[1:]),
                "query": query,
            }
            return JSONResponse(self._rendered_job(self._jobs[id]))
        job = self._jobs.get(parts[0]) if parts else None
        if job is None:
            raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
        if job["apiVersion"] != float(version[1:]):
            raise SalesforceRefused(409, "API_ERROR", "the job was made with another API version")
        if parts[1:] == ["results"]:
            if job["state"] != "JobComplete":
                raise SalesforceRefused(400, "INVALIDJOBSTATE", "the job is not complete")
            return self._file(job, request)
        rendered = self._rendered_job(job)
        refused = self.org.kinds[job["object"]].bulk
        steps = {"UploadComplete": "InProgress", "InProgress": "Failed" if refused else "JobComplete"}
        job["state"] = steps.get(job["state"], job["state"])
        if job["state"] == "Failed":
            job.setdefault("errorMessage", refused)
        return JSONResponse(rendered)

    def fail_jobs(self) -> None:
        """Let every job fail, the finished ones as well."""
        for job in self._jobs.values():
            job |= {"state": "Failed", "errorMessage": "internal error"}

    def forget_jobs(self) -> None:
        """Forget every job, as Salesforce does after a week."""
        self._jobs.clear()

    @staticmethod
    def _rendered_job(job: Row) -> Row:
        return {key: value for key, value in job.items() if key != "query"}

    def _file(self, job: Row, request: Request) -> Response:
        query: Query = job["query"]
        after = int(request.query_params.get("locator", "0") or 0)
        most = int(request.query_params.get("maxRecords", "100000"))
        rows = list(itertools.islice(query.rows(self.org, after, job["operation"] == "queryAll"), most + 1))
        more, rows = len(rows) > most, rows[:most]
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(query.columns)
        writer.writerows(_cells(query.columns, rows))
        last = str(self.org.tables[query.object].number(rows[-1]["Id"])) if more else "null"
        headers = {"sforce-locator": last, "sforce-numberofrecords": str(len(rows))}
        return Response(text.getvalue(), 200, headers, "text/csv")


def _cells(columns: list[str], rows: list[Row]) -> Iterator[list[Any]]:
    for row in rows:
        yield [
            "" if (value := row.get(c)) is None else str(value).lower() if isinstance(value, bool) else value
            for c in columns
        ]


def _origin(request: Request) -> str:
    client = request.headers.get("sforce-call-options", "client=").partition("client=")[2]
    return f"com/salesforce/api/rest/66.0;client={client}"


def _minute(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(second=0, microsecond=0)
    except ValueError:
        raise SalesforceRefused(400, "INVALID_REPLICATION_DATE", f"not a date: {text[:40]!r}") from None


def _text(when: datetime) -> str:
    return moment(when.timestamp())
