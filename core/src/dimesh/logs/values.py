"""Makes any value fit for JSON: bounded in depth, length and number, with string keys, and without secrets.

None of :mod:`json` and its replacements takes every value: NaN is written as such, and a cycle, a deep value, a key that is
a tuple or an object whose ``__repr__`` raises is an exception in the code that logs.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, Final

from dimesh.secrets import MASK, is_secret

MAX_DEPTH: Final = 6
"""The levels of tables and lists."""
MAX_ITEMS: Final = 100
"""The values of a whole record, and of each table or list in it."""
MAX_TEXT: Final = 2_000
"""The characters of a text."""
MAX_KEY: Final = 100
"""The characters of a key."""
_BIG: Final = 1 << 63


def clean(value: object) -> Any:
    """Return what JSON can express of a value. It never fails, and never changes the value."""
    return _clean(value, MAX_DEPTH, [MAX_ITEMS])


def fit(value: object) -> Any:
    """Return a value for the text of a message: tables and lists are bounded, everything else is as it was."""
    return clean(value) if isinstance(value, (dict, list, tuple, set, frozenset)) else value


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """Return ``text`` with at most ``limit`` characters, and how long it was if it was longer."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def text_of(value: object) -> str:
    """Return ``repr(value)``, or the name of the type if that fails."""
    try:
        return cut(str.__str__(repr(value)))
    except (Exception, SystemExit, GeneratorExit):  # code of others, for example an integer of 5,000 digits
        return f"<{type(value).__name__}>"


def _clean(value: object, depth: int, left: list[int]) -> Any:
    kind = type(value)
    if kind is str:
        return cut(value)  # type: ignore[arg-type]
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -_BIG <= value < _BIG else text_of(value)  # type: ignore[operator]
    if kind is float:
        return value if math.isfinite(value) else str(value)  # type: ignore[arg-type]
    try:
        if isinstance(value, dict):
            return _table(value, depth - 1, left) if depth else f"<{kind.__name__}>"
        if isinstance(value, (list, tuple, set, frozenset)):
            return _list(value, depth - 1, left) if depth else f"<{kind.__name__}>"
    except (Exception, SystemExit, GeneratorExit):  # another thread changes it, or its class is hostile
        return f"<{kind.__name__}>"
    return text_of(value)


def _table(value: dict[Any, Any], depth: int, left: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    count = dict.__len__(value)
    most = left[0]
    left[0] -= count
    for key, item in islice(dict.items(value), max(most, 0)) if count > most else dict.items(value):
        name = key if type(key) is str and len(key) <= MAX_KEY else cut(text_of(key), MAX_KEY)
        while name in found:  # 1 and "1", or two long names
            name += "'"
        if is_secret(name):
            found[name] = MASK
        elif type(item) is str and len(item) <= MAX_TEXT:  # the usual case, without a call
            found[name] = item
        else:
            found[name] = _clean(item, depth, left)
    if len(found) < count:
        found["…"] = f"{count - len(found):,} more"
    return found


def _list(value: Any, depth: int, left: list[int]) -> list[Any]:
    count = len(value)
    most = max(left[0], 0)
    left[0] -= count
    found = [_clean(item, depth, left) for item in islice(value, most)]
    if len(found) < count:
        found.append(f"… {count - len(found):,} more")
    return found
