"""What can be made to go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

RATE_REASONS = (
    "global-rate",
    "endpoint-rate",
    "global-concurrency",
    "endpoint-concurrency",
    "resource-specific",
)

Kind = Literal[
    "rate_limit",
    "rate_limit_400",
    "lock_timeout",
    "conflict",
    "error",
    "unauthorized",
    "forbidden",
    "not_enabled",
    "hang",
    "truncated",
    "malformed",
    "empty_page",
    "reset",
    "slow",
]


class Fault(msgspec.Struct, kw_only=True):
    """One kind of failure, for the next requests."""

    kind: Kind
    path: str = "/v1/"
    """Requests whose path begins so."""
    times: int = 1
    """How many; -1: until it is taken back."""
    status: int = 500
    """Of ``error``."""
    reason: str = "global-rate"
    """Of ``rate_limit``: the header ``Stripe-Rate-Limited-Reason``."""
    retry_after: float | None = None
    should_retry: bool | None = None
    """The header ``stripe-should-retry``."""
    seconds: float = 1.0
    """Of ``slow``."""

    def error(self) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """Status, body and headers of the answer."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        if self.should_retry is not None:
            headers["stripe-should-retry"] = str(self.should_retry).lower()
        match self.kind:
            case "rate_limit" | "rate_limit_400":
                if self.kind == "rate_limit":
                    headers["stripe-rate-limited-reason"] = self.reason
                return (
                    429 if self.kind == "rate_limit" else 400,
                    {
                        "message": "Request rate limit exceeded. Learn more about rate limits "
                        "https://stripe.com/docs/rate-limits.",
                        "type": "invalid_request_error",
                        "code": "rate_limit",
                        "doc_url": "https://stripe.com/docs/error-codes/rate-limit",
                    },
                    headers,
                )
            case "lock_timeout":
                return (
                    429,
                    {
                        "message": "The object is locked.",
                        "type": "invalid_request_error",
                        "code": "lock_timeout",
                    },
                    headers,
                )
            case "conflict":
                return (
                    409,
                    {"message": "Another request is in progress.", "type": "idempotency_error"},
                    headers,
                )
            case "unauthorized":
                return (
                    401,
                    {"message": "Invalid API Key provided: sk_test_****", "type": "invalid_request_error"},
                    headers,
                )
            case "forbidden":
                return (
                    403,
                    {
                        "message": "The provided key does not have the required permissions for this endpoint. "
                        "Having the 'rak_customer_read' permission would allow this request to continue.",
                        "type": "invalid_request_error",
                    },
                    headers,
                )
            case "not_enabled":
                return (
                    400,
                    {
                        "message": "Your account is not set up to use Issuing.",
                        "type": "invalid_request_error",
                    },
                    headers,
                )
            case _:
                return (
                    self.status,
                    {"message": "Something went wrong on Stripe's end.", "type": "api_error"},
                    headers,
                )


class Faults:
    """The failures that are planned."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []

    def plan(self, kind: Kind, **more: Any) -> Fault:
        """Let the next requests fail."""
        fault = Fault(kind=kind, **more)
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        """No more failures."""
        self.planned.clear()

    def take(self, path: str) -> Fault | None:
        """The failure of a request, if one is planned for it."""
        for fault in self.planned:
            if path.startswith(fault.path) and fault.times:
                fault.times -= fault.times > 0
                if not fault.times:
                    self.planned.remove(fault)
                return fault
        return None
