"""Makes a bus from the name and options of a driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dimesh.bus.engine import EventBus
from dimesh.events.event import Event

ENGINE_OPTIONS: Final = frozenset(
    {
        "clock",
        "consumer_group",
        "create_topics",
        "drain_timeout",
        "interceptors",
        "observer",
        "ordering_key",
        "principal",
        "publish_timeout",
        "registry",
        "schemas",
        "seed",
    }
)


class InMemoryEventBus(EventBus):
    """A bus inside this process.

    Args:
        history: the number of events to keep of each topic, for :meth:`get_events`; 0: none.
        options: options of the memory driver (partitions, capacity) and of :class:`EventBus`.
    """

    def __init__(self, history: int = 0, **options: Any) -> None:
        from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
        from dimesh.clock import SystemClock
        from dimesh.options import parse_options

        engine, driver = EventBusFactory.split_options(options)
        parsed = parse_options(MemoryOptions, {**driver, "history": history}, "bus 'memory'")
        backend = MemoryBackend(parsed, engine.get("clock") or SystemClock())
        super().__init__(backend, **engine)
        self._history = history
        self._read_history = backend.history

    def get_events(self, topic: str) -> list[Event]:
        """Return the last ``history`` events of a topic, oldest first. For tests.

        Raises:
            ConfigurationError: the bus was made without a history.
        """
        from dimesh.errors import ConfigurationError

        if not self._history:
            raise ConfigurationError(
                "this bus keeps no history: make it with InMemoryEventBus(history=1000) "
                'or EventBusFactory.create("memory", history=1000)'
            )
        return [delivery.record.event for delivery in self._read_history(topic)]


class EventBusFactory:
    """Makes buses of installed drivers."""

    @staticmethod
    def create(bus_type: str = "memory", **options: Any) -> EventBus:
        """Make a bus of an installed driver; it connects at first use.

        Args:
            bus_type: ``memory``, ``sqlite`` or the name of any installed bus plugin (``kafka``, ``pubsub``).
            options: the driver's, and those of :class:`EventBus` (clock, seed, consumer_group, ordering_key, registry, schemas,
                interceptors, observer, principal, publish_timeout, drain_timeout, create_topics).

        Raises:
            UnknownDriverError: (a ValueError) no such driver; lists what is installed and how to get the others.
            ConfigurationError: an option is unknown, missing or of the wrong type.
        """
        if bus_type == "memory":
            return InMemoryEventBus(**options)
        from dimesh.clock import SystemClock
        from dimesh.plugins import default_manager
        from dimesh.spi.context import PluginContext

        engine, driver = EventBusFactory.split_options(options)
        context = PluginContext(clock=engine.get("clock") or SystemClock())
        backend = default_manager().bus_backend(bus_type, driver, context)
        return EventBus(backend, **engine)

    @staticmethod
    def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split options into those of :class:`EventBus` and those of the driver, for a bus that is a class of its own."""
        engine = {name: value for name, value in options.items() if name in ENGINE_OPTIONS}
        driver = {name: value for name, value in options.items() if name not in ENGINE_OPTIONS}
        return engine, driver
