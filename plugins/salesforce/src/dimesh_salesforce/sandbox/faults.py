"""What can be made to go wrong."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal[
    "daily_limit", "concurrent_limit", "error", "unauthorized", "forbidden", "hang", "truncated", "malformed", "reset",
    "short", "slow", "query_timeout",
    "too_many_ids",
]  # fmt: skip


class Fault(msgspec.Struct, kw_only=True):
    """One kind of failure of the REST API, for the next requests."""

    kind: Kind
    path: str = "/services/data/"
    """Requests whose path begins so."""
    times: int = 1
    """How many; -1: until it is taken back."""
    status: int = 503
    """Of ``error``."""
    # ``short``: rows lack, and nothing but their number tells.
    seconds: float = 1.0
    """Of ``slow``."""

    def answer(self) -> tuple[int, list[dict[str, str]]]:
        """Status and body."""
        status, code, message = {
            "daily_limit": (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
            "concurrent_limit": (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded."),
            "unauthorized": (401, "INVALID_SESSION_ID", "Session expired or invalid"),
            "forbidden": (403, "INSUFFICIENT_ACCESS", "insufficient access rights on cross-reference id"),
            "too_many_ids": (400, "EXCEEDED_ID_LIMIT", "more than 600000 ids"),
            "query_timeout": (400, "QUERY_TIMEOUT", "Your query request was running for too long."),
        }.get(self.kind, (self.status, "SERVER_UNAVAILABLE", "Server unavailable"))
        return status, [{"message": message, "errorCode": code}]


class Faults:
    """Failures of the REST API that are planned."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []

    def plan(self, **given: Any) -> None:
        """Let the next requests fail; see :class:`Fault`.

        Raises:
            ValueError: an unknown kind or option.
        """
        self.planned.append(msgspec.convert(given, Fault))

    def clear(self) -> None:
        """Take all back."""
        self.planned.clear()

    def next(self, path: str) -> Fault | None:
        """The failure of a request; counts it."""
        for fault in self.planned:
            if path.startswith(fault.path):
                if fault.times > 0:
                    fault.times -= 1
                if fault.times == 0:
                    self.planned.remove(fault)
                return fault
        return None


class StreamFaults:
    """Switches of the Pub/Sub API."""

    def __init__(self) -> None:
        self.silent = False
        """Streams hang: nothing comes, and no error."""
        self.unavailable = 0
        """So many calls are refused as unavailable."""
        self.corrupted = False
        """Every replay id is refused."""
        self.again = 0
        """Events that come a second time after a reconnect."""
        self.batch = 100
        """Events in one answer, at most."""
        self.code: str | None = None
        """The ``error-code`` that streams end with at once, such as ``service.protection.triggered``."""
        self.idle_close = 60.0
        """Seconds that a stream may have nothing requested."""
