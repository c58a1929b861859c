"""Faults that a test, or a user at the page, plans for the next requests."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

TransportFault = Literal["slow", "hang", "reset", "truncated", "malformed", "proxy"]
"""The faults that every sandbox has, since any HTTP server can show them: a late answer; no answer; a connection that is
reset; a body shorter than its ``Content-Length``; a body that is not JSON; the page of a proxy, with any status.
"""

Seconds = Annotated[float, Meta(ge=0.0, le=3_600.0)]
Status = Annotated[int, Meta(ge=200, le=599)]
Times = Annotated[int, Meta(ge=-1, le=1_000_000)]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure, for the next requests. A subclass lists the kinds of its system."""

    kind: str
    """The name of the failure."""
    path: str = "/"
    """The prefix of the paths that the fault applies to."""
    times: Times = 1
    """The number of requests that fail; -1: every request until the faults are cleared."""
    seconds: Seconds = 1.0
    """The delay of ``slow``."""
    status: Status = 502
    """The HTTP status of ``proxy``."""

    def __post_init__(self) -> None:
        if self.times == 0:
            raise ValueError("times must be at least 1, or -1 for every request")


F = TypeVar("F", bound=Fault)


class FaultPlan(Generic[F]):
    """The faults that are planned, oldest first.

    Args:
        fault: the type of the system's faults.
    """

    def __init__(self, fault: type[F]) -> None:
        self.fault = fault
        self.planned: list[F] = []

    def plan(self, kind: str, **fields: Any) -> F:
        """Let the next requests fail.

        Raises:
            ValueError: the kind or a field is unknown, or a value is out of range.
        """
        fault = msgspec.convert({"kind": kind, **fields}, self.fault)
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        """Drop every planned fault."""
        self.planned.clear()

    def take(self, path: str) -> F | None:
        """Return the fault of a request, and count it; None if none is planned for its path."""
        for fault in self.planned:
            if path.startswith(fault.path):
                if fault.times > 0:
                    fault.times -= 1
                if fault.times == 0:
                    self.planned.remove(fault)
                return fault
        return None
