"""What is fixed about a subscription once it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from dimesh.bus.door import Door
from dimesh.bus.handler import EventHandler
from dimesh.bus.options import SubscriptionOptions
from dimesh.capabilities import Capability
from dimesh.errors import ConfigurationError, NotOfferedError
from dimesh.events.topics import DEAD_LETTER_SUFFIX

NEVER: Final = 1 << 62
PRODUCE_INTERVAL: Final = 0.1
"""The longest time in seconds that what was produced waits for more: each commit is a transaction."""


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """A subscription as it was asked for, and what the backend makes of it."""

    id: str
    topic: str
    group: str | None
    handler: EventHandler
    options: SubscriptionOptions
    produce_to: str | None
    is_log: bool
    """Whether the backend is a log; otherwise it is a queue."""
    tracks: bool
    """Whether offsets are committed: there is a group to keep them for."""
    comes_again: bool
    """Whether what is left unhandled is delivered again later."""
    transactions: bool
    """Whether produced records and the position take effect together."""
    filters: bool
    """Whether the engine applies the handler's filter, because the backend does not."""
    keeps_attempts: bool
    """Whether the backend keeps the numbers of failed attempts."""
    counts_deaths: bool
    """Whether the death of a process counts as a failed attempt: the number of attempts survives the process."""
    commit_every: int
    """The number of handled records after which a commit is due."""
    commit_interval: float
    """The seconds between commits."""

    @classmethod
    def of(
        cls,
        door: Door,
        subscription_id: str,
        topic: str,
        group: str | None,
        handler: EventHandler,
        options: SubscriptionOptions,
        produce_to: str | None,
    ) -> Self:
        """Work out what the capabilities of the backend mean for a subscription.

        Raises:
            ConfigurationError: options that do not fit together.
            NotOfferedError: an option that the backend cannot follow.
        """
        capabilities = door.capabilities
        if handler.batch_size is not None and handler.batch_size > options.max_in_flight:
            raise ConfigurationError(
                f"batch_size {handler.batch_size} is more than max_in_flight {options.max_in_flight}: such a batch never "
                "fills. Raise max_in_flight"
            )
        if options.retry.redeliver:
            if Capability.DELAYED_DELIVERY not in capabilities:
                raise NotOfferedError(
                    f"the {door.name} bus does not offer delayed delivery, so nothing can be delivered again later: leave "
                    "redeliver out"
                )
            if group is None or topic.endswith(DEAD_LETTER_SUFFIX):
                raise ConfigurationError("redeliver needs a group, and a topic that holds no dead letters")
        is_log = door.family == "log"
        interval = door.commit_interval
        return cls(
            subscription_id,
            topic,
            group,
            handler,
            options,
            produce_to,
            is_log=is_log,
            tracks=group is not None and is_log,
            comes_again=not is_log or (group is not None and Capability.DURABLE in capabilities),
            transactions=produce_to is not None and Capability.TRANSACTIONS in capabilities,
            filters=not handler.filter.everything
            and (Capability.FILTER_PUSHDOWN not in capabilities or options.foreign is not None),
            keeps_attempts=Capability.DURABLE_ATTEMPTS in capabilities and group is not None,
            counts_deaths=is_log
            and group is not None
            and Capability.DURABLE in capabilities
            and Capability.DURABLE_ATTEMPTS in capabilities,
            commit_every=door.commit_every or NEVER,
            commit_interval=interval if produce_to is None else min(interval, PRODUCE_INTERVAL),
        )
