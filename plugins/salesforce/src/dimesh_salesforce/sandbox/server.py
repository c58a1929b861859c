"""The sandbox as a whole: an org, its REST API over HTTP and its Pub/Sub API over gRPC."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dimesh_salesforce.sandbox.faults import Fault, Faults
from dimesh_salesforce.sandbox.org import ORGANIZATION, USER, Org, Refused, Row
from dimesh_salesforce.sandbox.page import PAGE
from dimesh_salesforce.sandbox.rest import USERNAME, Rest, Tokens, form_of
from dimesh_salesforce.sandbox.streaming import PubSub


class SalesforceSandbox:
    """A server on this machine that behaves as Salesforce does.

    Args:
        port: of HTTP; 0 takes a free one.
        grpc_port: of the Pub/Sub API.
        seed: of what looks random.
        now: the clock.
        keep_alive: seconds between the signs of life of a quiet stream.
        certificate: files of a certificate and its key: HTTP with TLS, for clients that speak nothing else.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        grpc_port: int = 0,
        seed: int = 0,
        now: Callable[[], float] = time.time,
        keep_alive: float = 270.0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.port = port
        self.grpc_port = grpc_port
        self.org = Org(seed=seed, now=now)
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        """Method and path of those that were answered, newest last."""
        self.limit = 100_000
        """API requests of a day."""
        self.used = 0
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        self.private_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        """Of the connected app, for JWT bearer."""
        self.tokens = Tokens(key.public_key())
        self.rest = Rest(self.org)
        self.pubsub = PubSub(self.org, lambda token: token in self.tokens.good, keep_alive)
        self._certificate = certificate
        self._http: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Of HTTP: My Domain and login in one."""
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def grpc_target(self) -> str:
        """Of the Pub/Sub API, without TLS."""
        return f"127.0.0.1:{self.grpc_port}"

    def app(self) -> Starlette:
        """The HTTP side as an ASGI application."""
        methods = ["GET", "POST", "PATCH", "DELETE"]
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/_sandbox/{what}", self._control, methods=methods),
                Route("/services/oauth2/{what}", self._oauth, methods=["GET", "POST"]),
                Route("/{path:path}", self._api, methods=methods),
            ]
        )

    async def start(self) -> None:
        """Listen."""
        self.grpc_port = await self.pubsub.start(self.grpc_port)
        files: Any = (
            {"ssl_certfile": self._certificate[0], "ssl_keyfile": self._certificate[1]}
            if self._certificate
            else {}
        )
        config = uvicorn.Config(
            self.app(),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_keep_alive=75,
            **files,
        )
        self._http = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._http._serve(), name="salesforce-sandbox")
        while not self._http.started:
            if self._serving.done():
                await self.pubsub.stop()
                raise OSError(f"cannot listen on port {self.port}")
            await asyncio.sleep(0.005)
        self.port = self._http.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        await self.pubsub.stop()
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            self._http.force_exit = True
            for connection in tuple(self._http.server_state.connections):
                # A client that does not end TLS as it should would be waited for.
                connection.transport.abort()
            await asyncio.gather(self._serving, return_exceptions=True)
            self._http = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def expire_tokens(self) -> None:
        """Every token that was given out; streams that use one end."""
        self.tokens.expire()
        self.pubsub.wake()

    # -- HTTP --------------------------------------------------------------------------------------

    async def _oauth(self, request: Request) -> Response:
        what = request.path_params["what"]
        if what == "token" and request.method == "POST":
            fault = self.faults.next(request.url.path)
            if fault is not None:
                return await self._fail(fault, request)
            status, body = self.tokens.give(form_of(await request.body()), self.url, self.org.now())
            return JSONResponse(body, status)
        if what == "userinfo":
            if not self._allowed(request):
                return Response("Bad_OAuth_Token", 403)
            found = {"organization_id": ORGANIZATION, "user_id": USER, "preferred_username": USERNAME}
            return JSONResponse({"sub": f"{self.url}/id/{ORGANIZATION}/{USER}", **found})
        return JSONResponse({"error": "not_found"}, 404)

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return given.partition(" ")[2] in self.tokens.good

    async def _api(self, request: Request) -> Response:
        path = request.url.path
        self.requests.append((request.method, path))
        fault = self.faults.next(path)
        if fault is not None:
            if fault.kind not in ("malformed", "truncated", "short", "slow"):
                return await self._fail(fault, request)
            if fault.kind == "slow":
                await asyncio.sleep(fault.seconds)
                fault = None
        match = re.fullmatch(r"/services/data/(v\d+\.0)/(.+)", path)
        try:
            if not self._allowed(request):
                raise Refused(401, "INVALID_SESSION_ID", "Session expired or invalid")
            if self.used >= self.limit:
                raise Refused(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
            self.used += 1
            if match is None:
                raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
            answer = await self.rest.answer(request, match[2].strip("/").split("/"), match[1])
        except Refused as error:
            answer = JSONResponse([{"message": str(error), "errorCode": error.code}], error.status)
        except (ValueError, TypeError) as error:
            answer = JSONResponse([{"message": str(error), "errorCode": "JSON_PARSER_ERROR"}], 400)
        answer.headers["sforce-limit-info"] = f"api-usage={self.used}/{self.limit}"
        if fault is not None and fault.kind == "short":
            return _shortened(answer)
        if fault is not None:
            cut = bytes(answer.body)[: max(len(answer.body) // 2, 1)]
            if fault.kind == "malformed":
                return Response(cut + b"\x00<html>", 200, media_type="application/json")
            return _Cut(cut, len(answer.body))
        return answer

    async def _fail(self, fault: Fault, request: Request) -> Response:
        if fault.kind == "hang":
            while not await request.is_disconnected():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
            return Response(status_code=499)
        if fault.kind == "reset":
            return _Cut(b"", 1)
        status, body = fault.answer()
        return JSONResponse(body, status)

    # -- by hand -----------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def _control(self, request: Request) -> Response:
        given = json.loads(await request.body() or b"{}") if request.method != "GET" else {}
        try:
            return JSONResponse(self._do(request.path_params["what"], request.method, given))
        except (Refused, TypeError, KeyError, ValueError, AssertionError) as error:
            return JSONResponse({"error": str(error)}, 400)

    def _do(self, what: str, method: str, given: Mapping[str, Any]) -> Row:
        org = self.org
        match what, method:
            case "objects", "GET":
                return {
                    name: [row for row, _ in zip(t.rows(), range(50), strict=False)]
                    for name, t in org.tables.items()
                    if len(t)
                }
            case "records", "POST":
                return {"id": org.create(given["object"], given.get("fields", {}))}
            case "records", "PATCH":
                org.update(given["object"], given["id"], given["fields"])
            case "records", "DELETE":
                org.delete(given["object"], given["id"])
            case "gap", "POST":
                org.gap(given["object"], given["ids"], given.get("kind", "GAP_UPDATE"))
            case "overflow", "POST":
                org.overflow(given["object"])
            case "seed", "POST":
                org.seed(given["object"], int(given["count"]))
            case "clock", "POST":
                org.skew += float(given["advance"])
            case "tokens", "DELETE":
                self.expire_tokens()
            case "migrate", "POST":
                org.migrate()
                self.pubsub.kick()
            case "faults", "POST":
                self.faults.plan(**given)
            case "faults", "DELETE":
                self.faults.clear()
            case "streams", "POST":
                for name, value in given.items():
                    if not hasattr(self.pubsub.faults, name):
                        raise ValueError(
                            f"no switch {name!r}; there are: {', '.join(vars(self.pubsub.faults))}"
                        )
                    setattr(self.pubsub.faults, name, value)
                self.pubsub.kick()
            case _:
                raise ValueError(
                    "there are: objects, records, gap, overflow, seed, clock, tokens, migrate, faults, streams"
                )
        return {}


def _shortened(answer: Response) -> Response:
    """Half of the rows, and all that is said about them."""
    headers = {name: value for name, value in answer.headers.items() if name.startswith("sforce-")}
    if answer.media_type == "text/csv":
        lines = bytes(answer.body).splitlines(keepends=True)
        return Response(b"".join(lines[: (len(lines) + 1) // 2]), 200, headers, "text/csv")
    found = json.loads(bytes(answer.body))
    if isinstance(found, dict) and "records" in found:
        found["records"] = found["records"][: len(found["records"]) // 2]
    return JSONResponse(found, answer.status_code, headers)


class _Cut(Response):
    """Says that it is longer than it is."""

    def __init__(self, body: bytes, length: int) -> None:
        super().__init__(body, 200, {"content-length": str(length + 1)}, "application/json")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.body:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
        raise _HangUp


class _HangUp(Exception):  # noqa: N818
    """Ends a connection in the middle."""
