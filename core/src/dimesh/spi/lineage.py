"""What a lineage sink must do. The service (:mod:`dimesh.lineage`) stamps, queues, keeps the graph and answers
queries; a sink only takes finished records away, in batches.

Calling rules: ``write`` is called by one worker, never twice at once, with records in the order they were recorded.
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
    """Node id, or edge id. The same id again is the same fact (idempotent)."""
    type: str
    """A node type or edge type, as its value."""
    timestamp: float
    """Epoch seconds."""
    name: str = ""
    pillar: str | None = None
    source: str = ""
    """Of an edge: the node it starts from."""
    target: str = ""
    trace_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class LineageSink(Protocol):
    """Somewhere lineage goes."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect; called once, first.

        Raises:
            StorageError, LineageError: it cannot be used.
        """
        ...

    async def write(self, records: Sequence[LineageRecord]) -> None:
        """Take the records; when it returns they are as safe as the sink's capabilities say.

        Raises:
            LineageError, StorageError: nothing or only a part was taken; the service tries again, so a record
                may come twice.
        """
        ...

    def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        """With ``READ_BACK``: everything taken so far, oldest first, in batches. Without: empty."""
        ...

    async def forget(self, before: float) -> int:
        """Remove what is older than ``before`` (epoch seconds); returns how many records went, 0 if the sink
        keeps its own retention.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """Figures and findings for operators, such as a repaired tail; plain JSON values, may be empty."""
        ...

    async def close(self) -> None:
        """Write out what is buffered and free everything; may be called twice."""
        ...
