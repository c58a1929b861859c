"""What a plugin can do, in words: a closed vocabulary with four levels of support.

A backend states its capabilities; the engines and the contract kit ask for them by name. A capability
that is not stated counts as :attr:`Support.NOT_YET`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType


class Support(Enum):
    """How far a capability is there."""

    FULL = "full"
    PARTIAL = "partial"
    """Only on some versions or configurations; the note says which."""
    UNSUPPORTED = "unsupported by the vendor"
    NOT_YET = "not yet"

    def __bool__(self) -> bool:
        return self in (Support.FULL, Support.PARTIAL)


class Capability(Enum):
    """The vocabulary. Each member's docstring is its definition; the contract kit tests it."""

    # -- bus --
    DURABLE = "durable"
    """What was acknowledged is readable after the process was killed."""
    POWER_SAFE = "power-safe"
    """What was acknowledged is readable after the machine lost its power."""
    REPLAY = "replay"
    """Records that were handled can be read again, by position."""
    LOOK_BACK = "look-back"
    """What a topic still holds can be read again, from the oldest on or from where a reading of it stood, and a new
    group can begin there. Whoever offers REPLAY offers this too."""
    START_BY_TIME = "start-by-time"
    """A subscription can start at a point in time."""
    GROUPS = "groups"
    """Named groups share a topic's partitions between their members and keep their position."""
    MULTI_PROCESS = "multi-process"
    """Several processes publish to and consume from the same topics at once."""
    KEY_ORDER = "key-order"
    """Records of one ordering key are delivered in the order of their acknowledgement."""
    DURABLE_ATTEMPTS = "durable-attempts"
    """The count of failed attempts belongs to the group: the next member goes on counting, and it survives
    whatever DURABLE lets survive."""
    DELAYED_DELIVERY = "delayed-delivery"
    """A record can be held back until a point in time; the wait survives what DURABLE survives."""
    FILTER_PUSHDOWN = "filter-pushdown"
    """The backend leaves out records that a subscription's filter does not want."""
    ATOMIC_STATE = "atomic-state"
    """Records and a caller's state are made durable in one transaction."""
    COUNTED_LAG = "counted-lag"
    """How many records a group has not committed can be asked for."""
    RETENTION = "retention"
    """Old records are removed by age, size or count, as configured per topic, to the record."""
    SEGMENT_RETENTION = "segment-retention"
    """Old records are removed by age or size, as configured per topic, in whole segments and whenever the broker gets
    to it: what is named by the limits goes, something more may stay for a while."""
    TOPIC_ADMIN = "topic-admin"
    """Topics can be listed, described, created and deleted."""
    AGE_RETENTION = "age-retention"
    """Old records are removed by age, as configured per topic, whenever the broker gets to it."""
    NATIVE_LEASE = "native-lease"
    """A delivery is leased by the broker and comes back by itself when the lease lapses."""
    CONFIRMED_ACKS = "confirmed-acks"
    """The broker confirms an acknowledgement, and what it confirmed never comes again; a lease that has lapsed cannot
    be acknowledged."""
    TRANSACTIONS = "transactions"
    """What a member of a group produces, and its position, take effect together or not at all: consume, process and
    produce, each event once."""

    # -- schema registry --
    DECIDES_COMPATIBILITY = "decides-compatibility"
    """The store itself decides whether a schema is compatible (a remote registry does)."""
    SOFT_DELETE = "soft-delete"
    """A deleted subject or version stays readable by id until it is deleted for good."""
    PERSISTENT = "persistent"
    """What the store accepted is there after a restart."""

    # -- change data capture --
    SNAPSHOT = "snapshot"
    """The current rows of an object can be read, resumable in the middle."""
    STREAM = "stream"
    """Changes can be followed from a position."""
    DELETES = "deletes"
    """Deleted rows are reported."""
    BEFORE_IMAGE = "before-image"
    """Updates and deletes carry the row as it was."""
    DESCRIBED = "described"
    """What fields the rows of an object have can be asked for, as a JSON Schema."""
    PUSH = "push"
    """Changes arrive without polling."""

    # -- lineage sinks --
    READ_BACK = "read-back"
    """The sink can be read again to rebuild the graph."""


class Capabilities(Mapping[Capability, Support]):
    """An immutable table from capability to support, with a note where one is needed."""

    __slots__ = ("_notes", "_table")

    def __init__(
        self, *full: Capability, notes: Mapping[Capability, str] | None = None, **levels: Support
    ) -> None:
        """``Capabilities(Capability.DURABLE, replay=Support.PARTIAL)``: full ones by position, others by
        their name in lower case with underscores.
        """
        table = dict.fromkeys(full, Support.FULL)
        for name, support in levels.items():
            table[Capability[name.upper()]] = support
        self._table: Mapping[Capability, Support] = MappingProxyType(table)
        self._notes: Mapping[Capability, str] = MappingProxyType(dict(notes or {}))

    def __getitem__(self, capability: Capability) -> Support:
        return self._table.get(capability, Support.NOT_YET)

    def __contains__(self, capability: object) -> bool:
        """Whether the capability is offered at all (fully or partly)."""
        return isinstance(capability, Capability) and bool(self[capability])

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"Capabilities({', '.join(f'{c.value}: {s.value}' for c, s in self._table.items())})"

    def note(self, capability: Capability) -> str:
        """What the plugin says about a capability; empty where it says nothing."""
        return self._notes.get(capability, "")
