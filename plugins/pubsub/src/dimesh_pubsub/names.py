"""Names of topics and groups as ids of Pub/Sub, and back.

An id has 3 to 255 letters, digits and ``-._~+%``, begins with a letter and not with ``goog``
(https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names). The id of a topic is its name, after ``x+`` where the
name is not a valid id. The subscription of a group is ``<group>~<topic>``, with ``:`` and ``@`` of the group percent-encoded;
if that is too long, the id is a digest, and the subscription's labels hold the name of the group.
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
    """Return the id of a topic."""
    return _escaped(name)


def topic_name(id: str) -> str | None:
    """Return the name of the topic with an id; None if no topic of the mesh can have that id."""
    name = id.removeprefix(_ESCAPE)
    return name if _PLAIN.fullmatch(name) else None


def lone_id() -> str:
    """Return the id of a new subscription without a group."""
    return f"{_LONE}{uuid4().hex}"


def is_lone(id: str) -> bool:
    """Return whether an id is that of a subscription without a group."""
    return id.startswith(_LONE)


def subscription_id(group: str, topic: str) -> str:
    """Return the id of a group's subscription to a topic."""
    whole = _escaped(f"{quote(group, safe='')}~{topic}")
    if len(whole) <= 255:
        return whole
    return _LONG + hashlib.sha256(f"{group}~{topic}".encode()).hexdigest()[:48]


def labels(group: str, topic: str) -> dict[str, str]:
    """Return the labels of a group's subscription, which hold the name of the group if the id does not."""
    if not subscription_id(group, topic).startswith(_LONG):
        return {}
    text = base64.b32encode(group.encode()).decode().rstrip("=").lower()
    pieces = range(0, len(text), _LABEL_SIZE)
    return {f"{_LABEL}{n}": text[at : at + _LABEL_SIZE] for n, at in enumerate(pieces)}


def group_of(id: str, topic: str, written: Mapping[str, str]) -> str | None:
    """Return the group of a subscription to ``topic``; None if the subscription does not belong to the mesh."""
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
