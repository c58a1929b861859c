"""Finds out what became of rows that a repair did not see. A list may leave rows out (inactive prices, rows that the user may not
see, a read that lags behind), so that a row counts as deleted only if the system says so, for that row, twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dimesh.cdc.publisher import ChangePublisher
from dimesh.cdc.state import Progress
from dimesh.clock import Clock
from dimesh.spi.cdc import CDCSource, Change, Operation, ReadsRows
from dimesh.spi.state import RowStore

DELETE_BATCH: Final = 500
"""The number of deletes in one batch of a repair."""


@dataclass(slots=True)
class Verdicts:
    """What became of rows. Keys are those of the store: a primary key, behind the name of its object in a channel of several."""

    present: list[Change] = field(default_factory=list)
    """The rows that exist: the list had left them out."""
    deleted: list[str] = field(default_factory=list)
    """The keys of rows that the system says were deleted."""
    missing: list[str] = field(default_factory=list)
    """The keys of rows that the system says nothing about."""


def split(key: str, object: str) -> tuple[str, dict[str, Any]]:
    """Return the object and the primary key that a key of the store stands for."""
    name, _, primary_key = key.rpartition("\n")
    return name or object, json.loads(primary_key)


async def inquire(source: CDCSource, object: str, keys: Sequence[str], clock: Clock) -> Verdicts:
    """Ask the source about rows that a repair did not see.

    Args:
        source: the source.
        object: the captured object.
        keys: keys of the store.
        clock: for the pause before the source is asked again about rows that it says were deleted.
    """
    verdicts = Verdicts()
    if not isinstance(source, ReadsRows):
        verdicts.missing += keys
        return verdicts
    suspected = await _ask(source, object, keys, verdicts)
    if suspected:
        # A read may lag behind: a row that was changed a moment ago, or moved, is not found for a while.
        await clock.sleep(source.read_lag)
        verdicts.deleted += await _ask(source, object, suspected, verdicts)
    return verdicts


async def _ask(source: ReadsRows, object: str, keys: Sequence[str], verdicts: Verdicts) -> list[str]:
    """Sort the keys into the verdicts; return those of rows that the source says were deleted."""
    by_name: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key in keys:
        name, primary_key = split(key, object)
        by_name.setdefault(name, []).append((key, primary_key))
    deleted = []
    for name, rows in by_name.items():
        answers = await source.read_rows(name, [primary_key for _, primary_key in rows])
        for (key, _), answer in zip(rows, answers, strict=True):
            if answer is None:
                verdicts.missing.append(key)
            elif answer.operation is Operation.DELETE:
                deleted.append(key)
            else:
                verdicts.present.append(answer)
    return deleted


@dataclass(slots=True)
class Absences:
    """The rows that existed before a gap and that its repair did not see."""

    deleted: int | None = 0
    """The number of rows that were published as deleted; None: neither a row store nor the source knows the deleted rows."""
    missing: int = 0
    """The number of rows whose fate the system does not tell."""


async def publish_absences(
    source: CDCSource,
    object: str,
    rows: RowStore,
    publisher: ChangePublisher,
    progress: Progress,
    clock: Clock,
) -> tuple[Progress, Absences]:
    """Publish what became of each row that existed before the gap and that the repair did not see.

    A row that was inserted meanwhile is not stored yet, or counts as seen.

    Args:
        source: the source.
        object: the captured object.
        rows: the rows that existed.
        publisher: the publisher of the object.
        progress: the progress of the repair.
        clock: see :func:`inquire`.

    Returns:
        The stored progress, and the counts.
    """
    deleted = missing = 0
    while keys := await rows.stale_keys(publisher.key, progress.generation, DELETE_BATCH):
        verdicts = await inquire(source, object, keys, clock)
        if verdicts.present:
            progress = await publisher.publish(verdicts.present, progress, publisher.now())
        if verdicts.deleted:
            changes = [_deleted(key, object, progress, publisher) for key in verdicts.deleted]
            progress = await publisher.publish(changes, progress, publisher.now())
            deleted += len(changes)
        if verdicts.missing:
            absent = [split(key, object)[1] for key in verdicts.missing]
            progress = await publisher.store([publisher.missing(progress.repair, absent)], progress)
            missing += len(absent)
        # Rows that exist under another key than before, too: this loop must end.
        gone = frozenset(verdicts.deleted)
        left = [key for key in keys if key not in gone]
        await rows.mark_seen(publisher.key, left, progress.generation)
    return progress, Absences(deleted, missing)


def _deleted(key: str, object: str, progress: Progress, publisher: ChangePublisher) -> Change:
    """Return the delete of a row that a repair found to be gone."""
    name, primary_key = split(key, object)
    return Change(
        f"repair-{progress.snapshot_epoch}:{key.rpartition(chr(10))[2]}",
        Operation.DELETE,
        name,
        primary_key,
        None,
        None,
        publisher.now(),
        metadata={"found_by": "repair", "cause": progress.repair},
    )
