"""Schemas that were read: what never changes for ever, and the newest versions for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from dimesh.clock import Clock
from dimesh.spi.registry import StoredSchema

Key: TypeAlias = tuple[str | int | bool | None, ...]


class SchemaCache:
    """Schemas by what was asked for, the ones that were not used for longest leave first.

    Args:
        clock: time.
        limit: the greatest number of entries.
    """

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._known: OrderedDict[Key, tuple[float, StoredSchema]] = OrderedDict()
        self._keys: dict[str, set[Key]] = {}
        """The keys of each subject."""
        self.changes = 0
        """The number of times that something was forgotten. An answer that was on its way meanwhile is not kept."""

    def get(self, key: Key, ttl: float | None = None) -> StoredSchema | None:
        """Return a schema; None: there is none.

        Args:
            key: what is asked for.
            ttl: the greatest age in seconds; None: any.
        """
        found = self._known.get(key)
        if found is None or (ttl is not None and self._clock.monotonic() - found[0] >= ttl):
            return None
        self._known.move_to_end(key)
        return found[1]

    def put(self, key: Key, stored: StoredSchema, changes: int) -> None:
        """Keep a schema.

        Args:
            key: what was asked for.
            stored: the schema.
            changes: :attr:`changes` when the question was sent.
        """
        if changes != self.changes:
            return
        old = self._known.pop(key, None)
        if old is not None:
            self._drop(key, old[1])
        self._known[key] = (self._clock.monotonic(), stored)
        self._keys.setdefault(stored.subject, set()).add(key)
        while len(self._known) > self._limit:
            oldest, (_, left) = self._known.popitem(last=False)
            self._drop(oldest, left)

    def forget(self, subject: str) -> None:
        """Forget a subject, which was changed."""
        self.changes += 1
        for key in self._keys.pop(subject, ()):
            self._known.pop(key, None)

    def _drop(self, key: Key, stored: StoredSchema) -> None:
        keys = self._keys.get(stored.subject)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._keys[stored.subject]
