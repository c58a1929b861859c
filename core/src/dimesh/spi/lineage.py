"""The protocol of lineage sinks. The service (:mod:`dimesh.lineage`) stamps and queues records, keeps the graph and answers
queries; a sink only receives finished records, in batches.

Calling rules: ``write`` is called by one worker, never twice at once, with records in the order in which they were recorded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dimesh.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class LineageRecord:
    """One fact: a node was seen or an edge was drawn."""

    kind: Literal["node", "edge"]
    id: str
    """The id of the node or edge. The same id again is the same fact (idempotent)."""
    type: str
    """The value of the node type or edge type."""
    timestamp: float
    """The time in epoch seconds."""
    name: str = ""
    pillar: str | None = None
    source: str = ""
    """The node that an edge starts from."""
    target: str = ""
    trace_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class LineageSink(Protocol):
    """A destination of lineage records."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect; called once, first.

        Raises:
            StorageError, LineageError: the sink cannot be used.
        """
        ...

    async def write(self, records: Sequence[LineageRecord]) -> None:
        """Store the records; when the call returns, they are as safe as the capabilities of the sink state.

        Raises:
            LineageError, StorageError: none or only some of the records were stored; the service retries, so a record may
                come twice.
        """
        ...

    def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        """Yield everything stored so far, oldest first, in batches. Without ``READ_BACK``, yield nothing.

        What is damaged is skipped and counted, see :meth:`stats`.
        """
        ...

    async def forget(self, before: float) -> int:
        """Remove what is older than ``before`` (epoch seconds); return the number of removed records, 0 if the sink has a
        retention of its own.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """Return numbers and findings for operators, such as a repaired tail: plain JSON values, possibly none.

        ``damaged_bytes`` is the size of what ``read`` skipped because it is damaged; answers then say that they are partial.
        """
        ...

    async def close(self) -> None:
        """Write out what is buffered and free all resources; may be called twice."""
        ...
