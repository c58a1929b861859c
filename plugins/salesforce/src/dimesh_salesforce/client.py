"""Requests to the REST API: which credentials go with them, and what the answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import CDCError, CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.sourcekit.http import Answer, Retry, SourceClient
from dimesh_salesforce.credentials import Credentials
from dimesh_salesforce.options import SalesforceOptions

_WAIT_FOR_QUOTA: Final = 900.0
"""The number of seconds between tries while the org's API requests of the day are used up."""
_MAX_BYTES: Final = 256 * 1024 * 1024


class QueryError(CDCError):
    """Salesforce refused a query; ``code`` names the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _TokenRefusedError(Exception):
    """Salesforce refused the access token."""


def make_http(options: SalesforceOptions, clock: Clock) -> SourceClient:
    """Return the HTTP client of an org, for its REST API and its tokens."""
    account = "|".join(
        (
            "salesforce",
            options.instance_url,
            str(options.client_id),
            str(options.username),
            options.access_token.reveal() if options.access_token is not None else "None",
        )
    )
    budget = RateLimiter.shared(account, options.rate, clock, options.ledger, options.concurrency)
    return SourceClient("Salesforce", options, clock, budget, _MAX_BYTES)


class Client:
    """Reads from one org.

    Args:
        options: the options of the source.
        http: the HTTP client; not closed here.
        credentials: the credentials of the org.
    """

    def __init__(self, options: SalesforceOptions, http: SourceClient, credentials: Credentials) -> None:
        self._options = options
        self._http = http
        self._credentials = credentials
        self.used: tuple[int, int] | None = None
        """The number of API requests of the day that are used, and the number that are allowed; None: unknown so far."""
        self._held = False

    @property
    def budget(self) -> RateLimiter:
        """The budget that all readers of the org share."""
        return self._http.budget

    def time(self) -> float:
        """Return the time by Salesforce's clock."""
        return self._http.system_time()

    def path(self, rest: str) -> str:
        """Return a path below the API version."""
        return f"/services/data/v{self._options.api_version}/{rest}"

    async def get(self, address: str, params: Mapping[str, str], priority: Priority, about: str) -> Any:
        """Return the JSON that a GET answers. Raises as :meth:`send` does."""
        return (await self.send("GET", address, priority, about, params=params)).json()

    async def send(
        self,
        method: str,
        address: str,
        priority: Priority,
        about: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return a good answer.

        Args:
            method: GET, or POST where repeating it does no harm.
            address: a path with ``/services/``, or an address that an answer named.
            priority: which request goes first.
            about: the object that is read, for errors.
            params: the query.
            json: the body.
            headers: more headers.

        Raises:
            CredentialsError: Salesforce refuses the token, and the next one as well.
            SourceObjectError: the user may not read this, or it does not exist.
            QueryError: Salesforce refuses a query for a reason that the caller can handle.
            SourceUnavailableError: all attempts failed, the org has no API requests left today, or an answer names an address
                outside the org.
        """
        renewed = False
        while True:
            if priority is Priority.SNAPSHOT:
                self._hold_snapshots()
            session = await self._credentials.session()
            try:
                answer = await self._http.request(
                    method,
                    session.instance,
                    address,
                    priority,
                    about,
                    self._judge,
                    params=params,
                    json=json,
                    headers={**(headers or {}), "authorization": f"Bearer {session.token.reveal()}"},
                )
            except _TokenRefusedError as error:
                if renewed:
                    raise CredentialsError(
                        f"Salesforce refuses new access tokens as well: {error}"
                    ) from error
                renewed = True
                await self._credentials.renew(session)
            else:
                self._record_usage(answer)
                return answer

    def _judge(self, answer: Answer, about: str) -> Retry | None:
        if answer.status < 300:
            if "json" in answer.headers.get("content-type", "json"):
                answer.json()  # an answer that is cut off or damaged is requested again
            return None
        code, message = _error(answer)
        reason = f"HTTP {answer.status} {code}: {message}"
        if answer.status == 401:
            raise _TokenRefusedError(reason)
        self._raise_for(answer.status, code, message, about)
        return Retry(reason)

    def _raise_for(self, status: int, code: str, message: str, about: str) -> None:
        """Raise the error that an answer means; return if another attempt may succeed."""
        if code == "REQUEST_LIMIT_EXCEEDED" or status == 429:
            if "TotalRequests" in message:
                raise SourceUnavailableError(
                    f"the org has used up its API requests of the day ({message}): reading rows stops until some are available",
                    retry_after=_WAIT_FOR_QUOTA,
                )
            self.budget.throttled(at_once="Concurrent" in message)
            return
        if status >= 500 or code in ("SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW"):
            return
        if code in (
            "QUERY_TIMEOUT",
            "INVALID_QUERY_LOCATOR",
            "INVALID_FIELD",
            "MALFORMED_QUERY",
            "EXCEEDED_ID_LIMIT",
            "INVALID_REPLICATION_DATE",
        ):
            raise QueryError(code, f"{about}: {code}: {message}")
        if code == "INVALIDENTITY" or "Bulk" in message or "serialize value" in message:
            raise QueryError("BULK_REFUSED", f"{about}: {code}: {message}")
        if code in ("INVALID_TYPE", "NOT_FOUND", "INVALID_TYPE_FOR_OPERATION", "INSUFFICIENT_ACCESS"):
            raise SourceObjectError(
                f"{about} does not exist for this user ({code}: {message}). Give the user the permission View All Records on "
                f"{about}, or check its API name"
            )
        raise SourceObjectError(f"{about} cannot be read: HTTP {status} {code}: {message}")

    def _record_usage(self, answer: Answer) -> None:
        match = re.search(r"api-usage=(\d{1,15})/(\d{1,15})", answer.headers.get("sforce-limit-info", ""))
        if match is not None:
            self.used = (int(match[1]), int(match[2]))

    def _hold_snapshots(self) -> None:
        """Raise if a snapshot would use the API requests that are reserved for others."""
        if self.used is None or self.used[0] < self.used[1] * (1 - self._options.api_reserve):
            self._held = False
            return
        used, limit = self.used
        # Every second request may go out: the figure covers the last 24 hours, and only a new answer shows that it fell.
        self._held = not self._held
        if self._held:
            raise SourceUnavailableError(
                f"{used:,} of the org's {limit:,} API requests of the day are used: the snapshot waits, and leaves the rest to "
                "others (option api_reserve)",
                retry_after=_WAIT_FOR_QUOTA,
            )


def _error(answer: Answer) -> tuple[str, str]:
    try:
        found: Any = answer.json()
        first = found[0] if isinstance(found, list) else found
        code, message = str(first.get("errorCode") or first.get("error") or ""), str(first.get("message", ""))
    except (ValueError, LookupError, AttributeError):
        code, message = "", answer.reason
    return code, " ".join(message.split())[:400]
