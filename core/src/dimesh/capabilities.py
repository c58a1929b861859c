"""The capabilities of plugins: a closed vocabulary with four levels of support.

A backend states its capabilities; the engines and the contract kit ask for them by name. A capability
that is not stated counts as :attr:`Support.NOT_YET`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType


class Support(Enum):
    """The level of support for a capability."""

    FULL = "full"
    PARTIAL = "partial"
    """Only on some versions or configurations; the note names them."""
    UNSUPPORTED = "unsupported by the vendor"
    NOT_YET = "not yet"

    def __bool__(self) -> bool:
        return self in (Support.FULL, Support.PARTIAL)


class Capability(Enum):
    """The vocabulary. Each member's docstring is its definition; the contract kit tests it."""

    # -- bus --
    DURABLE = "durable"
    """Acknowledged records are readable after the process was killed."""
    POWER_SAFE = "power-safe"
    """Acknowledged records are readable after the machine lost its power."""
    REPLAY = "replay"
    """Records that were handled can be read again, by position."""
    LOOK_BACK = "look-back"
    """The records that a topic still holds can be read again, from the oldest or from the position of an earlier read, and
    a new group can start there. A backend that offers REPLAY offers this too."""
    START_BY_TIME = "start-by-time"
    """A subscription can start at a point in time."""
    GROUPS = "groups"
    """Named groups share a topic's partitions between their members and keep their position."""
    MULTI_PROCESS = "multi-process"
    """Several processes publish to and consume from the same topics at once."""
    KEY_ORDER = "key-order"
    """Records of one ordering key are delivered in the order of their acknowledgement."""
    DURABLE_ATTEMPTS = "durable-attempts"
    """The count of failed attempts belongs to the group: the next member continues it, and it survives
    whatever DURABLE survives."""
    DELAYED_DELIVERY = "delayed-delivery"
    """A record can be held back until a point in time; the delay survives whatever DURABLE survives."""
    FILTER_PUSHDOWN = "filter-pushdown"
    """The backend skips records that do not match a subscription's filter."""
    ATOMIC_STATE = "atomic-state"
    """Records and a caller's state are made durable in one transaction."""
    COUNTED_LAG = "counted-lag"
    """The number of records that a group has not committed can be queried."""
    RETENTION = "retention"
    """Old records are removed by age, size or count, as configured per topic, to the record."""
    SEGMENT_RETENTION = "segment-retention"
    """Old records are removed by age or size, as configured per topic, in whole segments and whenever the broker gets
    to it: records beyond the limits may stay for a while."""
    TOPIC_ADMIN = "topic-admin"
    """Topics can be listed, described, created and deleted."""
    AGE_RETENTION = "age-retention"
    """Old records are removed by age, as configured per topic, whenever the broker gets to it."""
    NATIVE_LEASE = "native-lease"
    """A delivery is leased by the broker and is delivered again when the lease lapses."""
    CONFIRMED_ACKS = "confirmed-acks"
    """The broker confirms an acknowledgement, and a confirmed record is never delivered again; a lease that has lapsed cannot
    be acknowledged."""
    TRANSACTIONS = "transactions"
    """The events that a member of a group produces, and its position, take effect together or not at all: consume, process
    and produce, each event once."""

    # -- schema registry --
    DECIDES_COMPATIBILITY = "decides-compatibility"
    """The store itself decides whether a schema is compatible (a remote registry does)."""
    SOFT_DELETE = "soft-delete"
    """A deleted subject or version stays readable by id until it is deleted for good."""
    NOTES = "notes"
    """Notes about a version can be kept beside its schema, such as its deprecation."""
    PERSISTENT = "persistent"
    """Schemas that the store accepted are there after a restart."""

    # -- change data capture --
    SNAPSHOT = "snapshot"
    """The current rows of an object can be read, and an interrupted read can be resumed."""
    STREAM = "stream"
    """Changes can be followed from a position."""
    DELETES = "deletes"
    """Deleted rows are reported."""
    BEFORE_IMAGE = "before-image"
    """Updates and deletes carry the row as it was."""
    DESCRIBED = "described"
    """The source describes the fields of an object's rows, as a JSON Schema."""
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
        """Create a table, as in ``Capabilities(Capability.DURABLE, replay=Support.PARTIAL)``: fully supported capabilities
        by position, others by their name in lower case with underscores.
        """
        table = dict.fromkeys(full, Support.FULL)
        for name, support in levels.items():
            table[Capability[name.upper()]] = support
        self._table: Mapping[Capability, Support] = MappingProxyType(table)
        self._notes: Mapping[Capability, str] = MappingProxyType(dict(notes or {}))

    def __getitem__(self, capability: Capability) -> Support:
        return self._table.get(capability, Support.NOT_YET)

    def __contains__(self, capability: object) -> bool:
        """Return whether the capability is offered at all (fully or partly)."""
        return isinstance(capability, Capability) and bool(self[capability])

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"Capabilities({', '.join(f'{c.value}: {s.value}' for c, s in self._table.items())})"

    def note(self, capability: Capability) -> str:
        """Return the plugin's note about a capability; empty if there is none."""
        return self._notes.get(capability, "")
