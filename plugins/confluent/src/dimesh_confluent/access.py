"""The headers that authenticate a request."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote_plus

from dimesh.clock import Clock
from dimesh.errors import RegistryAccessError, RegistryUnavailableError
from dimesh.secrets import Secret
from dimesh_confluent.options import ConfluentOptions

DEFAULT_LIFE: Final = 300.0
"""The seconds for which a token is used if the OAuth server does not say how long it is valid."""
RENEW_AT: Final = 0.8
"""The part of a token's life after which the next one is fetched."""

Post = Callable[[str, dict[str, str], dict[str, str]], Awaitable[tuple[int, bytes]]]
"""Sends a form to an address with headers, and returns the status and the body of the answer."""


class Access:
    """Authenticates requests.

    Args:
        options: of the registry.
        clock: time.
        post: sends a form.
    """

    def __init__(self, options: ConfluentOptions, clock: Clock, post: Post) -> None:
        self._options = options
        self._clock = clock
        self._post = post
        self._token: Secret | None = None
        self._until = 0.0
        self._fetching = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether other credentials can be fetched after the registry refused some."""
        return bool(self._options.oauth_url)

    async def headers(self) -> dict[str, str]:
        """Return the headers of a request.

        Raises:
            RegistryAccessError: the OAuth server rejected the client.
            RegistryUnavailableError: the OAuth server did not answer.
        """
        options = self._options
        headers: dict[str, str] = {}
        if options.username:
            headers["authorization"] = _basic(options.username, options.password)
        elif options.token:
            headers["authorization"] = f"Bearer {options.token.reveal()}"
        elif options.oauth_url:
            headers["authorization"] = f"Bearer {(await self._current()).reveal()}"
        if options.logical_cluster:
            headers["target-sr-cluster"] = options.logical_cluster
        if options.identity_pool:
            headers["confluent-identity-pool-id"] = options.identity_pool
        return headers

    def forget(self, headers: dict[str, str]) -> None:
        """Fetch other credentials for the next request, because the registry refused these."""
        if self._token is not None and headers.get("authorization") == f"Bearer {self._token.reveal()}":
            self._token = None

    async def _current(self) -> Secret:
        # One request fetches the token for all that wait.
        async with self._fetching:
            if self._token is None or self._clock.monotonic() >= self._until:
                self._token = await self._fetch()
            return self._token

    async def _fetch(self) -> Secret:
        options = self._options
        form = {"grant_type": "client_credentials"}
        if options.oauth_scope:
            form["scope"] = options.oauth_scope
        # RFC 6749, 2.3.1: both parts are form-encoded first.
        login = _basic(
            quote_plus(options.oauth_client_id), Secret(quote_plus(options.oauth_client_secret.reveal()))
        )
        asked = self._clock.monotonic()
        status, body = await self._post(options.oauth_url, {"authorization": login}, form)
        if status in (400, 401, 403):
            raise RegistryAccessError(
                f"the OAuth server refuses the client (HTTP {status}): check oauth_client_id, oauth_client_secret and oauth_scope"
            )
        answer = _object(body) if status == 200 else {}
        token = answer.get("access_token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            raise RegistryUnavailableError(f"the OAuth server gave no token (HTTP {status}): check oauth_url")
        life = answer.get("expires_in")
        valid = isinstance(life, (int, float)) and not isinstance(life, bool) and life > 0
        self._until = asked + RENEW_AT * (float(life) if valid and life is not None else DEFAULT_LIFE)
        return Secret(token)


def _basic(user: str, password: Secret) -> str:
    login = f"{user}:{password.reveal()}".encode("utf-8", "surrogatepass")
    return f"Basic {base64.b64encode(login).decode()}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
