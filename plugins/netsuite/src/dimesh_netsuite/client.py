"""Requests to NetSuite: which credentials go with them, and what its answers mean.

An overloaded account answers in disguises: 429, 400 with the code of the concurrency limit, or 401 after a minute
(julbrs/netsuite-api-client #26). The code decides, not the status; a 401 is taken for an overload until retries with fewer
requests in flight have failed, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from dimesh.clock import Clock
from dimesh.errors import CDCError, CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.sourcekit.http import Answer, Retry, SourceClient, seconds
from dimesh_netsuite.credentials import Credentials, Token
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.signing import authorization

log = logging.getLogger("dimesh.cdc")

QUERY_PATH: Final = "/services/rest/query/v1/suiteql"
CATALOG_PATH: Final = "/services/rest/record/v1/metadata-catalog"
LIMITS_PATH: Final = "/services/rest/system/v1/governanceLimits"
Row = dict[str, Any]
_OVERLOAD: Final = frozenset(
    {
        "CONCURRENCY_LIMIT_EXCEEDED",
        "SSS_REQUEST_LIMIT_EXCEEDED",
        "WS_CONCUR_SESSION_DISALLWD",
        "WS_REQUEST_BLOCKED",
    }
)
"""The error codes of an account with too many requests in flight (REST, RESTlets, SOAP)."""
_LOGIN_PAUSES: Final = (0.0, 0.5, 2.0, 8.0)
"""The pauses before the repeated attempts after a 401."""
_CHECK_PAUSES: Final = (0.0, 0.5)
_MOVES: Final = 3
"""The largest number of redirects between data centres that one request follows."""
_UNKNOWN_COLUMN: Final = re.compile(r"Unknown identifier '([^']{1,200})'")
_UNKNOWN_TABLE: Final = re.compile(r"Record '[^']*' was not found|Invalid search type")
_SCRUBBED: Final = re.compile(r"[\x00-\x1f\x7f]+")


class UnknownColumnError(CDCError):
    """A query names a column that the table does not have, or that the role may not see."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class UnknownTableError(SourceObjectError):
    """There is no such table, or the role may not see it: NetSuite does not distinguish the two."""


class RefusedQueryError(SourceObjectError):
    """NetSuite refused the text of a query."""


class _LoginRefusedError(CDCError):
    """A 401: the credentials are wrong, the token has ended, or the account is overloaded."""


class _MovedError(CDCError):
    """The account lives at another host."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(str(origin))
        self.origin = origin


class Page(NamedTuple):
    """A page of rows. Columns without a value are absent, and values are texts."""

    rows: list[Row]
    more: bool
    """Whether more rows follow."""


class Client:
    """Reads from one account.

    Args:
        options: the options.
        clock: time.
    """

    def __init__(self, options: NetSuiteOptions, clock: Clock) -> None:
        account = f"netsuite|{options.origin_url}|{options.realm}"
        self.budget = RateLimiter.shared(account, options.rate, clock, options.ledger, options.concurrency)
        self.origin = Origin.parse(options.origin_url)
        self._flow = options.flow()
        self._clock = clock
        self._options = options
        self._http = SourceClient("NetSuite", options, clock, self.budget, judge_redirects=True)
        self.credentials = Credentials(options, clock, self._http)

    async def open(self) -> None:
        """Make the connection pool."""
        await self._http.open()

    async def close(self) -> None:
        """Close the connection pool; may be called twice."""
        await self._http.close()

    def time(self) -> float:
        """Return the time by NetSuite's clock; see :meth:`dimesh.sourcekit.http.SourceClient.system_time`."""
        return self._http.system_time()

    async def query(self, sql: str, priority: Priority, about: str, limit: int = 1_000) -> Page:
        """Return the first page of a query. Pages by offset are never asked for: each would run the query again.

        Args:
            sql: the query, in SuiteQL.
            priority: which request goes first.
            about: the object that is read, for errors.
            limit: the largest number of rows.

        Raises:
            UnknownColumnError: the table has no such column, for this role.
            UnknownTableError: there is no such table, for this role.
            SourceObjectError: the role may not run the query, or NetSuite refuses it.
            CredentialsError: NetSuite refuses the credentials.
            SourceUnavailableError: all attempts failed, or the answer is not whole.
        """
        params = {"limit": str(limit), "offset": "0"}
        found = await self._send(
            "POST", QUERY_PATH, params, priority, about, {"q": sql}, {"prefer": "transient"}
        )
        if "hasMore" not in found:
            raise SourceUnavailableError(
                f"NetSuite answered {about} with something that is not a page of rows"
            )
        rows = found["items"]
        total = found.get("totalResults")
        more = bool(found.get("hasMore"))
        if not more and limit == 1_000 and isinstance(total, int) and len(rows) < total:
            # At its cap, NetSuite says that there are no more rows, although the total is larger.
            if len(rows) < limit:
                raise SourceUnavailableError(
                    f"NetSuite answered {about} with {len(rows)} of {total} rows and said that there are no more: the answer is "
                    "cut off"
                )
            more = True
        for row in rows:
            row.pop("links", None)
        return Page(rows, more or len(rows) >= limit)

    async def get(self, path: str, priority: Priority, about: str, accept: str = "application/json") -> Row:
        """Return the answer to a GET. Raises as :meth:`query` does."""
        return await self._send("GET", path, {}, priority, about, None, {"accept": accept})

    # -- one request -------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        priority: Priority,
        about: str,
        body: Any,
        headers: Mapping[str, str],
    ) -> Row:
        pauses = iter(_CHECK_PAUSES if priority is Priority.CHECK else _LOGIN_PAUSES)
        moves = 0
        while True:
            token = await self.credentials.token(self.origin) if self._flow == "oauth2" else None
            origin = self.origin
            try:
                answer = await self._http.request(
                    method,
                    origin,
                    path,
                    priority,
                    about,
                    self._judge,
                    params=params,
                    headers=headers,
                    json=body,
                    sign=lambda origin=origin, token=token: {  # type: ignore[misc]
                        "authorization": self._authorization(origin, token, method, path, params)
                    },
                )
            except _LoginRefusedError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise CredentialsError(f"{error}{self._advice()}") from None
                if token is not None:
                    self.credentials.discard(token)
                if pause:
                    self.budget.throttled(at_once=True)
                    await self._clock.sleep(pause)
            except _MovedError as error:
                moves += 1
                if moves > _MOVES:
                    raise SourceUnavailableError(
                        f"NetSuite redirects {about} again and again, at last to {error.origin}"
                    ) from None
                log.info("NetSuite: the account lives at %s", error.origin)
                self.origin = error.origin
            else:
                found: Row = answer.json()
                return found

    def _authorization(
        self, origin: Origin, token: Token | None, method: str, path: str, params: Mapping[str, str]
    ) -> str:
        if token is not None:
            return f"Bearer {token.secret.reveal()}"
        return authorization(self._options, method, f"{origin}{path}", params, self._http.system_time())

    def _advice(self) -> str:
        if self._flow == "tba":
            return (
                ". Check the four keys and account_id in the Login Audit Trail of NetSuite. The same answer comes if the account "
                "has too many requests in flight: lower concurrency"
            )
        return ". Check the role of the client credentials: it needs REST Web Services and Log in using OAuth 2.0 Access Tokens"

    def _judge(self, answer: Answer, about: str) -> Retry | None:
        status = answer.status
        if 300 <= status < 400:
            return self._moved(answer)
        if status == 200:
            found = answer.json()
            if not isinstance(found, dict):
                raise ValueError("it is not an object")
            if "hasMore" in found:
                items = found.get("items")
                if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                    raise ValueError("it is not a page of rows")
                if found["hasMore"] and not items:
                    # A reader would take this page for the last one, and leave out the rest.
                    return Retry("a page without rows that says that there are more")
            return None
        code, message = _error(answer)
        reason = f"HTTP {status}: {message}"
        if code in _OVERLOAD or status == 429:
            after = seconds(answer.headers.get("retry-after"))
            self.budget.throttled(after or None, at_once=True)
            return Retry(reason, after)
        if status >= 500:
            return Retry(reason)
        if code == "INVALID_LOGIN_ATTEMPT":
            raise CredentialsError(f"NetSuite refused the login: {message}{self._advice()}")
        if status == 401:
            raise _LoginRefusedError(f"NetSuite refused the login: {message}")
        column = _UNKNOWN_COLUMN.search(message)
        if column is not None:
            raise UnknownColumnError(column[1], f"{about} has no column {column[1]!r} for this role")
        if _UNKNOWN_TABLE.search(message):
            raise UnknownTableError(
                f"{about} cannot be read: there is no such table, or the role may not see it: {message}"
            )
        if status == 403 or code in ("INSUFFICIENT_PERMISSION", "USER_ERROR"):
            raise SourceObjectError(f"the role may not read {about}: {message}")
        raise RefusedQueryError(f"{about} cannot be read: {reason}")

    def _moved(self, answer: Answer) -> Retry:
        """Return the verdict on a redirect that is not followed: a proxy answers so, too.

        Raises:
            _MovedError: it names another host of the account.
        """
        location = answer.headers.get("location", "")
        target = moved_to(self.origin, location, self._options.host_label)
        if target is not None and target != self.origin:
            raise _MovedError(target)
        return Retry(
            f"HTTP {answer.status} to {location[:200]!r}, which is no other host of the account: it is not followed"
        )


def moved_to(origin: Origin, location: str, label: str) -> Origin | None:
    """Return the host that an account moved to, between data centres; None if an address is none of its hosts.

    A host of NetSuite's names the account in front of its domain. The host of another account, and any host outside the domain,
    gets no credentials.

    Args:
        origin: the host that answered.
        location: the address of the redirect.
        label: the account, as host names have it.
    """
    try:
        parts = urlsplit(location)
        target = Origin.parse(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        return None
    known = re.compile(rf"{re.escape(label)}\.suitetalk\.api(\.[a-z0-9-]+)?\.netsuite\.com")
    both = known.fullmatch(origin.host) and known.fullmatch(target.host)
    return target if both and (target.scheme, target.port) == ("https", 443) else None


def _error(answer: Answer) -> tuple[str, str]:
    """Return the code and the message of an error."""
    try:
        found = answer.json()
        detail = found["o:errorDetails"][0]
        code, message = str(detail.get("o:errorCode", "")), str(detail.get("detail", ""))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "", answer.reason or "no reason given"
    return code, _SCRUBBED.sub(" ", message)[:500] or "no reason given"
