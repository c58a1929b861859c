"""Names of topics and groups as ids of Pub/Sub, and back.

An id has 3 to 255 letters, digits and ``-._~+%``, begins with a letter and not with ``goog``
(https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names). A topic's name is its id where it can be; where it
cannot, ``x+`` stands before it. A group's subscription is ``<group>~<topic>``, with ``:`` and ``@`` of the group
percent-encoded; one that is too long is a digest, and its labels say which group it is of.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote
from uuid import uuid4

_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ESCAPE: Final = "x+"
_LONG: Final = "group+"
_LONE: Final = "lone+"
_LABEL: Final = "dimesh-group-"
_LABEL_SIZE: Final = 60


def topic_id(name: str) -> str:
    """The id of a topic."""
    return _escaped(name)


def topic_name(id: str) -> str | None:
    """The name of the topic with that id; None if the mesh could not have such a topic."""
    name = id.removeprefix(_ESCAPE)
    return name if _PLAIN.fullmatch(name) else None


def lone_id() -> str:
    """A new subscription for somebody without a group."""
    return f"{_LONE}{uuid4().hex}"


def is_lone(id: str) -> bool:
    """Whether it is one of those."""
    return id.startswith(_LONE)


def subscription_id(group: str, topic: str) -> str:
    """The id of a group's subscription to a topic."""
    whole = _escaped(f"{quote(group, safe='')}~{topic}")
    if len(whole) <= 255:
        return whole
    return _LONG + hashlib.sha256(f"{group}~{topic}".encode()).hexdigest()[:48]


def labels(group: str, topic: str) -> dict[str, str]:
    """What is to be written on that subscription."""
    if not subscription_id(group, topic).startswith(_LONG):
        return {}
    text = base64.b32encode(group.encode()).decode().rstrip("=").lower()
    pieces = range(0, len(text), _LABEL_SIZE)
    return {f"{_LABEL}{n}": text[at : at + _LABEL_SIZE] for n, at in enumerate(pieces)}


def group_of(id: str, topic: str, written: Mapping[str, str]) -> str | None:
    """The group of a subscription to ``topic``; None: it is none of the mesh's."""
    if id.startswith(_LONG):
        text = "".join(written.get(f"{_LABEL}{n}", "") for n in range(len(written)))
        try:
            return base64.b32decode(text.upper() + "=" * (-len(text) % 8)).decode() or None
        except ValueError:
            return None
    group, _, rest = id.removeprefix(_ESCAPE).partition("~")
    return unquote(group) if group and rest == topic else None


def _escaped(text: str) -> str:
    return text if _ID.fullmatch(text) and not text.lower().startswith("goog") else _ESCAPE + text
