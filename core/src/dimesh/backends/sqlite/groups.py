"""Consumer groups across processes: who is a member, and who owns which partition.

Partition *i* belongs to member *i* modulo their number, members in order of joining. A member that has one too many
finishes with it, commits, and only then removes its name; until then nobody else takes it. The rules are in one
function, :func:`take_turn`, that every member calls in a write transaction whenever :func:`read_due` says that
something is to be done.

A member is alive if its process is (same boot, same pid, same start) and if it gave a sign within the lease. Signs are
times of the machine's monotonic clock, which every process of one boot shares and nobody can set back.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dimesh.backends.sqlite.tables import Topic, read_start
from dimesh.errors import BusError, FencedError
from dimesh.spi.bus import Start


class Membership(NamedTuple):
    """A member's place in a group."""

    topic: str
    group: str
    token: str
    """Of this subscription, never used again."""
    name: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn found."""

    owned: frozenset[int]
    """Ours in the table."""
    claimed: Mapping[int, int]
    """Newly ours, with the offset to begin at."""
    surplus: frozenset[int]
    """To be given up: another member should have them."""


@cache
def boot_id() -> str:
    """Names this boot of the machine; monotonic times of another one mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"boot-{round(time.time() - time.monotonic(), -1):.0f}"


def process_start(pid: int) -> str | None:
    """Tells a process from a later one with the same number; empty where the system does not say; None: not running."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        # One that was killed and that its parent has not asked after yet is as dead as it will ever be.
        return None if fields[0] in ("Z", "X") else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        pass
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    return ""


def _is_dead(row: tuple[str, int, str, float], lease: float, now: float) -> bool:
    boot, pid, started, seen = row
    if boot != boot_id():
        return True
    if now - seen > lease:
        return True
    running = process_start(pid)
    return running is None or (bool(running) and bool(started) and running != started)


def _members(
    connection: sqlite3.Connection, topic: int, group: str
) -> list[tuple[str, tuple[str, int, str, float]]]:
    return [
        (row[0], (row[1], row[2], row[3], row[4]))
        for row in connection.execute(
            "SELECT token, boot, pid, started, seen FROM members WHERE topic = ? AND grp = ? ORDER BY joined, token",
            (topic, group),
        )
    ]


def _owners(connection: sqlite3.Connection, topic: int, group: str) -> dict[int, str]:
    return dict(
        connection.execute(
            "SELECT part, token FROM owners WHERE topic = ? AND grp = ?", (topic, group)
        ).fetchall()
    )


def join(
    connection: sqlite3.Connection, topic: Topic, me: Membership, start: Start, reset: bool, lease: float
) -> None:
    """Become a member; a group that is new (or is to begin anew, and has nobody) gets its start."""
    now = time.monotonic()
    alive = 0
    for token, row in _members(connection, topic.id, me.group):
        if _is_dead(row, lease, now):
            remove(connection, topic.id, me.group, token)
        else:
            alive += 1
    if reset and not alive:
        connection.execute("DELETE FROM offsets WHERE topic = ? AND grp = ?", (topic.id, me.group))
        connection.execute("DELETE FROM attempts WHERE topic = ? AND grp = ?", (topic.id, me.group))
    connection.executemany(
        "INSERT OR IGNORE INTO offsets VALUES (?, ?, ?, ?)",
        [(topic.id, me.group, part, offset) for part, offset in read_start(connection, topic, start).items()],
    )
    joined = connection.execute(
        "SELECT coalesce(max(joined), 0) + 1 FROM members WHERE topic = ? AND grp = ?", (topic.id, me.group)
    ).fetchone()[0]
    pid = os.getpid()
    connection.execute(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (topic.id, me.group, me.token, joined, me.name, boot_id(), pid, process_start(pid) or "", now),
    )


def remove(connection: sqlite3.Connection, topic: int, group: str, token: str) -> None:
    """No longer a member, and owner of nothing."""
    connection.execute("DELETE FROM owners WHERE topic = ? AND grp = ? AND token = ?", (topic, group, token))
    connection.execute("DELETE FROM members WHERE topic = ? AND grp = ? AND token = ?", (topic, group, token))


def read_due(
    connection: sqlite3.Connection, topic: Topic, me: Membership, believed: frozenset[int], lease: float
) -> bool:
    """Whether a turn would do anything: the common answer is no, and it costs no write."""
    now = time.monotonic()
    members = _members(connection, topic.id, me.group)
    mine = next((row for token, row in members if token == me.token), None)
    if mine is None or now - mine[3] > lease / 3:
        return True
    if any(_is_dead(row, lease, now) for _, row in members):
        return True
    owners = _owners(connection, topic.id, me.group)
    owned = {part for part, token in owners.items() if token == me.token}
    wanted = _wanted([token for token, _ in members], topic.partitions, me.token)
    return owned != believed or bool(owned - wanted) or any(part not in owners for part in wanted)


def _wanted(tokens: list[str], partitions: int, mine: str) -> set[int]:
    return {part for part in range(partitions) if tokens and tokens[part % len(tokens)] == mine}


def take_turn(connection: sqlite3.Connection, topic: Topic, me: Membership, lease: float) -> Turn:
    """Give a sign of life, bury the dead, take what is ours and free, and say what is too much."""
    now = time.monotonic()
    members = _members(connection, topic.id, me.group)
    if all(token != me.token for token, _ in members):
        # Taken for dead, by a lease that lapsed: begin anew as the youngest member.
        joined = max((n for n, _ in enumerate(members, 1)), default=0) + 1_000_000
        pid = os.getpid()
        connection.execute(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (topic.id, me.group, me.token, joined, me.name, boot_id(), pid, process_start(pid) or "", now),
        )
        members = _members(connection, topic.id, me.group)
    connection.execute(
        "UPDATE members SET seen = ? WHERE topic = ? AND grp = ? AND token = ?",
        (now, topic.id, me.group, me.token),
    )
    alive = []
    for token, row in members:
        if token != me.token and _is_dead(row, lease, now):
            remove(connection, topic.id, me.group, token)
        else:
            alive.append(token)
    owners = _owners(connection, topic.id, me.group)
    owned = {part for part, token in owners.items() if token == me.token}
    wanted = _wanted(alive, topic.partitions, me.token)
    claimed: dict[int, int] = {}
    for part in sorted(wanted):
        if owners.get(part) not in alive:
            connection.execute(
                "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)", (topic.id, me.group, part, me.token)
            )
            connection.execute(
                "INSERT OR IGNORE INTO offsets VALUES (?, ?, ?, ?)",
                (topic.id, me.group, part, topic.first_offset),
            )
            claimed[part] = connection.execute(
                "SELECT offset FROM offsets WHERE topic = ? AND grp = ? AND part = ?",
                (topic.id, me.group, part),
            ).fetchone()[0]
    return Turn(frozenset(owned | claimed.keys()), claimed, frozenset(owned - wanted))


def give_up(connection: sqlite3.Connection, topic: int, me: Membership, parts: frozenset[int]) -> None:
    """Own these no longer."""
    connection.executemany(
        "DELETE FROM owners WHERE topic = ? AND grp = ? AND part = ? AND token = ?",
        [(topic, me.group, part, me.token) for part in parts],
    )


def commit(
    connection: sqlite3.Connection, topic: int, me: Membership, positions: Mapping[int, int]
) -> FencedError | None:
    """Move the group's offsets forward. Returns (and does not raise, since the others were taken) what was not ours."""
    owners = _owners(connection, topic, me.group)
    mine = [(part, offset) for part, offset in positions.items() if owners.get(part) == me.token]
    connection.executemany(
        "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT (topic, grp, part)"
        " DO UPDATE SET offset = max(offset, excluded.offset)",
        [(topic, me.group, part, offset) for part, offset in mine],
    )
    if len(mine) == len(positions):
        return None
    gone = sorted(positions.keys() - {part for part, _ in mine})
    return FencedError(
        f"partitions {gone} of topic {me.topic!r} belong to another member of {me.group!r} now"
    )


def commit_all(
    connection: sqlite3.Connection, topic: int, me: Membership, positions: Mapping[int, int]
) -> None:
    """Move the group's offsets forward, or none of them.

    Raises:
        FencedError: one is not ours.
    """
    owners = _owners(connection, topic, me.group)
    gone = sorted(part for part in positions if owners.get(part) != me.token)
    if gone:
        raise FencedError(
            f"partitions {gone} of topic {me.topic!r} belong to another member of {me.group!r} now"
        )
    commit(connection, topic, me, positions)


def seek(
    connection: sqlite3.Connection, topic: Topic, group: str, start: Start, lease: float
) -> dict[int, int]:
    """Set a group's offsets.

    Raises:
        BusError: it has live members.
    """
    now = time.monotonic()
    if any(not _is_dead(row, lease, now) for _, row in _members(connection, topic.id, group)):
        raise BusError(f"group {group!r} of topic {topic.name!r} has active members: stop them first")
    offsets = read_start(connection, topic, start)
    connection.executemany(
        "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
        [(topic.id, group, part, offset) for part, offset in offsets.items()],
    )
    connection.execute("DELETE FROM attempts WHERE topic = ? AND grp = ?", (topic.id, group))
    return offsets
