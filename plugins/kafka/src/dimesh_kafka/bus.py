"""The bus as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, EventBusFactory
from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh.spi.registry import RegistryStore
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.options import WHERE, KafkaOptions


class KafkaEventBus(EventBus):
    """An event bus on Apache Kafka. It connects at first use.

    Args:
        bootstrap_servers: one or more addresses, ``host:port`` separated by commas.
        consumer_group: the group of subscriptions that name no group.
        options: the options of the driver (:class:`~dimesh_kafka.options.KafkaOptions`) and of :class:`dimesh.EventBus`.
    """

    def __init__(self, bootstrap_servers: str, consumer_group: str | None = None, **options: Any) -> None:
        engine, driver = EventBusFactory.split_options(options)
        parsed = parse_options(KafkaOptions, {**driver, "bootstrap_servers": bootstrap_servers}, WHERE)
        registry: Any = engine.get("registry")

        async def opened() -> RegistryStore:
            await registry.open()
            store: RegistryStore = registry.store
            return store

        backend = KafkaBackend(
            parsed, engine.get("clock") or SystemClock(), opened if registry is not None else None
        )
        super().__init__(backend, consumer_group=consumer_group, **engine)
