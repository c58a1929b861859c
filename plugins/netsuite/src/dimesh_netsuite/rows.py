"""Rows of answers as changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from dimesh.spi.cdc import Change, Operation
from dimesh_netsuite.client import Row
from dimesh_netsuite.records import Table
from dimesh_netsuite.suiteql import parse_stamp

_encode: Final = msgspec.json.Encoder(order="sorted").encode
Key = tuple[str, ...]


class Read(NamedTuple):
    """A row that was read."""

    key: Key
    stamp: str | None
    """The time of its last change as text in UTC; None: it has none."""
    created: str | None
    """The time of its creation as text in UTC; None: unknown."""
    row: Row
    """The row, with None for empty columns."""
    digest: str
    """The digest of the row."""


def key_of(table: Table, row: Mapping[str, Any]) -> Key:
    """Return the primary key of a row."""
    return tuple(str(row.get(name, "")) for name in table.keys)


def digest_of(row: Mapping[str, Any] | Sequence[str]) -> str:
    """Return a digest of a row's content."""
    return hashlib.blake2b(_encode(row), digest_size=8).hexdigest()


def chained(before: str, digest: str) -> str:
    """Return the digest of a row that had another digest before. A row that returns to an earlier state within the same second is
    another change.
    """
    return hashlib.blake2b(f"{before}{digest}".encode(), digest_size=8).hexdigest()


def time_of(stamp: str | None, otherwise: datetime) -> datetime:
    """Return the time of a stamp."""
    try:
        return parse_stamp(stamp) if stamp else otherwise
    except ValueError:
        return otherwise


def row_change(table: Table, read: Read, at: float) -> Change:
    """Return a row that was read as a ``SNAPSHOT`` change."""
    moment = datetime.fromtimestamp(at, UTC)
    return Change(
        f"{table.name}:{':'.join(read.key)}:{read.stamp or ''}:{read.digest}",
        Operation.SNAPSHOT,
        table.name,
        dict(zip(table.keys, read.key, strict=True)),
        None,
        read.row,
        moment,
    )


def polled_change(
    table: Table, read: Read, identity: str, inserted: bool, at: datetime, metadata: Mapping[str, Any]
) -> Change:
    """Return a row that a poll found as a change. The row is that of the moment of reading: NetSuite keeps no older ones."""
    return Change(
        identity,
        Operation.INSERT if inserted else Operation.UPDATE,
        table.name,
        dict(zip(table.keys, read.key, strict=True)),
        None,
        read.row,
        time_of(read.stamp, at),
        sequence=read.stamp,
        as_of=at,
        metadata=metadata,
    )


def delete_change(
    table: Table,
    key: Sequence[str],
    at: datetime,
    *,
    identity: str = "",
    actor: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Change:
    """Return the delete of a row."""
    return Change(
        identity or f"{table.name}:{':'.join(key)}:deleted",
        Operation.DELETE,
        table.name,
        dict(zip(table.keys, key, strict=True)),
        None,
        None,
        at,
        actor=actor,
        metadata=metadata or {},
    )
