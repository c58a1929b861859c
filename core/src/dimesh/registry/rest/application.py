"""The application: from an HTTP request to an answer, and every error as JSON."""

from __future__ import annotations

import logging
from typing import Any, Final

from dimesh.errors import DimeshError
from dimesh.events.names import show
from dimesh.http.body import Receive, Send
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest.access import Access
from dimesh.registry.rest.answers import MEDIA_TYPE, encode, error_body
from dimesh.registry.rest.cache import AnswerCache
from dimesh.registry.rest.failures import RestError, rest_error
from dimesh.registry.rest.requests import Request, parse_body
from dimesh.registry.rest.routing import Router
from dimesh.registry.rest.schemas import Schemas
from dimesh.registry.rest.settings import Settings
from dimesh.registry.rest.subjects import Subjects

log = logging.getLogger("dimesh.registry")

PREFIX: Final = "/registry"
"""The path of the registry beside other applications."""
MAX_BODY: Final = 8 * 1024 * 1024
"""The greatest number of bytes of a body: the longest schema, with every quote escaped."""


class RegistryApp:
    """Confluent's REST API over a registry, as an ASGI application.

    Args:
        registry: the registry; the application does not close it.
        access: who is accepted; None: everybody.
        max_body: the greatest number of bytes of a body.
    """

    def __init__(
        self, registry: SchemaRegistry, access: Access | None = None, *, max_body: int = MAX_BODY
    ) -> None:
        self._registry = registry
        self._access = access or Access()
        self._max_body = max_body
        subjects = Subjects(registry)
        schemas = Schemas(registry, subjects)
        self._lasting = {schemas.by_id, schemas.text, schemas.by_guid}
        self._harmless = {subjects.look_up, subjects.compatible_with_all, subjects.compatible_with_one}
        self._cache = AnswerCache()
        self._router = Router(
            {
                **subjects.routes,
                **schemas.routes,
                **Settings(registry).routes,
                "GET /": self._empty,
                "POST /": self._empty,
                "GET /v1/metadata/id": self._cluster,
                "GET /v1/metadata/version": self._version,
                "GET /v1/metadata/deployment": self._deployment,
                # There are no associations. The serializers of newer clients ask for them, and go on after an empty list only.
                "GET /associations/subjects/{subject}": self._none,
                "GET /associations/resources/{id}": self._none,
                "GET /associations/resources/{namespace}/{name}": self._none,
            }
        )

    @staticmethod
    def refusal(status: int, text: str) -> tuple[bytes, bytes]:
        """Return the content type and the body with which a server refuses the body of a request, in the form of all errors."""
        return MEDIA_TYPE, error_body(RestError(status, text))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request. See the ASGI specification."""
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            status, body = await self._answer(scope, receive)
        except (RestError, DimeshError) as error:
            refusal = error if isinstance(error, RestError) else rest_error(error)
            if refusal.status >= 500:
                log.error("%s %s failed: %s", scope["method"], show(scope["path"]), error)
            status, body, headers = refusal.status, error_body(refusal), refusal.headers
        except Exception:
            log.exception("%s %s failed", scope["method"], show(scope["path"]))
            status, body = 500, error_body(RestError(500, "the registry failed: its log says why"))
        if scope["method"] in ("PUT", "DELETE") or (
            scope["method"] == "POST" and status not in (200, 401, 404)
        ):
            log.info("%s %s: %d", scope["method"], show(scope["path"]), status)
        fields = [
            (b"content-type", MEDIA_TYPE),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Any, receive: Receive) -> tuple[int, bytes]:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if not self._access.admits(authorization):
            log.warning("a request was refused: its credentials are missing or wrong")
            raise RestError(401, "log in: the credentials are missing or wrong", self._access.challenges)
        method, key = scope["method"], (_path(scope), scope.get("query_string", b""))
        reads = method in ("GET", "HEAD")
        kept = self._cache.get(key) if reads else None
        if kept is not None:
            return 200, kept
        handler, names, context = self._router.find(method, key[0])
        body = None if reads else parse_body(await self._read(scope, receive))
        await self._registry.open()
        writes = self._cache.writes
        try:
            answer = await handler(Request(names, key[1], context, body))
        finally:
            if not reads and handler not in self._harmless:
                self._cache.written()
        if answer is None:
            return 204, b""
        encoded = encode(answer)
        if handler in self._lasting and b"fetchMaxId" not in key[1]:
            self._cache.put(key, encoded, writes)
        return 200, encoded

    async def _read(self, scope: Any, receive: Receive) -> bytes:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RestError(400, "the body is not complete")
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> RestError:
        return RestError(413, f"a body may have {self._max_body:,} bytes", ((b"connection", b"close"),))

    async def _empty(self, request: Request) -> Any:
        return {}

    async def _none(self, request: Request) -> Any:
        return []

    async def _cluster(self, request: Request) -> Any:
        return {"id": "", "scope": {"path": [], "clusters": {"schema-registry-cluster": "dimesh"}}}

    async def _version(self, request: Request) -> Any:
        from dimesh import __version__

        return {"version": __version__, "commitId": ""}

    async def _deployment(self, request: Request) -> Any:
        return {"attributes": []}


def _path(scope: Any) -> bytes:
    """Return the path as it was sent, without the prefix at which the application is mounted."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    raw = raw.partition(b"?")[0]
    return raw.removeprefix(scope.get("root_path", "").encode())
