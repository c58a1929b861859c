"""The faults of Stripe's API that can be planned."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from dimesh.sourcekit.sandbox import Fault, Status, TransportFault

RateReason = Literal[
    "global-rate",
    "endpoint-rate",
    "global-concurrency",
    "endpoint-concurrency",
    "resource-specific",
]
"""Values of the header ``Stripe-Rate-Limited-Reason`` (reference, *Rate limits*)."""

Kind = Literal[
    TransportFault,
    "rate_limit",
    "rate_limit_400",
    "lock_timeout",
    "conflict",
    "error",
    "unauthorized",
    "forbidden",
    "not_enabled",
    "empty_page",
]

_RATE_LIMIT: Final = {
    "message": "Request rate limit exceeded. Learn more about rate limits https://stripe.com/docs/rate-limits.",
    "type": "invalid_request_error",
    "code": "rate_limit",
    "doc_url": "https://stripe.com/docs/error-codes/rate-limit",
}
_ANSWERS: Final[dict[str, tuple[int, dict[str, str]]]] = {
    # Recorded body; the reasons are those of the reference.
    "rate_limit": (429, _RATE_LIMIT),
    # SDK: it maps the historic 400 with this code to its rate-limit error, too.
    "rate_limit_400": (400, _RATE_LIMIT),
    # Reference, "Rate limits": a lock time-out is a 429 without the header.
    "lock_timeout": (
        429,
        {"message": "The object is locked.", "type": "invalid_request_error", "code": "lock_timeout"},
    ),
    # Reference, "Idempotent requests": a concurrent request with the same key.
    "conflict": (409, {"message": "Another request is in progress.", "type": "idempotency_error"}),
    # Recorded: the body has no code.
    "unauthorized": (
        401,
        {"message": "Invalid API Key provided: sk_test_****", "type": "invalid_request_error"},
    ),
    # Recorded.
    "forbidden": (
        403,
        {
            "message": "The provided key does not have the required permissions for this endpoint. "
            "Having the 'rak_customer_read' permission would allow this request to continue.",
            "type": "invalid_request_error",
        },
    ),
    # Recorded.
    "not_enabled": (
        400,
        {"message": "Your account is not set up to use Issuing.", "type": "invalid_request_error"},
    ),
}


class StripeFault(Fault, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure of Stripe's API, for the next requests.

    ``empty_page`` (no source) is a list without rows that says ``has_more``.
    """

    kind: Kind
    path: str = "/v1/"
    status: Status = 500
    """The HTTP status of ``error`` and of ``proxy``."""
    reason: RateReason = "global-rate"
    """The header ``Stripe-Rate-Limited-Reason`` of ``rate_limit``."""
    retry_after: Annotated[float, Meta(ge=0.0)] | None = None
    """The header ``Retry-After``, which Stripe documents nowhere."""
    should_retry: bool | None = None
    """The header ``stripe-should-retry`` (SDK: it overrides the client's own judgement)."""

    def error(self) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        """Return status, body and headers of an error answer; None if the fault is not one."""
        if self.kind == "error":
            status, body = (
                self.status,
                {"message": "Something went wrong on Stripe's end.", "type": "api_error"},
            )
        elif self.kind in _ANSWERS:
            status, body = _ANSWERS[self.kind]
        else:
            return None
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        if self.should_retry is not None:
            headers["stripe-should-retry"] = str(self.should_retry).lower()
        if self.kind == "rate_limit":
            headers["stripe-rate-limited-reason"] = self.reason
        return status, body, headers
