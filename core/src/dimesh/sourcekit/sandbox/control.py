"""The way to change a sandbox while it runs, ``/_sandbox/…``, and what keeps strangers out of it.

A sandbox has no secrets, but any web page that the user has open could send requests to loopback. So a request must name
loopback as its host (a page that rebinds its own name to 127.0.0.1 does not), must not come from a page of another
origin, and a command must be JSON, which a page of another origin cannot send without being asked by the browser first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dimesh.events import strictjson
from dimesh.sourcekit.sandbox.answers import JSON
from dimesh.sourcekit.sandbox.state import Refused

MAX_BODY: Final = 1_000_000
"""The largest number of bytes of a request's body."""
MAX_ROWS: Final = 1_000_000
"""The largest number of rows that one command may create."""
RowCount = Annotated[int, Meta(ge=1, le=MAX_ROWS)]

_LOOPBACK: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)

B = TypeVar("B")


class NoBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a command that takes nothing."""


@dataclass(frozen=True, slots=True)
class Control(Generic[B]):
    """A command of the control endpoint."""

    action: Callable[[B], Any]
    """What the command does; it returns the answer, or None for an empty one."""
    body: type[B]
    """The type that the command's JSON must have."""

    def __call__(self, raw: bytes) -> Any:
        """Carry the command out, and return its answer.

        Raises:
            ValueError: the JSON does not have the type.
        """
        return self.action(checked(raw, self.body))


Controls = Mapping[tuple[str, str], Control[Any]]
"""Commands, each by its method and its name: ``("POST", "faults")``."""


def checked(raw: bytes | Mapping[str, Any], type_: type[B]) -> B:
    """Return a command's body, from JSON or from an object that was decoded already.

    Raises:
        ValueError: the body does not have the type; the message lists the fields if one of them is unknown.
    """
    try:
        if isinstance(raw, bytes):
            if strictjson.maybe_deep(raw):
                strictjson.loads(raw)  # the same limit of depth on every Python
            return msgspec.json.decode(raw or b"{}", type=type_)
        return msgspec.convert(raw, type_)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            raise
        names = ", ".join(field.encode_name for field in msgspec.structs.fields(type_))  # type: ignore[arg-type]
        raise ValueError(f"{error}; there are: {names or 'none'}") from error


async def answer_control(request: Request, controls: Controls) -> Response:
    """Carry out a command of ``/_sandbox/…``."""
    raw = await request.body()
    if (raw or request.method in ("POST", "PUT", "PATCH")) and media_type(request.headers) != JSON:
        return JSONResponse({"error": f"send the command as JSON, with Content-Type: {JSON}"}, 415)
    control = controls.get((request.method, request.path_params["command"]))
    if control is None:
        known = ", ".join(f"{method} {name}" for method, name in controls)
        return JSONResponse({"error": f"no such command; there are: {known}"}, 400)
    try:
        answer = control(raw)
    except (Refused, LookupError, TypeError, ValueError) as error:
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({} if answer is None else answer)


def media_type(headers: Headers) -> str:
    """Return the media type of a request's body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class LoopbackOnly:
    """Middleware that refuses foreign hosts and origins, and bounds the bodies of requests while they are read.

    Args:
        app: the application.
        max_body: the largest number of bytes of a body.
    """

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        problem = foreign(Headers(scope=scope), scope["scheme"])
        if problem is not None:
            await JSONResponse({"error": problem}, 403)(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise HTTPException(413, f"the body is larger than {self._max_body:,} bytes")
            return message

        await self._app(scope, bounded, send)


def foreign(headers: Headers, scheme: str) -> str | None:
    """Return why a request is taken for one of a foreign web page; None if it is not."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
        return "the sandbox answers on loopback only: the Host header must be localhost, 127.0.0.1 or [::1]"
    for origin in headers.getlist("origin"):
        if origin.lower() != f"{scheme}://{hosts[0]}".lower():
            return "the sandbox takes no requests from web pages of other origins"
    return None
