"""Who may ask: OAuth 2.0 client credentials with signed assertions, and token-based authentication (OAuth 1.0a).

The check of a signature is written from RFC 5849, not with the connector's code. Limits: Oracle, *OAuth 2.0 Client Credentials
Flow* and *Token-based Authentication*.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

CLIENT_ID: Final = "sandbox-client-id"
CERTIFICATE_ID: Final = "sandbox-certificate"
CONSUMER: Final = ("sandbox-consumer-key", "sandbox-consumer-secret")
TOKEN: Final = ("sandbox-token-id", "sandbox-token-secret")
ALGORITHMS: Final = ("PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
SKEW: Final = 300.0
LIFE: Final = 3_600
TOKEN_PATH: Final = "/services/rest/auth/oauth2/v1/token"  # noqa: S105 - an address
_FIELD: Final = re.compile(r'\s*([\w]+)="([^"]*)"\s*')


class Denied(Exception):  # noqa: N818 - an answer
    """Credentials that are refused."""


class Security:
    """The credentials of an account.

    Args:
        realm: the id of the account.
        now: the clock of the account.
    """

    def __init__(self, realm: str, now: Callable[[], float]) -> None:
        self.realm = realm
        self.key: EllipticCurvePrivateKey = generate_private_key(SECP256R1())
        self.certificates: dict[str, Any] = {CERTIFICATE_ID: self.key.public_key()}
        """The public keys of the certificates, by id; five at most are active (Oracle, release 2026.1)."""
        self.revoked = False
        """Whether the integration is blocked: no token is given, and none is accepted."""
        self._now = now
        self._tokens: dict[str, float] = {}
        self._nonces: set[str] = set()

    def private_key(self) -> str:
        """Return the private key in PEM form."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def forget_tokens(self) -> None:
        """Let all access tokens end."""
        self._tokens.clear()

    def token(self, form: Mapping[str, str], address: str) -> tuple[int, dict[str, Any]]:
        """Return the answer to a request for a token.

        Args:
            form: the form of the request.
            address: the address of the request, which the assertion must name.
        """
        if form.get("grant_type") != "client_credentials" or "client_assertion" not in form:
            return 400, {"error": "invalid_request"}
        try:
            header = jwt.get_unverified_header(form["client_assertion"])
            key = self.certificates[str(header.get("kid"))]
            claims = jwt.decode(
                form["client_assertion"],
                key,
                algorithms=list(ALGORITHMS),
                audience=address,
                options={"verify_exp": False, "verify_iat": False, "require": ["iss", "aud", "iat", "exp"]},
            )
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            return 400, {"error": "invalid_grant"}
        now, begin, end = self._now(), float(claims["iat"]), float(claims["exp"])
        if (
            self.revoked
            or claims["iss"] != CLIENT_ID
            or end <= now
            or begin > now + SKEW
            or end - begin > LIFE
        ):
            return 400, {"error": "invalid_grant"}
        scope = claims.get("scope")
        if "rest_webservices" not in (scope if isinstance(scope, list) else str(scope).split(",")):
            return 400, {"error": "invalid_scope"}
        made = secrets.token_urlsafe(32)
        self._tokens[made] = now + LIFE
        # The type of expires_in is not confirmed: a text is the harder one.
        return 200, {"access_token": made, "expires_in": str(LIFE), "token_type": "bearer"}

    def check(self, method: str, url: str, query: str, header: str) -> None:
        """Check the header ``Authorization`` of a request.

        Raises:
            Denied: it is wrong.
        """
        if self.revoked:
            raise Denied("blocked")
        kind, _, rest = header.partition(" ")
        if kind.lower() == "bearer":
            if self._tokens.get(rest, 0.0) <= self._now():
                raise Denied("no such token")
            return
        if kind.lower() != "oauth":
            raise Denied("no credentials")
        found = {m[1]: unquote(m[2]) for part in rest.split(",") if (m := _FIELD.fullmatch(part))}
        self._check_signature(method, url, query, found)

    def _check_signature(self, method: str, url: str, query: str, given: dict[str, str]) -> None:
        if given.pop("realm", "") != self.realm:
            raise Denied("another account")
        signature = given.pop("oauth_signature", "")
        nonce, stamp = given.get("oauth_nonce", ""), given.get("oauth_timestamp", "")
        if given.get("oauth_signature_method") != "HMAC-SHA256" or len(nonce) < 6 or not stamp.isdigit():
            raise Denied("another method")
        if abs(int(stamp) - self._now()) > SKEW:
            raise Denied("a wrong clock")
        if (given.get("oauth_consumer_key"), given.get("oauth_token")) != (CONSUMER[0], TOKEN[0]):
            raise Denied("unknown keys")
        pairs = [*parse_qsl(query, keep_blank_values=True), *given.items()]
        normal = "&".join(
            f"{name}={value}" for name, value in sorted((_quoted(n), _quoted(v)) for n, v in pairs)
        )
        base = f"{method.upper()}&{_quoted(url)}&{_quoted(normal)}"
        secret = f"{_quoted(CONSUMER[1])}&{_quoted(TOKEN[1])}"
        wanted = base64.b64encode(hmac.new(secret.encode(), base.encode(), hashlib.sha256).digest()).decode()
        if not hmac.compare_digest(wanted, signature):
            raise Denied("a wrong signature")
        if nonce in self._nonces:
            raise Denied("a replayed nonce")
        self._nonces.add(nonce)


def _quoted(text: str) -> str:
    return quote(text, safe="-._~")
