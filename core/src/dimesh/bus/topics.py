"""Which topics users may publish and subscribe to, and the settings of dimesh's own."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from dimesh.bus.door import Door
from dimesh.capabilities import Capabilities, Capability
from dimesh.errors import EventError, NotOfferedError, TopicNotFoundError
from dimesh.events.names import check_topic, show
from dimesh.spi.bus import TopicConfig

OWN: Final = "dimesh."
"""The beginning of the names of dimesh's own topics: replies, states of subscriptions, delayed records …"""
_MOST: Final = 10_000
_NEAR: Final = 3


def bounded_topic(capabilities: Capabilities, seconds: float, records: int | None = None) -> TopicConfig:
    """Return the settings of one of dimesh's own topics: what it holds is bounded as far as the backend offers that."""
    if records is not None and Capability.RETENTION in capabilities:
        return TopicConfig(partitions=1, retention_records=records)
    by_age = (Capability.RETENTION, Capability.SEGMENT_RETENTION, Capability.AGE_RETENTION)
    if any(capability in capabilities for capability in by_age):
        return TopicConfig(partitions=1, retention_seconds=seconds)
    return TopicConfig(partitions=1)


async def topic_exists(door: Door, name: str) -> bool:
    """Return whether a topic exists, without creating it."""
    try:
        await door.read(name, {}, 1)
    except TopicNotFoundError:
        return False
    except NotOfferedError:
        return any(topic.name == name for topic in await door.topics())
    return True


class TopicRules:
    """The rules of one bus.

    Args:
        door: where topics are looked up.
        create: whether a topic that does not exist is created at its first use.
    """

    def __init__(self, door: Door, create: bool) -> None:
        self._door = door
        self._create = create
        self.admitted: set[str] = set()
        """Names that passed, which need no further look. Bounded, since input is hostile."""

    async def admit(self, name: str) -> None:
        """Refuse a topic that users may not use, or that would be created although this bus creates none.

        Raises:
            EventError: the name is not acceptable, or it is one of dimesh's own topics or of the broker's.
            TopicNotFoundError: the topic does not exist and is not to be created; the message has names that are near.
        """
        if name.__class__ is str and name in self.admitted:
            return
        check_user_topic(name)
        if not self._create:
            await self._check_exists(name)
        if len(self.admitted) < _MOST:
            self.admitted.add(name)

    def admit_own(self, name: str) -> None:
        """Admit one of dimesh's own topics."""
        if not name.startswith(OWN):
            raise ValueError(f"{name!r} is not one of dimesh's own topics")
        self.admitted.add(name)

    async def _check_exists(self, name: str) -> None:
        if await topic_exists(self._door, name):
            return
        near = get_close_matches(name, [topic.name for topic in await self._door.topics()], _NEAR)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ":"
        raise TopicNotFoundError(
            f"there is no topic {name!r}, and this bus creates none (create_topics = false){hint} "
            f"'dimesh topics create {name}' creates it"
        )


def check_user_topic(name: str) -> str:
    """Return ``name`` if it can be the name of a users' topic.

    Raises:
        EventError: the name is not acceptable, or belongs to dimesh or to the broker.
    """
    name = check_topic(name)
    if name.startswith(("__", OWN)):
        owner = "dimesh" if name.startswith(OWN) else "the broker"
        raise EventError(
            f"{show(name)} is an internal topic of {owner}: names that begin with '__' or '{OWN}' are not for users"
        )
    return name
