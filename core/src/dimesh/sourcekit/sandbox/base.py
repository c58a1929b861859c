"""The base of a sandbox: one server with the API, the control endpoint and the page."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from email.utils import formatdate
from types import TracebackType
from typing import Annotated, Any, ClassVar, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dimesh.sourcekit.sandbox.answers import Reset, Truncated, hang, malformed, proxy_page
from dimesh.sourcekit.sandbox.control import Control, Controls, LoopbackOnly, NoBody, answer_control
from dimesh.sourcekit.sandbox.faults import Fault, FaultPlan
from dimesh.sourcekit.sandbox.page import ASSETS, Page, asset_answer, page_answer
from dimesh.sourcekit.sandbox.server import HOST, LoopbackServer
from dimesh.sourcekit.sandbox.state import MAX_SKEW, Row, SimulatedState

SHOWN: Final = 50
"""The largest number of rows of each object that the page shows."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Advance(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/clock``."""

    advance: Annotated[float, Meta(ge=-MAX_SKEW, le=MAX_SKEW)] = 0.0


class NewRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/records``."""

    object: Name
    fields: Row = {}


class ChangedRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``PATCH /_sandbox/records``."""

    object: Name
    id: Name
    fields: Row


class RecordKey(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``DELETE /_sandbox/records``."""

    object: Name
    id: Name


F = TypeVar("F", bound=Fault)


class Sandbox(ABC, Generic[F]):
    """A server on loopback that behaves as a system's API does, in the running event loop::

        async with AcmeSandbox() as acme:
            ...  # a connector with url=acme.url

    Args:
        state: what the system holds.
        faults: the faults that can be planned.
        port: the port to listen at; 0 takes a free one.
        certificate: the files of a certificate and its key: HTTP with TLS, for clients that speak nothing else.
    """

    title: ClassVar[str]
    """The name of the sandbox, as users read it."""
    idle_timeout: ClassVar[int] = 5
    """Seconds after which an idle connection is closed."""

    def __init__(
        self,
        state: SimulatedState,
        faults: FaultPlan[F],
        *,
        port: int = 0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.port = port
        self.faults = faults
        self.requests: list[tuple[str, str]] = []
        """The method and the path of each request to the API, oldest first."""
        self._state = state
        self._secure = certificate is not None
        self._server = LoopbackServer(idle_timeout=self.idle_timeout, certificate=certificate)

    @property
    def url(self) -> str:
        """The address to give to a client in place of the system's own."""
        return f"{'https' if self._secure else 'http'}://{HOST}:{self.port}"

    @property
    @abstractmethod
    def announcement(self) -> str:
        """The line that the command prints once the sandbox listens: :attr:`title`, a colon, :attr:`url`, and what a
        client needs besides.
        """

    # -- life cycle --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the port is in use.
        """
        self.port = await self._server.start(self.app(), self.port)

    async def stop(self) -> None:
        """Stop listening; open connections are broken."""
        await self._server.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def app(self) -> Starlette:
        """Return the sandbox as an ASGI application."""
        commands = ["GET", "POST", "PATCH", "DELETE"]
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                *(Route(f"/_sandbox/{name}", self._asset, methods=["GET"]) for name in ASSETS),
                Route("/_sandbox/{command}", self._control, methods=commands),
                *self.routes(),
            ],
            middleware=[Middleware(_Dated, now=self._state.now), Middleware(LoopbackOnly)],
            exception_handlers={HTTPException: _http_error},
        )

    # -- what a subclass gives ---------------------------------------------------------------------

    @abstractmethod
    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""

    @abstractmethod
    def refuse(self, fault: F) -> Response | None:
        """Return the error answer of a planned fault; None if the fault changes an ordinary answer instead."""

    def distort(self, fault: F, answer: Response) -> Response:
        """Return what a planned fault of the system's own makes of an ordinary answer."""
        return answer

    @abstractmethod
    def page(self) -> Page:
        """Return the description of the page."""

    @abstractmethod
    def names(self) -> Collection[str]:
        """Return the names of the system's objects, such as ``customer``."""

    @abstractmethod
    def objects(self, most: int) -> Mapping[str, Sequence[Row]]:
        """Return at most that many rows of each object, for the page."""

    @abstractmethod
    def create_record(self, object: str, fields: Row) -> str:
        """Create an object of a known name, and return its id."""

    @abstractmethod
    def update_record(self, object: str, id: str, fields: Row) -> None:
        """Change an object."""

    @abstractmethod
    def delete_record(self, object: str, id: str) -> None:
        """Delete an object."""

    def controls(self) -> Controls:
        """Return the commands of ``/_sandbox/…``; a subclass adds its own."""
        faults = self.faults
        return {
            ("GET", "page"): Control(lambda _: msgspec.to_builtins(self.page()), NoBody),
            ("GET", "objects"): Control(lambda _: self.objects(SHOWN), NoBody),
            ("POST", "records"): Control(
                lambda given: {"id": self.create_record(self.known(given.object), given.fields)}, NewRecord
            ),
            ("PATCH", "records"): Control(
                lambda given: self.update_record(self.known(given.object), given.id, given.fields),
                ChangedRecord,
            ),
            ("DELETE", "records"): Control(
                lambda given: self.delete_record(self.known(given.object), given.id), RecordKey
            ),
            ("POST", "clock"): Control(self._advance, Advance),
            ("POST", "faults"): Control(faults.planned.append, faults.fault),
            ("DELETE", "faults"): Control(lambda _: faults.clear(), NoBody),
        }

    def known(self, object: str) -> str:
        """Return the name of an object.

        Raises:
            ValueError: there is no such object.
        """
        if object not in self.names():
            raise ValueError(f"no object {object!r:.60}; there are: {', '.join(self.names())}")
        return object

    # -- requests ----------------------------------------------------------------------------------

    async def answer(self, request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
        """Return the answer of the API to a request, or what a planned fault makes of it."""
        fault = self.faults.take(request.url.path)
        if fault is None:
            return await respond(request)
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
                return await respond(request)
            case "hang":
                return await hang(request)
            case "reset":
                return Reset()
            case "proxy":
                return proxy_page(fault.status)
        refusal = self.refuse(fault)
        if refusal is not None:
            return refusal
        answer = await respond(request)
        match fault.kind:
            case "truncated":
                return Truncated(answer)
            case "malformed":
                return malformed(answer)
        return self.distort(fault, answer)

    async def _page(self, request: Request) -> Response:
        return page_answer(self.page())

    async def _asset(self, request: Request) -> Response:
        return asset_answer(request.url.path.rpartition("/")[2])

    async def _control(self, request: Request) -> Response:
        return await answer_control(request, self.controls())

    def _advance(self, given: Advance) -> Row:
        self._state.advance(given.advance)
        return {"now": self._state.now()}


class _Dated:
    """Dates every answer by the clock of the simulated system (RFC 9110, 6.6.1)."""

    def __init__(self, app: ASGIApp, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(self._now(), usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
            await send(message)

        await self._app(scope, receive, dated)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
