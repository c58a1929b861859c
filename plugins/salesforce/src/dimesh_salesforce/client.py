"""Requests to the REST API, tried again where that helps, within the account's budget."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from dimesh.clock import Clock
from dimesh.errors import CDCError, CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.spi.budget import Budget, Urgency
from dimesh_salesforce.credentials import Credentials, Session
from dimesh_salesforce.options import SalesforceOptions

_MOST_BYTES: Final = 256 * 1024 * 1024
_USED_UP: Final = 900.0
"""Seconds between looks when the org's requests of the day are used up."""


class QueryError(CDCError):
    """Salesforce refused a query; ``code`` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """Reads from one org.

    Args:
        options: of the source.
        clock: time.
        http: the connection pool; not closed here.
        credentials: of the org.
    """

    def __init__(
        self, options: SalesforceOptions, clock: Clock, http: httpx.AsyncClient, credentials: Credentials
    ) -> None:
        self._options = options
        self._clock = clock
        self._http = http
        self._credentials = credentials
        self.used: tuple[int, int] | None = None
        """Requests of the day that are used, and how many there are; None: not known yet."""
        self._look = False
        who = f"{options.client_id}|{options.username}|{options.access_token}"
        self.budget = Budget.of(
            f"salesforce|{options.instance_url}|{who}",
            options.rate,
            clock,
            options.ledger,
            options.concurrency,
        )

    def path(self, rest: str) -> str:
        """A path of the API's version."""
        return f"/services/data/v{self._options.api_version}/{rest}"

    async def get(self, path: str, params: Mapping[str, str], urgency: Urgency, about: str) -> Any:
        """The JSON that a GET answers. Raises as :meth:`send` does."""
        return (await self.send("GET", path, urgency, about, params=dict(params))).json()

    async def send(
        self, method: str, path: str, urgency: Urgency, about: str, **request: Any
    ) -> httpx.Response:
        """A good answer.

        Args:
            method: GET, or POST where repeating does no harm.
            path: with ``/services/``.
            urgency: who goes first.
            about: the object that is read, for errors.
            request: ``params``, ``json`` or ``headers``.

        Raises:
            CredentialsError: the token is refused, and so is another.
            SourceObjectError: the user may not read this, or it is not there.
            QueryError: a query is refused for a reason that its author can do something about.
            SourceUnavailableError: it failed for ``retry_for`` seconds, or the org has no requests left today.
        """
        end = self._clock.monotonic() + self._options.retry_for
        wait = 0.25
        refused: Session | None = None
        while True:
            if urgency is Urgency.SNAPSHOT:
                self._spare()
            session = await self._credentials.session()
            try:
                async with self.budget.request(urgency):
                    answer = await self._http.request(
                        method,
                        session.instance_url + path,
                        **{**request, "headers": self._headers(session, request)},
                        timeout=self._options.timeout,
                    )
                if len(answer.content) > _MOST_BYTES:
                    raise SourceUnavailableError(f"{about} was answered with {len(answer.content):,} bytes")
                if answer.status_code < 300:
                    if "json" in answer.headers.get("content-type", "json"):
                        answer.json()  # a cut or broken one is asked for again
                    self._count(answer)
                    self.budget.fine()
                    return answer
                code, message = _error(answer)
                reason = f"HTTP {answer.status_code} {code}: {message}"
                if answer.status_code == 401:
                    if refused is not None and session is not refused:
                        raise CredentialsError(f"Salesforce refuses new tokens, too: {reason}")
                    refused = session
                    await self._credentials.renew(session)
                    continue
                self._judge(answer.status_code, code, message, about)
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason = f"{type(error).__name__}: {error}"
            except ValueError as error:
                reason = f"an answer that is not JSON: {error}"[:200]
            pause = wait * random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries
            if self._clock.monotonic() + pause > end:
                raise SourceUnavailableError(f"Salesforce could not be read for {about}: {reason}")
            await self._clock.sleep(pause)
            wait = min(wait * 2, 10.0)

    @staticmethod
    def _headers(session: Session, request: Mapping[str, Any]) -> dict[str, str]:
        return {"authorization": f"Bearer {session.token}", **request.get("headers", {})}

    def _judge(self, status: int, code: str, message: str, about: str) -> None:
        """Raise what the answer means; return if it is to be tried again."""
        if code == "REQUEST_LIMIT_EXCEEDED" or status == 429:
            if "TotalRequests" in message:
                raise SourceUnavailableError(
                    f"the org has used up its API requests of the day ({message}); what reads them stops until some are free",
                    retry_after=_USED_UP,
                )
            self.budget.too_much(at_once="Concurrent" in message)
            return
        if status >= 500 or code in ("SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW"):
            return
        if code in (
            "QUERY_TIMEOUT",
            "INVALID_QUERY_LOCATOR",
            "INVALID_FIELD",
            "MALFORMED_QUERY",
            "EXCEEDED_ID_LIMIT",
        ):
            raise QueryError(code, f"{about}: {code}: {message}")
        if code in ("INVALID_TYPE", "NOT_FOUND", "INVALID_TYPE_FOR_OPERATION", "INSUFFICIENT_ACCESS"):
            raise SourceObjectError(
                f"{about} is not there for this user ({code}: {message}). Give them the permission View All Records on {about}, "
                "or check its API name"
            )
        raise SourceObjectError(f"{about} cannot be read: HTTP {status} {code}: {message}")

    def _count(self, answer: httpx.Response) -> None:
        match = re.search(r"api-usage=(\d+)/(\d+)", answer.headers.get("sforce-limit-info", ""))
        if match is not None:
            self.used = (int(match[1]), int(match[2]))

    def _spare(self) -> None:
        if self.used is None or self.used[0] < self.used[1] * (1 - self._options.api_reserve):
            self._look = False
            return
        used, limit = self.used
        # One of two may look again: the figure is of the last 24 hours, and falls.
        self._look = not self._look
        if self._look:
            raise SourceUnavailableError(
                f"{used:,} of the org's {limit:,} API requests of the day are used: the snapshot waits, and leaves the rest to "
                "others (api_reserve)",
                retry_after=_USED_UP,
            )


def _error(answer: httpx.Response) -> tuple[str, str]:
    try:
        found: Any = answer.json()
        first = found[0] if isinstance(found, list) else found
        code, message = str(first.get("errorCode") or first.get("error") or ""), str(first.get("message", ""))
    except (ValueError, LookupError, AttributeError):
        code, message = "", answer.reason_phrase
    return code, " ".join(message.split())[:400]
