"""Consumer groups across processes: the members of a group, and the owner of each partition.

Partition *i* belongs to member *i* modulo their number, in order of joining. A member that owns a partition too many
finishes its work on it, commits, and only then releases it; until then no other member takes it. The rules are in one
function, :func:`take_turn`, that every member calls in a write transaction whenever the group has changed and
:func:`read_due` returns True.

A member lives as long as its process does: see :mod:`dimesh.backends.bus.sqlite.processes`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dimesh.backends.bus.sqlite import processes
from dimesh.backends.bus.sqlite.tables import Topic, read_start
from dimesh.errors import BusError, FencedError
from dimesh.spi.bus import Start


class Membership(NamedTuple):
    """A member's place in a group."""

    topic: str
    group: str
    token: str
    """Identifies this subscription; never used again."""
    name: str
    process: str
    """The token of the process."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of a turn."""

    owned: frozenset[int]
    """The partitions that this member owns in the table."""
    claimed: Mapping[int, int]
    """The partitions that this member took in this turn, each with the offset to begin at."""
    surplus: frozenset[int]
    """The partitions to release: another member should have them."""


def _members(connection: sqlite3.Connection, topic: int, group: str) -> list[str]:
    """Return the tokens of the members, in order of joining."""
    return [
        token
        for (token,) in connection.execute(
            "SELECT token FROM members WHERE topic = ? AND grp = ? ORDER BY joined, token", (topic, group)
        )
    ]


def _owners(connection: sqlite3.Connection, topic: int, group: str) -> dict[int, str]:
    return dict(
        connection.execute(
            "SELECT part, token FROM owners WHERE topic = ? AND grp = ?", (topic, group)
        ).fetchall()
    )


def _mark_changed(connection: sqlite3.Connection, topic: int, group: str) -> None:
    processes.mark_changed(connection, "SELECT ? AS topic, ? AS grp", (topic, group))


def join(
    connection: sqlite3.Connection, topic: Topic, me: Membership, start: Start, reset: bool, lease: float
) -> Turn:
    """Become a member, and take the first turn. A group that is new, or is to be reset and has no members, gets its start."""
    processes.remove_ended(connection, me.process, lease)
    if reset and not _members(connection, topic.id, me.group):
        connection.execute("DELETE FROM offsets WHERE topic = ? AND grp = ?", (topic.id, me.group))
        connection.execute("DELETE FROM attempts WHERE topic = ? AND grp = ?", (topic.id, me.group))
    connection.executemany(
        "INSERT OR IGNORE INTO offsets VALUES (?, ?, ?, ?)",
        [(topic.id, me.group, part, offset) for part, offset in read_start(connection, topic, start).items()],
    )
    return take_turn(connection, topic, me)


def _enter(connection: sqlite3.Connection, topic: int, me: Membership) -> None:
    processes.beat(connection, me.process)
    joined = connection.execute(
        "SELECT coalesce(max(joined), 0) + 1 FROM members WHERE topic = ? AND grp = ?", (topic, me.group)
    ).fetchone()[0]
    connection.execute(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?)",
        (topic, me.group, me.token, joined, me.name, me.process),
    )
    _mark_changed(connection, topic, me.group)


def leave(connection: sqlite3.Connection, topic: int, me: Membership) -> None:
    """End a membership and its ownerships."""
    key = (topic, me.group, me.token)
    connection.execute("DELETE FROM owners WHERE topic = ? AND grp = ? AND token = ?", key)
    connection.execute("DELETE FROM members WHERE topic = ? AND grp = ? AND token = ?", key)
    _mark_changed(connection, topic, me.group)


def read_due(
    connection: sqlite3.Connection,
    topic: Topic,
    me: Membership,
    held: frozenset[int],
    leaving: frozenset[int],
) -> bool:
    """Return whether a turn would change anything: a change of the group seldom concerns all members, and this costs no write.

    Args:
        connection: a connection.
        topic: the topic as it is now.
        me: the member.
        held: the partitions that it believes to own.
        leaving: those that it is giving up, and still owns.
    """
    members = _members(connection, topic.id, me.group)
    if me.token not in members:
        return True
    owners = _owners(connection, topic.id, me.group)
    owned = {part for part, token in owners.items() if token == me.token}
    wanted = _wanted(members, topic.partitions, me.token)
    return owned != held | leaving or bool(held - wanted) or any(part not in owners for part in wanted)


def _wanted(tokens: list[str], partitions: int, mine: str) -> set[int]:
    return {part for part in range(partitions) if tokens and tokens[part % len(tokens)] == mine}


def take_turn(connection: sqlite3.Connection, topic: Topic, me: Membership) -> Turn:
    """Take free partitions, and return what to release. A member that was removed joins again as the youngest one."""
    members = _members(connection, topic.id, me.group)
    if me.token not in members:
        _enter(connection, topic.id, me)
        members.append(me.token)
    owners = _owners(connection, topic.id, me.group)
    owned = {part for part, token in owners.items() if token == me.token}
    wanted = _wanted(members, topic.partitions, me.token)
    claimed: dict[int, int] = {}
    for part in sorted(wanted - owners.keys()):
        connection.execute("INSERT INTO owners VALUES (?, ?, ?, ?)", (topic.id, me.group, part, me.token))
        connection.execute(
            "INSERT OR IGNORE INTO offsets VALUES (?, ?, ?, ?)",
            (topic.id, me.group, part, topic.first_offset),
        )
        claimed[part] = connection.execute(
            "SELECT offset FROM offsets WHERE topic = ? AND grp = ? AND part = ?", (topic.id, me.group, part)
        ).fetchone()[0]
    return Turn(frozenset(owned | claimed.keys()), claimed, frozenset(owned - wanted))


def give_up(connection: sqlite3.Connection, topic: int, me: Membership, parts: frozenset[int]) -> None:
    """Release these partitions."""
    connection.executemany(
        "DELETE FROM owners WHERE topic = ? AND grp = ? AND part = ? AND token = ?",
        [(topic, me.group, part, me.token) for part in parts],
    )
    _mark_changed(connection, topic, me.group)


def commit(
    connection: sqlite3.Connection, topic: int, me: Membership, positions: Mapping[int, int]
) -> FencedError | None:
    """Move the group's offsets forward.

    Returns:
        An error if some partitions belong to another member. It is not raised, since the other offsets are committed.
    """
    owners = _owners(connection, topic, me.group)
    mine = [(part, offset) for part, offset in positions.items() if owners.get(part) == me.token]
    connection.executemany(
        "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT (topic, grp, part)"
        " DO UPDATE SET offset = max(offset, excluded.offset)",
        [(topic, me.group, part, offset) for part, offset in mine],
    )
    if len(mine) == len(positions):
        return None
    foreign = sorted(positions.keys() - {part for part, _ in mine})
    return FencedError(
        f"partitions {foreign} of topic {me.topic!r} belong to another member of {me.group!r} now"
    )


def commit_all(
    connection: sqlite3.Connection, topic: int, me: Membership, positions: Mapping[int, int]
) -> None:
    """Move all of the offsets forward, or none.

    Raises:
        FencedError: a partition belongs to another member.
    """
    owners = _owners(connection, topic, me.group)
    foreign = sorted(part for part in positions if owners.get(part) != me.token)
    if foreign:
        raise FencedError(
            f"partitions {foreign} of topic {me.topic!r} belong to another member of {me.group!r} now"
        )
    commit(connection, topic, me, positions)


def seek(
    connection: sqlite3.Connection, topic: Topic, group: str, start: Start, lease: float
) -> dict[int, int]:
    """Set a group's offsets.

    Raises:
        BusError: the group has live members.
    """
    active = connection.execute(
        "SELECT process FROM members WHERE topic = ? AND grp = ?", (topic.id, group)
    ).fetchall()
    if {process for (process,) in active} - set(processes.read_ended(connection, "", lease)):
        raise BusError(f"group {group!r} of topic {topic.name!r} has active members: stop them first")
    offsets = read_start(connection, topic, start)
    connection.executemany(
        "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
        [(topic.id, group, part, offset) for part, offset in offsets.items()],
    )
    connection.execute("DELETE FROM attempts WHERE topic = ? AND grp = ?", (topic.id, group))
    return offsets
