"""Logical types: between the values that Avro stores and Python's.

Numbers that Python's dates cannot express stay numbers, in both directions, so that every payload can be read: other languages
have later years. Times are cut to the unit of the type.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from typing import Any, Final
from uuid import UUID

from dimesh_avro.nodes import Logical, Node

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - a local time has no zone
_DAY: Final = date(1970, 1, 1).toordinal()
_MICROSECOND: Final = timedelta(microseconds=1)
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "date": (date,),
    "time-millis": (time,),
    "time-micros": (time,),
    "timestamp-millis": (datetime,),
    "timestamp-micros": (datetime,),
    "local-timestamp-millis": (datetime,),
    "local-timestamp-micros": (datetime,),
    "uuid": (UUID, str),
    "decimal": (Decimal, int),
}


def takes(logical: Logical, value: Any) -> bool:
    """Return whether a value is of the Python type of a logical type."""
    if isinstance(value, bool) or (logical.name == "date" and isinstance(value, datetime)):
        return False
    return isinstance(value, _TYPES[logical.name])


def to_python(node: Node, raw: Any) -> Any:
    """Return the value of a logical type that Avro stores as ``raw``.

    Raises:
        ValueError: ``raw`` is no value of the logical type.
    """
    logical = node.logical
    if logical is None:
        return raw
    name = logical.name
    if name == "uuid":
        return UUID(raw)
    if name == "decimal":
        unscaled = int.from_bytes(raw, "big", signed=True)
        if abs(unscaled) >= 10**logical.precision:
            raise ValueError(f"the decimal has more than {logical.precision} digits")
        with localcontext(prec=logical.precision):
            return Decimal(unscaled).scaleb(-logical.scale)
    try:
        if name == "date":
            return date.fromordinal(_DAY + raw)
        micros = raw * 1_000 if name.endswith("millis") else raw
        if name.startswith("time-"):
            return (_LOCAL + timedelta(microseconds=micros)).time() if 0 <= micros < 86_400_000_000 else raw
        return (_LOCAL if name.startswith("local") else _EPOCH) + timedelta(microseconds=micros)
    except (OverflowError, ValueError):
        return raw


def to_raw(node: Node, value: Any) -> Any:
    """Return what Avro stores for a value of a logical type; numbers of dates and times stay as they are.

    Raises:
        ValueError: the type has no such value.
    """
    logical = node.logical
    if logical is None or (isinstance(value, int) and logical.name != "decimal"):
        return value
    name = logical.name
    if name == "uuid":
        return str(value if isinstance(value, UUID) else UUID(value))
    if name == "decimal":
        return _unscaled(node, logical, value)
    if name == "date":
        return value.toordinal() - _DAY
    if name.startswith("time-"):
        if value.tzinfo is not None:
            raise ValueError("a time of day has no time zone")
        micros = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    elif (value.tzinfo is None) != name.startswith("local"):
        raise ValueError(
            "a local time has no time zone" if value.tzinfo else "the time has no zone: use datetime.UTC"
        )
    else:
        micros = (value - (_EPOCH if value.tzinfo else _LOCAL)) // _MICROSECOND
    return micros // 1_000 if name.endswith("millis") else micros


def _unscaled(node: Node, logical: Logical, value: Decimal | int) -> bytes:
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("the decimal is no finite number")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    shift = exponent + logical.scale
    if shift < 0 and any(digits[shift:]):
        raise ValueError(f"the decimal has more than {logical.scale} digits after the point")
    if number and number.adjusted() + 1 + logical.scale > logical.precision:
        raise ValueError(f"the decimal has more than {logical.precision} digits")
    unscaled = (
        int("".join(map(str, digits[: len(digits) + min(shift, 0)])) or "0") * 10 ** max(shift, 0)
        if number
        else 0
    )
    unscaled = -unscaled if sign else unscaled
    size = node.size if node.kind == "fixed" else (unscaled + (unscaled < 0)).bit_length() // 8 + 1
    return unscaled.to_bytes(size, "big", signed=True)
