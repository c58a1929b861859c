"""The subscriptions of one bus: opened, found by their ids, paused and closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dimesh.bus.door import Door
from dimesh.bus.handler import EventHandler, Middleware, as_handler
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.patterns import TopicSelection, TopicSet, check_produce_to
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.bus.subscription import Subscription
from dimesh.bus.topics import TopicRules
from dimesh.errors import ConfigurationError
from dimesh.events.ids import new_event_id
from dimesh.events.names import check_group
from dimesh.spi.bus import Start

log = logging.getLogger("dimesh.bus")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a subscription asks for, whatever its topics are; see :meth:`EventBus.subscribe`."""

    handler: EventHandler | Callable[..., Any]
    group: str | None
    start: Start
    reset: bool
    produce_to: str | None
    alone: bool
    options: SubscriptionOptions
    middleware: Sequence[Middleware]


class Subscriptions:
    """The open subscriptions, and those that are being closed; see the module.

    Args:
        door: opens the streams.
        services: what subscriptions share.
        topics: the rules for topics.
        consumer_group: the group of subscriptions that name neither a group nor themselves.
        drain_timeout: the seconds that handlers get to finish when a subscription is closed.
    """

    def __init__(
        self,
        door: Door,
        services: Services,
        topics: TopicRules,
        consumer_group: str | None,
        drain_timeout: float,
    ) -> None:
        self._door = door
        self._services = services
        self._topics = topics
        self._consumer_group = consumer_group
        self._drain_timeout = drain_timeout
        self.sets: dict[str, TopicSet] = {}
        """The subscriptions to several topics."""
        self.open: dict[str, Subscription] = {}
        self._leaving: dict[str, Subscription] = {}
        """The subscriptions that were unsubscribed and are not closed yet."""

    @property
    def everything(self) -> list[Subscription]:
        """The subscriptions that are open or still closing."""
        return [*self.open.values(), *self._leaving.values()]

    def get(self, id: str) -> Subscription:
        """Return an open subscription.

        Raises:
            ConfigurationError: no open subscription has that id.
        """
        found = self.open.get(id)
        if found is None:
            raise ConfigurationError(f"no subscription {id!r} is open on this bus")
        return found

    # -- opening ---------------------------------------------------------------------------------

    async def subscribe(self, topic: str, id: str | None, terms: Terms, *, paused: bool = False) -> str:
        """Subscribe to one topic, whose name has been checked."""
        group, id = self._name(id, terms)
        if id in self.open or id in self._leaving:
            raise ConfigurationError(
                f"a subscription {id!r} is open on this bus, or still closing; unsubscribe it first, or use another id"
            )
        called = as_handler(terms.handler)
        if terms.produce_to is not None:
            await self._topics.admit(terms.produce_to)
            if group is None or called.batch_size is not None:
                raise ConfigurationError("produce_to needs a group, and a handler of single events")
        spec = SubscriptionSpec.of(self._door, id, topic, group, called, terms.options, terms.produce_to)
        subscription = Subscription(spec, self._services, terms.start, terms.reset, terms.middleware)
        if paused:
            subscription.pause()
        self.open[id] = subscription
        try:
            await subscription.start()
        except BaseException:
            del self.open[id]
            raise
        return id

    async def subscribe_several(self, selection: TopicSelection, id: str | None, terms: Terms) -> str:
        """Subscribe to several topics, or to patterns of names; see :mod:`dimesh.bus.patterns`."""
        check_produce_to(selection, terms.produce_to)
        for name in selection.names:
            await self._topics.admit(name)
        group, id = self._name(id, terms)
        if id in self.sets or id in self.open:
            raise ConfigurationError(
                f"a subscription {id!r} is open on this bus; unsubscribe it first, or use another id"
            )
        # One handler and one group for all topics.
        terms = replace(terms, handler=as_handler(terms.handler), group=group, alone=group is None)

        async def one(own: str, name: str, begin: Start | None, paused: bool) -> str:
            own_terms = terms if begin is None else replace(terms, start=begin, reset=False)
            return await self.subscribe(name, own, own_terms, paused=paused)

        topics = TopicSet(
            id,
            selection,
            group,
            self._door,
            self._services.clock,
            terms.options.topics_interval,
            one,
            self.close,
            self.set_paused,
            lambda own: own in self.open and not self.open[own].finished.done(),
        )
        self.sets[id] = topics
        try:
            await topics.open(terms.reset)
        except BaseException:
            del self.sets[id]
            raise
        return id

    def _name(self, id: str | None, terms: Terms) -> tuple[str | None, str]:
        """Return the group and the id of a subscription."""
        group = terms.group
        if terms.alone and group is not None:
            raise ConfigurationError("a subscription is alone or in a group: give alone or group, not both")
        if group is None and not terms.alone:
            group = id or self._consumer_group
        if group is not None:
            check_group(group)
        if id is None:
            id = f"{group or 'sub'}-{new_event_id()[-12:]}"
        return group, check_group(id)

    async def see(self, topic: str) -> None:
        """Open the streams of subscriptions by pattern before the first event of a new topic."""
        for several in tuple(self.sets.values()):
            await several.see(topic)

    # -- pausing and closing ---------------------------------------------------------------------

    def set_paused(self, id: str, paused: bool) -> None:
        """Begin or end a pause.

        Raises:
            ConfigurationError: no open subscription has that id.
        """
        several = self.sets.get(id)
        if several is not None:
            several.pause(paused)
        elif paused:
            self.get(id).pause()
        else:
            self.get(id).resume()

    async def close(self, id: str) -> bool:
        """Drain and close one subscription; return False if there is none with that id."""
        several = self.sets.pop(id, None)
        if several is not None:
            await several.close()
            return True
        subscription = self.open.pop(id, None)
        if subscription is None:
            return False
        leaving = self._leave(subscription, self._drain_timeout)
        if not subscription.calls_us:
            await asyncio.shield(leaving)
        return True

    async def close_all(self, timeout: float) -> None:
        """Drain and close all of them at once, within ``timeout`` seconds."""
        for several in self.sets.values():
            several.stop()
        results = await asyncio.gather(
            *(self._leave(subscription, timeout) for subscription in self.everything),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                log.warning("a subscription failed to close", exc_info=result)

    def _leave(self, subscription: Subscription, timeout: float) -> asyncio.Task[None]:
        """Start to close a subscription; its id is taken until it is closed."""
        name = subscription.spec.id
        leaving = subscription.stop(timeout)
        if name not in self._leaving:
            self._leaving[name] = subscription
            leaving.add_done_callback(lambda _: self._leaving.pop(name, None))
        return leaving
