"""What a row looked like last: from it come the ``before`` of changes whose source does not say, and the whole row of
those that say only what changed.

A ``before`` that is wrong is worse than none, so nothing is taken from memory where it may not be what was there: a row
that a snapshot read may hold changes that the stream brings only afterwards, and a change may come twice.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from dimesh.events import strictjson
from dimesh.spi.cdc import Before, Change, Operation

REMEMBERED: Final = 8
"""Identities of a row's last changes that are known again."""
_HEAD: Final = struct.Struct(f"<d?{REMEMBERED * 4}s")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_NOBODY: Final = bytes(REMEMBERED * 4)
_OVERWRITES: Final = (Operation.UPDATE, Operation.DELETE, Operation.UNDELETE)
GONE: Final = b""
"""Stored for a row that is deleted, until that is published."""


class LastRow(NamedTuple):
    """A row as it was seen last."""

    state: Mapping[str, Any] | None
    """None: it is there, and nobody knows what it looks like."""
    recent: bytes = _NOBODY
    """Checksums of the identities of its last changes."""
    read_at: float = 0.0
    """When a snapshot read it, if no later change came since: changes up to then may be in it already."""

    def packed(self) -> bytes:
        """For the store. The row was written into its event already, which checked that JSON can hold it."""
        plain = True
        body = b""
        if self.state is not None:
            try:
                body = _encode(self.state)
            except (TypeError, ValueError, OverflowError):  # such as an integer of more than 64 bits
                plain, body = False, strictjson.dumps(dict(self.state))
        return _HEAD.pack(self.read_at, plain, self.recent) + body

    @classmethod
    def unpacked(cls, data: bytes) -> LastRow:
        """What :meth:`packed` gave."""
        read_at, plain, recent = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        state = None if not body else _decode(body) if plain else strictjson.loads(body)
        return cls(state, recent, read_at)


class Image(NamedTuple):
    """What is known of a change's row."""

    before: Mapping[str, Any] | None
    before_from: Before
    after: Mapping[str, Any] | None
    partial: bool
    changed_fields: Sequence[str]


def completed(
    change: Change, last: LastRow | None, read: datetime, skew: float
) -> tuple[Image, LastRow | None]:
    """What is known of a change's row, and how the row is from now on; None: gone.

    Args:
        last: the row before the change, as it is remembered.
        read: when the change was read.
        skew: seconds by which the source's clock may differ from ours.
    """
    before, after, partial = change.before, change.after, change.partial
    before_from = change.before_from if before is not None else Before.NONE
    if before is not None and before_from is Before.NONE:
        before_from = Before.NATIVE
    fields = change.changed_fields
    if change.operation is Operation.SNAPSHOT:
        at = max(change.timestamp, read).timestamp()
        state = None if partial else after
        return Image(before, before_from, after, partial, fields), LastRow(state, _NOBODY, at)
    mark = crc32(change.identity.encode("utf-8", "surrogatepass")).to_bytes(4, "little")
    repeated = last is not None and mark in last.recent
    known = None if last is None or repeated else last.state
    # Only what is newer than the reading of the row is certain not to be in it already.
    early = last is not None and last.read_at > 0 and change.timestamp.timestamp() <= last.read_at + skew
    if partial and after is not None:
        base = before if before is not None else known
        if not fields:
            fields = list(after)
        if base is not None:
            after, partial = {**base, **after}, False
    if before is None and known is not None and not early and change.operation in _OVERWRITES:
        before, before_from = known, Before.CACHE
        if not fields and after is not None and not partial:
            fields = [name for name, value in after.items() if name not in known or known[name] != value]
            fields += [name for name in known if name not in after]
    image = Image(before, before_from, after, partial, fields)
    if change.operation is Operation.DELETE:
        return image, None
    if repeated:
        return image, last  # as it was: later changes of the row are in it
    recent = (mark + last.recent)[: len(_NOBODY)] if last is not None else mark + _NOBODY[4:]
    read_at = last.read_at if last is not None and early else 0.0
    if change.as_of is not None:
        read_at = max(read_at, change.as_of.timestamp())
    return image, LastRow(None if partial else after, recent, read_at)
