"""The health of a captured object: whether its system can be read, and since when not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceUnavailableError, describe
from dimesh.printable import printable
from dimesh.secrets import mask_urls

log = logging.getLogger("dimesh.cdc")

SETTLED: Final = 10.0
"""The seconds without an error after which a source that does not report its contact counts as working again."""
_MAX_ERROR: Final = 500


class ObjectHealth:
    """Records what succeeds and what fails in capturing one object, and logs the start and the end of each outage.

    It is a :class:`dimesh.contact.ContactListener`. Times are seconds of the wall clock.

    Args:
        connector_id: the id of the connector, for the log.
        object_: the object, for the log.
        clock: time.
    """

    def __init__(self, connector_id: str, object_: str, clock: Clock) -> None:
        self.on_change: Callable[[], None] = _nothing
        """Called when an outage has begun or ended."""
        self._label = connector_id, object_
        self._clock = clock
        self.error = ""
        """The error that prevents capturing now; empty when there is none."""
        self.since = 0.0
        """The start of the outage, or the end of the last one; 0 if there was none."""
        self.last_error = ""
        """The last error, also after the end of its outage; empty when there was none."""
        self.last_error_at = 0.0
        self.last_read = 0.0
        """The time of the last answer of the system; 0 if there was none."""
        self.requests = 0
        """The number of requests to the system."""
        self.delivered_until = 0.0
        """The time up to which the stream has certainly yielded everything that the system showed; 0 if unknown."""
        self.reading = False
        """Whether the snapshot or the stream is being read, and not only what precedes it."""
        self._missed = False
        """Whether the system could not be reached, and the source is still trying: any answer ends this outage."""
        self._unavailable = False
        """Whether reading ended because of the system: an answer while the object is read ends this outage. After any other error
        only a batch that was captured does, or a while without errors."""
        self._failed_at = 0.0

    def requested(self) -> None:
        """Record a request to the system."""
        self.requests += 1

    def reached(self) -> None:
        """Record an answer of the system."""
        self.last_read = self._clock.time()
        if self.error and (self._missed or (self._unavailable and self.reading)):
            self._recovered()

    def missed(self, reason: str) -> None:
        """Record that the system could not be reached."""
        self._missed = self._missed or not self.error
        self._fail(reason)

    def delivered(self, until: float) -> None:
        """Record that everything that the system showed at a time was captured."""
        self.delivered_until = max(self.delivered_until, until)

    def failed(self, error: BaseException) -> None:
        """Record that capturing failed."""
        self._missed = False
        self._unavailable = isinstance(error, (SourceUnavailableError, CredentialsError))
        self._fail(describe(error))

    def captured(self) -> None:
        """Record that the source was connected, or that a batch was read and published."""
        self.last_read = self._clock.time()
        if self.error:
            self._recovered()

    def settle(self) -> None:
        """Record the end of an outage whose last failure was some time ago."""
        if self.error and self._clock.monotonic() - self._failed_at >= SETTLED:
            self._recovered()

    def _fail(self, reason: str) -> None:
        now = self._clock.time()
        reason = mask_urls(" ".join(reason.split()))[:_MAX_ERROR]
        began = not self.error
        if began:
            self.since = now
            log.warning("source %s, object %s cannot be captured: %s", *self._label, printable(reason))
        self.error = self.last_error = reason
        self.last_error_at = now
        self._failed_at = self._clock.monotonic()
        if began:
            self.on_change()

    def _recovered(self) -> None:
        now = self._clock.time()
        log.info(
            "source %s, object %s is captured again, after %.0f s", *self._label, max(now - self.since, 0.0)
        )
        self.error = ""
        self._missed = self._unavailable = False
        self.since = now
        self.on_change()


def _nothing() -> None:
    pass


def moment(time: float) -> str:
    """Return a time of the wall clock in ISO 8601, to the second; empty for 0."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds") if time else ""
