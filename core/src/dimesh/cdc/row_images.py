"""Row images: the last known state of a row provides ``before`` for sources that do not report it, and completes partial
changes.

A wrong ``before`` is worse than none, so the known state is used only if it certainly was the row's previous state: a row that
a snapshot read may contain changes that the stream delivers later, and a change may be delivered twice. Rows in two versions of
the source's API are never compared or merged.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from dimesh.events import strictjson
from dimesh.spi.cdc import Before, Change, Operation

KNOWN_CHANGES: Final = 8
"""The number of a row's latest changes that are recognized when they are delivered again."""
_HEAD: Final = struct.Struct(f"<dB{KNOWN_CHANGES * 4}s")
_PLAIN: Final = 1
"""The flag of a row that was encoded as plain JSON."""
_VERSIONED: Final = 2
"""The flag of a row that begins with the checksum of its API version."""
_UNSURE: Final = 4
"""The flag of a row before which the names of unsure fields stand, with their length."""
_LENGTH: Final = struct.Struct("<H")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_decode_names: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_NO_CHANGES: Final = bytes(KNOWN_CHANGES * 4)
_OVERWRITES: Final = (Operation.UPDATE, Operation.DELETE, Operation.UNDELETE)


class RowState(NamedTuple):
    """The last known state of a row."""

    state: Mapping[str, Any] | None
    """The row; None: it exists, but its values are unknown."""
    recent: bytes = _NO_CHANGES
    """The checksums of the identities of the row's latest changes."""
    read_at: float = 0.0
    """The time at which a snapshot read the row, which may contain changes up to then; 0 after a later change."""
    version: bytes = b""
    """The checksum of the API version whose shape the row has; empty: the source has no versions."""
    unsure: tuple[str, ...] = ()
    """The names of fields that hold only a part of a list, or that may have changed without a change of the row."""

    def pack(self) -> bytes:
        """Encode the state for the store. The row was encoded in its event before, so JSON can represent it."""
        flags = _PLAIN | (_VERSIONED if self.version else 0)
        unsure = b""
        if self.unsure:
            flags |= _UNSURE
            unsure = _encoded_names(self.unsure)
        body = b""
        if self.state is not None:
            try:
                body = _encode(self.state)
            except (TypeError, ValueError, OverflowError):  # for example, an integer of more than 64 bits
                flags, body = flags & ~_PLAIN, strictjson.dumps(dict(self.state))
        return _HEAD.pack(self.read_at, flags, self.recent) + self.version + unsure + body

    @classmethod
    def unpack(cls, data: bytes) -> RowState:
        """Decode what :meth:`pack` encoded."""
        read_at, flags, recent = _HEAD.unpack_from(data)
        begin = _HEAD.size + (4 if flags & _VERSIONED else 0)
        version = data[_HEAD.size : begin]
        unsure: tuple[str, ...] = ()
        if flags & _UNSURE:
            (length,) = _LENGTH.unpack_from(data, begin)
            begin += _LENGTH.size + length
            unsure = _decode_names(data[begin - length : begin])
        body = data[begin:]
        state = None if not body else _decode(body) if flags & _PLAIN else strictjson.loads(body)
        return cls(state, recent, read_at, version, unsure)

    @staticmethod
    def holds(data: bytes, row: Mapping[str, Any]) -> bool:
        """Return whether :meth:`pack` encoded a row with exactly this text; a row with its fields in another order has another
        one.
        """
        try:
            body = _encode(row)
        except (TypeError, ValueError, OverflowError):
            return False
        # No JSON object is the end of another one: its first brace would be inside, and a part of a text has an odd quote.
        return len(body) > 2 and data.endswith(body) and _HEAD.size <= len(data) - len(body)


class RowImage(NamedTuple):
    """The row of a change before and after it, as far as known."""

    before: Mapping[str, Any] | None
    before_from: Before
    after: Mapping[str, Any] | None
    partial: bool
    changed_fields: Sequence[str]


def complete_image(
    change: Change, last: RowState | None, read: datetime, skew: float
) -> tuple[RowImage, RowState | None]:
    """Return the image of a change, and the state of the row after it (None: the row was deleted).

    Args:
        change: the change.
        last: the state of the row before the change, if known.
        read: the time at which the change was read.
        skew: seconds by which the source's clock may differ from ours.
    """
    before, after, partial = change.before, change.after, change.partial
    before_from = change.before_from if before is not None else Before.NONE
    if before is not None and before_from is Before.NONE:
        before_from = Before.NATIVE
    fields = change.changed_fields
    version = _version(change.api_version)
    if change.operation is Operation.SNAPSHOT:
        at = max(change.timestamp, read).timestamp()
        state = None if partial else after
        row = RowState(state, _NO_CHANGES, at, version, _unsure(change, None))
        return RowImage(before, before_from, after, partial, fields), row
    mark = _checksum(change.identity)
    repeated = last is not None and mark in last.recent
    known = None if last is None or repeated or _differ(last.version, version) else last.state
    # Only a change that is newer than the snapshot's reading of the row is certainly not contained in it.
    early = last is not None and last.read_at > 0 and change.timestamp.timestamp() <= last.read_at + skew
    if partial and after is not None:
        base = before if before is not None else known
        if not fields:
            fields = list(after)
        if base is not None:
            after, partial = {**base, **after}, False
    if before is None and known is not None and not early and change.operation in _OVERWRITES:
        before, before_from = known, Before.CACHE
        if (
            change.not_current
        ):  # they may have changed since they were read, so that nobody knows what they were
            before = {name: value for name, value in known.items() if name not in change.not_current}
        if not fields and after is not None and not partial:
            fields = [name for name in _changed(known, after) if name not in change.not_current]
    image = RowImage(before, before_from, after, partial, fields)
    if change.operation is Operation.DELETE:
        return image, None
    if repeated:
        return image, last  # unchanged: it contains later changes of the row
    recent = (mark + last.recent)[: len(_NO_CHANGES)] if last is not None else mark + _NO_CHANGES[4:]
    read_at = last.read_at if last is not None and early else 0.0
    if change.as_of is not None:
        read_at = max(read_at, change.as_of.timestamp())
    unsure = _unsure(change, last if change.partial else None)
    return image, RowState(None if partial else after, recent, read_at, version, unsure)


def _unsure(change: Change, base: RowState | None) -> tuple[str, ...]:
    """Return the fields of a row after a change that are cut or may be out of date.

    Args:
        change: the change.
        base: the row that the change completes; None: the change has the whole row.
    """
    found = tuple(change.not_current) if change.as_of is None else ()
    cut = change.metadata.get("cut")
    if cut:
        found += tuple(map(str, cut))
    if base is not None and base.unsure:
        after = change.after or {}
        found += tuple(name for name in base.unsure if name not in after and name not in found)
    return found


@lru_cache(1_024)
def _encoded_names(names: tuple[str, ...]) -> bytes:
    """Encode names of fields, which many rows share."""
    found = msgspec.msgpack.encode(names)
    return _LENGTH.pack(len(found)) + found


def as_change(change: Change, last: RowState | None, reading: str) -> Change | None:
    """Return a row that was read again as the change that it shows; None if the row is in the state that was published last.

    Args:
        change: the row, as a ``SNAPSHOT`` change.
        last: the state of the row that was published last; None: the row is new.
        reading: the name of the reading: a row may return to an earlier state.
    """
    operation, before, changed = Operation.INSERT, None, list[str]()
    if last is not None:
        version = _version(change.api_version)
        if last.state is None or _differ(last.version, version):
            return change  # what changed is not known
        if last.state == change.after or last.state == _as_stored(change.after):
            return None
        operation, before = Operation.UPDATE, last.state
        changed = _changed(before, change.after or {})
    return dataclasses.replace(
        change,
        identity=f"{reading}:{change.identity}",
        operation=operation,
        before=before,
        before_from=Before.CACHE if before is not None else Before.NONE,
        changed_fields=changed,
        as_of=change.timestamp,
        metadata={**change.metadata, "found_by": "listing"},
    )


def other_version(state: RowState, change: Change) -> bool:
    """Return whether a row and a change are in different API versions, as far as the versions are known."""
    return change.api_version is not None and _differ(state.version, _checksum(change.api_version))


def _differ(one: bytes, other: bytes) -> bool:
    """Return whether two rows are in different API versions, as far as the versions are known."""
    return one != other and bool(one) and bool(other)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields that changed."""
    fields = [name for name, value in after.items() if name not in before or before[name] != value]
    return fields + [name for name in before if name not in after]


def _as_stored(row: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a row as it is after it was stored: a date is a text, say."""
    return RowState.unpack(RowState(row).pack()).state


@functools.lru_cache(64)
def _version(name: str | None) -> bytes:
    """Return what stands for an API version in the store: its checksum; empty for none."""
    return _checksum(name) if name else b""


def _checksum(text: str) -> bytes:
    return crc32(text.encode("utf-8", "surrogatepass")).to_bytes(4, "little")
