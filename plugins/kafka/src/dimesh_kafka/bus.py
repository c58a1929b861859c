"""The bus as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus
from dimesh.clock import SystemClock
from dimesh.spi.options import parse_options
from dimesh_kafka.backend import KafkaBackend
from dimesh_kafka.options import KafkaOptions

_ENGINE = ("clock", "seed", "ordering_key", "registry", "observer", "publish_timeout", "drain_timeout")


class KafkaEventBus(EventBus):
    """An event bus on Apache Kafka; connects at first use.

    Args:
        bootstrap_servers: ``host:port``, several with commas between.
        consumer_group: the group of subscriptions that name none.
        options: of the driver (:class:`~dimesh_kafka.options.KafkaOptions`) and of :class:`dimesh.EventBus`.
    """

    def __init__(self, bootstrap_servers: str, consumer_group: str | None = None, **options: Any) -> None:
        engine = {name: options.pop(name) for name in _ENGINE if name in options}
        parsed = parse_options(
            KafkaOptions, {**options, "bootstrap_servers": bootstrap_servers}, "bus 'kafka'"
        )
        backend = KafkaBackend(parsed, engine.get("clock") or SystemClock())
        super().__init__(backend, consumer_group=consumer_group, **engine)
