"""The dead-letter topics of a bus, created with bounds before the first append."""

from __future__ import annotations

import logging
from typing import Final

from dimesh.bus.door import Door
from dimesh.bus.topics import bounded_topic, topic_exists
from dimesh.capabilities import Capability
from dimesh.errors import DimeshError, is_permanent

log = logging.getLogger("dimesh.bus")

KEPT: Final = 100_000
"""The number of records of a dead-letter topic that the engine creates, where the backend counts. ``create_topic`` changes it,
beforehand or later."""
KEPT_FOR: Final = 30 * 86_400.0
"""The seconds that dead letters are kept where the backend removes by age alone."""


class DeadLetterTopics:
    """Creates the topics that do not exist.

    Args:
        door: where topics are created.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._known: set[str] = set()

    async def ensure(self, name: str) -> None:
        """Create a dead-letter topic unless it exists."""
        # Created here and not by the first append: a backend may keep nothing by default. An existing topic keeps its
        # settings, which create_topic would change, so the topic is looked for first.
        if name in self._known or Capability.TOPIC_ADMIN not in self._door.capabilities:
            return
        if not await topic_exists(self._door, name):
            try:
                await self._door.create_topic(name, bounded_topic(self._door.capabilities, KEPT_FOR, KEPT))
            except DimeshError as error:
                if not is_permanent(error) and not await topic_exists(self._door, name):
                    raise
                # The topic exists and is left as it is, or the append creates it with other settings, or is refused.
                log.debug("topic %s was not created: %s", name, error)
        self._known.add(name)
