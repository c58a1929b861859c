"""What a change source must do. The runner (:mod:`dimesh.cdc`) does hand-over, publishing, positions, retries,
budgets, pause and status.

It fits a pushed stream with replay ids (Salesforce), an event log with webhooks as wake-up hints (Stripe),
cursor exports (Zendesk), a database without a change log (NetSuite) and a table (the built-in outbox):

* ``position()`` before the snapshot gives the mark from which ``stream`` misses nothing that the snapshot
  did not see;
* a position is opaque bytes: the runner stores and returns it, and never looks inside;
* what a source cannot know for certain is said with a :class:`Gap`, never left out.

Calling rules: all methods from one event loop. Different objects may be read at the same time; one object has at
most one snapshot and one stream. Iterators are closed with ``aclose`` and may be cancelled at any ``await``:
nothing may be lost, since the runner goes on from the last position it stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from dimesh.capabilities import Capabilities


class Operation(Enum):
    """What happened to a row."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    SNAPSHOT = "snapshot"
    UNDELETE = "undelete"


class Before(Enum):
    """Where a before image comes from."""

    NONE = "none"
    NATIVE = "native"
    DERIVED = "derived"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row."""

    identity: str
    """Stable over repeats: the source's own event id, or made of object, key and version. The runner derives the
    event id from it."""
    operation: Operation
    object: str
    primary_key: Mapping[str, Any]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    timestamp: datetime
    """When it happened by the source's clock; aware."""
    sequence: str | None = None
    """The source's own order, where it has one."""
    before_from: Before = Before.NONE
    changed_fields: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Transaction, actor, source API version …"""


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes may be missing. The runner publishes it and repairs by a new snapshot."""

    object: str
    cause: str
    """In words, for the event and the log."""
    since: datetime | None = None
    until: datetime | None = None
    resnapshot: bool = True


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes in order, and the position after the last of them."""

    items: Sequence[Change | Gap]
    """May be empty: then only the position moved."""
    position: bytes
    """Reading again from here continues after the last item."""
    estimated_total: int | None = None
    """Of a snapshot: about how many rows there are; None: unknown."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What :meth:`CDCSource.check` found."""

    ok: bool
    objects: Mapping[str, str]
    """Each object that can be captured, with an empty string or with what stands in the way."""
    problems: Sequence[str] = ()
    """What to do, in words: a missing permission, a setting to click."""


@runtime_checkable
class CDCSource(Protocol):
    """One system that changes come from."""

    system: str
    """``salesforce``, ``stripe`` … Changes go to the topic ``cdc.<system>``."""
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect and authenticate.

        Raises:
            CredentialsError: rejected.
            SourceUnavailableError: no answer.
        """
        ...

    async def close(self) -> None:
        """Free everything; may be called twice."""
        ...

    async def check(self) -> CheckResult:
        """What can be captured with these credentials, and what to change where something cannot."""
        ...

    async def position(self, object: str) -> bytes:
        """The position of now: a stream from it delivers every change that commits after this call began.

        Raises:
            SourceObjectError: unknown object or no permission.
        """
        ...

    def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """The current rows as ``SNAPSHOT`` changes, in batches; ``resume`` is the position of an earlier batch.
        Ends when all rows were read. Every row that existed throughout is there at least once.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...

    def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Changes after ``position``, in order per key, at least once, without end; waits when there are none.

        Raises:
            SourcePositionLostError: the source no longer has that position.
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Everything up to ``position`` is published and acknowledged; the source may clean up. Optional to act on."""
        ...
