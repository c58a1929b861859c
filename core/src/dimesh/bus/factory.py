"""Makes a bus from a driver's name and options."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from dimesh.bus.engine import EventBus
from dimesh.events.event import Event

ENGINE_OPTIONS: Final = frozenset(
    {
        "clock",
        "consumer_group",
        "drain_timeout",
        "observer",
        "ordering_key",
        "publish_timeout",
        "registry",
        "seed",
    }
)


class InMemoryEventBus(EventBus):
    """A bus inside this process.

    Args:
        history: events to keep for each topic, for :meth:`get_events`; 0: none.
        options: of the memory driver (partitions, capacity) and of :class:`EventBus`.
    """

    def __init__(self, history: int = 0, **options: Any) -> None:
        from dimesh.backends.memory import MemoryBackend, MemoryOptions
        from dimesh.clock import SystemClock
        from dimesh.spi.options import parse_options

        engine = {name: options.pop(name) for name in tuple(options) if name in ENGINE_OPTIONS}
        parsed = parse_options(MemoryOptions, {**options, "history": history}, "bus 'memory'")
        super().__init__(MemoryBackend(parsed, engine.get("clock") or SystemClock()), **engine)
        self._history = history
        self._kept: dict[str, deque[Event]] = {}

    def get_events(self, topic: str) -> list[Event]:
        """The last ``history`` events of a topic, oldest first. For tests.

        Raises:
            ConfigurationError: the bus was made without a history.
        """
        from dimesh.backends.memory import MemoryBackend
        from dimesh.errors import ConfigurationError

        if not self._history:
            raise ConfigurationError(
                "this bus keeps no history: make it with InMemoryEventBus(history=1000) "
                'or EventBusFactory.create("memory", history=1000)'
            )
        backend = self.backend
        assert isinstance(backend, MemoryBackend)
        return [delivery.record.event for delivery in backend.history(topic)]


class EventBusFactory:
    """Makes buses."""

    @staticmethod
    def create(bus_type: str = "memory", **options: Any) -> EventBus:
        """A bus of an installed driver; it connects at first use.

        Args:
            bus_type: ``memory``, ``sqlite`` or the name of any installed bus plugin (``kafka``, ``pubsub``).
            options: the driver's, and those of :class:`EventBus` (clock, seed, consumer_group, ordering_key, registry, observer,
                publish_timeout, drain_timeout).

        Raises:
            UnknownDriverError: (a ValueError) no such driver; lists what is installed and how to get the others.
            ConfigurationError: an option is unknown, missing or of the wrong type.
        """
        if bus_type == "memory":
            return InMemoryEventBus(**options)
        from dimesh.clock import SystemClock
        from dimesh.plugins import default_manager

        engine = {name: options.pop(name) for name in tuple(options) if name in ENGINE_OPTIONS}
        backend = default_manager().bus_backend(bus_type, options, clock=engine.get("clock") or SystemClock())
        return EventBus(backend, **engine)
