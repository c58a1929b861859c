"""Positions as bytes: a struct of the source, as JSON, with the version of its form."""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

import msgspec

from dimesh.errors import SourcePositionLostError

P = TypeVar("P", bound=msgspec.Struct)

_VERSIONED: Final = re.compile(rb"(\d{1,6}):")


class PositionCodec(Generic[P]):
    """Encodes and decodes the positions of one source.

    A position outlives the release that wrote it. Raise ``version`` when the struct changes: an older position is then
    refused, the runner publishes a gap, and all rows are read again.

    Args:
        kind: the struct; ``array_like=True`` keeps it short.
        source: the name of the source for messages, such as ``Stripe``.
        version: the version of the form.
    """

    def __init__(self, kind: type[P], source: str, version: int = 1) -> None:
        self._source = source
        self._version = version
        self._prefix = b"%d:" % version
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode

    def encode(self, position: P) -> bytes:
        """Return a position as bytes."""
        return self._prefix + self._encode(position)

    def decode(self, data: bytes, object: str) -> P:
        """Return the position that ``data`` holds.

        Args:
            data: what :meth:`encode` returned.
            object: the object that the position belongs to, for the error.

        Raises:
            SourcePositionLostError: the bytes are not a position of this source, or of another version.
        """
        match = _VERSIONED.match(data)
        # Positions had no version at first: those are of version 1.
        version, body = (int(match[1]), data[match.end() :]) if match else (1, data)
        if version != self._version:
            raise SourcePositionLostError(
                f"this position of {object} has version {version} of the {self._source} source's format, and this release reads "
                f"version {self._version}: all rows must be read again"
            )
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourcePositionLostError(
                f"this position of {object} does not come from the {self._source} source: all rows must be read again"
            ) from error
