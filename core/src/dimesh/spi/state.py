"""The state of change capture: positions by key, and the rows of each captured object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class StateStore(Protocol):
    """Keeps small values by key, durably."""

    async def load(self, key: str) -> bytes | None:
        """Return the value that was saved last under ``key``, or None."""
        ...

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace the value of ``key``; None removes it."""
        ...


class Claim(Protocol):
    """The exclusive right to run one connector. It ends with the process that holds it."""

    def release(self) -> None:
        """Give the right up. Does nothing if it was given up before."""
        ...


class RowStore(Protocol):
    """The rows that were published and not deleted, by source.

    With :attr:`last_state`, the store also keeps the last published state of each row, so that a change can be published
    with the row's previous values. Rows are staged under the number of the batch that publishes them. The progress that
    is saved with the batch is the commit: what was staged and not published is rolled back at the next start.
    """

    @property
    def last_state(self) -> bool:
        """Whether the store keeps the state of rows.

        Only then are :meth:`rows`, :meth:`stage` and :meth:`rollback_uncommitted` called.
        """
        ...

    async def rollback_uncommitted(self, source: str, committed: int) -> None:
        """Restore the rows of a staged batch that was not published. Called once, before any other method.

        Args:
            source: the source of the rows.
            committed: the number of the last batch that was published.
        """
        ...

    async def rows(self, source: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored state of those of the rows that have one, by key."""
        ...

    async def stage(
        self,
        source: str,
        batch: int,
        rows: Mapping[str, bytes],
        removed: Sequence[str],
        generation: int,
        previous: Mapping[str, bytes | None],
    ) -> None:
        """Store the rows as they are after a batch. Called before the batch is published.

        Args:
            source: the source of the rows.
            batch: the number of the batch.
            rows: the state after the batch, by key.
            removed: the keys of deleted rows; :meth:`remove` is called for them once the batch is published.
            generation: the generation in which the rows were seen.
            previous: the state to restore if the batch is not published; None: the row exists, its state is unknown.
        """
        ...

    async def mark_seen(self, source: str, keys: Sequence[str], generation: int) -> None:
        """Record that these rows exist and were seen in this generation. Called before their changes are published."""
        ...

    async def remove(self, source: str, keys: Sequence[str]) -> None:
        """Remove deleted rows. Called after their deletes were published."""
        ...

    async def stale_keys(self, source: str, generation: int, limit: int) -> list[str]:
        """Return up to ``limit`` keys of rows that were last seen in an earlier generation."""
        ...

    async def clear(self, source: str) -> None:
        """Remove all rows of a source."""
        ...

    async def keys(self, source: str, after: str, limit: int) -> list[str]:
        """Return up to ``limit`` keys of the rows that exist and whose key is greater than ``after``, in the store's order; an
        empty ``after`` is before all keys.
        """
        ...

    async def existing(self, source: str, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Return those of the keys whose rows exist, each with the state of its row; None: the state is unknown."""
        ...


class Move(NamedTuple):
    """A move of the state of a connector to another name."""

    old: str
    new: str

    def __str__(self) -> str:
        names = f"{self.old} {self.new}"
        return f"the state of {self.old} is being moved to {self.new}: finish that with 'dimesh cdc state move {names}'"


class StoredConnector(NamedTuple):
    """What a store has of one connector."""

    name: str
    objects: tuple[str, ...]
    rows: int
    """The number of stored rows of all objects."""


class CaptureStore(StateStore, RowStore, Protocol):
    """Everything that a connector stores: positions, rows, pauses, and the claim on the connector."""

    async def claim(self, connector_id: str) -> Claim | None:
        """Return the exclusive right to run a connector; None if a connector with this id is running already.

        Raises:
            StorageError: the store cannot find out.
        """
        ...

    async def moving(self, connector_id: str) -> Move | None:
        """Return the move that a connector takes part in and that was begun and not finished; None if there is none. Neither
        connector may run before it is finished.
        """
        ...

    async def paused(self, connector_id: str) -> frozenset[str]:
        """Return the objects of a connector that were asked to pause; an empty name stands for all of them."""
        ...
