"""The rules for the names of topics, event types and groups.

Topic names follow Kafka's rule (letters, digits, ``.``, ``_``, ``-``; at most 249 characters; neither
``.`` nor ``..``), because every other backend supports such names.
"""

from __future__ import annotations

import re
from typing import Final

from dimesh.errors import EventError

MAX_TOPIC: Final = 249
MAX_TYPE: Final = 255
MAX_GROUP: Final = 255

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")
_TYPE = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*)*\Z")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,254}\Z")

# The same names are checked millions of times, so valid ones are cached; the cache is bounded, since input is hostile.
KNOWN_TOPICS: set[str] = set()
_known_types: dict[str, str] = {}
_MAX_SEEN: Final = 10_000


def show(value: object, limit: int = 60) -> str:
    """Return ``value`` as text for an error message: quoted, with control characters escaped, and cut to ``limit``."""
    try:
        text = ascii(value)
    except Exception:  # an integer of 5,000 digits, or an object whose own __repr__ fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def check_topic(name: str) -> str:
    """Return ``name`` if it is a valid topic name.

    Raises:
        EventError: the name is not a string of 1 to 249 letters, digits, ``.``, ``_`` or ``-``.
    """
    if name.__class__ is str and name in KNOWN_TOPICS:
        return name
    if not isinstance(name, str) or not _TOPIC.match(name) or name in {".", ".."}:
        raise EventError(
            f"{show(name)} cannot be a topic name: use 1 to {MAX_TOPIC} letters, digits, '.', '_' or '-' "
            "(and neither '.' nor '..' alone)"
        )
    name = str.__str__(name)
    if len(KNOWN_TOPICS) < _MAX_SEEN:
        KNOWN_TOPICS.add(name)
    return name


def check_type(name: str) -> str:
    """Return ``name`` if it is a valid event type. Equal names usually return the same object.

    Raises:
        EventError: the name does not consist of lower-case words joined by dots, at most 255 characters.
    """
    if name.__class__ is str:
        known = _known_types.get(name)
        if known is not None:
            return known
    if not isinstance(name, str) or len(name) > MAX_TYPE or not _TYPE.match(name):
        raise EventError(
            f"{show(name)} cannot be an event type: use lower-case words joined by dots, such as "
            f"'order.created' (letters, digits, '_' and '-'; at most {MAX_TYPE} characters)"
        )
    name = str.__str__(name)
    if len(_known_types) < _MAX_SEEN:
        _known_types[name] = name
    return name


def check_group(name: str) -> str:
    """Return ``name`` if it is a valid consumer group or subscription id.

    Raises:
        EventError: the name is not a string of 1 to 255 letters, digits or ``._:@-``, beginning with a letter or digit.
    """
    if not isinstance(name, str) or not _GROUP.match(name):
        raise EventError(
            f"{show(name)} cannot be a group or subscription id: use 1 to {MAX_GROUP} letters, digits, "
            "'.', '_', ':', '@' or '-', beginning with a letter or digit"
        )
    return name
