"""Every error that dimesh raises on purpose.

One base, :class:`DimeshError`. The message says what is wrong and, where there is one, what to do
next. An error that a caller could have caught as a builtin (a bad argument, a time-out) is that
builtin too, so that ``except ValueError`` keeps working.
"""

from __future__ import annotations


class DimeshError(Exception):
    """Base of all errors raised by dimesh."""


# -- configuration and plugins -------------------------------------------------------------------


class ConfigurationError(DimeshError, ValueError):
    """A setting, option or command-line value is unknown, missing or of the wrong type."""


class PluginError(DimeshError):
    """A plugin could not be used. ``__cause__`` holds what it raised, where it raised."""


class UnknownDriverError(PluginError, ValueError):
    """No installed plugin has that name; the message lists those installed and how to get more."""


class PluginContractError(PluginError):
    """A plugin was made for another contract version, or its hooks do not fit the specs."""


class PluginConflictError(PluginError):
    """Two installed distributions offer the same driver name for one kind."""


# -- events --------------------------------------------------------------------------------------


class EventError(DimeshError, ValueError):
    """An event, its metadata, its type or a topic name is not acceptable."""


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


class PositionLostError(BusError):
    """A position asked for is no longer (or was never) in the log; retention has passed it."""


class FencedError(BusError):
    """This member no longer owns the partition; another one does. Its commit was not taken."""


class NotOfferedError(BusError):
    """The backend does not state the capability that the call needs."""


class StorageError(DimeshError):
    """A file or database of dimesh is corrupt, of a newer format, full or read-only."""


class RejectError(DimeshError):
    """Raise it in a handler to dead-letter the event at once: retrying cannot help."""


# -- schema registry -----------------------------------------------------------------------------


class SchemaError(DimeshError, ValueError):
    """Base of the errors of the schema registry."""


class InvalidSchemaError(SchemaError):
    """The document is not a usable schema."""


class SubjectNotFoundError(SchemaError, LookupError):
    """No subject (or version of it) has that name."""


class IncompatibleSchemaError(SchemaError):
    """The new version breaks the subject's compatibility mode; ``reasons`` lists where and why."""

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class SchemaValidationError(SchemaError):
    """Data does not satisfy the schema; ``problems`` lists each place with its reason."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


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
    """One object cannot be captured (unknown, no permission); the others go on."""


class SourcePositionLostError(CDCError):
    """The source has forgotten the position: changes may be missing and a resnapshot is due."""


# -- lineage -------------------------------------------------------------------------------------


class LineageError(DimeshError):
    """Base of the errors of the lineage service."""


class NodeNotFoundError(LineageError, LookupError):
    """No lineage node has that id."""


class InvalidLineageError(LineageError, ValueError):
    """An id, name, type or query of lineage is not acceptable."""
