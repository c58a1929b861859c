"""Requests to Stripe: which credentials go with them, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from dimesh_stripe.options import StripeOptions


class CursorGoneError(CDCError):
    """The row after which a page was to begin no longer exists."""


class MissingError(SourceObjectError):
    """The object that was asked for does not exist."""


class Client:
    """Reads from one account.

    Args:
        options: the options.
        clock: time.
        budget: the name of the budget of requests, beside the key.
    """

    def __init__(self, options: StripeOptions, clock: Clock, budget: str | None = None) -> None:
        account = f"stripe|{options.url}|{options.api_key.reveal()}|{budget}"
        self.budget = RateLimiter.shared(account, options.rate, clock, options.ledger, options.concurrency)
        self._origin = Origin.parse(options.url)
        self._http = SourceClient("Stripe", options, clock, self.budget)
        self._options = options

    async def open(self) -> None:
        """Make the connection pool."""
        await self._http.open()

    async def close(self) -> None:
        """Close the connection pool; may be called twice."""
        await self._http.close()

    def time(self) -> float:
        """Return the time by Stripe's clock; see :meth:`dimesh.sourcekit.http.SourceClient.system_time`."""
        return self._http.system_time()

    def path(self, address: str) -> str:
        """Return the path of an address that an answer names.

        Raises:
            ForeignAddressError: the address is not one of this API.
        """
        return self._origin.path(address)

    async def get(
        self,
        address: str,
        params: Mapping[str, Any],
        priority: Priority,
        about: str,
        headers: Mapping[str, str] | None = None,
        retry_for: float | None = None,
    ) -> dict[str, Any]:
        """Return the answer to a GET.

        Args:
            address: a path with ``/v1/`` or ``/v2/``, or an address that an answer named.
            params: the query; empty if ``address`` has one.
            priority: which request goes first.
            about: the object that is read, for errors.
            headers: more headers.
            retry_for: seconds; None: as the options say.

        Raises:
            CredentialsError: Stripe refuses the key.
            SourceObjectError: the key may not read this, or the account does not have it.
            MissingError: the object does not exist.
            SourcePositionLostError: an event that the request names has aged out, or never existed.
            CursorGoneError: a row that the request names is gone.
            SourceUnavailableError: all attempts failed, or an answer names an address outside this API.
        """
        answer = await self._http.request(
            "GET",
            self._origin,
            address,
            priority,
            about,
            self._judge,
            params=params,
            headers={**self._headers(), **(headers or {})},
            retry_for=retry_for,
        )
        found: dict[str, Any] = answer.json()
        return found

    def _headers(self) -> dict[str, str]:
        options = self._options
        account = {"stripe-account": options.account} if options.account is not None else {}
        key = options.api_key.reveal()
        return {"authorization": f"Bearer {key}", "stripe-version": options.api_version, **account}

    def _judge(self, answer: Answer, about: str) -> Retry | None:
        if answer.status == 200:
            found = answer.json()
            if not isinstance(found, dict):
                raise ValueError("it is not an object")
            if found.get("has_more") and not found.get("data", True):
                # A reader would take this page for the last one, and leave out the rest.
                return Retry("a page without rows that says that there are more")
            return None
        status, error = answer.status, _error(answer)
        code, message = error.get("code"), _message(answer)
        reason = f"HTTP {status}: {message}"
        after = seconds(answer.headers.get("retry-after"))
        if status == 429 or code == "rate_limit":
            if code != "lock_timeout":
                limit = answer.headers.get("stripe-rate-limited-reason", "")
                self.budget.throttled(after or None, at_once=limit.endswith("-concurrency"))
            return Retry(reason, after)
        should_retry = answer.headers.get("stripe-should-retry")
        if should_retry == "true" or status == 409 or status >= 500:
            if should_retry == "false":
                raise SourceUnavailableError(f"Stripe: {about}: {message}")
            return Retry(reason, after)
        if status == 401:
            raise CredentialsError(f"Stripe refused the key: {message}")
        if status == 403:
            raise SourceObjectError(f"the key may not read {about}: {message}")
        if status == 400 and "aged out" in message:
            raise SourcePositionLostError(f"Stripe has forgotten the position of {about}: {message}")
        if code == "resource_missing" and error.get("param") in ("starting_after", "ending_before"):
            raise CursorGoneError(message)
        missing = status == 404 and code in ("resource_missing", "not_found")  # of v1 and v2
        kind = MissingError if missing else SourceObjectError
        raise kind(f"{about} cannot be read: HTTP {status}: {message}")


def _error(answer: Answer) -> Mapping[str, Any]:
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _message(answer: Answer) -> str:
    return " ".join(str(_error(answer).get("message") or answer.reason).split())[:400]
