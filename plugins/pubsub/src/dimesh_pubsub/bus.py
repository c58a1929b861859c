"""The bus as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus
from dimesh.clock import SystemClock
from dimesh.spi.options import parse_options
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import PubSubOptions

_ENGINE = (
    "clock",
    "seed",
    "ordering_key",
    "registry",
    "observer",
    "publish_timeout",
    "drain_timeout",
    "consumer_group",
)


class PubSubEventBus(EventBus):
    """An event bus on Google Cloud Pub/Sub; connects at first use.

    Args:
        project_id: the Google Cloud project.
        options: of the driver (:class:`~dimesh_pubsub.options.PubSubOptions`) and of :class:`dimesh.EventBus`.
    """

    def __init__(self, project_id: str, **options: Any) -> None:
        engine = {name: options.pop(name) for name in _ENGINE if name in options}
        parsed = parse_options(PubSubOptions, {**options, "project_id": project_id}, "bus 'pubsub'")
        self._pubsub = PubSubBackend(parsed, engine.get("clock") or SystemClock())
        super().__init__(self._pubsub, **engine)

    async def snapshot(self, topic: str, group: str, name: str) -> None:
        """Keep under ``name`` which events the group has not acknowledged, for up to 7 days.

        Raises:
            BusError: no such group, or the name is taken.
        """
        await self.open()
        await self._pubsub.admin.snapshot(topic, group, name)

    async def seek_to_snapshot(self, topic: str, group: str, name: str) -> None:
        """Give the group back what it had not acknowledged when the snapshot was taken, and all that came since.

        Raises:
            BusError: no such group or snapshot.
        """
        await self.open()
        await self._pubsub.admin.seek_to_snapshot(topic, group, name)

    async def delete_snapshot(self, name: str) -> None:
        """Remove a snapshot.

        Raises:
            BusError: there is none of that name.
        """
        await self.open()
        await self._pubsub.admin.delete_snapshot(name)
