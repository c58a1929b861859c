"""Access tokens of OAuth 2.0 client credentials: requested with a signed assertion, shared, and renewed before they end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import CredentialsError
from dimesh.secrets import Secret
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.http import Answer, Retry, SourceClient
from dimesh_netsuite.options import Algorithm, NetSuiteOptions

TOKEN_PATH: Final = "/services/rest/auth/oauth2/v1/token"  # noqa: S105 - an address
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE: Final = "rest_webservices"
_LIFE: Final = 300
"""The number of seconds for which an assertion is valid; NetSuite accepts less than 60 minutes."""
_EARLY: Final = 60.0
"""The number of seconds before its end at which a token is renewed."""
_SKEW: Final = 60.0
"""The number of seconds by which our clock is wrong."""
_CURVES: Final[Mapping[int, Algorithm]] = {256: "ES256", 384: "ES384", 521: "ES512"}


@dataclass(frozen=True, slots=True)
class Token:
    """An access token."""

    secret: Secret
    until: float
    """The end of the token, by NetSuite's clock."""


class Credentials:
    """The credentials of one account. Many tasks may need a token at the same time: one renewal serves them all."""

    def __init__(self, options: NetSuiteOptions, clock: Clock, http: SourceClient) -> None:
        self._options = options
        self._clock = clock
        self._http = http
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self.renewals = 0
        """The number of tokens so far."""

    async def token(self, origin: Origin) -> Token:
        """Return a token that is valid for a while.

        Args:
            origin: the host of the account.

        Raises:
            CredentialsError: NetSuite refuses the credentials.
            SourceUnavailableError: there is no answer.
        """
        async with self._lock:
            if self._token is None or self._token.until - _EARLY <= self._http.system_time():
                try:
                    self._token = await self._request(origin)
                except CredentialsError:
                    # The first answer tells NetSuite's time: an assertion by our clock, if that is wrong, was no good.
                    if abs(self._http.system_time() - self._clock.time()) < _SKEW or self.renewals > 1:
                        raise
                    self._token = await self._request(origin)
            return self._token

    def discard(self, refused: Token) -> None:
        """Forget a token that NetSuite refused, unless it was replaced already."""
        if self._token is refused:
            self._token = None

    async def _request(self, origin: Origin) -> Token:
        self.renewals += 1
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self._assertion(origin),
        }
        answer = await self._http.request(
            "POST", origin, TOKEN_PATH, Priority.STREAM, "an access token", _judge, form=form, retry_for=10.0
        )
        found: dict[str, Any] = answer.json()
        try:
            life = float(found.get("expires_in") or 3_600)  # a text or a number
        except (TypeError, ValueError):
            life = 3_600.0
        return Token(Secret(str(found["access_token"])), self._http.system_time() + life)

    def _assertion(self, origin: Origin) -> str:
        import jwt

        options = self._options
        now = int(self._http.system_time())
        claims = {
            "iss": options.client_id,
            "scope": [SCOPE],
            "aud": f"{origin}{TOKEN_PATH}",
            "iat": now,
            "exp": now + _LIFE,
        }
        text = options.key()
        try:
            key = _load(text)
            algorithm = options.algorithm or _algorithm_of(key)
            return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": options.certificate_id})
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise CredentialsError(
                f"the private key cannot be used ({type(error).__name__}): it must be an RSA key of 3072 or 4096 bits, or a "
                "key of "
                "the curve P-256, P-384 or P-521, in PEM form, and fit the option algorithm"
            ) from None


def _load(pem: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(pem.encode(), None)


def _algorithm_of(key: Any) -> Algorithm:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    return _CURVES[key.key_size] if isinstance(key, EllipticCurvePrivateKey) else "PS256"


def _judge(answer: Answer, about: str) -> Retry | None:
    if answer.status >= 500 or answer.status == 429:
        return Retry(f"HTTP {answer.status}")
    if 300 <= answer.status < 400:
        return Retry(f"HTTP {answer.status}, a redirect of the request for a token")
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    if answer.status == 200 and isinstance(found.get("access_token"), str):
        return None
    reason = str(found.get("error_description") or found.get("error") or f"HTTP {answer.status}")[:300]
    raise CredentialsError(
        f"NetSuite refused the client credentials: {reason}{_advice(str(found.get('error')))}"
    )


def _advice(code: str) -> str:
    if code == "invalid_grant":
        return (
            ". Check that certificate_id belongs to private_key, that the certificate has not expired or been revoked, and that "
            "the clock is right (Setup > Integration > OAuth 2.0 Client Credentials Setup)"
        )
    if code == "invalid_scope":
        return ". Enable the scope REST Web Services on the integration record"
    if code in ("invalid_client", "invalid_request"):
        return ". Check client_id, and that the integration record has Client Credentials (Machine to Machine) Grant enabled"
    return ""
