"""Bodies of answers, read and inflated within a limit: a small compressed answer may stand for gigabytes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

ACCEPTED: Final = "gzip"
"""The content encoding to ask for. ``deflate`` (in the zlib format) is understood as well."""
_IDENTITY: Final = ("", "identity")
_KNOWN: Final = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
_STEP: Final = 256 * 1024
"""The number of bytes to inflate at a time."""


class BodyTooLargeError(Exception):
    """A body is larger than the limit. The rest of it was not read."""


class BodyDecodingError(Exception):
    """A body is in an unknown encoding, damaged, or cut off."""


async def read_body(pieces: AsyncIterator[bytes], encoding: str, limit: int) -> bytes:
    """Return the inflated body.

    Args:
        pieces: the raw bytes as they arrive.
        encoding: the header ``Content-Encoding``.
        limit: the largest size in bytes, raw and inflated.

    Raises:
        BodyTooLargeError: as soon as the limit is passed; memory never holds much more than the limit.
        BodyDecodingError: the body cannot be inflated.
    """
    encoding = encoding.strip().lower()
    if encoding not in (*_IDENTITY, *_KNOWN):
        raise BodyDecodingError(
            f"the answer has the content encoding {encoding[:40]!r}, which was not asked for"
        )
    inflater = None if encoding in _IDENTITY else zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    received = 0
    async for piece in pieces:
        received += len(piece)
        if received > limit:
            raise BodyTooLargeError
        if inflater is None:
            body += piece
            continue
        try:
            while piece:
                body += inflater.decompress(piece, _STEP)
                if len(body) > limit:
                    raise BodyTooLargeError
                piece = inflater.unconsumed_tail
                if piece:
                    await asyncio.sleep(0)  # a small piece may inflate for long: others have their turn
        except zlib.error as error:
            raise BodyDecodingError(f"the answer is damaged: {error}") from error
        if inflater.unused_data:
            raise BodyDecodingError("the answer is damaged: bytes follow the end of the compressed body")
    if inflater is not None and received and not inflater.eof:
        # What is still inside would be a few bytes: the end is missing anyway.
        raise BodyDecodingError("the answer is cut off")
    return bytes(body)
