"""Faults of NetSuite's API that can be planned."""

from __future__ import annotations

from typing import Any, Final, Literal

from dimesh.sourcekit.sandbox import Fault, Status, TransportFault

Kind = Literal[
    TransportFault, "error", "overload_429", "overload_400", "overload_401", "login", "login_attempt", "forbidden", "moved",
    "cut_off", "bad_request", "empty_page", "rubbish",
]  # fmt: skip
TYPES: Final = {
    400: "15.5.1", 401: "15.5.2", 403: "15.5.4", 404: "15.5.5", 429: "15.5", 500: "15.6.1", 503: "15.6.4",
}  # fmt: skip
TITLES: Final = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
LIMIT: Final = "CONCURRENCY_LIMIT_EXCEEDED"
LIMIT_TEXT: Final = "Concurrent request limit exceeded. Request blocked."
LOGIN_TEXT: Final = (
    "Invalid login attempt. For more details, see the Login Audit Trail in the NetSuite UI at Setup > Users/Roles > User "
    "Management > "
    "View Login Audit Trail."
)
ANSWERS: Final[dict[str, tuple[int, str, str]]] = {
    "overload_429": (429, LIMIT, LIMIT_TEXT),
    "overload_400": (400, LIMIT, LIMIT_TEXT),
    "overload_401": (401, "INVALID_LOGIN", LOGIN_TEXT),
    "login": (401, "INVALID_LOGIN", LOGIN_TEXT),
    "login_attempt": (401, "INVALID_LOGIN_ATTEMPT", "Invalid login attempt."),
    "forbidden": (
        403,
        "INSUFFICIENT_PERMISSION",
        "Permission Violation: You need the 'Lists -> Customers' permission.",
    ),
    "bad_request": (400, "USER_ERROR", "An error occurred while processing the record."),
}
"""Status, code and text of error answers: recorded, and of the statuses of an overload julbrs/netsuite-api-client #26."""


class NetSuiteFault(Fault, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure of NetSuite's API, for the next requests.

    ``overload_429``, ``overload_400`` and ``overload_401`` are the disguises of an overload. ``cut_off`` is a page of a tenth of
    its rows that says that there are no more, with the true total (reported). ``empty_page`` is a page without rows
    that says that there are more, ``rubbish`` one whose rows are none (no source for either). ``moved`` is a redirect to another
    host.
    """

    kind: Kind
    path: str = "/services/"
    status: Status = 500
    """The HTTP status of ``error`` and of ``proxy``."""
    location: str = "https://tstdrv1234567.suitetalk.api.netsuite.com/"
    """The header ``Location`` of ``moved``."""
    retry_after: float | None = None
    """The header ``Retry-After``, which NetSuite documents nowhere."""

    def error(self) -> tuple[int, dict[str, Any]] | None:
        """Return the status and the body of an error answer; None if the fault is not one."""
        if self.kind == "error":
            return self.status, problem(self.status, "UNEXPECTED_ERROR", "An unexpected error occurred.")
        if self.kind in ANSWERS:
            status, code, text = ANSWERS[self.kind]
            return status, problem(status, code, text)
        return None


def problem(status: int, code: str, detail: str) -> dict[str, Any]:
    """Return the body of an error (recorded)."""
    section = TYPES.get(status, "15.5")
    return {
        "type": f"https://www.rfc-editor.org/rfc/rfc9110.html#section-{section}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "o:errorDetails": [{"detail": detail, "o:errorCode": code}],
    }
