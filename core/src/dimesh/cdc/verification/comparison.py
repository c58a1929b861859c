"""Compares a row at the source with what was published of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Any, Final

import msgspec

from dimesh.cdc.row_images import RowState, other_version
from dimesh.events import strictjson
from dimesh.spi.cdc import Change, Operation

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder().decode
_ABSENT: Final = object()


class Kind(Enum):
    """The kinds of errors of a feed."""

    MISSING_ROW = "missing_row"
    """The source has a row that was never published, or not for as long as the bus keeps events."""
    FALSE_DELETE = "false_delete"
    """The source has a row that was published as deleted."""
    LOST_DELETE = "lost_delete"
    """The source has deleted a row, and the delete was not published."""
    LOST_UPDATE = "lost_update"
    """A row has other values at the source than those that were published."""
    STALE_FIELD = "stale_field"
    """A row has other values in some fields, although its time of the last change is the one that was published."""
    DROPPED_FIELD = "dropped_field"
    """A row has fields at the source that were not published."""
    CUT_LIST = "cut_list"
    """A list has more entries at the source than were published; the row does not say that the list is cut."""


class Incomparable(Enum):
    """The reasons for which a row was not compared."""

    UNANSWERED = "the source does not say whether the row exists"
    KEY_ONLY = "only the key of the row is stored, or a part of the row"
    NO_CHANGES = "the system does not report all changes of such a row"
    VERSION = "the row was published in another version of the source's API"
    CHANGING = "the row changed whenever it was read"
    UNSETTLED = "the stream did not get past the first reading in time"


@dataclass(frozen=True, slots=True)
class Difference:
    """How a row differs from what was published."""

    kind: Kind
    fields: Mapping[str, bytes] = field(default_factory=dict)
    """For each differing field, a digest of both values."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """For each differing field, its own kind."""
    digest: bytes = b""
    """A digest of a row that is on one side only."""

    @property
    def readings(self) -> int:
        """The number of readings in a row that must show the difference. A row that was inserted late and deleted soon is, at two
        moments, on one side only; a field that has the same two values at two moments has not changed in between.
        """
        return 2 if self.fields else 3

    def persisting(self, later: Difference) -> Difference | None:
        """Return the part of this difference that a later comparison found again; None if there is no such part."""
        if not self.fields or not later.fields:
            return self if (self.kind, self.digest) == (later.kind, later.digest) else None
        same = {name: digest for name, digest in self.fields.items() if later.fields.get(name) == digest}
        return _of_fields(same, {name: self.kinds[name] for name in same}) if same else None


@dataclass(slots=True)
class Comparison:
    """The outcome of comparing one row: equal if there is neither a difference nor a reason."""

    difference: Difference | None = None
    incomparable: Incomparable | None = None
    skipped: tuple[str, ...] = ()
    """The fields that were not compared, since what was published of them may be out of date or cut."""
    gone: bool = False
    """Whether the row neither exists nor was published: it was deleted after it was chosen."""


def compare(
    published: bytes | None,
    exists: bool,
    current: Change | None,
    not_current: Mapping[str, str],
    stamp: str | None,
) -> Comparison:
    """Compare a row.

    Args:
        published: the stored state of the row, as it was published last; None: unknown.
        exists: whether the row was published and not deleted.
        current: the row as the source has it now, or its delete; None: the source does not say.
        not_current: the fields that are not compared.
        stamp: the field with the time of the row's last change; None: rows have none.
    """
    if current is None:
        return Comparison(incomparable=Incomparable.UNANSWERED)
    if current.operation is Operation.DELETE or current.after is None:
        gone = Difference(Kind.LOST_DELETE, digest=blake2b(published or b"", digest_size=8).digest())
        return Comparison(gone) if exists else Comparison(gone=True)
    if not exists:
        return Comparison(Difference(Kind.MISSING_ROW, digest=_digest(_plain(current.after))))
    if published is not None and RowState.holds(published, current.after):
        return Comparison()
    state = RowState.unpack(published) if published is not None else None
    if state is None or state.state is None:
        return Comparison(incomparable=Incomparable.KEY_ONLY)
    if other_version(state, current):
        return Comparison(incomparable=Incomparable.VERSION)
    if current.metadata.get("updates") == "incomplete":
        return Comparison(incomparable=Incomparable.NO_CHANGES)
    now = _plain(current.after)
    skipped = tuple(name for name in {*not_current, *state.unsure, *_cut(current)} if name in now)
    kinds: dict[str, Kind] = {}
    fields: dict[str, bytes] = {}
    for name in {**state.state, **now}:
        before, after = state.state.get(name, _ABSENT), now.get(name, _ABSENT)
        if name in skipped or name in not_current or _same(before, after):
            continue
        fields[name] = _digest(before, after)
        if before is _ABSENT:
            kinds[name] = Kind.DROPPED_FIELD
        elif _is_cut(before, after):
            kinds[name] = Kind.CUT_LIST
        else:
            kinds[name] = Kind.LOST_UPDATE
    if stamp is not None and fields and stamp not in fields and now.get(stamp) is not None:
        kinds = {n: Kind.STALE_FIELD if kind is Kind.LOST_UPDATE else kind for n, kind in kinds.items()}
    return Comparison(_of_fields(fields, kinds) if fields else None, skipped=skipped)


def _of_fields(fields: Mapping[str, bytes], kinds: Mapping[str, Kind]) -> Difference:
    """Return the difference in fields: its kind is the gravest of theirs."""
    order = (Kind.LOST_UPDATE, Kind.STALE_FIELD, Kind.DROPPED_FIELD, Kind.CUT_LIST)
    return Difference(next(kind for kind in order if kind in kinds.values()), fields, kinds)


def _cut(change: Change) -> tuple[str, ...]:
    return tuple(map(str, change.metadata.get("cut") or ()))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it is after it was stored: as JSON."""
    try:
        found: dict[str, Any] = _decode(_encode(row))
    except (TypeError, ValueError, OverflowError):  # for example, an integer of more than 64 bits
        found = strictjson.loads(strictjson.dumps(dict(row)))
    return found


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: 1 is 1.0, and not true."""
    if one.__class__ is dict and other.__class__ is dict:
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if one.__class__ is list and other.__class__ is list:
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _is_cut(published: Any, now: Any) -> bool:
    """Return whether a value is the other one with fewer entries in a list, which may stand in an object beside its counts."""
    if published.__class__ is list and now.__class__ is list:
        return len(published) < len(now) and all(any(_same(a, b) for b in now) for a in published)
    if published.__class__ is dict and now.__class__ is dict and published.keys() == now.keys():
        differing = [name for name in now if not _same(published[name], now[name])]
        return any(_is_cut(published[name], now[name]) for name in differing) and all(
            _is_cut(published[name], now[name]) or isinstance(now[name], int) for name in differing
        )
    return False


def _digest(*values: Any) -> bytes:
    found = blake2b(digest_size=8)
    for value in values:
        text = b"-" if value is _ABSENT else strictjson.dumps(value)
        found.update(len(text).to_bytes(4, "little") + text)
    return found.digest()
