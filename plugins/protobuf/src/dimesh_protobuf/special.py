"""Values of the well-known types: times as ``datetime``, durations as ``timedelta``, JSON as itself, wrappers as what they wrap.

A time or duration that Python's types cannot express stays a dictionary of its fields, so that every payload can be read.
Nanoseconds are cut to microseconds when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""The seconds of the years 1 to 9999."""
LONGEST: Final = 315_576_000_000
"""The most seconds of a duration: about 10,000 years."""


def parts_of_time(value: datetime) -> tuple[int, int]:
    """Return the seconds and nanoseconds of a time with a zone.

    Raises:
        ValueError: the time has no zone.
    """
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError("the time has no zone: use datetime.UTC")
    since = value - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if not _FIRST <= seconds <= _LAST:
        raise ValueError("the time is outside the years 1 to 9999 of UTC")
    return seconds, since.microseconds * 1_000


def parts_of_duration(value: timedelta) -> tuple[int, int]:
    """Return the seconds and nanoseconds of a duration: both have its sign.

    Raises:
        ValueError: the duration is too long.
    """
    micros = value // _MICROSECOND
    seconds, rest = divmod(abs(micros), 1_000_000)
    if seconds > LONGEST or (seconds == LONGEST and rest):
        raise ValueError(f"the duration has more than {LONGEST:,} seconds")
    sign = -1 if micros < 0 else 1
    return sign * seconds, sign * rest * 1_000


def time_of(message: Any) -> Any:
    """Return the value of a ``Timestamp``."""
    seconds, nanos = message.seconds, message.nanos
    if _FIRST <= seconds <= _LAST and 0 <= nanos < 1_000_000_000:
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1_000)
    return {"seconds": seconds, "nanos": nanos}


def duration_of(message: Any) -> Any:
    """Return the value of a ``Duration``."""
    seconds, nanos = message.seconds, message.nanos
    whole = abs(seconds) < LONGEST or (abs(seconds) == LONGEST and not nanos)
    if whole and abs(nanos) < 1_000_000_000 and seconds * nanos >= 0:
        micros = abs(nanos) // 1_000
        return timedelta(seconds=seconds, microseconds=-micros if nanos < 0 else micros)
    return {"seconds": seconds, "nanos": nanos}


def json_of(message: Any) -> Any:
    """Return the value of a ``Value``; None if it has none."""
    kind = message.WhichOneof("kind")
    if kind == "struct_value":
        return struct_of(message.struct_value)
    if kind == "list_value":
        return list_of(message.list_value)
    return None if kind in (None, "null_value") else getattr(message, kind)


def struct_of(message: Any) -> dict[str, Any]:
    """Return the value of a ``Struct``, its keys sorted."""
    fields = message.fields
    return {key: json_of(fields[key]) for key in sorted(fields)}


def list_of(message: Any) -> list[Any]:
    """Return the value of a ``ListValue``."""
    return [json_of(item) for item in message.values]


READ: Final[dict[str, Callable[[Any], Any]]] = {
    "timestamp": time_of,
    "duration": duration_of,
    "value": json_of,
    "struct": struct_of,
    "list": list_of,
    "wrapper": lambda message: message.value,
}
"""The function that returns the value of a message, for each kind of special type."""


def fill_json(message: Any, value: Any) -> None:
    """Write JSON, which was checked, into a ``Value``."""
    if value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, (int, float)):
        message.number_value = float(value)
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()
        fill_struct(message.struct_value, value)
    else:
        message.list_value.SetInParent()
        fill_list(message.list_value, value)


def fill_struct(message: Any, value: Mapping[str, Any]) -> None:
    """Write an object of JSON, which was checked, into a ``Struct``."""
    for key, item in value.items():
        fill_json(message.fields[key], item)


def fill_list(message: Any, value: list[Any]) -> None:
    """Write a list of JSON, which was checked, into a ``ListValue``."""
    for item in value:
        fill_json(message.values.add(), item)
