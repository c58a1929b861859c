"""The faults of Salesforce's APIs that can be planned."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from dimesh.sourcekit.sandbox import Fault, Status, TransportFault

Kind = Literal[
    TransportFault,
    "daily_limit",
    "concurrent_limit",
    "error",
    "unauthorized",
    "forbidden",
    "short",
    "query_timeout",
    "too_many_ids",
]

_ANSWERS: Final = {
    # Recorded: both limits share status and code, and differ in the message only.
    "daily_limit": (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
    "concurrent_limit": (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded."),
    # Recorded.
    "unauthorized": (401, "INVALID_SESSION_ID", "Session expired or invalid"),
    # Documentation gives the codes; the exact status is unconfirmed.
    "forbidden": (403, "INSUFFICIENT_ACCESS", "insufficient access rights on cross-reference id"),
    "too_many_ids": (400, "EXCEEDED_ID_LIMIT", "more than 600000 ids"),
    "query_timeout": (400, "QUERY_TIMEOUT", "Your query request was running for too long."),
}
_COUNT = Annotated[int, Meta(ge=0, le=1_000_000)]


class SalesforceFault(Fault, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure of the REST API, for the next requests.

    ``short`` (no source) is an answer that lacks half of its rows; only the count that comes with them shows it.
    """

    kind: Kind
    path: str = "/services/data/"
    status: Status = 503
    """The HTTP status of ``error`` and of ``proxy``."""

    def error(self) -> tuple[int, list[dict[str, str]]] | None:
        """Return status and body of an error answer; None if the fault is not one."""
        if self.kind == "error":
            status, code, message = self.status, "SERVER_UNAVAILABLE", "Server unavailable"
        elif self.kind in _ANSWERS:
            status, code, message = _ANSWERS[self.kind]
        else:
            return None
        return status, [{"message": message, "errorCode": code}]


class StreamFaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The switches of the Pub/Sub API."""

    silent: bool = False
    """Whether streams hang: no event, no keep-alive and no error comes (forcedotcom/pub-sub-api PR #31)."""
    unavailable: _COUNT = 0
    """The number of calls that are refused as unavailable."""
    corrupted: bool = False
    """Whether every replay id is refused as corrupted."""
    again: _COUNT = 0
    """The number of events that a stream repeats after a reconnect: delivery is at least once (documentation)."""
    batch: Annotated[int, Meta(ge=1, le=100)] = 100
    """The largest number of events in one response."""
    code: str | None = None
    """The ``error-code`` with which every call ends at once, such as ``service.protection.triggered``."""
    idle_close: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0
    """The seconds after which a stream with nothing requested is closed (documentation: 60)."""
