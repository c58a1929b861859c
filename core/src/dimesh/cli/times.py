"""Times and durations as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from dimesh.errors import ConfigurationError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def parse_since(text: str) -> datetime:
    """A moment: ``15m`` or ``2h`` ago, or an ISO 8601 time (UTC if it has no zone).

    Raises:
        ConfigurationError: neither.
    """
    duration = _DURATION.match(text)
    try:
        if duration is not None:
            return datetime.now(UTC) - timedelta(seconds=float(duration[1]) * _UNITS[duration[2]])
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text[:60]!r} is no time: write a duration such as 15m, 2h or 1d, or a time such as 2026-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
