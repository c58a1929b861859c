"""The sandbox of Salesforce: an org, its REST API over HTTP and its Pub/Sub API over gRPC."""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dimesh.sourcekit.sandbox import (
    Action,
    Control,
    Controls,
    FaultPlan,
    NoBody,
    Page,
    Row,
    RowCount,
    Sandbox,
    checked,
)
from dimesh_salesforce.sandbox.faults import SalesforceFault
from dimesh_salesforce.sandbox.org import ORGANIZATION, Org, SalesforceRefused
from dimesh_salesforce.sandbox.rest import Rest
from dimesh_salesforce.sandbox.streaming import PubSub
from dimesh_salesforce.sandbox.table import USER
from dimesh_salesforce.sandbox.tokens import CLIENT_ID, CLIENT_SECRET, USERNAME, Tokens, form_of

_METHODS = ["GET", "POST", "PATCH", "DELETE"]


@functools.cache
def _connected_app_key() -> rsa.RSAPrivateKey:
    """Return the key of the connected app, one for all sandboxes of a process: making a key takes about 50 ms."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/seed``."""

    object: str
    count: RowCount


class Gap(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/gap``."""

    object: str
    ids: Annotated[list[str], Meta(max_length=10_000)]
    kind: str = "GAP_UPDATE"


class Overflow(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/overflow``."""

    object: str


class Merge(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/merge``."""

    object: str
    winner: str
    losers: Annotated[list[str], Meta(max_length=2)]


class Derived(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/derive``."""

    object: str
    id: str
    fields: Row


class Purge(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/purge``."""

    object: str


class Lag(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/lag``."""

    seconds: Annotated[float, Meta(ge=0, le=3_600)]


class SalesforceSandbox(Sandbox[SalesforceFault]):
    """The server, on loopback, in the running event loop.

    Args:
        port: the port of HTTP; 0 takes a free one.
        grpc_port: the port of the Pub/Sub API; 0 takes a free one.
        seed: makes everything that looks random repeatable.
        now: the clock.
        keep_alive: seconds between the empty responses of a stream without events (documentation: at most 270).
        certificate: the files of a certificate and its key: HTTP with TLS, for clients that speak nothing else.
    """

    title = "Salesforce sandbox"
    idle_timeout = 75

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
        self.org = Org(seed=seed, now=now)
        super().__init__(self.org, FaultPlan(SalesforceFault), port=port, certificate=certificate)
        self.grpc_port = grpc_port
        self.my_domain: str | None = None
        """The address of the org that answers name (``instance_url``); None: :attr:`url`. Set it behind a proxy."""
        self.limit = 100_000
        """The number of API requests that the org may answer in 24 hours."""
        self.used = 0
        """The number of API requests so far."""
        key = _connected_app_key()
        self.private_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        """The private key of the connected app, for JWT bearer."""
        self.tokens = Tokens(key.public_key())
        self.rest = Rest(self.org)
        self.pubsub = PubSub(self.org, lambda token: token in self.tokens.good, keep_alive)

    @property
    def announcement(self) -> str:
        """The line that the command prints once the sandbox listens."""
        return (
            f"{self.title}: {self.url} (open it in a browser to change records), Pub/Sub API {self.grpc_target} without "
            f"TLS, client_id {CLIENT_ID}, client_secret {CLIENT_SECRET}"
        )

    @property
    def grpc_target(self) -> str:
        """The address of the Pub/Sub API, without TLS."""
        return f"127.0.0.1:{self.grpc_port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: one of the ports is in use.
        """
        self.grpc_port = await self.pubsub.start(self.grpc_port)
        try:
            await super().start()
        except BaseException:
            await self.pubsub.stop()
            raise

    async def stop(self) -> None:
        """Stop listening; open connections and streams are broken."""
        await self.pubsub.stop()
        await super().stop()

    def expire_tokens(self) -> None:
        """Refuse every token that was issued so far; streams that use one end."""
        self.tokens.expire()
        self.pubsub.wake()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the REST API."""
        return [
            Route("/services/oauth2/token", self._token, methods=["POST"]),
            Route("/services/oauth2/userinfo", self._userinfo, methods=["GET", "POST"]),
            Route("/services/oauth2/{other:path}", self._no_such_endpoint, methods=["GET", "POST"]),
            Route("/{path:path}", self._api, methods=_METHODS),
        ]

    # -- OAuth -------------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        return await self.answer(request, self._issue)

    async def _issue(self, request: Request) -> Response:
        status, body = self.tokens.issue(
            form_of(await request.body()), self.my_domain or self.url, self.org.now()
        )
        return JSONResponse(body, status)

    async def _userinfo(self, request: Request) -> Response:
        if not self._authorized(request):
            return Response("Bad_OAuth_Token", 403)
        found = {"organization_id": ORGANIZATION, "user_id": USER, "preferred_username": USERNAME}
        return JSONResponse({"sub": f"{self.my_domain or self.url}/id/{ORGANIZATION}/{USER}", **found})

    async def _no_such_endpoint(self, request: Request) -> Response:
        return JSONResponse({"error": "not_found"}, 404)

    def _authorized(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return given.partition(" ")[2] in self.tokens.good

    # -- REST --------------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        self.requests.append((request.method, request.url.path))
        return await self.answer(request, self._respond)

    def refuse(self, fault: SalesforceFault) -> Response | None:
        """Return the error answer of a planned fault; None if the fault changes an ordinary answer instead."""
        error = fault.error()
        if error is None:
            return None
        status, body = error
        return JSONResponse(body, status)

    def distort(self, fault: SalesforceFault, answer: Response) -> Response:
        """Return an answer without half of its rows, for ``short``."""
        headers = {name: value for name, value in answer.headers.items() if name.startswith("sforce-")}
        if answer.media_type == "text/csv":
            lines = bytes(answer.body).splitlines(keepends=True)
            return Response(b"".join(lines[: (len(lines) + 1) // 2]), 200, headers, "text/csv")
        found = json.loads(bytes(answer.body))
        if isinstance(found, dict) and "records" in found:
            found["records"] = found["records"][: len(found["records"]) // 2]
        return JSONResponse(found, answer.status_code, headers)

    async def _respond(self, request: Request) -> Response:
        match = re.fullmatch(r"/services/data/(v\d+\.0)/(.+)", request.url.path)
        try:
            if not self._authorized(request):
                raise SalesforceRefused(401, "INVALID_SESSION_ID", "Session expired or invalid")
            if self.used >= self.limit:
                raise SalesforceRefused(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
            self.used += 1
            if match is None:
                raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
            answer = await self.rest.answer(request, match[2].strip("/").split("/"), match[1])
        except SalesforceRefused as error:
            answer = JSONResponse([{"message": str(error), "errorCode": error.code}], error.status)
        except (ValueError, TypeError) as error:
            answer = JSONResponse([{"message": str(error), "errorCode": "JSON_PARSER_ERROR"}], 400)
        answer.headers["sforce-limit-info"] = f"api-usage={self.used}/{self.limit}"  # documentation
        return answer

    # -- the control endpoint ----------------------------------------------------------------------

    def controls(self) -> Controls:
        """Return the commands of ``/_sandbox/…``."""
        org = self.org
        return {
            **super().controls(),
            ("POST", "seed"): Control(lambda given: org.seed(self.known(given.object), given.count), Seed),
            ("POST", "gap"): Control(
                lambda given: org.gap(self.known(given.object), given.ids, given.kind), Gap
            ),
            ("POST", "overflow"): Control(lambda given: org.overflow(self.known(given.object)), Overflow),
            ("POST", "merge"): Control(
                lambda given: org.merge(self.known(given.object), given.winner, given.losers), Merge
            ),
            ("POST", "derive"): Control(
                lambda given: org.derive(self.known(given.object), given.id, given.fields), Derived
            ),
            ("POST", "purge"): Control(lambda given: org.purge_deletes(self.known(given.object)), Purge),
            ("POST", "lag"): Control(lambda given: setattr(org, "lag", given.seconds), Lag),
            ("DELETE", "tokens"): Control(lambda _: self.expire_tokens(), NoBody),
            ("POST", "migrate"): Control(lambda _: self._migrate(), NoBody),
            ("POST", "streams"): Control(self._switch_streams, dict[str, Any]),
        }

    def _migrate(self) -> None:
        self.org.migrate()
        self.pubsub.kick()

    def _switch_streams(self, given: Row) -> None:
        """Change the switches that are given, and leave the others."""
        switches = self.pubsub.faults
        changed = checked({**msgspec.structs.asdict(switches), **given}, type(switches))
        for name in given:
            setattr(switches, name, getattr(changed, name))
        self.pubsub.kick()

    def names(self) -> Collection[str]:
        """Return the names of the org's objects."""
        return self.org.tables

    def objects(self, most: int) -> dict[str, list[Row]]:
        """Return the first records of each object that there are any of."""
        return {
            name: list(itertools.islice(table.rows(), most))
            for name, table in self.org.tables.items()
            if len(table)
        }

    def create_record(self, object: str, fields: Row) -> str:
        """Create a record, and return its id."""
        return self.org.create(object, fields)

    def update_record(self, object: str, id: str, fields: Row) -> None:
        """Change a record."""
        self.org.update(object, id, fields)

    def delete_record(self, object: str, id: str) -> None:
        """Delete a record."""
        self.org.delete(object, id)

    def page(self) -> Page:
        """Return the description of the page."""
        key = {"object": "{object}", "id": "{id}"}
        rename: dict[str, Any] = {**key, "fields": {"Name": "{value}"}}
        return Page(
            title=self.title,
            note="Each change is published as an event by the Pub/Sub API.",
            id="Id",
            labels=("Name", "Subject"),
            actions=(
                Action(
                    label="Create an account",
                    command="records",
                    body={"object": "Account", "fields": {"Name": "Account {random}"}},
                ),
                Action(label="Publish an overflow event", command="overflow", body={"object": "Account"}),
                Action(label="Expire the access tokens", method="DELETE", command="tokens"),
                Action(label="Migrate the org", command="migrate"),
                Action(label="Move the clock one day ahead", command="clock", body={"advance": 86_400}),
            ),
            row_actions={
                "Account": (
                    Action(label="Rename", method="PATCH", command="records", body=rename, prompt="New name"),
                ),
                "*": (
                    Action(label="Delete", method="DELETE", command="records", body=key),
                    Action(
                        label="Publish a gap event",
                        command="gap",
                        body={"object": "{object}", "ids": ["{id}"]},
                    ),
                ),
            },
        )
