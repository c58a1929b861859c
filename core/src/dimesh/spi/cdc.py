"""The protocol of change sources. The runner (:mod:`dimesh.cdc`) does hand-over, publishing, positions, retries,
budgets, pause and status.

The protocol fits a pushed stream with replay ids (Salesforce), an event log with webhooks as wake-ups (Stripe),
cursor exports (Zendesk), a database without a change log (NetSuite) and a table (the built-in outbox):

* ``position()`` before the snapshot returns the mark from which ``stream`` delivers everything that the snapshot may have
  missed;
* a position is opaque bytes: the runner stores and returns it, and never reads it;
* what a source cannot know for certain is reported as a :class:`Gap`, never left out.

Calling rules: all methods are called from one event loop. Different objects may be read at the same time; one object has at
most one snapshot and one stream. Iterators are closed with ``aclose`` and may be cancelled at any ``await``:
nothing may be lost, since the runner resumes from the last position that it stored.

An error decides what the runner does. ``SourceUnavailableError``: it retries with backoff, not before ``retry_after``.
``CredentialsError``: it retries every minute and reports it. ``SourceObjectError``: the object counts as failed and is tried
again every few minutes; the others continue. ``SourcePositionLostError``: it is a gap. ``ConfigurationError``: the object is
given up until the settings change. Any other error is retried with backoff, and counts as a failure of the plugin after five in
a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from dimesh.capabilities import Capabilities


class Operation(Enum):
    """The operation on a row."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    SNAPSHOT = "snapshot"
    UNDELETE = "undelete"


class Before(Enum):
    """The origin of a before image."""

    NONE = "none"
    NATIVE = "native"
    DERIVED = "derived"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row."""

    identity: str
    """An id that is stable over repeats: the source's own event id, or, for a row that was read, one made of its key and
    content. The runner derives the event id from it; the event id of a row that was read depends on the reading, too."""
    operation: Operation
    object: str
    primary_key: Mapping[str, Any]
    before: Mapping[str, Any] | None
    """The whole row as it was; None: the source does not report it, and the runner uses the state that it stored."""
    after: Mapping[str, Any] | None
    timestamp: datetime
    """The time of the change by the source's clock, or the time at which a row of a snapshot was read; aware. The row may already
    contain changes that are older than its reading: they get no stored ``before``."""
    sequence: str | None = None
    """The position in the source's own order, where it has one."""
    before_from: Before = Before.NONE
    changed_fields: Sequence[str] = ()
    partial: bool = False
    """Whether ``after`` holds only the changed fields. The runner completes it field by field, from ``before`` or else from the
    last state that it stored; without either, the event is marked as partial."""
    actor: str | None = None
    """The name, in the source, of who changed the row."""
    own: bool = False
    """Whether we changed the row ourselves, as far as the source can tell. A handler that reacts to changes by writing must
    ignore such a change."""
    transaction: str | None = None
    """An id that the changes of one transaction share."""
    api_version: str | None = None
    """The version of the source's API whose shape the row has. The runner never compares or merges rows of two versions:
    differences between versions are not changes."""
    visible: datetime | None = None
    """The time from which the source let us read the change, where it reports that; aware. Until then it held the change back."""
    as_of: datetime | None = None
    """The time at which ``after`` was read, where that was later than the change, because the source reported only that there was
    one. ``after`` may already contain later changes, which get no stored ``before``. Aware; None: ``after`` is the row as the
    change left it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the source reports."""
    not_current: Sequence[str] = ()
    """The fields that the system leaves out of its changes although rows have them, such as formulas: they may have changed at
    any time. The runner names them in the metadata of the event (``not_current``), unless the row was read (``as_of``); a stored
    ``before`` is without them."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which changes may be missing. The runner publishes the gap, continues the stream from the position of the batch
    that reported it, and reads the object again: at once, but so that repairs take at most half of the time, or on request.
    """

    object: str
    cause: str
    """The cause in words, for the event and the log."""
    since: datetime | None = None
    """The start of the gap; None: the last batch."""
    until: datetime | None = None
    """The end of the gap; None: now."""
    resnapshot: bool = True
    """Whether the object must be read again; False: the source repaired the gap by itself, with ``repair``, or reading
    again would find nothing."""
    repair: Sequence[Change] = ()
    """The rows that the gap is about, as they are now; the runner treats them as read now, whatever their ``as_of``. They are
    published after the gap, and before the gap is reported as repaired. A gap without them is not reported as repaired, unless
    the object is read again."""

    @property
    def repaired(self) -> bool:
        """Whether the source repaired the gap by itself."""
        return not self.resnapshot and bool(self.repair)


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes in order, and the position after the last one."""

    items: Sequence[Change | Gap]
    """The changes and gaps; empty if only the position moved."""
    position: bytes
    """The position from which reading continues after the last item. After a gap, it is one from which the gap is not reported
    again: the runner reads the object, and then opens the stream there."""
    estimated_total: int | None = None
    """The approximate number of rows of a snapshot; None: unknown."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of :meth:`CDCSource.check`."""

    ok: bool
    objects: Mapping[str, str]
    """Each object that can be captured, with an empty string or the obstacle."""
    problems: Sequence[str] = ()
    """What the user must do: grant a permission, change a setting."""


@runtime_checkable
class CDCSource(Protocol):
    """A system that changes come from."""

    system: str
    """The name of the system: ``salesforce``, ``stripe`` … Changes are published to the topic ``cdc.<system>``."""
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect and authenticate.

        Raises:
            CredentialsError: rejected.
            SourceUnavailableError: no answer.
        """
        ...

    async def close(self) -> None:
        """Free all resources; may be called twice."""
        ...

    async def check(self) -> CheckResult:
        """Return what can be captured with these credentials, and what to change where something cannot."""
        ...

    async def position(self, object: str) -> bytes:
        """Return the current position: a stream from it delivers every change that commits after this call began.

        Raises:
            SourceObjectError: unknown object or no permission.
        """
        ...

    def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows as ``SNAPSHOT`` changes, in batches; ``resume`` is the position of an earlier batch.
        The iterator ends when all rows were read. Every row that existed throughout is included at least once.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...

    def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield changes after ``position``, in order per key, at least once, without end; wait when there are none.

        A ``SNAPSHOT`` change is a row that was read again, for example since its changes have no event. If the runner stores
        rows, it publishes such a row as an insert or update, and only if it is not in the state that was published last.

        Raises:
            SourcePositionLostError: the source no longer has that position.
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Take note that everything up to ``position`` is published and acknowledged. The source may clean up."""
        ...


@runtime_checkable
class DeletionLog(Protocol):
    """A source that keeps a record of deletes. A repair uses it where the rows that existed are not stored."""

    def deleted(self, object: str, since: datetime | None) -> AsyncIterator[ChangeBatch]:
        """Yield the deletes that the system still has a record of. Positions have no meaning.

        Args:
            object: the object.
            since: the time from which changes may be missing; None: unknown.

        Raises:
            SourcePositionLostError: the record does not go back to ``since``, for example since it was purged. Raised after the
                deletes that are known; the runner reports that others may be missing.
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...


@runtime_checkable
class ReadsRows(Protocol):
    """A source that can read single rows. A repair asks it about each row that existed and that the snapshot lacks: only what it
    says was deleted, twice, is published as a delete.
    """

    read_lag: float
    """The number of seconds by which a read may lag behind the changes; the pause before the second question."""

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return for each primary key a ``SNAPSHOT`` change with the current row, or a ``DELETE`` if the system says that this
        row was deleted or never existed. None: the system does not say, for example since the row may not be read.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...


@runtime_checkable
class Relists(Protocol):
    """A source whose streams do not report every change of some objects, since the system does not. The runner lists the rows of
    such an object again at an interval, and publishes those that differ from what it published last; deletes are confirmed as in
    a repair.
    """

    def relist_interval(self, object: str) -> float | None:
        """Return the number of seconds between two listings; None: the stream reports all changes, or those that it leaves out
        are not wanted. Listings take at most a tenth of the time, however long one takes.
        """
        ...


@runtime_checkable
class SamplesRows(Protocol):
    """A source that can read a few rows from the middle of an object. A verification compares them with what was published, and
    so finds rows that were never published. See :mod:`dimesh.cdc.verification`.
    """

    feed_lag: float
    """The number of seconds after a change at which a stream that runs has yielded the change, in the worst ordinary case. What
    differs is called an error only when the stream is past the moment of reading by this time."""
    changed_at: str | None
    """The field of rows with the time of their last change; None: they have none. A row that differs from what was published
    and has the same time has fields that no change reported."""

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return the current rows that follow the row with this primary key, as ``SNAPSHOT`` changes, in an order that does not
        depend on the limit and in which each row has one place, such as that of the keys. Fewer rows than ``limit`` (at most 100)
        are the last ones.

        Args:
            object: the object.
            key: the primary key; None: return the first rows.
            limit: the largest number of rows to return.

        Returns:
            The rows; None: the system does not list the row with this key, or with a key of None: it cannot list the object so.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...


@runtime_checkable
class LeavesOutFields(Protocol):
    """A source whose stream does not report every change of every field."""

    async def not_current(self, object: str) -> Mapping[str, str]:
        """Return the names of fields whose published values may be out of date, each with the reason in words, such as fields
        that the system computes when they are read. A verification does not compare these fields, and names them.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...


@runtime_checkable
class WebhookSource(Protocol):
    """A source that webhooks can wake. A webhook only wakes the source: what changed is read from the system, so that a webhook
    that is lost, repeated or forged does no harm.
    """

    def hint(self, kind: str) -> None:
        """Poll at once, since something of this kind happened. ``kind`` is the argument with which :meth:`webhooks` called its
        ``hint``.
        """
        ...

    def webhooks(self, hint: Callable[[str], object], path: str) -> Any:
        """Return an ASGI application that accepts webhooks of the system at ``path``, refuses those that the system did not sign,
        and calls ``hint`` with the kind of what happened. The source need not be open.

        Raises:
            ConfigurationError: the options lack what a signature is checked with.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """A source that can report how much of its allowances an account has used, such as the requests of a day."""

    def account(self) -> Mapping[str, Any]:
        """Return numbers by name, for the status; None where a number is not known yet. Make no request.

        Status and metrics know ``requests`` and ``requests_refused``, counts of this process, and ``budget_used``, the share of
        the allowed requests that was used in the last minute (:attr:`RateLimiter.used`).
        """
        ...


@runtime_checkable
class Describes(Protocol):
    """A source that offers the capability ``described``."""

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        """Return a JSON Schema of the current rows, made from the system's own description, with all fields in
        ``properties``; None if the system does not describe this object. Called at the start, every hour, and when a change has
        other fields.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...
