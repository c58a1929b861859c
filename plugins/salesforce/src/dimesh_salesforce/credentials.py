"""Access tokens: got, shared, and renewed when Salesforce refuses them. It never says how long one lives."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceUnavailableError
from dimesh_salesforce.options import SalesforceOptions

_JWT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE: Final = 180
"""Seconds that an assertion is good for: Salesforce takes no more than a few minutes."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a request needs."""

    token: str = field(repr=False)
    instance_url: str
    organization: str
    user: str
    """Id of the user that the token acts for."""


class Credentials:
    """Of one org. Many may ask at the same time: one renewal serves them all."""

    def __init__(self, options: SalesforceOptions, clock: Clock, http: httpx.AsyncClient) -> None:
        self._options = options
        self._flow = options.flow()
        self._clock = clock
        self._http = http
        self._lock = asyncio.Lock()
        self._session: Session | None = None
        self.renewals = 0
        """How often a token was got."""

    @property
    def current(self) -> Session | None:
        """The session at hand."""
        return self._session

    async def session(self) -> Session:
        """The session at hand, or a new one.

        Raises:
            CredentialsError: refused.
            SourceUnavailableError: no answer.
        """
        async with self._lock:
            if self._session is None:
                self._session = await self._login()
            return self._session

    async def renew(self, refused: Session) -> Session:
        """Another session than the one that was refused. Raises as :meth:`session` does."""
        async with self._lock:
            if self._session is refused:
                if self._flow == "given":
                    raise CredentialsError(
                        "the access token has expired or was revoked: give a new one, or credentials that can be renewed "
                        "(client_id with client_secret, a private key or refresh_token)"
                    )
                self._session = None
                self._session = await self._login()
            assert self._session is not None
            return self._session

    async def _login(self) -> Session:
        self.renewals += 1
        options = self._options
        if self._flow == "given" or (options.access_token is not None and self.renewals == 1):
            assert options.access_token is not None
            token, instance = options.access_token, options.instance_url
        else:
            found = await self._ask(self._form())
            token, instance = (
                str(found["access_token"]),
                str(found.get("instance_url") or options.instance_url),
            )
            who = re.search(r"/id/(\w{15,18})/(\w{15,18})/?$", str(found.get("id", "")))
            if who is not None:
                return Session(token, instance, options.organization_id or who[1], who[2])
        return await self._identify(token, instance)

    def _form(self) -> dict[str, str]:
        options = self._options
        assert options.client_id is not None
        if self._flow == "jwt":
            return {"grant_type": _JWT, "assertion": self._assertion()}
        form = {"client_id": options.client_id}
        if options.client_secret is not None:
            form["client_secret"] = options.client_secret
        if self._flow == "refresh":
            assert options.refresh_token is not None
            return {"grant_type": "refresh_token", "refresh_token": options.refresh_token, **form}
        return {"grant_type": "client_credentials", **form}

    def _assertion(self) -> str:
        import jwt

        options = self._options
        host = urlsplit(options.instance_url).hostname or ""
        audience = options.audience or (
            "https://test.salesforce.com" if ".sandbox." in host else "https://login.salesforce.com"
        )
        claims = {
            "iss": options.client_id,
            "sub": options.username,
            "aud": audience,
            "exp": int(self._clock.time()) + _LIFE,
        }
        try:
            return jwt.encode(claims, options.key(), algorithm="RS256")
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise CredentialsError(
                f"the private key cannot be used ({type(error).__name__}): it must be an RSA key in PEM form"
            ) from error

    async def _ask(self, form: dict[str, str]) -> dict[str, Any]:
        url = f"{self._options.login_url or self._options.instance_url}/services/oauth2/token"
        try:
            answer = await self._http.post(url, data=form, timeout=self._options.timeout)
            found: Any = answer.json()
        except httpx.TransportError as error:
            raise SourceUnavailableError(f"no token from {url}: {type(error).__name__}: {error}") from error
        except ValueError as error:
            raise SourceUnavailableError(
                f"no token from {url}: HTTP {answer.status_code}, no JSON"
            ) from error
        if answer.status_code == 200 and isinstance(found, dict) and "access_token" in found:
            return found
        if answer.status_code >= 500 or answer.status_code == 429:
            raise SourceUnavailableError(f"no token from {url}: HTTP {answer.status_code}")
        why = found if isinstance(found, dict) else {}
        text = f"{why.get('error', f'HTTP {answer.status_code}')}: {why.get('error_description', 'no reason given')}"
        raise CredentialsError(
            f"Salesforce refused the credentials ({self._flow}): {text[:300]}{_hint(text)}"
        )

    async def _identify(self, token: str, instance: str) -> Session:
        """Whose token it is: a stream needs the org's id."""
        url = f"{instance}/services/oauth2/userinfo"
        try:
            answer = await self._http.get(
                url, headers={"authorization": f"Bearer {token}"}, timeout=self._options.timeout
            )
            found: Any = answer.json() if answer.status_code == 200 else {}
        except (httpx.TransportError, ValueError) as error:
            raise SourceUnavailableError(f"{url}: {type(error).__name__}: {error}") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise SourceUnavailableError(f"{url}: HTTP {answer.status_code}")
        if answer.status_code in (401, 403):
            raise CredentialsError(
                f"Salesforce refused the access token (HTTP {answer.status_code} of {url})"
            )
        organization = self._options.organization_id or str(found.get("organization_id", ""))
        if not organization:
            raise CredentialsError(
                f"{url} does not say which org the token is of (HTTP {answer.status_code}): give organization_id"
            )
        return Session(token, instance, organization, str(found.get("user_id", "")))


def _hint(text: str) -> str:
    if "invalid_client" in text:
        return ". Check client_id and client_secret of the connected app"
    if "user hasn't approved" in text or "invalid_app_access" in text:
        return (
            ". Pre-authorise the user for the connected app: OAuth policies, then a permission set or profile"
        )
    if "audience" in text:
        return ". Check audience: login.salesforce.com for production, test.salesforce.com for a sandbox"
    return ""
