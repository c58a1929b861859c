"""Apache Kafka as an event bus of dimesh."""

from __future__ import annotations

from dimesh_kafka.bus import KafkaEventBus

__all__ = ["KafkaEventBus"]
