"""A consumer group in memory: its members, its positions, and how partitions are shared out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dimesh.spi.bus import (
    Attempts,
    GroupInfo,
)

if TYPE_CHECKING:
    from dimesh.backends.memory.stream import MemoryStream
    from dimesh.backends.memory.topic import Log, Topic


class Group:
    def __init__(self, name: str) -> None:
        self.name = name
        self.committed: dict[int, int] = {}
        self.members: list[MemoryStream] = []
        self.attempts: dict[tuple[int, int], Attempts] = {}
        self._busy = asyncio.Lock()

    def owner(self, partition: int) -> MemoryStream | None:
        return next((m for m in self.members if partition in m.delivered), None)

    def effective(self, log: Log) -> int:
        """The committed offset; past records that the owner's filter left out, where nothing else is open."""
        committed = self.committed.get(log.partition, log.next_offset)
        owner = self.owner(log.partition)
        if (
            owner is not None
            and committed >= owner.delivered[log.partition]
            and not any(d.partition == log.partition for d in owner.mailbox)
        ):
            return log.next_offset
        return committed

    async def rebalance(self, topic: Topic) -> None:
        """Partition i belongs to member i modulo their number; what moves is revoked before it is assigned."""
        async with self._busy:
            members = [m for m in self.members if not m.closed]
            wanted: dict[MemoryStream, set[int]] = {m: set() for m in members}
            for log in topic.logs:
                if members:
                    wanted[members[log.partition % len(members)]].add(log.partition)
            for member in members:
                gone = sorted(member.delivered.keys() - wanted[member])
                if gone:
                    member.stop_delivering(gone)
                    await member.listener.revoked(gone)
                    member.give_up(gone)
            for member in members:
                new = {p: self.committed.get(p, 0) for p in sorted(wanted[member] - member.delivered.keys())}
                if new and not member.closed:
                    await member.listener.assigned(new)
                    member.take_over(new)
            topic.forget_routes()

    def infos(self, topic: Topic) -> Iterable[GroupInfo]:
        for log in topic.logs:
            owner = self.owner(log.partition)
            effective = self.effective(log)
            yield GroupInfo(
                topic.name,
                self.name,
                log.partition,
                effective,
                log.next_offset,
                log.next_offset - effective,
                owner.member if owner else None,
            )
