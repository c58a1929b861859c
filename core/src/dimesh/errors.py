"""Every error that dimesh raises on purpose.

One base, :class:`DimeshError`. The message says what is wrong and, where there is one, what to do
next. An error that a caller could have caught as a builtin (a bad argument, a time-out) is that
builtin too, so that ``except ValueError`` keeps working.

Every class is transient or permanent, see :attr:`DimeshError.permanent`. That is decided here, once: whoever retries asks
:func:`is_permanent`, and whoever raises chooses the class by it.
"""

from __future__ import annotations

from typing import ClassVar


class DimeshError(Exception):
    """Base of all errors raised by dimesh."""

    permanent: ClassVar[bool] = False
    """Whether the same call fails again, however often it is repeated, until a person changes the data, the code or the
    settings. An error that is not permanent is retried."""


def is_permanent(error: BaseException) -> bool:
    """Return whether another attempt at the same is pointless. An error of another library counts as transient: it is unknown."""
    return isinstance(error, DimeshError) and error.permanent


def describe(error: BaseException, limit: int = 500) -> str:
    """Return the type and the text of an exception, in one line of at most about ``limit`` characters.

    It never fails: the exception may be of foreign code, and its text may raise.
    """
    try:
        text = " ".join(str(error).split())
    except (Exception, SystemExit, GeneratorExit):
        text = "(its text cannot be read)"
    if len(text) > limit:
        text = text[:limit] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# -- configuration and plugins -------------------------------------------------------------------


class ConfigurationError(DimeshError, ValueError):
    """A setting, option or command-line value is unknown, missing or of the wrong type.

    Args:
        problem: what is wrong and what to do about it.
        subject: the driver, source or setting that has the problem; the message begins with it.
    """

    permanent = True

    def __init__(self, problem: str = "", *, subject: str = "") -> None:
        super().__init__(f"{subject}: {problem}" if subject else problem)
        self.problem = problem
        self.subject = subject


class PluginError(DimeshError):
    """A plugin could not be used. ``__cause__`` holds what it raised, where it raised."""

    permanent = True


class UnknownDriverError(PluginError, ValueError):
    """No installed plugin has that name; the message lists those installed and how to get more."""


class PluginContractError(PluginError):
    """A plugin was made for another contract version, or its hooks do not fit the specs."""


class PluginConflictError(PluginError):
    """Two installed distributions offer the same driver name for one kind."""


# -- events --------------------------------------------------------------------------------------


class EventError(DimeshError, ValueError):
    """An event, its metadata, its type or a topic name is not acceptable."""

    permanent = True


class PayloadError(EventError):
    """The payload is not the JSON that was asked for (or cannot be written as strict JSON)."""


class CodecError(EventError):
    """Bytes that should be an encoded event are not one. The bytes are kept by whoever holds them."""


# -- bus -----------------------------------------------------------------------------------------


class BusError(DimeshError):
    """Base of the errors of the event bus."""


class BusClosedError(BusError):
    """The bus (or the subscription) is closed; nothing was sent."""


class PublishError(BusError):
    """The backend did not acknowledge. Unless the message says otherwise the outcome is unknown:
    publishing the same event again is safe, since its id does not change.
    """


class RefusedError(PublishError):
    """The backend does not take these records, now or later: they are too large, have too many headers, or the topic has a name
    that it does not allow. Where a backend takes partitions or keys one by one, others of the same call may have been taken.
    """

    permanent = True


class BackpressureError(PublishError, TimeoutError):
    """The bounded buffer stayed full for the whole publish time-out; nothing was sent."""


class RequestTimeoutError(BusError, TimeoutError):
    """No reply came within the time-out."""


class TopicNotFoundError(BusError, LookupError):
    """No topic has that name."""


class GroupNotFoundError(BusError, LookupError):
    """No consumer group has that name on that topic."""


class DeadLetterNotFoundError(BusError, LookupError):
    """No dead letter of that topic has that id."""


class EventNotFoundError(BusError, LookupError):
    """No event that was searched has that id."""


class PositionLostError(BusError):
    """A position asked for is no longer (or was never) in the log; retention has passed it."""


class FencedError(BusError):
    """This member no longer owns the partition; another one does. Its commit was not taken."""


class NotOfferedError(BusError):
    """The backend does not state the capability that the call needs."""

    permanent = True


class StorageError(DimeshError):
    """A file or database of dimesh is corrupt, of a newer format, full or read-only."""


class UnstorableError(StorageError):
    """A value cannot be stored, now or later: it is too large, or text that is not Unicode. Nothing was written."""

    permanent = True


class ListenError(DimeshError):
    """The HTTP host cannot listen on its address: the port is in use or not permitted, or the name is unknown."""


class RejectError(DimeshError):
    """Raise it in a handler to dead-letter the event at once: retrying cannot help."""

    permanent = True


# -- schema registry -----------------------------------------------------------------------------


class SchemaError(DimeshError, ValueError):
    """Base of the errors of the schema registry."""


class InvalidSchemaError(SchemaError):
    """The document is not a usable schema."""

    permanent = True


class SubjectNotFoundError(SchemaError, LookupError):
    """No subject (or version of it) has that name."""


class SoftDeletedError(SubjectNotFoundError):
    """The subject or version is soft-deleted: delete it with ``permanent`` to remove it, or register the schema again."""


class NotSoftDeletedError(SchemaError):
    """Only what is soft-deleted can be removed for good: delete the subject or version first, then once more with
    ``permanent``.
    """

    permanent = True


class ReferencedError(SchemaError):
    """Another schema refers to the version: delete that schema first."""

    permanent = True


class ReferenceNotFoundError(InvalidSchemaError):
    """A schema refers to a subject and version that are not registered."""


class SchemaIdConflictError(SchemaError):
    """An id was given for a schema, but it belongs to another one, or the schema has another id already."""

    permanent = True


class NotPermittedError(SchemaError):
    """The mode of the subject does not permit this: it is read-only, or not in import mode."""

    permanent = True


class IncompatibleSchemaError(SchemaError):
    """The new version breaks the subject's compatibility mode; ``reasons`` lists where and why."""

    permanent = True

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class SchemaValidationError(SchemaError):
    """Data does not satisfy the schema; ``problems`` lists each place with its reason."""

    permanent = True

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class RegistryUnavailableError(SchemaError):
    """The remote registry did not answer in time, or with something that is no answer: another attempt may succeed."""


class RegistryAccessError(SchemaError):
    """The remote registry rejected the credentials, or they do not permit this; replacing them or their rights helps."""


class VersionConflictError(SchemaError):
    """Somebody else registered a version in between; read again and retry."""


# -- change data capture -------------------------------------------------------------------------


class CDCError(DimeshError):
    """Base of the errors of change data capture."""


class SourceUnavailableError(CDCError):
    """The source did not answer, or asked to slow down; the runner tries again with backoff.

    Args:
        message: what happened.
        retry_after: seconds before which another try is useless, or does harm.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CredentialsError(CDCError):
    """The source rejected the credentials; refreshing or replacing them is needed."""


class SourceObjectError(CDCError):
    """The system refuses one object (unknown, no permission); it is tried again slowly, and the others go on."""


class SourcePositionLostError(CDCError):
    """The source has forgotten the position: changes may be missing and a resnapshot is due."""


# -- lineage -------------------------------------------------------------------------------------


class LineageError(DimeshError):
    """Base of the errors of the lineage service."""


class NodeNotFoundError(LineageError, LookupError):
    """No lineage node has that id."""


class InvalidLineageError(LineageError, ValueError):
    """An id, name, type or query of lineage is not acceptable."""

    permanent = True
