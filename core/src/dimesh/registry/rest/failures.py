"""Errors as Confluent's API answers them: an HTTP status, an ``error_code`` and a message."""

from __future__ import annotations

from typing import Final

from dimesh.errors import (
    ConfigurationError,
    DimeshError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    NotPermittedError,
    ReferencedError,
    SchemaError,
    SchemaIdConflictError,
    StorageError,
    SubjectNotFoundError,
    VersionConflictError,
)

SUBJECT_NOT_FOUND: Final = 40401
VERSION_NOT_FOUND: Final = 40402
SCHEMA_NOT_FOUND: Final = 40403
SUBJECT_SOFT_DELETED: Final = 40404
SUBJECT_NOT_SOFT_DELETED: Final = 40405
VERSION_SOFT_DELETED: Final = 40406
VERSION_NOT_SOFT_DELETED: Final = 40407
NO_CONFIG: Final = 40408
NO_MODE: Final = 40409
INCOMPATIBLE: Final = 40901
INVALID_SCHEMA: Final = 42201
INVALID_VERSION: Final = 42202
INVALID_COMPATIBILITY: Final = 42203
INVALID_MODE: Final = 42204
NOT_PERMITTED: Final = 42205
REFERENCED: Final = 42206
ID_CONFLICT: Final = 42207
INVALID_SUBJECT: Final = 42208
CONTEXT_NOT_EMPTY: Final = 42211
STORE_FAILED: Final = 50001

_CODES: Final[tuple[tuple[type[DimeshError], int], ...]] = (
    (IncompatibleSchemaError, INCOMPATIBLE),
    (InvalidSchemaError, INVALID_SCHEMA),
    (NotPermittedError, NOT_PERMITTED),
    (SchemaIdConflictError, ID_CONFLICT),
    (ReferencedError, REFERENCED),
    (VersionConflictError, INVALID_SCHEMA),
    (SubjectNotFoundError, SUBJECT_NOT_FOUND),
    (SchemaError, INVALID_SUBJECT),  # the base class itself: a name that is no subject
    (StorageError, STORE_FAILED),
    (ConfigurationError, STORE_FAILED),  # a stored setting is unknown
)


class RestError(Exception):
    """An answer that is an error.

    Args:
        code: the ``error_code``. One of five digits begins with the HTTP status, any other one is the status.
        message: the message; it says what to do.
        headers: further headers of the answer.
    """

    def __init__(self, code: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code // 100 if self.code >= 10_000 else self.code


def rest_error(error: DimeshError) -> RestError:
    """Return the answer for an error of the registry."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RestError(code, str(error))
    return RestError(500, str(error))
