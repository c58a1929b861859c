"""Access tokens of the sandbox, and the OAuth flows by which a client gets one."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

import jwt

from dimesh.sourcekit.sandbox import Row
from dimesh_salesforce.sandbox.org import ORGANIZATION
from dimesh_salesforce.sandbox.table import USER

CLIENT_ID: Final = "3MVG9sandbox"
CLIENT_SECRET: Final = "sandbox-secret"  # noqa: S105 - of a sandbox
USERNAME: Final = "ada@sandbox.example"
PASSWORD: Final = "sandbox-password"  # noqa: S105
REFRESH_TOKEN: Final = "5Aep861sandbox"  # noqa: S105
ACCESS_TOKEN: Final = "00D000000000001!sandbox"  # noqa: S105
_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_AUDIENCES: Final = ["https://login.salesforce.com", "https://test.salesforce.com"]
_LONGEST: Final = 300.0
"""The largest number of seconds that a JWT may be valid (documentation: three to five minutes)."""


class Tokens:
    """The access tokens of the org. An answer holds no ``expires_in``: the session policy decides (documentation).

    Args:
        public_key: the key of the connected app, for JWT bearer.
    """

    def __init__(self, public_key: Any) -> None:
        self.good = {ACCESS_TOKEN}
        """The tokens that are accepted."""
        self.issued = 0
        """The number of tokens that were issued."""
        self.locked = False
        """Whether the user is frozen: no token is issued."""
        self._public_key = public_key

    def expire(self) -> None:
        """Refuse every token that was issued so far."""
        self.good.clear()

    def issue(self, form: dict[str, str], base: str, now: float) -> tuple[int, Row]:
        """Answer ``POST /services/oauth2/token`` (documentation; the errors ``invalid_grant`` are recorded).

        Args:
            form: the fields of the request.
            base: the address of the org.
            now: the org's time.
        """
        problem = ("invalid_grant", "user is inactive or frozen") if self.locked else self._check(form, now)
        if problem is not None:
            error, description = problem
            return 400, {"error": error, "error_description": description}
        self.issued += 1
        token = f"{ORGANIZATION[:15]}!sandbox{self.issued}"
        self.good.add(token)
        return 200, {
            "access_token": token,
            "scope": "api",
            "instance_url": base,
            "id": f"{base}/id/{ORGANIZATION}/{USER}",
            "token_type": "Bearer",
        }

    def _check(self, form: dict[str, str], now: float) -> tuple[str, str] | None:
        kind = form.get("grant_type", "")
        if kind == _JWT_BEARER:
            return self._check_jwt(form.get("assertion", ""), now)
        if form.get("client_id") != CLIENT_ID:
            return "invalid_client_id", "client identifier invalid"
        match kind:
            case "client_credentials":
                if form.get("client_secret") != CLIENT_SECRET:
                    return "invalid_client", "invalid client credentials"
            case "refresh_token":
                if form.get("refresh_token") != REFRESH_TOKEN:
                    return "invalid_grant", "expired access/refresh token"
            case "password":
                if (form.get("username"), form.get("password")) != (USERNAME, PASSWORD):
                    return "invalid_grant", "authentication failure - Invalid Password"
            case _:
                return "unsupported_grant_type", "grant type not supported"
        return None

    def _check_jwt(self, assertion: str, now: float) -> tuple[str, str] | None:
        # The org's clock decides whether the assertion has expired, not that of this machine.
        options: Any = {"verify_exp": False}
        try:
            claims = jwt.decode(
                assertion, self._public_key, algorithms=["RS256"], audience=_AUDIENCES, options=options
            )
        except jwt.InvalidAudienceError:
            return "invalid_grant", "audience is invalid"
        except jwt.PyJWTError:
            return "invalid_grant", "invalid assertion"
        if not now < claims.get("exp", 0) <= now + _LONGEST:
            return "invalid_grant", "expired authorization code"
        if claims.get("iss") != CLIENT_ID:
            return "invalid_client_id", "client identifier invalid"
        if claims.get("sub") != USERNAME:
            return "invalid_grant", "user hasn't approved this consumer"
        return None


def form_of(body: bytes) -> dict[str, str]:
    """Return the fields of a form."""
    return {key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}
