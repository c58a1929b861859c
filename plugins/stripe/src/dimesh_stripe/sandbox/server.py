"""The HTTP side of the sandbox."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dimesh_stripe.resources import RESOURCES
from dimesh_stripe.sandbox.account import RETENTION, Account
from dimesh_stripe.sandbox.faults import Fault, Faults
from dimesh_stripe.sandbox.page import PAGE
from dimesh_stripe.sandbox.timeline import Refused, Row, Timeline, page
from dimesh_stripe.sandbox.v2 import V2Objects
from dimesh_stripe.signatures import sign

BY_PATH: Final = {resource.path: resource for resource in RESOURCES.values()}
KEY: Final = "sk_test_sandbox"
MAX_BODY: Final = 1_000_000


class Endpoint:
    """A webhook endpoint."""

    def __init__(self, id: str, url: str, enabled: list[str], secret: str) -> None:
        self.id = id
        self.url = url
        self.enabled = enabled
        self.secrets = [secret]
        """More than one while it is rotated."""
        self.disabled = False
        """Nothing is sent to it."""

    def wants(self, kind: str) -> bool:
        """Whether events of a type are sent to it."""
        return not self.disabled and ("*" in self.enabled or kind in self.enabled)

    def shown(self) -> Row:
        """As the API shows it; the secret only at its creation."""
        return {
            "id": self.id,
            "object": "webhook_endpoint",
            "url": self.url,
            "enabled_events": self.enabled,
            "status": "disabled" if self.disabled else "enabled",
        }


class StripeSandbox:
    """The server, on loopback, in the running event loop.

    Args:
        port: 0: any that is free.
        keys: API keys that are let in, each with the objects it may read (None: all).
        seed: of ids and of the order of webhooks.
    """

    def __init__(
        self, port: int = 0, *, keys: Mapping[str, frozenset[str] | None] | None = None, seed: int = 0
    ) -> None:
        self.port = port
        self.keys: dict[str, frozenset[str] | None] = dict(keys or {KEY: None})
        self.account = Account(seed=seed)
        self.v2 = V2Objects(self.account)
        """Objects of the v2 API."""
        self.v2.listeners.append(self._queue)
        self.connected: dict[str, Account] = {}
        """Accounts that are reached with the header ``Stripe-Account``."""
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        """Method and path with query, as they came."""
        self.endpoints: dict[str, Endpoint] = {}
        self.webhook_copies = 1
        """How often each webhook is sent."""
        self.webhook_shuffle = False
        """Send what is waiting in any order."""
        self.webhooks_off = False
        """Events are sent to nobody, and nothing says so."""
        self._rng = random.Random(seed)  # noqa: S311 - order of a sandbox
        self._outbox: asyncio.Queue[tuple[Endpoint, Row]] = asyncio.Queue()
        self._server: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self.account.listeners.append(self._queue)

    @property
    def url(self) -> str:
        """What stands in place of ``https://api.stripe.com``."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, id: str) -> Account:
        """Another account, connected to this platform."""
        made = self.connected[id] = Account(id, seed=hash(id) & 0xFFFF)

        def tell(event: Row) -> None:
            event["account"] = id
            self._queue(event)

        made.listeners.append(tell)
        return made

    # -- life --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        config = uvicorn.Config(
            self.app(), host="127.0.0.1", port=self.port, log_config=None, lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(self._server._serve(), name="stripe-sandbox")
        while not self._server.started:
            if serving.done():
                serving.result()
                raise OSError(f"the sandbox cannot listen at port {self.port}")
            await asyncio.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._tasks = [serving, asyncio.create_task(self._send_webhooks(), name="stripe-webhooks")]

    async def stop(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            serving, sending = self._tasks
            sending.cancel()
            await asyncio.gather(serving, sending, return_exceptions=True)
            self._server = None

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/_sandbox/{what}", self._control, methods=["GET", "POST", "DELETE"]),
                Route("/v1/{path:path}", self._v1, methods=["GET", "POST", "DELETE"]),
                Route("/v2/{path:path}", self._v1, methods=["GET"]),
            ]
        )

    # -- the API -----------------------------------------------------------------------------------

    async def _v1(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append((request.method, request.url.path + query))
        fault = self.faults.take(request.url.path)
        headers = {"request-id": self.account.new_id("req"), "stripe-version": self.account.api_version}
        try:
            if fault is not None:
                answer = await self._fail(fault, request, headers)
                if answer is not None:
                    return answer
            body, extra = await self._answer(request)
            headers |= extra
        except Refused as error:
            return JSONResponse({"error": error.body}, error.status, headers)
        if fault is not None and fault.kind == "empty_page" and "data" in body:
            body = {**body, "data": [], "has_more": True}
        text = json.dumps(body)
        if fault is not None and fault.kind == "malformed":
            text = text[:-1] + ",}"
        if fault is not None and fault.kind == "truncated":
            return _Truncated(text.encode(), headers)
        return Response(text, media_type="application/json", headers=headers)

    async def _fail(self, fault: Fault, request: Request, headers: dict[str, str]) -> Response | None:
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return None
        if fault.kind == "hang":
            while not await request.is_disconnected():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
            return Response(status_code=499)
        if fault.kind in ("malformed", "truncated", "empty_page"):
            return None
        if fault.kind == "reset":
            return _Reset()
        status, body, more = fault.error()
        return JSONResponse({"error": body}, status, {**headers, **more})

    async def _answer(self, request: Request) -> tuple[Row, dict[str, str]]:
        allowed = self._admit(request)
        account = self.account
        connected = request.headers.get("stripe-account")
        if connected is not None and connected != account.id:
            if connected not in self.connected:
                raise Refused(
                    403,
                    f"The provided key '{KEY[:7]}****' does not have access to account '{connected}'",
                    "account_invalid",
                )
            account = self.connected[connected]
        raw = await request.body()
        if len(raw) > MAX_BODY:
            raise Refused(413, "Request entity too large")
        params = nested([*parse_qsl(request.url.query, True), *parse_qsl(raw.decode(), True)])
        parts = [part for part in request.url.path.split("/")[2:] if part]
        if request.url.path.startswith("/v2/"):
            return self.v2.answer("/".join(parts), params), {}
        if parts[:1] == ["webhook_endpoints"]:
            self._permit(allowed, "webhook_endpoint", "webhook")
            return self._webhook_endpoints(request.method, parts[1:], params), {}
        if parts[:1] == ["events"]:
            if len(parts) == 2:
                return account.event(parts[1]), {}
            return self._events(account, params), {}
        if parts == ["account"]:
            return {"id": account.id, "object": "account", "charges_enabled": True}, {}
        resource = BY_PATH.get(parts[0]) if parts else None
        if resource is None:
            raise Refused(404, f"Unrecognized request URL ({request.method}: {request.url.path}).")
        self._permit(allowed, resource.name, resource.name)
        return self._objects(account, resource.name, request, parts[1:], params)

    def _permit(self, allowed: frozenset[str] | None, name: str, permission: str) -> None:
        if allowed is not None and name not in allowed:
            raise Refused(
                403,
                "The provided key 'rk_test_****' does not have the required permissions for this endpoint on account "
                f"'{self.account.id}'. Having the 'rak_{permission}_read' permission would allow this request to continue.",
            )

    def _admit(self, request: Request) -> frozenset[str] | None:
        given = request.headers.get("authorization", "")
        if given.startswith("Basic "):
            try:
                given = "Bearer " + base64.b64decode(given[6:]).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        key = given.removeprefix("Bearer ")
        if not key:
            raise Refused(401, "You did not provide an API key.")
        if key not in self.keys:
            raise Refused(401, f"Invalid API Key provided: {key[:8]}****{key[-4:]}")
        return self.keys[key]

    def _objects(
        self, account: Account, name: str, request: Request, parts: list[str], params: Row
    ) -> tuple[Row, dict[str, str]]:
        key = request.headers.get("idempotency-key")
        path = RESOURCES[name].path
        if RESOURCES[name].append_only and request.method != "GET":
            raise Refused(404, f"Unrecognized request URL ({request.method}: {request.url.path}).")
        if request.method == "POST":
            if key is not None and key in account.idempotent:
                known, status, row = account.idempotent[key]
                if known != (request.url.path, params):
                    error = Refused(
                        400, "Keys for idempotent requests can only be used with the same parameters."
                    )
                    error.body["type"] = "idempotency_error"
                    raise error
                return row, {"idempotent-replayed": "true", "idempotency-key": key, "x-status": str(status)}
            made = (
                account.update(name, parts[0], params, key=key)
                if parts
                else account.create(name, params, key=key)
            )
            shown = account.shown(made)
            if key is not None:
                account.idempotent[key] = ((request.url.path, params), 200, json.loads(json.dumps(shown)))
            return shown, {}
        if request.method == "DELETE" and len(parts) == 1:
            return account.delete(name, parts[0], key=key), {}
        if len(parts) == 1:
            return account.retrieve(name, parts[0]), {}
        if len(parts) == 2 and parts[1] in RESOURCES[name].nested:
            items = account.find(name, parts[0])[parts[1]]
            known = {item["id"]: item for item in items}

            def item(id: str, param: str) -> Row:
                if id not in known:
                    raise Refused(400, f"No such item: '{id}'", "resource_missing", param)
                found: Row = known[id]
                return found

            return page(Timeline(reversed(items)), params, item, request.url.path), {}
        wanted = params.get("status")

        def keep(row: Row) -> bool:
            if not account.visible(row):
                return False
            if name != "subscription" or wanted == "all":
                return True
            return bool(row.get("status") == wanted if wanted else row.get("status") != "canceled")

        return (
            page(
                account.listed(name),
                params,
                lambda id, param: account.find(name, id, param),
                f"/v1/{path}",
                account.shown,
                keep,
            ),
            {},
        )

    @staticmethod
    def _events(account: Account, params: Row) -> Row:
        kinds = params.get("types")
        one = params.get("type")
        if kinds and one:
            raise Refused(400, "You may only specify one of these parameters: type, types.")
        if kinds:
            wanted = list(kinds.values()) if isinstance(kinds, Mapping) else list(kinds)
            if len(wanted) > 20:
                raise Refused(400, "Array types[] exceeded maximum 20 allowed elements.", None, "types")
        else:
            wanted = [one] if one else []

        def keep(event: Row) -> bool:
            return (not wanted or any(_matches(event["type"], kind) for kind in wanted)) and account.visible(
                event
            )

        # What Stripe has forgotten is not walked through to find that there is nothing.
        kept = int(account.now()) - RETENTION + 1
        return page(account.all_events(), params, account.event, "/v1/events", keep=keep, least=kept)

    # -- webhooks ----------------------------------------------------------------------------------

    def _webhook_endpoints(self, method: str, parts: list[str], params: Row) -> Row:
        if method == "POST" and not parts:
            if not re.match(r"https?://", str(params.get("url", ""))):
                raise Refused(400, "Not a valid URL", "url_invalid", "url")
            enabled = params.get("enabled_events") or []
            enabled = list(enabled.values()) if isinstance(enabled, Mapping) else list(enabled)
            made = Endpoint(
                self.account.new_id("we"), params["url"], enabled, f"whsec_{self.account.new_id('k')[2:]}"
            )
            self.endpoints[made.id] = made
            return {**made.shown(), "secret": made.secrets[0]}
        if method == "GET" and not parts:
            return {"object": "list", "has_more": False, "data": [e.shown() for e in self.endpoints.values()]}
        found = self.endpoints.get(parts[0]) if parts else None
        if found is None:
            raise Refused(404, f"No such webhook endpoint: '{'/'.join(parts)}'", "resource_missing", "id")
        if method == "DELETE":
            del self.endpoints[found.id]
            return {"id": found.id, "object": "webhook_endpoint", "deleted": True}
        if method == "POST" and "disabled" in params:
            found.disabled = params["disabled"] == "true"
        return found.shown()

    def _queue(self, event: Row) -> None:
        if self.webhooks_off:
            return
        for endpoint in self.endpoints.values():
            if endpoint.wants(event["type"]):
                for _ in range(self.webhook_copies):
                    self._outbox.put_nowait((endpoint, event))

    async def _send_webhooks(self) -> None:
        async with httpx.AsyncClient(timeout=5.0, follow_redirects=False) as client:
            while True:
                waiting = [await self._outbox.get()]
                while not self._outbox.empty():
                    waiting.append(self._outbox.get_nowait())
                if self.webhook_shuffle:
                    self._rng.shuffle(waiting)
                for endpoint, event in waiting:
                    if endpoint.disabled:
                        continue
                    body = json.dumps(event).encode()
                    header = sign(body, endpoint.secrets, int(self.account.now()))
                    headers = {"stripe-signature": header, "content-type": "application/json; charset=utf-8"}
                    with contextlib.suppress(httpx.HTTPError):
                        await client.post(endpoint.url, content=body, headers=headers)

    # -- by hand -----------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def _control(self, request: Request) -> Response:
        what = request.path_params["what"]
        given = json.loads(await request.body() or b"{}") if request.method == "POST" else {}
        actions: dict[str, Callable[[Row], Awaitable[Any]]] = {
            "faults": self._control_faults,
            "clock": self._control_clock,
            "seed": self._control_seed,
            "objects": self._control_objects,
        }
        if what not in actions:
            return JSONResponse({"error": f"there is {', '.join(actions)}"}, 404)
        if what == "faults" and request.method == "DELETE":
            self.faults.clear()
            return JSONResponse({})
        try:
            return JSONResponse(await actions[what](given))
        except (Refused, TypeError, KeyError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)

    async def _control_faults(self, given: Row) -> Any:
        self.faults.plan(**given)
        return {}

    async def _control_clock(self, given: Row) -> Any:
        self.account.skew += float(given.get("advance", 0))
        return {"now": self.account.now()}

    async def _control_seed(self, given: Row) -> Any:
        name, count = given.get("object", "customer"), int(given.get("count", 10))
        if given.get("events"):
            for n in range(count):
                self.account.create(name, {"description": f"{name} {n}"})
        else:
            self.account.seed(name, count, lambda n: {"description": f"{name} {n}"})
        return {"made": count}

    async def _control_objects(self, given: Row) -> Any:
        return {
            name: [self.account.shown(row) for row in self.account.rows(name)[:50]]
            for name in RESOURCES
            if self.account.rows(name)
        }


class _Truncated(Response):
    """Says that it is longer than it is."""

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(body, 200, dict(headers), "application/json")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(
            {"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True}
        )
        raise _HangUp


class _Reset(Response):
    """No answer at all."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise _HangUp


class _HangUp(Exception):  # noqa: N818
    """Ends a connection in the middle."""


def _matches(kind: str, wanted: str) -> bool:
    return kind.startswith(wanted[:-1]) if wanted.endswith("*") else kind == wanted


def nested(pairs: list[tuple[str, str]]) -> Row:
    """Form fields such as ``metadata[a]`` and ``types[]`` as nested mappings and lists."""
    found: Row = {}
    for name, value in pairs:
        first, *rest = re.findall(r"[^\[\]]+|\[\]", name)
        target: Any = found
        keys = [first, *rest]
        for key, following in zip(keys, [*keys[1:], None], strict=True):
            if following is None:
                if key == "[]":
                    target.append(value)
                else:
                    target[key] = value
            elif following == "[]":
                target = target.setdefault(key, [])
            else:
                target = target.setdefault(key, {})
    return found
