"""OAuth of the sandbox: short-lived access tokens, and refresh tokens for one use."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple

from dimesh.sourcekit.sandbox import Row
from dimesh_zendesk.sandbox.account import Account, ZendeskRefused


class Grant(NamedTuple):
    """What an access token allows."""

    user: int
    scopes: frozenset[str]
    expires: float


class OAuth:
    """The tokens of an account.

    Args:
        account: gives time and ids.
        client_id: the identifier of the OAuth client.
        client_secret: its secret.
        user: the user that the tokens act for.
    """

    def __init__(self, account: Account, client_id: str, client_secret: str, user: int) -> None:
        self.life = 1_800.0
        """The number of seconds for which an access token is valid (announcement: 30 minutes)."""
        self.allowed = frozenset({"read", "tickets:read", "users:read", "organizations:read"})
        """The scopes that the client may ask for."""
        self.issued = 0
        """The number of access tokens that were given."""
        self._account = account
        self._client = (client_id, client_secret)
        self._user = user
        self._grants: dict[str, Grant] = {}
        self._refresh: dict[str, str] = {}
        """By refresh token, the access token that it belongs to."""

    def answer(self, given: Mapping[str, object]) -> Row:
        """Answer a POST to ``/oauth/tokens``.

        Raises:
            ZendeskRefused: the client or the grant is wrong.
        """
        if (given.get("client_id"), given.get("client_secret")) != self._client:
            raise _refused("invalid_client", "Client authentication failed", 401)
        match given.get("grant_type"):
            case "client_credentials":
                scopes = frozenset(str(given.get("scope", "read")).split())
                if not scopes <= self.allowed:
                    raise _refused(
                        "invalid_scope", "The requested scope is invalid, unknown, or malformed.", 400
                    )
                return self._issue(scopes, refresh=False)
            case "refresh_token":
                access = self._refresh.pop(str(given.get("refresh_token")), None)
                if access is None:
                    raise _refused(
                        "invalid_grant", "The refresh token is invalid, expired or was used before.", 400
                    )
                # A refresh deletes the tokens before it (announcement).
                grant = self._grants.pop(access, None)
                return self._issue(grant.scopes if grant is not None else frozenset({"read"}))
        raise _refused("unsupported_grant_type", "The grant type is not supported.", 400)

    def first(self) -> str:
        """Return a refresh token, as the authorisation in a browser gives one."""
        return str(self._issue(frozenset({"read"}))["refresh_token"])

    def _issue(self, scopes: frozenset[str], refresh: bool = True) -> Row:
        access = self._account.random_text(64)
        self.issued += 1
        self._grants[access] = Grant(self._user, scopes, self._account.now() + self.life)
        found: Row = {
            "access_token": access, "token_type": "bearer", "scope": " ".join(sorted(scopes)), "expires_in": int(self.life) or 1,
        }  # fmt: skip
        if refresh:
            found["refresh_token"] = self._account.random_text(64)
            self._refresh[found["refresh_token"]] = access
        return found

    def expire(self) -> None:
        """Let every access token expire now."""
        self._grants.clear()

    def grant_of(self, token: str) -> Grant | None:
        """Return what an access token allows; None: it is not valid."""
        found = self._grants.get(token)
        return found if found is not None and found.expires > self._account.now() else None


def basic(header: str) -> tuple[str, str] | None:
    """Return the login and the password of a header ``Authorization``; None: it has none."""
    if not header.startswith("Basic "):
        return None
    try:
        login, _, password = base64.b64decode(header[6:], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return login, password


def _refused(error: str, description: str, status: int) -> ZendeskRefused:
    refused = ZendeskRefused(status, error)
    refused.body["error_description"] = description
    return refused
