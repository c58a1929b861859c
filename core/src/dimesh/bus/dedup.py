"""The ids of events handled lately."""

from __future__ import annotations


class SeenWindow:
    """Remembers at least the last ``size`` ids, at most twice as many.

    Two sets in turn: when the young one is full it becomes the old one. That forgets in whole generations, at no
    cost for each id. The sets are open to the hot path, which looks into them without a call.
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
        """Begin a new generation."""
        self.old = self.young
        self.young = set()
