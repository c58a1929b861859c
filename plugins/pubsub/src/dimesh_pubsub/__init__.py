"""Google Cloud Pub/Sub as an event bus of dimesh."""

from __future__ import annotations

from dimesh_pubsub.bus import PubSubEventBus

__all__ = ["PubSubEventBus"]
