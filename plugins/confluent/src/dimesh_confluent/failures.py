"""Answers that are errors, as errors of dimesh.

The codes are those of Confluent's API. Servers differ in them: an incompatible schema is 409 or 40901, and some have codes of
their own, so that an unknown code counts as its HTTP status.
"""

from __future__ import annotations

from typing import Final

from dimesh.errors import (
    ConfigurationError,
    DimeshError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    NotPermittedError,
    NotSoftDeletedError,
    ReferencedError,
    RegistryAccessError,
    RegistryUnavailableError,
    SchemaError,
    SchemaIdConflictError,
    SoftDeletedError,
    SubjectNotFoundError,
)

SUBJECT_NOT_FOUND: Final = 40401
VERSION_NOT_FOUND: Final = 40402
SCHEMA_NOT_FOUND: Final = 40403
NO_CONFIG: Final = 40408
NO_MODE: Final = 40409
INVALID_SCHEMA: Final = 42201

_CODES: Final[dict[int, type[DimeshError]]] = {
    SUBJECT_NOT_FOUND: SubjectNotFoundError,
    VERSION_NOT_FOUND: SubjectNotFoundError,
    SCHEMA_NOT_FOUND: SubjectNotFoundError,
    40404: SoftDeletedError,
    40405: NotSoftDeletedError,
    40406: SoftDeletedError,
    40407: NotSoftDeletedError,
    NO_CONFIG: SubjectNotFoundError,
    NO_MODE: SubjectNotFoundError,
    INVALID_SCHEMA: InvalidSchemaError,
    42202: SchemaError,
    42203: ConfigurationError,
    42204: ConfigurationError,
    42205: NotPermittedError,
    42206: ReferencedError,
    42207: SchemaIdConflictError,
    42208: SchemaError,
    42209: InvalidSchemaError,
    42210: InvalidSchemaError,
    42211: NotPermittedError,
}
_STATUSES: Final[dict[int, type[DimeshError]]] = {
    400: InvalidSchemaError,
    401: RegistryAccessError,
    403: RegistryAccessError,
    404: SubjectNotFoundError,
    409: IncompatibleSchemaError,
    413: InvalidSchemaError,
    415: InvalidSchemaError,
    422: InvalidSchemaError,
}
TRANSIENT: Final = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
"""The statuses after which another attempt may succeed."""


class RefusalError(Exception):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        code: the ``error_code``; the status if the answer has none.
        message: the reason, in the registry's words.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def missing(self) -> bool:
        """Whether what was asked for is not there."""
        return self.status == 404

    def error(self, about: str) -> DimeshError:
        """Return the error of dimesh.

        Args:
            about: what was asked of the registry, for the message.
        """
        kind = IncompatibleSchemaError if self.status == 409 else _CODES.get(self.code)
        kind = kind or _STATUSES.get(self.status)
        text = f"{about}: the registry answers: {self.message} (HTTP {self.status}, code {self.code})"
        if kind is IncompatibleSchemaError:
            return IncompatibleSchemaError(text, (self.message,))
        if kind is None:
            kind = RegistryUnavailableError if self.status >= 500 or self.status in TRANSIENT else SchemaError
        return kind(text)
