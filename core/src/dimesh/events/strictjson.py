"""Strict JSON, interoperable between systems (I-JSON, RFC 7493): no value is changed silently.

NaN and infinities, lone surrogates, keys that are not strings, duplicate keys, numbers too large for a double, and
nesting beyond :data:`MAX_DEPTH` are errors, in encoding and in decoding. Integers of any size are exact.

Encoding and decoding try msgspec first, and use its result only if the inverse operation returns the original: then
nothing was lost, duplicated or rounded. Otherwise they use the standard library with the strict rules.
"""

from __future__ import annotations

import json
from math import isinf
from typing import Any, Final

import msgspec

from dimesh.errors import PayloadError
from dimesh.events.names import show

MAX_DEPTH: Final = 200
"""The maximum nesting of arrays and objects. Python's own parser fails near 1,000."""
MAX_INTEGER_DIGITS: Final = 4_300
"""The maximum number of digits of an integer. Python refuses to convert longer ones (CVE-2020-10735)."""

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_fast_encode = msgspec.json.Encoder().encode
_fast_decode = msgspec.json.Decoder().decode
_FAST_ERRORS: Final = (msgspec.MsgspecError, TypeError, ValueError, ArithmeticError, RecursionError)
_NO: Final = object()

_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_SURROGATE: Final = "a string contains a lone surrogate, which is not valid Unicode"


def dumps(value: Any) -> bytes:
    """Encode ``value`` (None, bool, int, float, str, list, tuple, dict with string keys) as UTF-8 JSON.

    Raises:
        PayloadError: a part of the value cannot be encoded; the message names it.
    """
    try:
        data = _fast_encode(value)
        if not maybe_deep(data) and _fast_decode(data) == value:
            return data
    except _FAST_ERRORS:
        pass
    _check(value, 1)
    try:
        return _encoder.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadError(_SURROGATE) from error
    except ValueError as error:
        raise PayloadError(f"cannot be encoded as JSON: {error}") from error
    except TypeError as error:
        raise PayloadError(
            f"cannot be encoded as JSON: {error}; convert the value to a string, number, list or dict first"
        ) from error


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode strict JSON.

    Raises:
        PayloadError: the data is not strict JSON; the message says why and where.
    """
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        raise PayloadError(f"JSON is decoded from str or bytes, not from {type(data).__name__}")
    try:
        raw = data.encode("utf-8") if isinstance(data, str) else bytes(data)
    except UnicodeEncodeError as error:
        raise PayloadError(_SURROGATE) from error
    value = _plain(raw)
    return _strict(raw) if value is _NO else value


def loads_strict(data: bytes) -> Any:
    """Decode JSON that is known to be strict, in half the time of :func:`loads`."""
    try:
        return _fast_decode(data)
    except _FAST_ERRORS:
        return loads(data)


def canonical(value: Any) -> str:
    """Return the JSON of a value in which only the value matters: keys are sorted, and 1.0 is written as 1.

    Two values have the same text exactly if JSON Schema calls them equal.
    """
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    return value


def is_strict(data: bytes) -> bool:
    """Return whether :func:`loads` would accept ``data``."""
    if _plain(data) is not _NO:
        return True
    try:
        _strict(data)
    except PayloadError:
        return False
    return True


def _plain(data: bytes) -> Any:
    try:
        if not maybe_deep(data):
            value = _fast_decode(data)
            if _fast_encode(value) == data:
                return value
    except _FAST_ERRORS:
        pass
    return _NO


def maybe_deep(data: bytes) -> bool:
    """Return whether the JSON in ``data`` has enough brackets to be nested beyond :data:`MAX_DEPTH`."""
    # Each level takes two brackets, so short payloads need no counting. bytes.replace takes a third of the time of
    # bytes.count here.
    size = len(data)
    if size <= 2 * MAX_DEPTH:
        return False
    return 2 * size - len(data.replace(b"[", b"")) - len(data.replace(b"{", b"")) > MAX_DEPTH


def _strict(data: bytes) -> Any:
    try:
        text = data.decode("utf-8")
        value = _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise PayloadError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise PayloadError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise PayloadError(_TOO_DEEP) from error
    except PayloadError:
        raise
    except ValueError as error:
        raise PayloadError(f"an integer has more than {MAX_INTEGER_DIGITS} digits") from error
    if maybe_deep(data):
        _check(value, 1)
    if "\\u" in text:
        # UTF-8 cannot encode surrogates, so only an escape can produce one.
        try:
            _encoder.encode(value).encode("utf-8")
        except UnicodeEncodeError as error:
            raise PayloadError(_SURROGATE) from error
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse values that the encoder would encode but must not: keys that are not strings, cycles, too deep nesting."""
    if isinstance(value, dict):
        if depth > MAX_DEPTH:
            raise PayloadError(f"{_TOO_DEEP} (or it contains itself)")
        for key, item in value.items():
            if not isinstance(key, str):
                raise PayloadError(
                    f"an object key is {type(key).__name__} ({show(key)}); JSON keys must be strings"
                )
            if isinstance(item, (dict, list, tuple)):
                _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        if depth > MAX_DEPTH:
            raise PayloadError(f"{_TOO_DEEP} (or it contains itself)")
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _check(item, depth + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise PayloadError(f"an object has the key {key!r:.60} twice")
            seen.add(key)
    return found


def _float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise PayloadError(f"the number {text:.40} is too large for a double; send it as a string")
    return number


def _constant(name: str) -> Any:
    raise PayloadError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
