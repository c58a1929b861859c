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

Errors say what the runner does: ``SourceUnavailableError``, it tries again with backoff, not before ``retry_after``;
``CredentialsError``, it tries again every minute and says so; ``SourceObjectError``, this object is given up, and the others go
on; ``SourcePositionLostError``, a gap; ``ConfigurationError``, given up until the settings are changed. Any other is tried again
with backoff, and counts as a failure of the plugin after five in a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
    """Stable over repeats: the source's own event id, or of a row that is read, made of its key and content. The runner
    derives the event id from it, and of a row that is read from which reading it was, too."""
    operation: Operation
    object: str
    primary_key: Mapping[str, Any]
    before: Mapping[str, Any] | None
    """The whole row as it was; None: the source does not say, and the runner takes what it remembers."""
    after: Mapping[str, Any] | None
    timestamp: datetime
    """When it happened by the source's clock, of a row of a snapshot when it was read; aware. Changes of a row that are
    older than its reading may be in it already: they get no ``before`` from memory."""
    sequence: str | None = None
    """The source's own order, where it has one."""
    before_from: Before = Before.NONE
    changed_fields: Sequence[str] = ()
    partial: bool = False
    """``after`` holds only what changed: the runner completes it from ``before``, else from the last state that it knows,
    field by field; where it knows none, the event says that it is in part."""
    actor: str | None = None
    """Who changed it, by the source's own name for them."""
    own: bool = False
    """We changed it ourselves, as far as the source can tell: who reacts to changes by writing must leave it alone."""
    transaction: str | None = None
    """Changes of one transaction share it."""
    api_version: str | None = None
    """Of the source's API, in whose shape the row is."""
    visible: datetime | None = None
    """When the source first let us read it, where it says so; aware. Until then it held the change back."""
    as_of: datetime | None = None
    """When ``after`` was read, where that was later than the change (the source told that there was one, and not what): later
    changes may be in it already, and get no ``before`` from memory. Aware; None: ``after`` is as the change left it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the source says."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes may be missing. The runner publishes it and goes on with the stream from the position of the batch that told of it,
    and reads the object anew: at once, but so that repairs take at most half of the time, or when somebody asks for it.
    """

    object: str
    cause: str
    """In words, for the event and the log."""
    since: datetime | None = None
    """From when on changes may be missing; None: since the last batch."""
    until: datetime | None = None
    """Until when; None: now."""
    resnapshot: bool = True
    """False: the source repaired it by itself, with ``repair``."""
    repair: Sequence[Change] = ()
    """The rows that the gap is about, as they are now (so the runner takes them as read now, whatever ``as_of`` says): published
    after the gap, and before it is said to be repaired."""


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


@runtime_checkable
class DeletionLog(Protocol):
    """A source that remembers deletes. A repair asks it where nobody else knows which rows there were."""

    def deleted(self, object: str) -> AsyncIterator[ChangeBatch]:
        """Deletes that the system still knows of. Positions have no meaning.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...


@runtime_checkable
class WebhookSource(Protocol):
    """A source that webhooks can wake. They are hints only: what changed is read from the system, so that one that is lost,
    doubled or forged does no harm.
    """

    def hint(self, kind: str) -> None:
        """Something of this kind happened: look at once. ``kind`` is whatever :meth:`webhooks` called its hint with."""
        ...

    def webhooks(self, hint: Callable[[str], object], path: str) -> Any:
        """An ASGI application that takes the system's webhooks at ``path``, refuses those that are not signed by it, and calls
        ``hint`` with the kind of what happened. The source need not be open.

        Raises:
            ConfigurationError: the options lack what a signature is checked with.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """A source that can say what its account has used of what it may, such as requests of a day."""

    def account(self) -> Mapping[str, Any]:
        """Figures by name, for the status; None where one is not known yet. Asks the system nothing."""
        ...


@runtime_checkable
class Describes(Protocol):
    """A source that offers ``described`` has this, too."""

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        """A JSON Schema of the rows of now, made from the system's own description, with all fields in ``properties``; None:
        there is no description of this object. Asked for at the start, every hour, and when a change has other fields.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        ...
