"""The rules that every embedded schema store applies, so that they exist once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dimesh.errors import (
    NotSoftDeletedError,
    ReferencedError,
    SoftDeletedError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.events.names import show
from dimesh.spi.registry import Snapshot


class Listed(NamedTuple):
    """A version as the rules see it."""

    version: int
    deleted: bool


def snapshot_of(versions: Sequence[Listed], highest: int, settings: Iterable[Mapping[str, Any]]) -> Snapshot:
    """Return a snapshot.

    Args:
        versions: all versions of the subject, ascending.
        highest: the highest version number that was ever used.
        settings: the settings of each scope that applies, the widest first.
    """
    merged: dict[str, Any] = {}
    for of_scope in settings:
        merged.update(of_scope)
    text = json.dumps([versions, highest, merged], sort_keys=True)
    revision = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return Snapshot(revision, tuple(v.version for v in versions if not v.deleted), highest, merged)


def next_version(
    subject: str, versions: Sequence[Listed], snapshot: Snapshot, revision: str, version: int | None
) -> int:
    """Return the number of a version that is to be added.

    Raises:
        VersionConflictError: the snapshot is out of date, or the version exists.
    """
    if snapshot.revision != revision:
        raise VersionConflictError(
            f"subject {show(subject)} or its settings have changed since the decision: decide again"
        )
    if version is None:
        return snapshot.highest + 1
    if any(v.version == version for v in versions):
        raise VersionConflictError(f"subject {show(subject)} has a version {version} already")
    return version


def to_delete(
    subject: str, versions: Sequence[Listed], version: int | None, permanent: bool
) -> Sequence[int]:
    """Return the numbers of the versions to delete, or to remove for good.

    Raises:
        SubjectNotFoundError: there is no such subject or version.
        SoftDeletedError: the subject or version is soft-deleted already.
        NotSoftDeletedError: ``permanent``, and the subject or version is live.
    """
    meant = [v for v in versions if version in (None, v.version)]
    what = f"subject {show(subject)}" + ("" if version is None else f", version {version},")
    if not meant:
        raise SubjectNotFoundError(f"{what} does not exist")
    live = [v.version for v in meant if not v.deleted]
    if permanent:
        if live:
            raise NotSoftDeletedError(f"{what} is not deleted yet: delete it first, then remove it for good")
        return [v.version for v in meant]
    if not live:
        raise SoftDeletedError(f"{what} is deleted already")
    return live


def check_not_referenced(
    subject: str, touched: Sequence[int], referrers: Iterable[tuple[str, int, int, bool]], permanent: bool
) -> None:
    """Check that nobody needs the versions that are to be deleted.

    Args:
        subject: the subject.
        touched: the numbers of the versions.
        referrers: the versions that refer to the subject: their subject and version, the version that they refer to, and
            whether they are soft-deleted.
        permanent: whether the versions are to be removed for good. A soft-deleted schema can still be read by id, so it keeps
            what it refers to from being removed, but not from being soft-deleted.

    Raises:
        ReferencedError: another schema refers to one of the versions.
    """
    for other, number, target, deleted in referrers:
        if target in touched and (permanent or not deleted) and (other, number) != (subject, target):
            raise ReferencedError(
                f"subject {show(subject)}, version {target}, is referred to by {show(other)}, version {number}: "
                "delete that one first"
            )
