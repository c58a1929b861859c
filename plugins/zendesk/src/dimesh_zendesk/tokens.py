"""Credentials: an API token, an access token that is given, or OAuth tokens that all processes of the machine share.

A refresh ends the access token and the refresh token before it (announcement of OAuth expiry), and an access token is valid for
half an hour by default. So one process refreshes for all, under a lock, and stores the new refresh token before it uses the
access token.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import CredentialsError
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.http import Answer, Retry, SourceClient
from dimesh.sourcekit.tokens import TokenFile, Tokens, digest_of
from dimesh_zendesk.options import TOKENS_END, ZendeskOptions

log = logging.getLogger("dimesh.cdc.zendesk")

LEGACY: Final = (
    f"api_token: Zendesk ends API tokens on {TOKENS_END}, and those that are unused for 30 days before that: create an OAuth "
    "client in the Admin Center, and give client_id and client_secret"
)
_EARLY: Final = 60.0
"""The number of seconds before its end at which an access token is renewed."""


class Credentials:
    """The credentials of one account. Many tasks may need a token at the same time: one renewal serves them all."""

    def __init__(self, options: ZendeskOptions, clock: Clock, http: SourceClient) -> None:
        self._options = options
        self._flow = options.flow()
        self._clock = clock
        self._http = http
        self._origin = Origin.parse(options.address)
        self._lock = asyncio.Lock()
        self._tokens: Tokens | None = None
        self._file: TokenFile | None = None
        self.renewals = 0
        """The number of times that this process asked for new tokens."""
        if self._flow == "api_token":
            log.warning("%s", LEGACY)

    @property
    def legacy(self) -> bool:
        """Whether an API token is used, which Zendesk ends."""
        return self._flow == "api_token"

    async def header(self) -> str:
        """Return the value of the header ``Authorization``.

        Raises:
            CredentialsError: Zendesk refuses the credentials.
            SourceUnavailableError: there is no answer.
        """
        options = self._options
        if self._flow == "api_token":
            assert options.api_token is not None
            login = f"{options.email}/token:{options.api_token.reveal()}"
            return "Basic " + base64.b64encode(login.encode()).decode()
        if self._flow == "given":
            assert options.access_token is not None
            return f"Bearer {options.access_token.reveal()}"
        async with self._lock:
            if self._tokens is None or self._is_old(self._tokens):
                self._tokens = await self._shared(self._tokens.access if self._tokens is not None else None)
            return f"Bearer {self._tokens.access}"

    async def renew(self, refused: str) -> None:
        """Replace the token of the header that Zendesk refused, unless another task has done so.

        Raises:
            CredentialsError: this credential cannot be renewed, or Zendesk refuses to.
        """
        if self._flow == "api_token":
            raise CredentialsError(
                "Zendesk refused the API token: it may have been deactivated, or token access is off. "
                + LEGACY
            )
        if self._flow == "given":
            raise CredentialsError(
                "the access token has expired or was revoked: configure a new one, or client_id with client_secret"
            )
        async with self._lock:
            if self._tokens is not None and refused == f"Bearer {self._tokens.access}":
                self._tokens = None
                self._tokens = await self._shared(refused.removeprefix("Bearer "))

    def _is_old(self, tokens: Tokens) -> bool:
        return 0 < tokens.expires < self._clock.time() + _EARLY

    async def _shared(self, refused: str | None) -> Tokens:
        """Return tokens other than the refused one: those that another process stored, or new ones."""
        options = self._options
        configured = options.refresh_token or options.client_secret
        assert configured is not None
        origin = digest_of(f"{options.client_id}\0{options.scope}\0{configured.reveal()}")
        if self._file is None:
            self._file = (
                TokenFile(options.token_file, self._clock)
                if options.token_file
                else TokenFile.default(f"zendesk|{options.address}|{options.client_id}", self._clock)
            )
        async with self._file.locked():
            stored = self._file.read()
            if stored is not None and stored.origin != origin:
                stored = None  # another credential was configured since
            if stored is not None and stored.access not in ("", refused) and not self._is_old(stored):
                return stored
            made = await self._request(stored, origin)
            self._file.write(made)
            return made

    async def _request(self, stored: Tokens | None, origin: str) -> Tokens:
        options = self._options
        form: dict[str, Any] = {"client_id": options.client_id}
        if options.client_secret is not None:
            form["client_secret"] = options.client_secret.reveal()
        if options.refresh_token is not None:
            current = (
                stored.refresh if stored is not None and stored.refresh else options.refresh_token.reveal()
            )
            form |= {"grant_type": "refresh_token", "refresh_token": current}
        else:
            form |= {"grant_type": "client_credentials", "scope": options.scope}
        self.renewals += 1
        asked = self._clock.time()
        # There is no retry here: a refresh token is for one use, and the runner tries again.
        answer = await self._http.request(
            "POST", self._origin, "/oauth/tokens", Priority.STREAM, "an access token", self._judge, json=form, retry_for=0.0
        )  # fmt: skip
        found: dict[str, Any] = answer.json()
        life = found.get("expires_in")
        return Tokens(
            access=str(found["access_token"]),
            expires=asked + float(life) if isinstance(life, (int, float)) and life > 0 else 0.0,
            refresh=str(found.get("refresh_token") or "") if options.refresh_token is not None else "",
            origin=origin,
        )

    def _judge(self, answer: Answer, about: str) -> Retry | None:
        found = answer.json()
        if answer.status == 200 and isinstance(found, dict) and found.get("access_token"):
            return None
        if answer.status >= 500 or answer.status == 429:
            return Retry(f"HTTP {answer.status}")
        why: Mapping[str, Any] = found if isinstance(found, dict) else {}
        code = str(why.get("error", f"HTTP {answer.status}"))
        text = f"{code}: {why.get('error_description', 'no reason given')}"[:300]
        raise CredentialsError(f"Zendesk refused the OAuth credentials ({self._flow}): {text}{_advice(code)}")


def _advice(code: str) -> str:
    if code == "invalid_grant":
        return (
            ". The refresh token was used by something else, or has expired: authorise the OAuth client again, and give "
            "no refresh token to two programs"
        )
    if code == "invalid_client":
        return ". Check client_id and client_secret of the OAuth client"
    if code == "invalid_scope":
        return ". Allow the OAuth client the scopes of the option scope"
    return ""
