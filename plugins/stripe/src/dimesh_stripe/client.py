"""Requests to Stripe, tried again where that helps, within the account's budget."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import httpx

from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.budget import Budget, Urgency
from dimesh_stripe.options import StripeOptions

_MOST_BYTES: Final = 64 * 1024 * 1024


class CursorGoneError(CDCError):
    """The row that a page was to begin after is no longer there."""


class MissingError(SourceObjectError):
    """What was asked for is not there."""


class _TruncatedError(Exception):
    """A page that cannot be all of the answer: whoever took it for the last one would leave out the rest."""


class Client:
    """Reads from one account."""

    def __init__(self, options: StripeOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._http: httpx.AsyncClient | None = None
        account = f"stripe|{options.url}|{options.api_key}|{options.account}"
        self.budget = Budget.of(account, options.rate, clock, options.ledger, options.concurrency)

    async def open(self) -> None:
        """Make the connection pool."""
        headers = {
            "authorization": f"Bearer {self._options.api_key}",
            "stripe-version": self._options.api_version,
        }
        if self._options.account is not None:
            headers["stripe-account"] = self._options.account
        self._http = httpx.AsyncClient(
            base_url=self._options.url, headers=headers, timeout=self._options.timeout, follow_redirects=False
        )

    async def close(self) -> None:
        """Close it; may be called twice."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        self.budget.close()

    async def get(
        self,
        path: str,
        params: Mapping[str, Any],
        urgency: Urgency,
        about: str,
        headers: Mapping[str, str] | None = None,
        retry_for: float | None = None,
    ) -> dict[str, Any]:
        """The answer to a GET.

        Args:
            path: with ``/v1/`` or ``/v2/``; one that has a query already gets no ``params``.
            params: of the query.
            urgency: who goes first.
            about: the object that is read, for errors.
            headers: more of them.
            retry_for: seconds; None: as the options say.

        Raises:
            CredentialsError: the key is refused.
            SourceObjectError: the key may not read this, or the account does not have it.
            MissingError: it is not there.
            SourcePositionLostError: an event that was named has aged out, or never was.
            CursorGoneError: a row that was named is gone.
            SourceUnavailableError: it failed for that long.
        """
        end = self._clock.monotonic() + (self._options.retry_for if retry_for is None else retry_for)
        wait = 0.25
        while True:
            again: float | None = None
            try:
                async with self.budget.request(urgency):
                    assert self._http is not None, "not open"
                    answer = await self._http.get(path, params=dict(params) or None, headers=headers)
                if len(answer.content) > _MOST_BYTES:
                    raise SourceUnavailableError(
                        f"Stripe answered {about} with {len(answer.content):,} bytes"
                    )
                if answer.status_code == 200:
                    found = answer.json()
                    if not isinstance(found, dict):
                        raise ValueError("no object")
                    if found.get("has_more") and not found.get("data", True):
                        raise _TruncatedError("a page without rows that says that there are more")
                    self.budget.fine()
                    return found
                failure, again = self._failure(answer, about)
                if failure is not None:
                    raise failure
                reason = f"HTTP {answer.status_code}: {_message(answer)}"
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason = f"{type(error).__name__}: {error}"
            except _TruncatedError as error:
                reason = str(error)
            except ValueError as error:
                reason = f"an answer that is not JSON: {error}"[:200]
            pause = max(wait * random.uniform(0.5, 1.5), again or 0.0)  # noqa: S311 - spreads retries
            if self._clock.monotonic() + pause > end:
                raise SourceUnavailableError(f"Stripe could not be read for {about}: {reason}")
            await self._clock.sleep(pause)
            wait = min(wait * 2, 10.0)

    def _failure(self, answer: httpx.Response, about: str) -> tuple[Exception | None, float | None]:
        """The error to raise, or None: try again, after so many seconds."""
        status = answer.status_code
        error = _error(answer)
        code, message = error.get("code"), _message(answer)
        if status == 429 or code == "rate_limit":
            after = _seconds(answer.headers.get("retry-after"))
            if code != "lock_timeout":
                reason = answer.headers.get("stripe-rate-limited-reason", "")
                self.budget.too_much(after, at_once=reason.endswith("-concurrency"))
            return None, after
        if answer.headers.get("stripe-should-retry") == "true" or status == 409 or status >= 500:
            if answer.headers.get("stripe-should-retry") == "false":
                return SourceUnavailableError(f"Stripe: {about}: {message}"), None
            return None, _seconds(answer.headers.get("retry-after"))
        if status == 401:
            return CredentialsError(f"Stripe refused the key: {message}"), None
        if status == 403:
            return SourceObjectError(f"the key may not read {about}: {message}"), None
        if status == 400 and "aged out" in message:
            return SourcePositionLostError(f"Stripe has forgotten the position of {about}: {message}"), None
        if code == "resource_missing" and error.get("param") in ("starting_after", "ending_before"):
            return CursorGoneError(message), None
        kind = MissingError if code == "resource_missing" else SourceObjectError
        return kind(f"{about} cannot be read: HTTP {status}: {message}"), None


def _error(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _message(answer: httpx.Response) -> str:
    return " ".join(str(_error(answer).get("message") or answer.reason_phrase).split())[:400]


def _seconds(text: str | None) -> float | None:
    try:
        return max(float(text), 0.0) if text is not None else None
    except ValueError:
        return None
