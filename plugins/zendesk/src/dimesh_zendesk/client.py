"""Requests to Zendesk: credentials, the two budgets, and what its answers mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.sourcekit.http import Answer, Retry, SourceClient, seconds
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.tokens import Credentials

log = logging.getLogger("dimesh.cdc.zendesk")

_WAIT: Final = 60.0
"""The number of seconds to wait after a 429 without ``Retry-After``."""
_LEAST: Final = 10
"""The smallest page of an export that is asked for."""
_AGAIN: Final = 20
"""The number of good answers after which a page that was made smaller grows again."""


class MissingError(SourceObjectError):
    """A single row does not exist, or may not be seen."""


class TooRecentError(CDCError):
    """An export was asked for a time that Zendesk holds back."""


class _TooHeavyError(CDCError):
    """A page of an export takes Zendesk too long."""


class _RefusedTokenError(CredentialsError):
    """The access token was refused; a new one may be accepted."""


class Client:
    """Reads from one account."""

    def __init__(self, options: ZendeskOptions, clock: Clock) -> None:
        account = f"zendesk|{options.address}"
        self.budget = RateLimiter.shared(account, options.rate, clock, options.ledger, options.concurrency)
        # A bucket gives what it has saved, and what flows in meanwhile: both together are one minute's requests.
        burst = max(options.exports // 3, 1)
        rate = max((options.exports - burst) / 60.0, 1 / 120)
        self.exports = RateLimiter.shared(
            f"{account}|exports", rate, clock, options.ledger, options.concurrency, burst
        )
        """The budget of export requests, which Zendesk counts for all integrations together and shows in no header."""
        self._origin = Origin.parse(options.address)
        self._http = SourceClient("Zendesk", options, clock, self.budget)
        self._export_http = SourceClient("Zendesk", options, clock, self.exports)
        self._last = self._http
        self._options = options
        self._clock = clock
        self._pages: dict[str, tuple[int, int]] = {}
        """By path, the size of the page that Zendesk can answer, and the good answers since it was made smaller."""
        self.credentials = Credentials(options, clock, self._http)

    async def open(self) -> None:
        """Make the connection pools."""
        await self._http.open()
        await self._export_http.open()

    async def close(self) -> None:
        """Close the connection pools; may be called twice."""
        await self._http.close()
        await self._export_http.close()

    def time(self) -> float:
        """Return the time by Zendesk's clock; see :meth:`dimesh.sourcekit.http.SourceClient.system_time`."""
        return self._last.system_time()

    def page_size(self, path: str) -> int:
        """Return the size of the next page of an export."""
        return self._pages.get(path, (self._options.page, 0))[0]

    async def get(
        self,
        path: str,
        params: Mapping[str, Any],
        priority: Priority,
        about: str,
        retry_for: float | None = None,
        judge_empty: bool = False,
    ) -> dict[str, Any]:
        """Return the answer to a GET that is no export.

        Args:
            path: the path below ``/api/v2/``, or an address that an answer named.
            params: the query; empty if ``path`` has one.
            priority: which request goes first.
            about: the object that is read, for errors.
            retry_for: seconds; None: as the options say.
            judge_empty: see :meth:`dimesh.sourcekit.http.SourceClient.request`.

        Raises:
            CredentialsError: Zendesk refuses the credentials.
            MissingError: HTTP 404.
            SourceObjectError: the user may not read this, or the plan lacks it.
            SourceUnavailableError: all attempts failed, or an answer names an address outside this API.
        """
        return await self._send(self._http, path, params, priority, about, retry_for, judge_empty)

    async def export(
        self, path: str, params: Mapping[str, Any], priority: Priority, about: str
    ) -> dict[str, Any]:
        """Return a page of an incremental export; raises as :meth:`get`, and:

        Raises:
            TooRecentError: Zendesk holds back what was asked for.
            SourcePositionLostError: Zendesk does not know the cursor.
        """
        while True:
            size, good = self._pages.get(path, (self._options.page, 0))
            try:
                found = await self._send(
                    self._export_http, path, {**params, "per_page": size}, priority, about
                )
            except _TooHeavyError:
                smaller = max(size // 2, _LEAST)
                log.warning("an export page of %d %s takes Zendesk too long: trying %d", size, about, smaller)
                self._pages[path] = (smaller, 0)
                continue
            if size < self._options.page:
                grown = min(size * 2, self._options.page)
                self._pages[path] = (size, good + 1) if good + 1 < _AGAIN else (grown, 0)
            return found

    async def _send(
        self,
        http: SourceClient,
        path: str,
        params: Mapping[str, Any],
        priority: Priority,
        about: str,
        retry_for: float | None = None,
        judge_empty: bool = False,
    ) -> dict[str, Any]:
        address = path if path.startswith(("/", "http")) else f"/api/v2/{path}"
        export = http is self._export_http
        size = int(params.get("per_page", 0)) if export else 0

        def judge(answer: Answer, about: str) -> Retry | None:
            return self._judge(answer, about, http, size)

        again = True
        while True:
            header = await self.credentials.header()
            try:
                answer = await http.request(
                    "GET", self._origin, address, priority, about, judge, params=params,
                    headers={"authorization": header, "accept": "application/json"}, retry_for=retry_for, judge_empty=judge_empty,
                )  # fmt: skip
            except _RefusedTokenError as error:
                if not again:
                    raise CredentialsError(str(error)) from error
                again = False
                await self.credentials.renew(header)
                continue
            self._last = http
            found: dict[str, Any] = answer.json()
            return found

    def _judge(self, answer: Answer, about: str, http: SourceClient, size: int) -> Retry | None:
        status = answer.status
        if status == 200:
            found = answer.json()
            if not isinstance(found, dict):
                raise ValueError("it is not an object")
            return None
        code, message = error_of(answer)
        reason = f"HTTP {status}: {message}"
        after = answer.headers.get("retry-after")
        if status == 429:
            wait = seconds(after) or _WAIT
            http.budget.throttled(wait)
            return Retry(reason, wait)
        if status == 504 and size > _LEAST:
            raise _TooHeavyError(reason)
        if status in (409, 520, 524) or status >= 500:
            return Retry(reason, seconds(after))
        if status == 401:
            raise _RefusedTokenError(f"Zendesk refused the credentials: {message}")
        if status == 403:
            raise SourceObjectError(
                f"{about} may not be read: {message}. Exports need an administrator; OAuth tokens need the scope read; some "
                "lists need a plan or an add-on"
            )
        if status == 404:
            raise MissingError(f"{about} cannot be read: HTTP 404: {message}")
        if status == 422 and size and "recent" in message.lower():
            raise TooRecentError(message)
        if status in (400, 422) and size and "cursor" in message.lower():
            raise SourcePositionLostError(f"Zendesk does not know the position of {about}: {message}")
        raise SourceObjectError(f"{about} cannot be read: {code} {reason}")

    def waiting(self) -> Mapping[str, Any]:
        """Return numbers about the budgets, for the status."""
        return {
            "requests": self.budget.requests + self.exports.requests,
            "requests_refused": self.budget.refused + self.exports.refused,
            "requests_a_second": round(self.budget.rate, 2),
            "budget_used": round(max(self.budget.used, self.exports.used), 4),
            "exports": self.exports.requests,
            "exports_refused": self.exports.refused,
            "exports_a_minute": round(self.exports.rate * 60, 1),
        }


def error_of(answer: Answer) -> tuple[str, str]:
    """Return the code and the text of an error. ``error`` is a text or an object, and some errors have no body (recorded)."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    code, message = "", ""
    if isinstance(found, dict):
        error = found.get("error")
        if isinstance(error, dict):
            code, message = str(error.get("title") or ""), str(error.get("message") or "")
        else:
            code = str(error or "")
            message = str(found.get("description") or found.get("error_description") or "")
    text = " ".join(f"{code}: {message}".strip(": ").split())
    return code, text[:400] or answer.reason


__all__ = ["Client", "MissingError", "SourceUnavailableError", "TooRecentError", "error_of"]
