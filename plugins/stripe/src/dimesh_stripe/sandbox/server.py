"""The sandbox of Stripe: its API over HTTP, its webhooks, and its page."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dimesh.sourcekit.sandbox import JSON, Action, Control, Controls, FaultPlan, Page, Row, RowCount, Sandbox
from dimesh_stripe.sandbox import facts
from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.sandbox.faults import StripeFault
from dimesh_stripe.sandbox.objects import answer_events, answer_objects, nested, object_of
from dimesh_stripe.sandbox.timeline import StripeRefused
from dimesh_stripe.sandbox.v2 import V2Objects
from dimesh_stripe.sandbox.webhooks import Endpoint, Webhooks

KEY: Final = "sk_test_sandbox"
MAX_OBJECTS: Final = 200_000
"""The largest number of objects that can be seeded: they are kept in memory."""


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/seed``."""

    object: str = "customer"
    count: RowCount = 10
    events: bool = False
    """Whether the objects are created now, with events; otherwise in the months before, without events."""


class Silence(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/silence``."""

    on: bool
    """Whether changes make no events from now on."""


class NewAccount(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/accounts``."""

    id: Annotated[str, msgspec.Meta(pattern=r"^acct_\w+$")]


class StripeSandbox(Sandbox[StripeFault]):
    """The server, on loopback, in the running event loop.

    Args:
        port: the port; 0 takes a free one.
        keys: the API keys that are accepted, each with the objects that it may read (None: all).
        seed: makes ids and the order of shuffled webhooks repeatable.
    """

    title = "Stripe sandbox"

    def __init__(
        self, port: int = 0, *, keys: Mapping[str, frozenset[str] | None] | None = None, seed: int = 0
    ) -> None:
        self.account = Account(seed=seed)
        super().__init__(self.account, FaultPlan(StripeFault), port=port)
        self.keys: dict[str, frozenset[str] | None] = dict(keys or {KEY: None})
        self.connected: dict[str, Account] = {}
        """The accounts that are reached with the header ``Stripe-Account``, by id."""
        self.webhooks = Webhooks(self.account, seed)
        self.v2 = V2Objects(self.account)
        """The objects of the v2 API."""
        self._delivery: asyncio.Task[None] | None = None
        self.account.listeners.append(self.webhooks.queue)
        self.v2.listeners.append(self.webhooks.queue)

    @property
    def announcement(self) -> str:
        """The line that the command prints once the sandbox listens."""
        return f"{self.title}: {self.url} (open it in a browser to change objects), API key {KEY}"

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """The webhook endpoints, by id."""
        return self.webhooks.endpoints

    def connect(self, id: str) -> Account:
        """Create an account that is connected to this platform; its events carry its id (reference, *Connect*)."""
        made = self.connected[id] = Account(id, seed=zlib.crc32(id.encode()))

        def queue(event: Row) -> None:
            event["account"] = id
            self.webhooks.queue(event)

        made.listeners.append(queue)
        return made

    async def start(self) -> None:
        """Listen, and begin to deliver webhooks.

        Raises:
            ConfigurationError: the port is in use.
        """
        await super().start()
        self._delivery = asyncio.create_task(self.webhooks.deliver(), name="stripe-webhooks")

    async def stop(self) -> None:
        """Stop listening and delivering."""
        if self._delivery is not None:
            self._delivery.cancel()
            await asyncio.gather(self._delivery, return_exceptions=True)
            self._delivery = None
        await super().stop()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the API."""
        return [
            Route("/v1/{path:path}", self._api, methods=["GET", "POST", "DELETE"]),
            Route("/v2/{path:path}", self._api, methods=["GET"]),
        ]

    # -- the API -----------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append((request.method, request.url.path + query))
        return await self.answer(request, self._respond)

    def refuse(self, fault: StripeFault) -> Response | None:
        """Return the error answer of a planned fault; None if the fault changes an ordinary answer instead."""
        error = fault.error()
        if error is None:
            return None
        status, body, headers = error
        return JSONResponse({"error": body}, status, {**self._headers(), **headers})

    def distort(self, fault: StripeFault, answer: Response) -> Response:
        """Return an answer without its rows, for ``empty_page``."""
        body = json.loads(bytes(answer.body))
        if "data" not in body:
            return answer
        return Response(
            json.dumps({**body, "data": [], "has_more": True}), media_type=JSON, headers=self._headers()
        )

    def _headers(self) -> dict[str, str]:
        return {"request-id": self.account.new_id("req"), "stripe-version": self.account.api_version}

    async def _respond(self, request: Request) -> Response:
        headers = self._headers()
        try:
            body, more = await self._answer(request)
        except StripeRefused as error:
            return JSONResponse({"error": error.body}, error.status, headers)
        # Escaped to ASCII: a text with half of a surrogate pair reaches the client, too.
        return Response(json.dumps(body), media_type=JSON, headers={**headers, **more})

    async def _answer(self, request: Request) -> tuple[Row, dict[str, str]]:
        allowed = self._authenticated(request)
        account = self._acting(request.headers.get("stripe-account"))
        raw = await request.body()
        params = nested([*parse_qsl(request.url.query, True), *parse_qsl(raw.decode(), True)])
        path = request.url.path
        parts = [part for part in path.split("/")[2:] if part]
        if path.startswith("/v2/"):
            return self.v2.answer("/".join(parts), params), {}
        if parts[:1] == ["webhook_endpoints"]:
            self._permit(allowed, "webhook_endpoint", "webhook")
            return self.webhooks.answer(request.method, parts[1:], params), {}
        if parts[:1] == ["events"]:
            return account.event(parts[1]) if len(parts) == 2 else answer_events(account, params), {}
        if parts == ["account"]:
            return {"id": account.id, "object": "account", "charges_enabled": True}, {}
        # Quoted: an id that a user chose may contain a slash.
        below = request.scope["raw_path"].decode("ascii").partition("?")[0].removeprefix("/v1/").strip("/")
        name = object_of(below)
        if name is None:
            raise StripeRefused(404, f"Unrecognized request URL ({request.method}: {path}).")
        self._permit(allowed, name, name)
        key = request.headers.get("idempotency-key")
        return answer_objects(account, request.method, below, params, key)

    def _authenticated(self, request: Request) -> frozenset[str] | None:
        """Return the objects that the request's key may read; None: all of them.

        The key comes as the user name of HTTP Basic, or as a Bearer token (reference, *Authentication*).
        """
        given = request.headers.get("authorization", "")
        if given.startswith("Basic "):
            try:
                given = "Bearer " + base64.b64decode(given[6:]).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        key = given.removeprefix("Bearer ")
        if not key:
            raise StripeRefused(401, "You did not provide an API key.")
        if key not in self.keys:
            raise StripeRefused(401, f"Invalid API Key provided: {key[:8]}****{key[-4:]}")  # recorded
        return self.keys[key]

    def _acting(self, connected: str | None) -> Account:
        if connected is None or connected == self.account.id:
            return self.account
        if connected not in self.connected:
            message = f"The provided key '{KEY[:7]}****' does not have access to account '{connected}'"
            raise StripeRefused(403, message, "account_invalid")
        return self.connected[connected]

    def _permit(self, allowed: frozenset[str] | None, name: str, permission: str) -> None:
        if allowed is not None and name not in allowed:
            raise StripeRefused(  # recorded
                403,
                "The provided key 'rk_test_****' does not have the required permissions for this endpoint on account "
                f"'{self.account.id}'. Having the 'rak_{permission}_read' permission would allow this request to continue.",
            )

    # -- the control endpoint ----------------------------------------------------------------------

    def controls(self) -> Controls:
        """Return the commands of ``/_sandbox/…``."""
        return {
            **super().controls(),
            ("POST", "seed"): Control(self._seed, Seed),
            ("POST", "accounts"): Control(lambda given: {"id": self.connect(given.id).id}, NewAccount),
            ("POST", "silence"): Control(self._silence, Silence),
        }

    def _silence(self, given: Silence) -> None:
        self.account.silent = given.on

    def _seed(self, given: Seed) -> Row:
        self.known(given.object)
        if len(self.account.listed(given.object)) + given.count > MAX_OBJECTS:
            raise ValueError(f"a sandbox holds at most {MAX_OBJECTS:,} objects of a kind that are seeded")
        if given.events:
            for n in range(given.count):
                self.account.create(given.object, {"description": f"{given.object} {n}"})
        else:
            self.account.seed(given.object, given.count, lambda n: {"description": f"{given.object} {n}"})
        return {"made": given.count}

    def names(self) -> Collection[str]:
        """Return the names of the v1 API's objects."""
        return facts.OBJECTS

    def objects(self, most: int) -> dict[str, list[Row]]:
        """Return the newest objects of each kind that there are any of."""
        account = self.account
        return {
            name: [account.rendered(row) for row in account.newest(name, most)]
            for name in facts.OBJECTS
            if len(account.listed(name))
        }

    def create_record(self, object: str, fields: Row) -> str:
        """Create an object, and return its id."""
        return str(self.account.create(object, fields)["id"])

    def update_record(self, object: str, id: str, fields: Row) -> None:
        """Change an object."""
        self.account.update(object, id, fields)

    def delete_record(self, object: str, id: str) -> None:
        """Delete an object."""
        self.account.delete(object, id)

    def page(self) -> Page:
        """Return the description of the page."""
        customer = {"object": "{object}", "id": "{id}"}
        rename: dict[str, Any] = {**customer, "fields": {"name": "{value}"}}
        return Page(
            title=self.title,
            note="Each change is recorded as an event in /v1/events, and sent to the webhook endpoints.",
            id="id",
            labels=("name", "description"),
            actions=(
                Action(
                    label="Create a customer",
                    command="records",
                    body={"object": "customer", "fields": {"name": "Customer {random}"}},
                ),
                Action(label="Move the clock one day ahead", command="clock", body={"advance": 86_400}),
                Action(
                    label="Rate-limit the next five requests",
                    command="faults",
                    body={"kind": "rate_limit", "times": 5},
                ),
            ),
            row_actions={
                "customer": (
                    Action(label="Rename", method="PATCH", command="records", body=rename, prompt="New name"),
                    Action(label="Delete", method="DELETE", command="records", body=customer),
                )
            },
        )
