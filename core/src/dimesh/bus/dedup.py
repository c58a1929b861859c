"""Which deliveries are the same event, and which events were handled lately."""

from __future__ import annotations

from typing import Final

from dimesh.bus import headers as h
from dimesh.events.event import Event

_ON_PURPOSE: Final = (h.REDRIVES, h.REDELIVERIES)


# A string and not a tuple: the garbage collector would have to look at every tuple of a window.
def identity_of(event: Event) -> str:
    """Return what two deliveries of one event share.

    The sender belongs to it: a sender can repeat its own event, and never suppress an event of somebody else by using
    its id (CloudEvents, "source and id", has the same rule). An event that was redriven, or that is delivered again later,
    comes on purpose and is no repeat.
    """
    metadata = event.metadata
    identity = f"{metadata.source_pillar}\0{metadata.source_agent}\0{metadata.event_id}"
    if event.headers:
        for name in _ON_PURPOSE:
            number = event.headers.get(name)
            if number is not None:
                identity += f"\0{name}{number if isinstance(number, str) else number.hex()}"
    return identity


class SeenWindow:
    """Remembers at least the last ``size`` identities, and at most twice as many.

    There are two sets: when the young one is full it becomes the old one. Whole generations are forgotten at a time, at
    no cost for each identity. The sets are open to the hot path, which looks into them without a call.
    """

    __slots__ = ("old", "size", "young")

    def __init__(self, size: int) -> None:
        self.size = size
        self.young: set[str] = set()
        self.old: set[str] = set()

    def __contains__(self, identity: str) -> bool:
        return identity in self.young or identity in self.old

    def add(self, identity: str) -> None:
        """Remember ``identity``."""
        self.young.add(identity)
        if len(self.young) >= self.size:
            self.turn()

    def turn(self) -> None:
        """Start a new generation."""
        self.old = self.young
        self.young = set()
