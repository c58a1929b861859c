"""JSON as RFC 8259 means it between systems (I-JSON, RFC 7493), with nothing changed in silence.

Refused both ways: NaN and infinities, lone surrogates, keys that are not strings, duplicate keys,
numbers too large for a double, nesting beyond :data:`MAX_DEPTH`. Integers of any size are exact.
"""

from __future__ import annotations

import json
from math import isinf
from typing import Any, Final

from dimesh.errors import PayloadError

MAX_DEPTH: Final = 200
"""How deep arrays and objects may be nested. Python's own parser gives up near 1,000."""
MAX_INTEGER_DIGITS: Final = 4_300
"""Python refuses to convert longer integers (CVE-2020-10735)."""

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)


def dumps(value: Any) -> bytes:
    """``value`` (None, bool, int, float, str, list, tuple, dict with string keys) as UTF-8 JSON.

    Raises:
        PayloadError: something in it cannot be written; the message says where.
    """
    # The usual payload is a flat dict: its check is inlined, the walk is for nested values.
    _check(value, 1)
    try:
        return _encoder.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadError("a string holds a lone surrogate, which is not valid Unicode") from error
    except ValueError as error:
        raise PayloadError(f"cannot be written as JSON: {error}") from error
    except TypeError as error:
        raise PayloadError(
            f"cannot be written as JSON: {error}; convert it to a string, number, list or dict first"
        ) from error


def loads(data: bytes | str) -> Any:
    """The value that ``data`` holds.

    Raises:
        PayloadError: it is not strict JSON; the message says why and where.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, (bytes, bytearray, memoryview)) else data
        value = _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise PayloadError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise PayloadError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise PayloadError(f"nested deeper than {MAX_DEPTH} levels") from error
    except PayloadError:
        raise
    except ValueError as error:
        raise PayloadError(f"an integer has more than {MAX_INTEGER_DIGITS} digits") from error
    # A surrogate can only come in through an escape; depth only through many brackets.
    if "\\u" in text or not text.isascii():
        try:
            _encoder.encode(value).encode("utf-8")
        except UnicodeEncodeError as error:
            raise PayloadError("a string holds a lone surrogate, which is not valid Unicode") from error
        except RecursionError as error:
            raise PayloadError(f"nested deeper than {MAX_DEPTH} levels") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check(value, 1)
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse what the encoder would write but should not: odd keys, cycles and too deep nesting."""
    if isinstance(value, dict):
        if depth > MAX_DEPTH:
            raise PayloadError(f"nested deeper than {MAX_DEPTH} levels (or it contains itself)")
        for key, item in value.items():
            if not isinstance(key, str):
                raise PayloadError(
                    f"an object key is {type(key).__name__} ({key!r:.60}); JSON keys are strings"
                )
            if isinstance(item, (dict, list, tuple)):
                _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        if depth > MAX_DEPTH:
            raise PayloadError(f"nested deeper than {MAX_DEPTH} levels (or it contains itself)")
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _check(item, depth + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise PayloadError(f"the key {key!r:.60} stands twice in one object")
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
