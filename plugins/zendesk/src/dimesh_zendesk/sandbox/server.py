"""The sandbox of Zendesk: its API over HTTP, its webhooks, and its page."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dimesh.sourcekit.sandbox import JSON, Action, Control, Controls, FaultPlan, Page, Row, RowCount, Sandbox
from dimesh_zendesk.sandbox import facts
from dimesh_zendesk.sandbox.account import Account, ZendeskRefused, iso, not_found
from dimesh_zendesk.sandbox.exports import ExportLimit, Exports
from dimesh_zendesk.sandbox.faults import ZendeskFault
from dimesh_zendesk.sandbox.oauth import OAuth, basic
from dimesh_zendesk.sandbox.webhooks import Webhooks

EMAIL: Final = "admin@example.com"
API_TOKEN: Final = "sandbox-token"  # noqa: S105 - of the sandbox
CLIENT_ID: Final = "dimesh"
CLIENT_SECRET: Final = "sandbox-secret"  # noqa: S105 - of the sandbox
MAX_ROWS: Final = 2_000_000
"""The largest number of tickets that can be seeded: they are made when they are read."""
_ADMIN: Final = 1
_SUFFIX: Final = re.compile(r"\.json$")
_encode = msgspec.json.Encoder().encode


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/seed``."""

    object: str = "tickets"
    count: RowCount = 10


class Comment(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/comments``."""

    id: str
    body: str


class TicketId(msgspec.Struct, forbid_unknown_fields=True):
    """The body of commands about one ticket."""

    id: str


class ZendeskSandbox(Sandbox[ZendeskFault]):
    """The server, on loopback, in the running event loop.

    Args:
        port: the port; 0 takes a free one.
        hold_back: the number of seconds for which exports hold changes back.
        exports_a_minute: the number of export requests that are allowed per minute.
        seed: makes what looks random repeatable.
        certificate: see the base class.
    """

    title = "Zendesk sandbox"

    def __init__(
        self,
        port: int = 0,
        *,
        hold_back: float = 60.0,
        exports_a_minute: int = 10,
        seed: int = 0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.account = Account(seed=seed)
        super().__init__(self.account, FaultPlan(ZendeskFault), port=port, certificate=certificate)
        self.exports = Exports(self.account, hold_back)
        self.limit = ExportLimit(self.account.now, exports_a_minute)
        """The hidden limit of exports; :meth:`ExportLimit.count` lets another integration use it."""
        self.oauth = OAuth(self.account, CLIENT_ID, CLIENT_SECRET, _ADMIN)
        self.api_tokens = {API_TOKEN: EMAIL}
        self.roles = {_ADMIN: "admin"}
        """The roles of team members, by user."""
        self.caller = _ADMIN
        """The user that the API token acts for."""
        self.absent: set[str] = set()
        """The paths that the account's plan lacks."""
        self.webhooks = Webhooks(self.account)
        self.account.listeners.append(self.webhooks.tell)
        self._delivery: asyncio.Task[None] | None = None

    @property
    def announcement(self) -> str:
        """The line that the command prints once the sandbox listens."""
        return (
            f"{self.title}: {self.url} (open it in a browser to change tickets), client_id {CLIENT_ID}, "
            f"client_secret {CLIENT_SECRET}, or email {EMAIL}, api_token {API_TOKEN}"
        )

    async def start(self) -> None:
        """Listen, and begin to deliver webhooks.

        Raises:
            ConfigurationError: the port is in use.
        """
        await super().start()
        self._delivery = asyncio.create_task(self.webhooks.deliver(), name="zendesk-webhooks")

    async def stop(self) -> None:
        """Stop listening and delivering."""
        if self._delivery is not None:
            self._delivery.cancel()
            await asyncio.gather(self._delivery, return_exceptions=True)
            self._delivery = None
        await super().stop()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""
        methods = ["GET", "POST", "PUT", "DELETE"]
        return [
            Route("/api/v2/{path:path}", self._api, methods=methods),
            Route("/oauth/tokens", self._api, methods=["POST"]),
        ]

    # -- the API -----------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append((request.method, request.url.path + query))
        fault = next((f for f in self.faults.planned if request.url.path.startswith(f.path)), None)
        if fault is not None and fault.kind == "too_heavy":
            # Not counted as others are: it is about the size of the page (connectors: halve per_page).
            if int(request.query_params.get("per_page", "1000")) > fault.page:
                return Response("upstream request timeout", 504, media_type="text/plain")
            return await self._respond(request)
        if fault is not None and fault.kind == "same_cursor":
            self.faults.take(request.url.path)
            request.state.stuck = True
            return await self._respond(request)
        return await self.answer(request, self._respond)

    def refuse(self, fault: ZendeskFault) -> Response | None:
        """Return the error answer of a planned fault; None if the fault changes an ordinary answer instead."""
        if fault.kind == "empty_forbidden":
            return Response(b"", 403, media_type="text/html")
        error = fault.error()
        if error is None:
            return None
        status, body, headers = error
        return JSONResponse(body, status, {**self._headers(), **headers})

    def _headers(self) -> dict[str, str]:
        """Return the headers of a recorded answer: they show the plan's limit, also on exports."""
        return {
            "x-request-id": self.account.random_text(20), "x-rate-limit": "700", "x-rate-limit-remaining": "699",
            "ratelimit-limit": "700", "ratelimit-remaining": "699", "ratelimit-reset": "30",
        }  # fmt: skip

    async def _respond(self, request: Request) -> Response:
        self.account.work()
        try:
            status, body = await self._answer(request)
        except ZendeskRefused as error:
            return JSONResponse(error.body, error.status, {**self._headers(), **error.headers})
        if status == 204:
            return Response(status_code=204, headers=self._headers())
        return Response(_encode(body), status, self._headers(), JSON)

    async def _answer(self, request: Request) -> tuple[int, Row]:
        given: Row = {}
        if request.method in ("POST", "PUT") and (raw := await request.body()):
            try:
                decoded = msgspec.json.decode(raw)
            except msgspec.MsgspecError:
                raise ZendeskRefused(400, "BadRequest", "The body is not JSON") from None
            given = decoded if isinstance(decoded, dict) else {}
        if request.url.path == "/oauth/tokens":
            return 200, self.oauth.answer(given)
        user, scopes = self._authenticated(request)
        path = _SUFFIX.sub("", request.path_params["path"].strip("/"))
        params = dict(request.query_params)
        role = self.roles.get(user, "agent")
        if path == "users/me":
            return 200, {"user": self._me(user, role)}
        if path in self.absent:
            raise ZendeskRefused(
                404, {"title": "Not found", "message": "The page you were looking for doesn't exist"}
            )
        parts = path.split("/")
        if parts[0] == "webhooks":
            self._admin_only(role)
            return self.webhooks.answer(request.method, parts[1:], given)
        if parts[0] == "incremental":
            self._admin_only(role)
            self._permit(scopes, parts[1] if parts[1] in facts.SCOPES else "tickets")
            self.limit.count()
            if len(parts) == 3 and parts[2] == "cursor" and parts[1] in ("tickets", "users"):
                stuck = getattr(request.state, "stuck", False)
                return 200, self.exports.cursor(parts[1], params, self.url, stuck)
            timed = ("tickets", "users", "organizations", "ticket_events", "ticket_metric_events")
            if len(parts) == 2 and parts[1] in timed:
                return 200, self.exports.timed(parts[1], params, self.url)
            raise not_found()
        self._permit(scopes, parts[0])
        if request.method != "GET":
            return self._write(request.method, parts, given)
        return 200, self._read(path, parts, params, user, request)

    def _authenticated(self, request: Request) -> tuple[int, frozenset[str]]:
        header = request.headers.get("authorization", "")
        if header.startswith("Bearer "):
            grant = self.oauth.grant_of(header.removeprefix("Bearer "))
            if grant is None:
                text = (
                    "The access token provided is expired, revoked, malformed or invalid for other reasons."
                )
                refused = ZendeskRefused(401, "invalid_token")
                refused.body["error_description"] = text
                raise refused
            return grant.user, grant.scopes
        login = basic(header)
        if login is not None and self.api_tokens.get(login[1]) == login[0].removesuffix("/token"):
            return self.caller, frozenset({"read"})
        headers = {"www-authenticate": 'Basic realm="Web Password"'}
        raise ZendeskRefused(401, "Couldn't authenticate you", headers=headers)

    def _me(self, user: int, role: str) -> Row:
        return {**facts.USER, "id": user, "email": EMAIL, "name": "Admin", "role": role}

    def _admin_only(self, role: str) -> None:
        if role != "admin":
            raise ZendeskRefused(403, "Forbidden", "You do not have access to this page.")

    def _permit(self, scopes: frozenset[str], name: str) -> None:
        needed = facts.SCOPES.get(name, "read")
        if "read" not in scopes and needed not in scopes:
            text = f"You are missing the following required scopes: {needed}"
            raise ZendeskRefused(403, "Forbidden", text)

    # -- reading -----------------------------------------------------------------------------------

    def _read(
        self, path: str, parts: list[str], params: Mapping[str, str], user: int, request: Request
    ) -> Row:
        account = self.account
        if len(parts) == 2 and parts[1] == "show_many" and parts[0] in ("tickets", "users", "organizations"):
            ids = [id for id in params.get("ids", "").split(",") if id.isdigit()]
            if len(ids) > facts.MOST_IDS:
                refused = ZendeskRefused(400, "TooManyValues", "Too many values passed to parameter ids")
                refused.body["max_count"] = facts.MOST_IDS
                raise refused
            found = [row for id in ids if (row := self._single(parts[0], int(id))) is not None]
            return {parts[0]: found, "count": len(found), "next_page": None, "previous_page": None}
        if path == "deleted_tickets":
            # Neither archived nor scrubbed ones (reference).
            kept = [id for id in account.previous if id not in account.archived]
            subjects = {id: account.get("tickets", id)["subject"] for id in kept}
            rows = [
                {"id": id, "subject": subject, "previous_state": account.previous[id]}
                for id, subject in subjects.items()
                if subject != "SCRUBBED"
            ]
            return {"deleted_tickets": rows, "count": len(rows), "next_page": None}
        if path in ("ticket_audits", "ticket_metrics"):
            field = "audits" if path == "ticket_audits" else "ticket_metrics"
            return {field: [], "meta": {"has_more": False}, "links": {"next": None}}
        listed = facts.LISTS.get(path)
        if listed is not None:
            return self._list(path, listed, params, user, request)
        below = re.fullmatch(r"(tickets|users)/(\d+)/(comments|audits|identities|side_conversations)", path)
        if below is not None:
            return self._below(below[1], int(below[2]), below[3], params, request)
        name, _, id = path.rpartition("/")
        listed = facts.LISTS.get(name)
        if listed is not None and id.isdigit():
            row = self._single(listed.object, int(id))
            if row is None or not self._sees(user, listed.object, row):
                raise not_found()
            return {listed.field.rstrip("s") if name != "slas/policies" else "sla_policy": row}
        raise not_found()

    def _sees(self, user: int, object: str, row: Row) -> bool:
        owner = self.account.owners.get((object, row["id"]))
        return owner is None or object not in facts.OF_CALLER or owner == user

    def _single(self, object: str, id: int) -> Row | None:
        row = self.account.tables[object].get(id)
        if row is None or (object == "tickets" and row["status"] == "deleted") or row.get("deleted_at"):
            return None
        if object == "tickets":
            return {name: value for name, value in row.items() if name != "generated_timestamp"} | {
                "generated_timestamp": row["generated_timestamp"]
            }
        return row

    def _list(
        self, path: str, listed: facts.ListFacts, params: Mapping[str, str], user: int, request: Request
    ) -> Row:
        account = self.account
        table = account.tables[listed.object]
        rows = []
        for id in table.ids():
            row = table.get(id)
            if row is None or not account.is_shown(id) or not self._sees(user, listed.object, row):
                continue
            if row.get("deleted_at") or row.get("status") == "deleted":
                continue
            if listed.object == "tickets" and id in account.archived:
                continue  # zammad #558, zenpy #282
            if listed.object == "users" and row.get("active") is False:
                continue
            if row.get("deleted") and params.get("exclude_deleted") != "false":
                continue
            rows.append(row if listed.stamps else {**row, "updated_at": None})
        start = params.get("start_time") or params.get("since")
        if start is not None and listed.object in (
            "satisfaction_ratings",
            "ticket_skips",
            "ticket_activities",
        ):
            begin = int(start) if start.isdigit() else None
            rows = [
                row
                for row in rows
                if (str(row["updated_at"]) >= (iso(begin) if begin is not None else start))
            ]
        bounds = request.query_params.getlist("filter[created_at][]")
        if bounds:
            rows = [row for row in rows if bounds[0] <= row["created_at"] <= bounds[-1]]
        if listed.object == "tags":
            rows = [{"name": row["name"], "count": row.get("count", 1)} for row in rows][: facts.TAGS]
        if not listed.paged:
            return {listed.field: rows, "count": len(rows), "next_page": None, "previous_page": None}
        return self._paged(path, listed.field, rows, params, request)

    def _paged(
        self, path: str, field: str, rows: list[Row], params: Mapping[str, str], request: Request
    ) -> Row:
        """Return a page of a list: by cursor, or by offset without ``page[size]``."""
        if "page[size]" not in params and "page[after]" not in params:
            number = int(params.get("page", "1"))
            size = min(int(params.get("per_page", "100")), 100)
            if number > facts.OFFSET_PAGES:
                raise ZendeskRefused(
                    400,
                    "InvalidPaginationDepth",
                    "Requested response size was greater than Search Response Limits",
                )
            begin = (number - 1) * size
            more = begin + size < len(rows)
            following = f"{self.url}/api/v2/{path}.json?page={number + 1}&per_page={size}" if more else None
            return {
                field: rows[begin : begin + size],
                "count": len(rows),
                "next_page": following,
                "previous_page": None,
            }
        size = min(int(params.get("page[size]", "100")), 100)
        after = params.get("page[after]")
        key = "name" if field == "tags" else "id"
        if after:
            last = base64.b64decode(after).decode()
            rows = [row for row in rows if (row[key] > last if key == "name" else row[key] > int(last))]
        page = rows[:size]
        more = len(rows) > size
        token = base64.b64encode(str(page[-1][key]).encode()).decode() if page else None
        kept = [
            (n, v) for n, v in request.query_params.multi_items() if n not in ("page[after]", "page[size]")
        ]
        query = urlencode([*kept, ("page[size]", size), ("page[after]", token or "")])
        return {
            field: page,
            "meta": {"has_more": more, "after_cursor": token, "before_cursor": None},
            "links": {"next": f"{self.url}/api/v2/{path}.json?{query}" if more else None, "prev": None},
        }

    def _below(self, owner: str, id: int, kind: str, params: Mapping[str, str], request: Request) -> Row:
        account = self.account
        if self._single(owner, id) is None:
            raise not_found()
        match kind:
            case "comments":
                return self._paged(
                    f"{owner}/{id}/{kind}", "comments", account.comments.get(id, []), params, request
                )
            case "audits":
                rows = account.audits.get(id, [])
                if id in account.archived:
                    return {"audits": rows, "count": len(rows), "next_page": None}
                return self._paged(f"{owner}/{id}/{kind}", "audits", rows, params, request)
            case "identities":
                return self._paged(
                    f"{owner}/{id}/{kind}", "identities", account.identities.get(id, []), params, request
                )
        return {"side_conversations": account.side_conversations.get(id, []), "count": 0, "next_page": None}

    # -- writing -----------------------------------------------------------------------------------

    def _write(self, method: str, parts: list[str], given: Row) -> tuple[int, Row]:
        account = self.account
        match method, parts:
            case "PUT", ["deleted_tickets", id, "restore"]:
                account.restore(_id(id))
                return 200, {}
            case "DELETE", ["deleted_users", id]:
                account.delete_for_good(_id(id))
                return 200, {"deleted_user": account.get("users", _id(id))}
            case "PUT", ["tickets", id, "comments", comment, "redact"]:
                account.redact(_id(id), _id(comment))
                return 200, {}
            case "POST", [name] if name in facts.LISTS:
                kind, wrapped = facts.LISTS[name].object, name.rstrip("s")
                return 201, {wrapped: account.create(kind, self._fields(kind, given.get(wrapped) or {}))}
            case "PUT", [name, id] if name in facts.LISTS:
                kind, wrapped = facts.LISTS[name].object, name.rstrip("s")
                fields = dict(given.get(wrapped) or {})
                comment = fields.pop("comment", None)
                row = account.update(kind, _id(id), fields)
                if kind == "tickets" and isinstance(comment, dict):
                    account.comment(_id(id), str(comment.get("body", "")), public=comment.get("public", True))
                return 200, {wrapped: row, **({"audit": self._audit(_id(id))} if kind == "tickets" else {})}
            case "DELETE", [name, id] if name in facts.LISTS:
                account.get(facts.LISTS[name].object, _id(id))
                account.delete(facts.LISTS[name].object, _id(id))
                return 204, {}
        raise not_found()

    def _audit(self, id: int) -> Row:
        audits = self.account.audits.get(id)
        return audits[-1] if audits else {}

    def _fields(self, object: str, fields: Row) -> Row:
        fields = dict(fields)
        comment = fields.pop("comment", None)
        if object == "tickets" and isinstance(comment, dict):
            fields.setdefault("description", str(comment.get("body", "")))
        return fields

    # -- the control endpoint ----------------------------------------------------------------------

    def controls(self) -> Controls:
        """Return the commands of ``/_sandbox/…``."""
        return {
            **super().controls(),
            ("POST", "seed"): Control(self._seed, Seed),
            ("POST", "comments"): Control(
                lambda given: {"id": self.account.comment(_id(given.id), given.body)["id"]}, Comment
            ),
            ("POST", "restore"): Control(lambda given: self.account.restore(_id(given.id)), TicketId),
            ("POST", "scrub"): Control(lambda given: self.account.scrub(_id(given.id)), TicketId),
            ("POST", "archive"): Control(lambda given: self.account.archive(_id(given.id)), TicketId),
        }

    def _seed(self, given: Seed) -> Row:
        self.known(given.object)
        if len(self.account.tables[given.object]) + given.count > MAX_ROWS:
            raise ValueError(f"a sandbox holds at most {MAX_ROWS:,} rows of an object")
        for n in range(given.count):
            fields = (
                {"subject": f"Ticket {n}"} if given.object == "tickets" else {"name": f"{given.object} {n}"}
            )
            self.account.create(given.object, fields)
        return {"made": given.count}

    def names(self) -> Collection[str]:
        """Return the names of the objects."""
        return facts.OBJECTS

    def objects(self, most: int) -> dict[str, list[Row]]:
        """Return the newest rows of each object that there are any of."""
        found = {}
        for name, table in self.account.tables.items():
            ids = list(table.ids())[-most:]
            rows = [row for id in reversed(ids) if (row := table.get(id)) is not None]
            if rows:
                found[name] = rows
        return found

    def create_record(self, object: str, fields: Row) -> str:
        """Create a row, and return its id."""
        return str(self.account.create(object, fields)["id"])

    def update_record(self, object: str, id: str, fields: Row) -> None:
        """Change a row."""
        self.account.update(object, _id(id), fields)

    def delete_record(self, object: str, id: str) -> None:
        """Delete a row."""
        self.account.delete(object, _id(id))

    def page(self) -> Page:
        """Return the description of the page."""
        row: dict[str, Any] = {"object": "{object}", "id": "{id}"}
        return Page(
            title=self.title,
            note=f"Exports show each change {self.exports.hold_back:g} seconds after it was made.",
            id="id",
            labels=("subject", "name", "title"),
            actions=(
                Action(
                    label="Create a ticket",
                    command="records",
                    body={"object": "tickets", "fields": {"subject": "Ticket {random}"}},
                ),
                Action(label="Move the clock one minute ahead", command="clock", body={"advance": 60}),
                Action(
                    label="Move the clock 30 days ahead", command="clock", body={"advance": facts.SCRUB_AFTER}
                ),
                Action(
                    label="Refuse the next five requests",
                    command="faults",
                    body={"kind": "rate_limit", "times": 5, "retry_after": 1},
                ),
            ),
            row_actions={
                "tickets": (
                    Action(
                        label="Change the subject",
                        method="PATCH",
                        command="records",
                        body={**row, "fields": {"subject": "{value}"}},
                        prompt="New subject",
                    ),
                    Action(
                        label="Solve",
                        method="PATCH",
                        command="records",
                        body={**row, "fields": {"status": "solved"}},
                    ),
                    Action(label="Archive", command="archive", body={"id": "{id}"}),
                    Action(label="Delete", method="DELETE", command="records", body=row),
                    Action(label="Restore", command="restore", body={"id": "{id}"}),
                    Action(label="Scrub", command="scrub", body={"id": "{id}"}),
                )
            },
        )


def _id(text: str) -> int:
    if not text.isdigit():
        raise not_found()
    return int(text)
