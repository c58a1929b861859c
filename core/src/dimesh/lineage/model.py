"""Nodes, edges and queries.

An edge points in the direction in which data or control flows, whatever its verb: ``data → agent`` READS_FROM,
``agent → data`` WRITES_TO, ``event → agent`` CONSUMES, ``dependency → dependent`` DEPENDS_ON. Downstream therefore always
means along the arrows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum, StrEnum
from hashlib import blake2b
from typing import Any, Final, Literal, TypeVar

import msgspec

from dimesh.errors import InvalidLineageError
from dimesh.events.names import show

MAX_ID: Final = 4_096
"""The maximum length of a node, edge or trace id in characters."""
MAX_NAME: Final = 1_024
"""The maximum length of a node's name or pillar in characters."""
UTC: Final = timezone.utc  # noqa: UP017 - the same object as in events


class LineageNodeType(StrEnum):
    """The types of nodes."""

    AGENT = "agent"
    TOOL = "tool"
    DATA_SOURCE = "data_source"
    DATA_SINK = "data_sink"
    TRANSFORM = "transform"
    MODEL = "model"
    DECISION = "decision"
    EVENT = "event"
    PILLAR = "pillar"

    # A member equals its string, so it must have the same hash.
    __hash__ = str.__hash__


class LineageEdgeType(StrEnum):
    """The types of edges."""

    READS_FROM = "reads_from"
    WRITES_TO = "writes_to"
    TRIGGERS = "triggers"
    DEPENDS_ON = "depends_on"
    PRODUCES = "produces"
    CONSUMES = "consumes"
    INVOKES = "invokes"
    APPROVES = "approves"

    __hash__ = str.__hash__


Direction = Literal["upstream", "downstream", "both"]
Level = Literal["observations", "entities"]
_LEVELS: Final = ("observations", "entities")
_DIRECTIONS: Final = ("upstream", "downstream", "both")
_E = TypeVar("_E", bound=Enum)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A participant: an agent, a tool, data, an event …"""

    node_id: str
    node_type: LineageNodeType
    name: str
    pillar: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=_now)
    """The time at which the node was first seen."""
    updated_at: datetime = field(default_factory=_now)
    """The time at which the node or an edge of it was last seen."""

    def to_dict(self, include_metadata: bool = True) -> dict[str, Any]:
        """Return plain JSON values, with times as ISO 8601 in UTC. Without ``include_metadata``, that key is omitted."""
        return {
            "node_id": self.node_id,
            "node_type": self.node_type.value,
            "name": self.name,
            "pillar": self.pillar,
            **({"metadata": dict(self.metadata)} if include_metadata else {}),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """Something that happened between two nodes."""

    edge_id: str
    source_id: str
    target_id: str
    edge_type: LineageEdgeType
    trace_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=_now)

    def to_dict(self, include_metadata: bool = True) -> dict[str, Any]:
        """Return plain JSON values, with the time as ISO 8601 in UTC. Without ``include_metadata``, that key is omitted."""
        return {
            "edge_id": self.edge_id,
            "source_id": self.source_id,
            "target_id": self.target_id,
            "edge_type": self.edge_type.value,
            "trace_id": self.trace_id,
            **({"metadata": dict(self.metadata)} if include_metadata else {}),
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class LineageQuery:
    """A selection of nodes and edges.

    With ``node_id``, the query walks the graph from there: ``trace_id`` and ``time_range`` limit the edges to walk; ``pillar``
    and ``node_type`` limit the nodes in the answer (which always has the start). ``both`` means the ancestors and the
    descendants of the node, not how its neighbours are related to each other.

    Without ``node_id``, nothing is walked: the answer has the nodes that match, their edges (only outgoing ones for
    ``downstream``, incoming ones for ``upstream``), and the nodes at the other ends.

    Raises:
        InvalidLineageError: the direction or a type is unknown, a number is negative, or a time has no time zone.
    """

    node_id: str | None = None
    trace_id: str | None = None
    pillar: str | None = None
    node_type: LineageNodeType | str | None = None
    direction: Direction = "both"
    max_depth: int = 10
    """The maximum number of edges between the start and a node."""
    time_range: tuple[datetime | None, datetime | None] | None = None
    """The first and the last moment, both included; None: no limit."""
    include_metadata: bool = True
    level: Level = "observations"
    """``observations``: each time that something happened is an edge. ``entities``: one edge for all observations between two
    nodes that have the same type, with their ``count`` and the times of the first and the last one."""
    max_nodes: int = 1_000
    max_edges: int = 10_000
    max_ms: float = 1_000.0
    """The maximum number of milliseconds to spend. If one of the three limits ends the search, the answer is ``partial``.
    """

    def __post_init__(self) -> None:
        if self.node_type is not None:
            object.__setattr__(self, "node_type", node_type(self.node_type))
        if self.direction not in _DIRECTIONS:
            raise InvalidLineageError(
                f"direction {show(self.direction)} is unknown: use one of {', '.join(_DIRECTIONS)}"
            )
        if self.level not in _LEVELS:
            raise InvalidLineageError(f"level {show(self.level)} is unknown: use one of {', '.join(_LEVELS)}")
        if not isinstance(self.max_depth, int) or self.max_depth < 0:
            raise InvalidLineageError("max_depth must be a number of edges: a whole number, 0 or more")
        if self.max_nodes < 1 or self.max_edges < 1 or self.max_ms <= 0:
            raise InvalidLineageError("max_nodes, max_edges and max_ms must be positive")
        self.seconds()

    def seconds(self) -> tuple[float, float]:
        """Return ``time_range`` as epoch seconds; minus and plus infinity stand for no limit."""
        try:
            start, end = self.time_range or (None, None)
        except (TypeError, ValueError):
            raise InvalidLineageError("time_range must be two datetimes (or None): first and last") from None
        return (
            float("-inf") if start is None else epoch(start),
            float("inf") if end is None else epoch(end),
        )


def epoch(moment: datetime) -> float:
    """Return the epoch seconds of an aware datetime.

    Raises:
        InvalidLineageError: the value is not a datetime, or has no time zone.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidLineageError("a time must be an aware datetime, such as datetime.now(timezone.utc)")
    return moment.timestamp()


def moment(seconds: float) -> datetime:
    """Return the aware datetime of epoch seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def node_type(value: LineageNodeType | str) -> LineageNodeType:
    """Return the member for a member or its value.

    Raises:
        InvalidLineageError: there is no such member.
    """
    return _member(LineageNodeType, value)


def edge_type(value: LineageEdgeType | str) -> LineageEdgeType:
    """Return the member for a member or its value.

    Raises:
        InvalidLineageError: there is no such member.
    """
    return _member(LineageEdgeType, value)


def _member(kind: type[_E], value: object) -> _E:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(member.value) for member in kind)
        raise InvalidLineageError(f"{show(value)} is not a {kind.__name__}: use one of {names}") from None


def check_text(value: object, what: str, limit: int = MAX_ID) -> str:
    """Return ``value`` if it is a string of 1 to ``limit`` characters that UTF-8 can encode.

    Raises:
        InvalidLineageError: the value is not; the message begins with ``what``.
    """
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise InvalidLineageError(
            f"{what} {show(value)} is not valid: use a string of 1 to {limit:,} characters"
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidLineageError(f"{what} {show(value)} contains a lone surrogate") from None
    return value


_PREFIXES: Final = {
    "agent": LineageNodeType.AGENT,
    "data": LineageNodeType.DATA_SOURCE,
    "decision": LineageNodeType.DECISION,
    "event": LineageNodeType.EVENT,
    "model": LineageNodeType.MODEL,
    "pillar": LineageNodeType.PILLAR,
    "tool": LineageNodeType.TOOL,
    "transform": LineageNodeType.TRANSFORM,
}


def implied_type(node_id: str) -> LineageNodeType:
    """Return the type that an id implies, for a node that is known from edges only. It is given by the prefix; ``x:y`` with any
    other prefix is an agent of a pillar; an id without a prefix is data.
    """
    prefix, colon, _ = node_id.partition(":")
    return _PREFIXES.get(prefix) or (LineageNodeType.AGENT if colon else LineageNodeType.DATA_SOURCE)


def implied_name(node_id: str) -> str:
    """Return the name that an id implies: the part after the first colon."""
    return node_id.partition(":")[2] or node_id


_canonical: Final = msgspec.msgpack.Encoder(order="deterministic")


def content_id(*parts: object) -> str:
    """Return 32 hex digits that depend on the parts alone, so that the same fact always has the same id."""
    return blake2b(_canonical.encode(parts), digest_size=16).hexdigest()
