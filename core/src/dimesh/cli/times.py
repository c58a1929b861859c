"""Parses times and durations as people type them, and writes them as people say them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from dimesh.errors import ConfigurationError
from dimesh.events.names import show

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_WORDS = {
    "millisecond": "ms",
    "second": "s",
    "sec": "s",
    "minute": "m",
    "min": "m",
    "hour": "h",
    "hr": "h",
    "day": "d",
    "week": "w",
}
_UNIT = "|".join([*_SECONDS, *(f"{word}s?" for word in _WORDS)])
_DURATION = re.compile(
    rf"(?P<number>[0-9]+(?:\.[0-9]+)?|an?(?=\s))\s*(?P<unit>{_UNIT})(?:\s+ago)?\Z", re.IGNORECASE
)
_DAYS = {"today": 0, "yesterday": 1}


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """Return the time that a text names.

    Args:
        text: a duration ago (``15m``, ``1.5h``, ``10 minutes ago``, ``an hour ago``), ``now``, ``today`` or ``yesterday`` (the
            beginning of that day in UTC), or an ISO 8601 time (in UTC if it has no zone).
        now: the present; None: the system's time.

    Raises:
        ConfigurationError: the text is none of these.
    """
    now = datetime.now(UTC) if now is None else now
    said = " ".join(text[:100].split())
    try:
        if (duration := _duration(said)) is not None:
            return now - duration
        if said.lower() == "now":
            return now
        if said.lower() in _DAYS:
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
            return midnight - timedelta(days=_DAYS[said.lower()])
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{show(text)} is not a time: write a duration ago such as 15m, 2h or '10 minutes ago', yesterday, "
            "or a time such as 2026-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_duration(text: str) -> timedelta:
    """Return the duration that a text names, such as ``7d`` or ``12 hours``.

    Raises:
        ConfigurationError: the text is no duration.
    """
    try:
        duration = _duration(" ".join(text[:100].split()))
    except OverflowError:
        duration = None
    if duration is None:
        raise ConfigurationError(f"{show(text)} is not a duration: write 15m, 12h, 7d or '12 hours'")
    return duration


def _duration(text: str) -> timedelta | None:
    found = _DURATION.match(text)
    if found is None:
        return None
    number, unit = found["number"].lower(), found["unit"].lower()
    count = 1.0 if number.startswith("a") else float(number)
    return timedelta(seconds=count * _SECONDS[unit if unit in _SECONDS else _WORDS[unit.rstrip("s")]])


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units at most: ``7 ms``, ``2.3 s``, ``5 min 10 s``, ``3 d 4 h``."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for large, small, size, unit in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if left >= size:
            rest = left % size // unit
            return f"{left // size:,} {large}" + (f" {rest} {small}" if rest else "")
    return f"{left} s"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return the time that has passed since a moment, in its largest unit: ``5 minutes ago``, ``in 2 days``, ``just now``."""
    seconds = ((datetime.now(UTC) if now is None else now) - moment).total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count = int(abs(seconds) // size)
        if count:
            said = f"{count:,} {unit}{'s' if count > 1 else ''}"
            return f"{said} ago" if seconds > 0 else f"in {said}"
    return "just now"
