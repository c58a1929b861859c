"""The ids of events handled lately."""

from __future__ import annotations


class SeenWindow:
    """Remembers at least the last ``size`` ids, at most twice as many.

    Two sets in turn: when the young one is full it becomes the old one. That forgets in whole generations, at no
    cost for each id.
    """

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: set[str] = set()
        self._old: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._young or key in self._old

    def add(self, key: str) -> None:
        """Remember ``key``."""
        young = self._young
        young.add(key)
        if len(young) >= self._size:
            self._old = young
            self._young = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
