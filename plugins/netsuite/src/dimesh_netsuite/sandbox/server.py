"""The sandbox of NetSuite: its REST web services over HTTP, and its page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dimesh.sourcekit.sandbox import Action, Control, Controls, FaultPlan, Page, Row, RowCount, Sandbox
from dimesh_netsuite.sandbox import facts
from dimesh_netsuite.sandbox.account import ACCOUNT, Account
from dimesh_netsuite.sandbox.faults import ANSWERS, NetSuiteFault, problem
from dimesh_netsuite.sandbox.security import (
    CERTIFICATE_ID,
    CLIENT_ID,
    CONSUMER,
    TOKEN,
    TOKEN_PATH,
    Denied,
    Security,
)
from dimesh_netsuite.sandbox.sql import CAP, Engine, QueryRefused

MAX_ROWS: Final = 1_000_000
"""The largest number of rows that can be seeded: they are kept in memory."""
PAGES: Final = 1_000
"""The largest number of pages of a collection (Oracle, *Collection Paging*)."""
_QUERY: Final = "/services/rest/query/v1/suiteql"
_CATALOG: Final = "/services/rest/record/v1/metadata-catalog"


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/seed``."""

    object: str = "customer"
    count: RowCount = 10


class Restrict(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/role``."""

    without: list[str] = []
    """The tables that the role does not see."""
    subsidiaries: list[int] | None = None
    """The subsidiaries whose rows it sees; None: all of them."""


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/query``."""

    q: Annotated[str, Meta(min_length=1, max_length=100_000)]


class NetSuiteSandbox(Sandbox[NetSuiteFault]):
    """The server, on loopback, in the running event loop.

    Args:
        port: the port; 0 takes a free one.
        zone: the time zone of the account.
        seed: makes what looks random repeatable.
    """

    title = "NetSuite sandbox"

    def __init__(self, port: int = 0, *, zone: str = "America/Los_Angeles", seed: int = 0) -> None:
        self.account = Account(zone=zone, seed=seed)
        super().__init__(self.account, FaultPlan(NetSuiteFault), port=port)
        self.security = Security(ACCOUNT, self.account.now)
        self.engine = Engine(self.account)
        self.concurrency = 5
        """The number of requests that the account answers at the same time, of all integrations (Oracle, shared tier)."""
        self.in_flight = 0
        self.others = 0
        """The requests that other integrations have in flight."""
        self.disguise: Literal["overload_429", "overload_400", "overload_401"] = "overload_429"
        """How the account says that it has too many requests."""
        self.disguise_delay = 60.0
        """The number of seconds after which an overload is disguised as a 401 (julbrs/netsuite-api-client #26)."""
        self.latency = 0.0
        """The number of seconds that a query takes."""
        self.slow_above = 1_000
        """The number of rows of a page above which a gateway gives up waiting for a query (504; no source)."""
        self.queries: list[str] = []
        """The queries so far, oldest first."""

    @property
    def announcement(self) -> str:
        """The line that the command prints once the sandbox listens."""
        keys = f"consumer_key={CONSUMER[0]} consumer_secret={CONSUMER[1]} token_id={TOKEN[0]} token_secret={TOKEN[1]}"
        return (
            f"{self.title}: {self.url} (open it in a browser to change records), account_id={ACCOUNT} {keys}"
        )

    def options(self, *, legacy: bool = False) -> dict[str, Any]:
        """Return the options of a source that reads this sandbox.

        Args:
            legacy: whether with token-based authentication.
        """
        base = {"account_id": ACCOUNT, "url": self.url}
        if legacy:
            return {
                **base, "consumer_key": CONSUMER[0], "consumer_secret": CONSUMER[1], "token_id": TOKEN[0],
                "token_secret": TOKEN[1],
            }  # fmt: skip
        return {
            **base, "client_id": CLIENT_ID, "certificate_id": CERTIFICATE_ID, "private_key": self.security.private_key(),
        }  # fmt: skip

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""
        return [Route("/services/{path:path}", self._api, methods=["GET", "POST", "PATCH", "DELETE"])]

    # -- the API -----------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append((request.method, request.url.path + query))
        return await self.answer(request, self._respond)

    def refuse(self, fault: NetSuiteFault) -> Response | None:
        """Return the error answer of a planned fault; None if the fault changes an ordinary answer instead."""
        if fault.kind == "moved":
            return Response(status_code=302, headers={"location": fault.location})
        error = fault.error()
        if error is None:
            return None
        status, body = error
        headers = {"retry-after": f"{fault.retry_after:g}"} if fault.retry_after is not None else None
        return JSONResponse(body, status, headers)

    def distort(self, fault: NetSuiteFault, answer: Response) -> Response:
        """Return a page that lacks rows: for ``cut_off`` nine of ten, for the others all."""
        body = json.loads(bytes(answer.body))
        if "items" not in body:
            return answer
        if fault.kind == "rubbish":
            return JSONResponse({**body, "items": ["no row"]})
        if fault.kind == "empty_page":
            return JSONResponse({**body, "items": [], "count": 0, "hasMore": True})
        items = body["items"][: max(len(body["items"]) // 10, 1)]
        return JSONResponse({**body, "items": items, "count": len(items), "hasMore": False})

    async def _respond(self, request: Request) -> Response:
        if request.url.path == TOKEN_PATH:
            form = dict(parse_qsl((await request.body()).decode()))
            status, body = self.security.token(form, f"{self.url}{TOKEN_PATH}")
            return JSONResponse(body, status)
        self.in_flight += 1
        try:
            if self.in_flight + self.others > self.concurrency:
                if self.disguise == "overload_401":
                    await asyncio.sleep(self.disguise_delay)
                status, code, text = ANSWERS[self.disguise]
                return JSONResponse(problem(status, code, text), status)
            try:
                self.security.check(
                    request.method,
                    f"{self.url}{request.url.path}",
                    request.url.query,
                    request.headers.get("authorization", ""),
                )
            except Denied:
                status, code, text = ANSWERS["login"]
                return JSONResponse(problem(status, code, text), status)
            try:
                return JSONResponse(await self._answer(request))
            except QueryRefused as error:
                return JSONResponse(problem(error.status, error.code, str(error)), error.status)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request) -> Row:
        path = request.url.path
        if path == _QUERY and request.method == "POST":
            return await self._query(request)
        if path == _CATALOG:
            return {"items": [self._described(name) for name in self._described_names()]}
        if path.startswith(_CATALOG + "/"):
            name = path.removeprefix(_CATALOG + "/")
            if name not in self._described_names():
                raise QueryRefused(f"Record type '{name}' does not exist.", "NONEXISTENT_ID", 404)
            return self._schema(name)
        if path == "/services/rest/system/v1/governanceLimits":
            return {
                "accountConcurrencyLimit": self.concurrency,
                "accountUnallocatedConcurrencyLimit": self.concurrency,
            }
        raise QueryRefused(f"The URL {path} is not valid.", "NONEXISTENT_ID", 404)

    async def _query(self, request: Request) -> Row:
        if "transient" not in request.headers.get("prefer", "").lower():
            raise QueryRefused(
                "The required request header 'Prefer' is missing or not valid.", "INVALID_HEADER"
            )
        try:
            text = json.loads(await request.body())["q"]
        except (ValueError, KeyError, TypeError):
            raise QueryRefused("The request body is not valid.", "INVALID_CONTENT") from None
        limit, offset = self._paging(dict(request.query_params))
        self.queries.append(text)
        if self.latency:
            await asyncio.sleep(self.latency)
        allowed = max(min(limit, CAP - offset), 0)
        result = self.engine.run(str(text), allowed, offset)
        if len(result.rows) > self.slow_above:
            raise QueryRefused("The gateway timed out.", "GATEWAY_TIMEOUT", 504)
        items: list[Row] = [
            {
                "links": [],
                **{
                    name: _text(value)
                    for name, value in zip(result.columns, row, strict=True)
                    if value is not None
                },
            }
            for row in result.rows
        ]
        end = offset + len(items)
        more = end < min(result.total, CAP)
        return {
            "links": [{"rel": "self", "href": f"{self.url}{_QUERY}?limit={limit}&offset={offset}"}],
            "count": len(items),
            "hasMore": more,
            "items": items,
            "offset": offset,
            "totalResults": _total(result.total, limit, end),
        }

    def _paging(self, params: Mapping[str, str]) -> tuple[int, int]:
        try:
            limit, offset = int(params.get("limit", "1000")), int(params.get("offset", "0"))
        except ValueError:
            raise QueryRefused("The limit or the offset is not a number.") from None
        if not 1 <= limit <= 1_000 or offset < 0 or offset % limit:
            raise QueryRefused(
                f"Provide a valid offset value: {offset} is not a multiple of the limit {limit}, or the limit is not from 1 "
                "to 1000."
            )
        if offset // limit >= PAGES:
            raise QueryRefused(f"There are at most {PAGES} pages.")
        return limit, offset

    def _described_names(self) -> list[str]:
        hidden = {
            "transaction",
            "transactionline",
            "transactionaccountingline",
            "deletedrecord",
            "systemnote",
            "systemnote2",
        }
        return [
            name
            for name in self.account.tables
            if name not in hidden | {"dual", "customrecordtype"} and self.account.role.sees(name)
        ]

    def _described(self, name: str) -> Row:
        href = f"{self.url}{_CATALOG}/{name}"
        return {
            "name": name,
            "links": [{"rel": "canonical", "href": href, "mediaType": "application/schema+json"}],
        }

    def _schema(self, name: str) -> Row:
        """Return the metadata of a record type: columns of SuiteQL, names that only the record service knows, a sublist."""
        properties: Row = {}
        for column, kind in self.account.tables[name].items():
            if not self.account.role.sees(name, column):
                continue
            entry: Row = {
                "title": column,
                "type": "boolean" if kind == "flag" else "string",
                "nullable": True,
            }
            if kind in ("date", "time"):
                entry["format"] = "date" if kind == "date" else "date-time"
            if kind == "id" and column != "id":
                entry = {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, "refName": {"type": "string"}},
                }
            properties[column] = entry
        for column in facts.REST_ONLY.get(name, ()):
            properties[column] = {"title": column, "type": "number", "format": "double"}
        properties["addressBook"] = {"type": "object", "properties": {"items": {"type": "array"}}}
        return {"type": "object", "properties": properties}

    # -- the control endpoint ----------------------------------------------------------------------

    def controls(self) -> Controls:
        """Return the commands of ``/_sandbox/…``."""
        return {
            **super().controls(),
            ("POST", "seed"): Control(self._seed, Seed),
            ("POST", "role"): Control(self._restrict, Restrict),
            ("POST", "query"): Control(self._try, Query),
        }

    def _try(self, given: Query) -> Row:
        """Run a query as a person tries it: without credentials, on loopback."""
        result = self.engine.run(given.q, 100, 0)
        return {"columns": result.columns, "rows": [[_text(value) for value in row] for row in result.rows]}

    def _restrict(self, given: Restrict) -> None:
        for name in given.without:
            self.known(name)
        role = self.account.role
        role.without = set(given.without)
        role.subsidiaries = None if given.subsidiaries is None else set(given.subsidiaries)

    def _seed(self, given: Seed) -> Row:
        self.known(given.object)
        if given.count > MAX_ROWS:
            raise ValueError(f"a sandbox holds at most {MAX_ROWS:,} rows")
        self.account.seed(given.object, given.count, lambda n: row_of(given.object, n))
        return {"made": given.count}

    def names(self) -> Collection[str]:
        """Return the names of the tables."""
        return [name for name in self.account.tables if name != "dual"]

    def objects(self, most: int) -> dict[str, list[Row]]:
        """Return the newest rows of each table that has any."""
        found = {name: self.account.rows(name, most) for name in self.names()}
        return {name: rows for name, rows in found.items() if rows}

    def create_record(self, object: str, fields: Row) -> str:
        """Create a row, and return its id."""
        return str(self.account.create(object, fields))

    def update_record(self, object: str, id: str, fields: Row) -> None:
        """Change a row."""
        self.account.update(object, int(id), fields)

    def delete_record(self, object: str, id: str) -> None:
        """Delete a row."""
        self.account.delete(object, int(id))

    def page(self) -> Page:
        """Return the description of the page."""
        customer = {"object": "{object}", "id": "{id}"}
        rename: dict[str, Any] = {**customer, "fields": {"companyname": "{value}"}}
        return Page(
            title=self.title,
            note="There is no change log: a connector polls the tables with SuiteQL.",
            id="id",
            labels=("companyname", "tranid", "itemid", "name", "fullname"),
            actions=(
                Action(
                    label="Create a customer",
                    command="records",
                    body={"object": "customer", "fields": {"companyname": "Customer {random}"}},
                ),
                Action(label="Move the clock one day ahead", command="clock", body={"advance": 86_400}),
                Action(
                    label="Refuse the next five requests as an overload",
                    command="faults",
                    body={"kind": "overload_429", "times": 5},
                ),
                Action(label="Hide customers from the role", command="role", body={"without": ["customer"]}),
                Action(label="Show the role everything", command="role", body={}),
            ),
            row_actions={
                "customer": (
                    Action(label="Rename", method="PATCH", command="records", body=rename, prompt="New name"),
                    Action(label="Delete", method="DELETE", command="records", body=customer),
                )
            },
        )


def row_of(object: str, n: int) -> Row:
    """Return the fields of a row that is seeded."""
    return {
        "companyname": f"Customer {n}", "entityid": f"C{n}", "email": f"c{n}@example.com", "tranid": f"T{n}", "type": "SalesOrd",
        "itemid": f"I{n}", "displayname": f"Item {n}", "name": f"{object} {n}", "currency": 1,
    }  # fmt: skip


def _total(total: int, limit: int, end: int) -> int:
    """Return the total as it is reported: with small limits it is not that of the query (recorded: 1 of 1000, 5 of 1659)."""
    if limit >= 1_000 or total <= limit:
        return total
    return max(end, 1_000 if limit < 5 else 1_659)


def _text(value: Any) -> str | None:
    """Return a value as NetSuite shows all values (recorded): a text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    return str(value)
