"""The contact of a source with its system, so that an outage is seen while it lasts.

A source repeats a request that failed, for a minute or longer, before it raises an error. Whatever sends its requests therefore
reports each answer and each failure here, and the runner of the object that is being read listens. A source over HTTP that uses
:class:`dimesh.sourcekit.http.SourceClient` need not do anything.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol


class ContactListener(Protocol):
    """What is notified of the contact of a source with its system."""

    def requested(self) -> None:
        """Record a request to the system."""
        ...

    def reached(self) -> None:
        """Record that the system answered."""
        ...

    def missed(self, reason: str) -> None:
        """Record that the system could not be reached, or refused to answer for now."""
        ...

    def delivered(self, until: float) -> None:
        """Record that the stream has yielded everything that the system showed at a time of our clock."""
        ...


listener: Final[ContextVar[ContactListener | None]] = ContextVar("dimesh_contact", default=None)
"""The listener of the running task."""


def report_request() -> None:
    """Report that a request is sent to the system."""
    found = listener.get()
    if found is not None:
        found.requested()


def report_reached() -> None:
    """Report that the system answered."""
    found = listener.get()
    if found is not None:
        found.reached()


def report_missed(reason: str) -> None:
    """Report that the system could not be reached, or refused to answer for now. One failure that the next attempt makes good
    is no outage: report the second one in a row, and those after it.
    """
    found = listener.get()
    if found is not None:
        found.missed(reason)


def report_delivered(until: float) -> None:
    """Report that the stream has yielded everything that the system showed at a time of our clock, such as the beginning of a
    poll that found nothing more. Call this function when the last batch has been taken over: after its ``yield``.
    """
    found = listener.get()
    if found is not None:
        found.delivered(until)
