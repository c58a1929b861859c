"""What the parts of a bus share."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from dimesh.bus.deadletter_writer import DeadLetterWriter
from dimesh.bus.door import Door
from dimesh.bus.interceptors import Interceptors
from dimesh.bus.observer import BusObserver
from dimesh.bus.outgoing import Outgoing
from dimesh.bus.redelivery import Redelivery
from dimesh.bus.replies import Replies
from dimesh.bus.status import StatusWriter
from dimesh.clock import Clock


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one bus, for its subscriptions and their workers."""

    door: Door
    clock: Clock
    rng: random.Random
    """For the jitter of retries."""
    observer: BusObserver | None
    interceptors: Interceptors
    outgoing: Outgoing
    dead_letters: DeadLetterWriter
    redelivery: Redelivery
    replies: Replies
    careful: asyncio.Lock
    """Held by the one handler that runs while the process may be about to die of it, see :mod:`dimesh.bus.crashes`."""
    status: StatusWriter
