"""Access tokens: requested, shared, and renewed when Salesforce refuses them, since it does not state how long one is valid."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from dimesh.clock import Clock
from dimesh.errors import CredentialsError
from dimesh.secrets import Secret
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.http import Answer, Retry, SourceClient
from dimesh_salesforce.options import SalesforceOptions

_JWT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE: Final = 180
"""The number of seconds for which an assertion is valid: Salesforce accepts no more than a few minutes."""
_SALESFORCE: Final = (".salesforce.com", ".salesforce.mil", ".sfcrmproducts.cn")
"""The domains of orgs. An org may move between hosts of its domain."""


@dataclass(frozen=True, slots=True)
class Session:
    """An access token, and what a request needs beside it."""

    token: Secret
    instance: Origin
    """The host of the org, which requests go to."""
    organization: str
    user: str
    """The id of the user that the token acts for."""


class Credentials:
    """The credentials of one org. Many tasks may need a token at the same time: one renewal serves them all."""

    def __init__(self, options: SalesforceOptions, clock: Clock, http: SourceClient) -> None:
        self._options = options
        self._flow = options.flow()
        self._clock = clock
        self._http = http
        self._instance = Origin.parse(options.instance_url)
        self._login = Origin.parse(options.login_url or options.instance_url)
        self._lock = asyncio.Lock()
        self._session: Session | None = None
        self.renewals = 0
        """The number of sessions so far."""

    @property
    def current(self) -> Session | None:
        """The current session."""
        return self._session

    async def session(self) -> Session:
        """Return the current session, or a new one if there is none.

        Raises:
            CredentialsError: Salesforce refuses the credentials.
            SourceUnavailableError: there is no answer.
        """
        async with self._lock:
            if self._session is None:
                self._session = await self._new_session()
            return self._session

    async def renew(self, refused: Session) -> Session:
        """Return another session than the one that Salesforce refused. Raises as :meth:`session` does."""
        async with self._lock:
            if self._session is refused:
                if self._flow == "given":
                    raise CredentialsError(
                        "the access token has expired or was revoked: configure a new one, or credentials that can be renewed "
                        "(client_id with client_secret, a private key or refresh_token)"
                    )
                self._session = None
                self._session = await self._new_session()
            assert self._session is not None
            return self._session

    async def _new_session(self) -> Session:
        self.renewals += 1
        options = self._options
        if self._flow == "given" or (options.access_token is not None and self.renewals == 1):
            assert options.access_token is not None
            return await self._identify(options.access_token, self._instance)
        found = await self._request_token()
        token = Secret(str(found["access_token"]))
        instance = self._instance_of(found.get("instance_url"))
        ids = re.search(r"/id/(\w{15,18})/(\w{15,18})/?$", str(found.get("id", "")))
        if ids is not None:
            return Session(token, instance, options.organization_id or ids[1], ids[2])
        return await self._identify(token, instance)

    def _instance_of(self, url: Any) -> Origin:
        """Return the host that a token is for: the configured one, or another host of Salesforce, since an org may move.

        Raises:
            CredentialsError: the answer names a host outside Salesforce. The token is not sent there.
        """
        if not url:
            return self._instance
        try:
            named = Origin.parse(str(url))
        except ValueError:
            named = None
        if named == self._instance:
            return self._instance
        for domain in _SALESFORCE:
            if (
                named is not None
                and (named.scheme, named.port) == ("https", 443)
                and named.host.endswith(domain)
                and self._instance.host.endswith(domain)
            ):
                return named
        raise CredentialsError(
            f"the answer with the access token names the instance_url {str(url)[:200]!r}, which is neither {self._instance} "
            "nor another host of Salesforce: the token is not sent there. Check login_url and instance_url"
        )

    def _form(self) -> dict[str, str]:
        options = self._options
        assert options.client_id is not None
        if self._flow == "jwt":
            return {"grant_type": _JWT, "assertion": self._assertion()}
        form = {"client_id": options.client_id}
        if options.client_secret is not None:
            form["client_secret"] = options.client_secret.reveal()
        if self._flow == "refresh":
            assert options.refresh_token is not None
            return {"grant_type": "refresh_token", "refresh_token": options.refresh_token.reveal(), **form}
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

    async def _request_token(self) -> dict[str, Any]:
        # There is no retry here: the runner retries, and reports the error meanwhile.
        answer = await self._http.request(
            "POST",
            self._login,
            "/services/oauth2/token",
            Priority.STREAM,
            "an access token",
            self._judge_token,
            form=self._form(),
            retry_for=0.0,
        )
        found: dict[str, Any] = answer.json()
        return found

    def _judge_token(self, answer: Answer, about: str) -> Retry | None:
        found = answer.json()
        if answer.status == 200 and isinstance(found, dict) and "access_token" in found:
            return None
        if answer.status >= 500 or answer.status == 429:
            return Retry(f"HTTP {answer.status}")
        why: Mapping[str, Any] = found if isinstance(found, dict) else {}
        text = (
            f"{why.get('error', f'HTTP {answer.status}')}: {why.get('error_description', 'no reason given')}"
        )
        raise CredentialsError(
            f"Salesforce refused the credentials ({self._flow}): {text[:300]}{_advice(text)}"
        )

    async def _identify(self, token: Secret, instance: Origin) -> Session:
        """Return the session of a token: a stream needs the id of its org."""
        answer = await self._http.request(
            "GET",
            instance,
            "/services/oauth2/userinfo",
            Priority.STREAM,
            "the owner of the access token",
            _judge_identity,
            headers={"authorization": f"Bearer {token.reveal()}"},
            retry_for=0.0,
        )
        found: Any = answer.json() if answer.status == 200 else {}
        organization = self._options.organization_id or str(found.get("organization_id", ""))
        if not organization:
            raise CredentialsError(
                f"Salesforce does not name the org of the access token (HTTP {answer.status}): set the option organization_id"
            )
        return Session(token, instance, organization, str(found.get("user_id", "")))


def _judge_identity(answer: Answer, about: str) -> Retry | None:
    if answer.status >= 500 or answer.status == 429:
        return Retry(f"HTTP {answer.status}")
    if answer.status in (401, 403):
        raise CredentialsError(f"Salesforce refused the access token (HTTP {answer.status})")
    if answer.status == 200 and not isinstance(answer.json(), dict):
        raise ValueError("it is not an object")
    return None


def _advice(text: str) -> str:
    if "invalid_client" in text:
        return ". Check client_id and client_secret of the connected app"
    if "user hasn't approved" in text or "invalid_app_access" in text:
        return (
            ". Pre-authorise the user for the connected app: OAuth policies, then a permission set or profile"
        )
    if "audience" in text:
        return ". Check audience: login.salesforce.com for production, test.salesforce.com for a sandbox"
    return ""
