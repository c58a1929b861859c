"""The REST side of the sandbox: tokens, queries, records, Bulk API 2.0."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dimesh_salesforce.sandbox.org import ORGANIZATION, USER, Org, Refused, Row, moment
from dimesh_salesforce.sandbox.soql import Query, parse

CLIENT_ID: Final = "3MVG9sandbox"
CLIENT_SECRET: Final = "sandbox-secret"  # noqa: S105 - of a sandbox
USERNAME: Final = "ada@sandbox.example"
PASSWORD: Final = "sandbox-password"  # noqa: S105
REFRESH_TOKEN: Final = "5Aep861sandbox"  # noqa: S105
ACCESS_TOKEN: Final = "00D000000000001!sandbox"  # noqa: S105
_PAGE: Final = 2_000
_UPDATED: Final = timedelta(days=30)
_DELETED: Final = timedelta(days=15)


class Tokens:
    """Access tokens of the org."""

    def __init__(self, public_key: Any) -> None:
        self.good = {ACCESS_TOKEN}
        self.issued = 0
        self.locked = False
        """No token is given out: the user is frozen."""
        self._public_key = public_key

    def expire(self) -> None:
        """All that were given out."""
        self.good.clear()

    def give(self, form: dict[str, str], base: str, now: float) -> tuple[int, Row]:
        """The answer to a request for a token."""
        kind = form.get("grant_type", "")
        if self.locked:
            return 400, {"error": "invalid_grant", "error_description": "user is inactive or frozen"}
        if kind == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            try:
                claims = jwt.decode(
                    form.get("assertion", ""),
                    self._public_key,
                    algorithms=["RS256"],
                    audience=["https://login.salesforce.com", "https://test.salesforce.com"],
                    options={"verify_exp": False},
                )
            except jwt.InvalidAudienceError:
                return 400, {"error": "invalid_grant", "error_description": "audience is invalid"}
            except jwt.PyJWTError:
                return 400, {"error": "invalid_grant", "error_description": "invalid assertion"}
            if not now < claims.get("exp", 0) <= now + 300:
                return 400, {"error": "invalid_grant", "error_description": "expired authorization code"}
            if claims.get("iss") != CLIENT_ID:
                return 400, {"error": "invalid_client_id", "error_description": "client identifier invalid"}
            if claims.get("sub") != USERNAME:
                text = "user hasn't approved this consumer"
                return 400, {"error": "invalid_grant", "error_description": text}
        elif form.get("client_id") != CLIENT_ID:
            return 400, {"error": "invalid_client_id", "error_description": "client identifier invalid"}
        elif kind == "client_credentials":
            if form.get("client_secret") != CLIENT_SECRET:
                return 400, {"error": "invalid_client", "error_description": "invalid client credentials"}
        elif kind == "refresh_token":
            if form.get("refresh_token") != REFRESH_TOKEN:
                return 400, {"error": "invalid_grant", "error_description": "expired access/refresh token"}
        elif kind == "password":
            if (form.get("username"), form.get("password")) != (USERNAME, PASSWORD):
                text = "authentication failure - Invalid Password"
                return 400, {"error": "invalid_grant", "error_description": text}
        else:
            return 400, {"error": "unsupported_grant_type", "error_description": "grant type not supported"}
        self.issued += 1
        token = f"{ORGANIZATION[:15]}!sandbox{self.issued}"
        self.good.add(token)
        return 200, {
            "access_token": token,
            "scope": "api",
            "instance_url": base,
            "id": f"{base}/id/{ORGANIZATION}/{USER}",
            "token_type": "Bearer",
        }


class Rest:
    """Answers requests for an org."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self.page = _PAGE
        """Rows of a page at most: fewer where rows are wide."""
        self._cursors: dict[str, tuple[Query, int, int, bool, int | None]] = {}
        self._jobs: dict[str, Row] = {}

    async def answer(self, request: Request, parts: list[str], version: str) -> Response:
        """The answer to a request below ``/services/data/vXX.X/``.

        Raises:
            Refused: as Salesforce would.
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
                return JSONResponse(self._shown(self.org.find(self._known(name), id), name, base))
            case "PATCH", ["sobjects", name, id]:
                self.org.update(self._known(name), id, given, origin=_origin(request))
                return Response(status_code=204)
            case "DELETE", ["sobjects", name, id]:
                self.org.delete(self._known(name), id, origin=_origin(request))
                return Response(status_code=204)
            case "GET", ["event", "eventSchema", id]:
                text = self.org.schemas.get(id)
                if text is None:
                    raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
                return JSONResponse({**json.loads(text), "uuid": id})
            case "GET", ["limits"]:
                left = self.org.allocation if self.org.allocation is not None else 25_000
                return JSONResponse({"DailyDeliveredPlatformEvents": {"Max": 25_000, "Remaining": left}})
            case _, ["jobs", "query", *rest]:
                return self._job(method, rest, given, request, version)
        raise Refused(404, "NOT_FOUND", "The requested resource does not exist")

    def _known(self, name: str) -> str:
        if name not in self.org.kinds or name in self.org.forbidden:
            raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
        return name

    # -- descriptions ------------------------------------------------------------------------------

    def _objects(self) -> list[Row]:
        found = []
        for kind in self.org.kinds.values():
            if kind.name not in self.org.forbidden:
                found.append(
                    {"name": kind.name, "keyPrefix": kind.prefix, "queryable": True, "replicateable": True}
                )
                found.append(
                    {"name": kind.event, "keyPrefix": None, "queryable": False, "replicateable": False}
                )
        return found

    def describe(self, name: str) -> Row:
        """What there is to know of an object."""
        kind = self.org.kinds[name]
        return {
            "name": name,
            "keyPrefix": kind.prefix,
            "queryable": True,
            "replicateable": True,
            "custom": name.endswith("__c"),
            "fields": [
                {
                    "name": column,
                    "label": column,
                    "type": type_,
                    "compoundFieldName": compound,
                    "nillable": column not in ("Id", "IsDeleted", "SystemModstamp"),
                    "custom": column.endswith(("__c", "__s")),
                }
                for column, type_, compound in kind.columns()
            ],
        }

    # -- queries -----------------------------------------------------------------------------------

    def _shown(self, row: Row, name: str, base: str, columns: list[str] | None = None) -> Row:
        wanted = columns if columns is not None else list(row)
        return {
            "attributes": {"type": name, "url": f"{base}/sobjects/{name}/{row['Id']}"},
            **{column: row.get(column) for column in wanted},
        }

    def _query(self, text: str, base: str, deleted: bool) -> Row:
        query = parse(text, self.org)
        if not query.columns:
            if not query.conditions and not deleted:
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
            "records": [self._shown(row, query.object, base, query.columns) for row in rows],
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
            raise Refused(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        query, after, sent, deleted, total = found
        return self._page(query, after, sent, base, deleted, total)

    def _changes(self, name: str, which: str, request: Request) -> Row:
        now = datetime.fromtimestamp(self.org.now(), UTC)
        begin, end = (_minute(request.query_params.get(key, "")) for key in ("start", "end"))
        if begin < now - (_UPDATED if which == "updated" else _DELETED):
            raise Refused(400, "INVALID_REPLICATION_DATE", "startDate before org replication enabled")
        table = self.org.tables[name]

        def within(row: Row) -> bool:
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
            "earliestDateAvailable": _text(now - _DELETED),
            "latestDateCovered": _text(end),
        }

    # -- Bulk API 2.0 ------------------------------------------------------------------------------

    def _job(self, method: str, parts: list[str], given: Row, request: Request, version: str) -> Response:
        if method == "POST" and not parts:
            query = parse(str(given.get("query", "")), self.org)
            kinds = {c: k for c, k, _ in self.org.kinds[query.object].columns()}
            if any(kinds[column] in ("address", "location") for column in query.columns):
                text = "Selecting compound data not supported in Bulk Query"
                raise Refused(400, "FUNCTIONALITY_NOT_ENABLED", text)
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
            return JSONResponse(self._job_shown(self._jobs[id]))
        job = self._jobs.get(parts[0]) if parts else None
        if job is None:
            raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
        if job["apiVersion"] != float(version[1:]):
            raise Refused(409, "API_ERROR", "the job was made with another API version")
        if parts[1:] == ["results"]:
            if job["state"] != "JobComplete":
                raise Refused(400, "INVALIDJOBSTATE", "the job is not complete")
            return self._file(job, request)
        shown = self._job_shown(job)
        steps = {"UploadComplete": "InProgress", "InProgress": "JobComplete"}
        job["state"] = steps.get(job["state"], job["state"])
        return JSONResponse(shown)

    def fail_jobs(self) -> None:
        """Jobs that are under way or done are Failed from now on."""
        for job in self._jobs.values():
            job |= {"state": "Failed", "errorMessage": "internal error"}

    def forget_jobs(self) -> None:
        """As after a week."""
        self._jobs.clear()

    @staticmethod
    def _job_shown(job: Row) -> Row:
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
        raise Refused(400, "INVALID_REPLICATION_DATE", f"not a date: {text[:40]!r}") from None


def _text(when: datetime) -> str:
    return moment(when.timestamp())


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form."""
    return {key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}
