"""The part of a stream that topics and groups use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from dimesh.spi.bus import Delivery, Filter, PartitionListener


class Member(Protocol):
    """An open subscription, alone or in a group."""

    group: str | None
    """The name of the group; None for a subscription without one."""
    member: str
    """The name of the member, for operators."""
    filter: Filter
    listener: PartitionListener
    mailbox: deque[Delivery]
    """The records to hand out."""
    delivered: dict[int, int]
    """The assigned partitions, each with the offset after the last record that was handed out."""
    leaving: set[int]
    """The assigned partitions that are being revoked: their records wait for the next owner."""
    waiter: asyncio.Future[None] | None
    """Set while a call of ``receive`` waits for records."""
    closed: bool

    def take_over(self, offsets: Mapping[int, int]) -> None:
        """Start to deliver these partitions, from these offsets on."""
        ...

    def stop_delivering(self, partitions: Sequence[int]) -> None:
        """Hand out no further records of these partitions."""
        ...

    def give_up(self, partitions: Sequence[int]) -> None:
        """Release these partitions."""
        ...

    def wake(self) -> None:
        """Let a waiting call of ``receive`` check the mailbox."""
        ...

    def shut(self) -> None:
        """End the deliveries."""
        ...
