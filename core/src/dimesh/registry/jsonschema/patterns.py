"""Limits of regular expressions, checked when a schema is registered.

Without look-around and back-references, jsonschema-rs matches in a time that is linear in the text, however the quantifiers are
nested. With them it tries alternatives one after the other, so nested quantifiers are refused there, and the number of tries is
limited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from dimesh.errors import InvalidSchemaError
from dimesh.events.names import show

MAX_PATTERN: Final = 2_000
"""The greatest number of characters of a pattern."""
MAX_EXPANDED: Final = 10_000
"""The greatest number of elements of a pattern in which ``x{3}`` counts as three."""
MAX_GROUPS: Final = 100
"""The greatest nesting of groups."""

_QUANTIFIER = re.compile(r"[*+?]\??|\{(\d+)(,(\d*))?\}\??", re.ASCII)
_ATOM = re.compile(
    r"\\[pP]\{[^}]*\}|\\k<[^>]*>|\\u\{[0-9a-fA-F]*\}|\\c.|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL
)
_GROUP = re.compile(r"\((\?(?:<?[=!]|:|<[^>]*>|[a-zA-Z-]*:?))?")


def check_pattern(pattern: Any, where: Callable[[], str]) -> None:
    """Check a pattern against the limits.

    Raises:
        InvalidSchemaError: a limit is exceeded.
    """
    if not isinstance(pattern, str):
        return  # the meta-schema says what is wrong
    if len(pattern) > MAX_PATTERN:
        raise InvalidSchemaError(
            f"{where()}: a pattern has {len(pattern):,} characters, more than the limit of {MAX_PATTERN:,}"
        )
    tries = False
    nested = False
    stack: list[tuple[int, bool]] = []
    size, repeats = (
        0,
        False,
    )  # of the group that is being read: its elements, and whether something repeats in it
    at = 0
    while at < len(pattern):
        if pattern[at] == "(":
            opening = _GROUP.match(pattern, at)
            assert opening is not None
            tries = tries or (opening[1] or "") in ("?=", "?!", "?<=", "?<!")
            stack.append((size, repeats))
            if len(stack) > MAX_GROUPS:
                raise InvalidSchemaError(f"{where()}: groups are nested deeper than {MAX_GROUPS} levels")
            size, repeats = 0, False
            at = opening.end()
            continue
        if pattern[at] == ")" and stack:
            inner, inside = size + 1, repeats
            size, repeats = stack.pop()
            at += 1
        else:
            atom = _ATOM.match(pattern, at)
            assert atom is not None
            tries = tries or bool(re.match(r"\\([1-9]|k<)", atom[0]))
            inner, inside = 1, False
            at = atom.end()
        quantifier = _QUANTIFIER.match(pattern, at)
        if quantifier is not None:
            low, comma, high = quantifier[1], quantifier[2], quantifier[3]
            inner *= _count(low, high)
            varies = low is None or comma is not None
            many = varies and quantifier[0][0] != "?"
            nested = nested or (many and inside)
            inside = inside or many
            at = quantifier.end()
        size += inner
        repeats = repeats or inside
        if size > MAX_EXPANDED:
            raise InvalidSchemaError(
                f"{where()}: the pattern {show(pattern)} stands for more than {MAX_EXPANDED:,} elements when each repetition is "
                "written out: use minLength and maxLength, or smaller counts"
            )
    if tries and nested:
        raise InvalidSchemaError(
            f"{where()}: the pattern {show(pattern)} has a quantifier inside a quantifier, and look-around or a back-reference: "
            "matching could take very long. Write it without one of the two"
        )


def _count(low: str | None, high: str | None) -> int:
    if low is None:
        return 1
    # Beyond nine digits the limit is exceeded anyway.
    return max(int(low[:9]), int((high or "0")[:9]), 1)
