"""A consumer group in memory: its members, its positions, and the assignment of partitions to members."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from dimesh.backends.bus.memory.log import Log
from dimesh.backends.bus.memory.member import Member
from dimesh.spi.bus import Attempts, GroupInfo


class Group:
    """The members of a group, with the offset that the group has committed in each partition."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.committed: dict[int, int] = {}
        self.members: list[Member] = []
        self.attempts: dict[tuple[int, int], Attempts] = {}
        self._busy = asyncio.Lock()

    def owner(self, partition: int) -> Member | None:
        """Return the member that a partition is assigned to, or None."""
        return next((m for m in self.members if partition in m.delivered), None)

    def effective(self, log: Log) -> int:
        """Return the committed offset; if nothing is pending, past the records that the owner's filter left out."""
        committed = self.committed.get(log.partition, log.next_offset)
        owner = self.owner(log.partition)
        if (
            owner is not None
            and log.partition not in owner.leaving
            and committed >= owner.delivered[log.partition]
            and not any(d.partition == log.partition for d in owner.mailbox)
        ):
            return log.next_offset
        return committed

    async def rebalance(self, logs: Sequence[Log]) -> None:
        """Assign partition i to member i modulo their number; a partition is revoked before it is assigned anew.

        The routes of the topic must be forgotten afterwards.
        """
        async with self._busy:
            members = [m for m in self.members if not m.closed]
            wanted: dict[int, set[int]] = {id(m): set() for m in members}
            for log in logs:
                if members:
                    wanted[id(members[log.partition % len(members)])].add(log.partition)
            for member in members:
                surplus = sorted(member.delivered.keys() - wanted[id(member)])
                if surplus:
                    member.stop_delivering(surplus)
                    try:
                        await member.listener.revoked(surplus)
                    finally:
                        member.give_up(surplus)
            for member in members:
                new = {
                    p: self.committed.get(p, 0) for p in sorted(wanted[id(member)] - member.delivered.keys())
                }
                if new and not member.closed:
                    await member.listener.assigned(new)
                    member.take_over(new)

    def infos(self, topic: str, logs: Sequence[Log]) -> Iterable[GroupInfo]:
        """Describe the group's position in each partition."""
        for log in logs:
            owner = self.owner(log.partition)
            effective = self.effective(log)
            yield GroupInfo(
                topic,
                self.name,
                log.partition,
                effective,
                log.next_offset,
                log.next_offset - effective,
                owner.member if owner else None,
            )
