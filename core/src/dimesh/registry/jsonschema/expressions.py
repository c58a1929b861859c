"""Formats and regular expressions for the fallback engine.

Patterns are rewritten from ECMA-262 to Python, where a pattern of the common subset has the same meaning: character classes are
expanded. What is outside of the subset is refused, with the reason.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dimesh.errors import InvalidSchemaError

# -- formats -----------------------------------------------------------------------------------------

_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z"
)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.match(text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _is_time(text: str) -> bool:
    try:
        return bool(_TIME.match(text)) and time.fromisoformat(_micro(text)) is not None
    except ValueError:
        return False


def _is_date_time(text: str) -> bool:
    if len(text) < 20 or text[10] not in "Tt" or not _DATE.match(text[:10]) or not _TIME.match(text[11:]):
        return False
    try:
        return bool(datetime.fromisoformat(_micro(text)))
    except ValueError:
        return False


def _micro(text: str) -> str:
    """Return a time that Python can parse: with at most six digits of a second and an upper-case Z."""
    return re.sub(r"(\.\d{1,6})\d*", r"\1", text.upper())


def _is_ip(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return bool(kind(text)) and "%" not in text
        except ValueError:
            return False

    return check


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_uri(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.scheme and (parts.netloc or parts.path)) and parts.port != -1
    except ValueError:
        return False


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "email": lambda text: bool(_EMAIL.match(text)) and ".." not in text and not text.startswith("."),
    "hostname": lambda text: bool(_HOST.match(text)),
    "ipv4": _is_ip(ipaddress.IPv4Address),
    "ipv6": _is_ip(ipaddress.IPv6Address),
    "time": _is_time,
    "uri": _is_uri,
    "uuid": _is_uuid,
}
"""The formats that are checked, by the same function in both engines. Other formats are annotations."""


# -- regular expressions -----------------------------------------------------------------------------


class Pattern(NamedTuple):
    """A regular expression in the syntax of each engine."""

    python: str
    rust: str


_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " \\t\\n\\r\\f\\v"}
_NOT_CLASSES = {"D": "[^0-9]", "W": "[^A-Za-z0-9_]", "S": "[^ \\t\\n\\r\\f\\v]"}
_PLAIN_ESCAPES = "tnrfv"
_PUNCTUATION = "^$\\.*+?()[]{}|/-\"'!#%&,:;<=>@_`~ "


def translate(pattern: str) -> Pattern:
    """Translate a pattern of the common subset so that both engines interpret it as ECMA-262 does.

    Raises:
        InvalidSchemaError: the pattern uses something outside the subset; the message names it.
    """
    python: list[str] = []
    rust: list[str] = []
    at = 0
    in_class = False

    def refuse(what: str) -> InvalidSchemaError:
        return InvalidSchemaError(
            f"the pattern {pattern!r:.80} uses {what}, which engines interpret differently: write the pattern without it"
        )

    def both(text: str) -> None:
        python.append(text)
        rust.append(text)

    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            escaped = pattern[at + 1 : at + 2]
            if escaped in _CLASSES and escaped:
                both(_CLASSES[escaped] if in_class else f"[{_CLASSES[escaped]}]")
                at += 2
            elif escaped in _NOT_CLASSES and escaped:
                if in_class:
                    raise refuse(f"\\{escaped} inside [ ]")
                both(_NOT_CLASSES[escaped])
                at += 2
            elif escaped and escaped in _PLAIN_ESCAPES:
                both({"f": "\\x0c", "v": "\\x0b"}.get(escaped, f"\\{escaped}"))
                at += 2
            elif escaped in ("u", "x"):
                length = 4 if escaped == "u" else 2
                digits = pattern[at + 2 : at + 2 + length]
                if len(digits) != length or not all(c in "0123456789abcdefABCDEF" for c in digits):
                    raise refuse(f"\\{escaped} without {length} hex digits")
                if 0xD800 <= int(digits, 16) <= 0xDFFF:
                    raise refuse("a surrogate")
                both(re.escape(chr(int(digits, 16))))
                at += 2 + length
            elif escaped and escaped in _PUNCTUATION:
                both(re.escape(escaped) if escaped != "/" else "/")
                at += 2
            else:
                raise refuse(f"\\{escaped}" if escaped else "a lone backslash at its end")
            continue
        if in_class:
            if char == "]":
                in_class = False
                both("]")
            elif char in "[&~|" or (char == "-" and pattern[at - 1 : at + 2] == "--"):
                both(f"\\{char}")
            else:
                both(char)
        elif char == "[":
            in_class = True
            negated = pattern[at + 1 : at + 2] == "^"
            if pattern[at + (2 if negated else 1) : at + (3 if negated else 2)] == "]":
                raise refuse("an empty [ ]")
            both("[^" if negated else "[")
            at += negated
        elif char == "$":
            python.append("\\Z")
            rust.append("$")
        elif char == ".":
            both("[^\\n\\r\\u2028\\u2029]")
        elif char == "(" and pattern[at + 1 : at + 2] == "?":
            opening = next((o for o in ("(?:", "(?=", "(?!") if pattern.startswith(o, at)), None)
            if opening is None:
                raise refuse(pattern[at : at + 4])
            both(opening)
            at += 2
        elif char in "*+?}" and pattern[at + 1 : at + 2] == "+":
            raise refuse("a possessive quantifier")
        elif char == "{" and not re.match(r"\{\d{1,4}(,\d{0,4})?\}", pattern[at:]):
            raise refuse("a { that does not start a quantifier")
        else:
            both(char)
        at += 1
    if in_class:
        raise refuse("a [ that is not closed")
    try:
        re.compile("".join(python))
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidSchemaError(
            f"the pattern {pattern!r:.80} is not a regular expression: {error}"
        ) from None
    return Pattern("".join(python), "".join(rust))
