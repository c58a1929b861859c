"""The bus as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, EventBusFactory
from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import WHERE, PubSubOptions


class PubSubEventBus(EventBus):
    """An event bus on Google Cloud Pub/Sub. It connects at first use.

    Args:
        project_id: the Google Cloud project.
        options: the options of the driver (:class:`~dimesh_pubsub.options.PubSubOptions`) and of :class:`dimesh.EventBus`.
    """

    def __init__(self, project_id: str, **options: Any) -> None:
        engine, driver = EventBusFactory.split_options(options)
        parsed = parse_options(PubSubOptions, {**driver, "project_id": project_id}, WHERE)
        self._pubsub = PubSubBackend(parsed, engine.get("clock") or SystemClock())
        super().__init__(self._pubsub, **engine)

    async def snapshot(self, topic: str, group: str, name: str) -> None:
        """Record under ``name`` which events the group has not acknowledged; the service keeps it for up to 7 days.

        Raises:
            BusError: there is no such group, or the name is taken.
        """
        await self.open()
        await self._pubsub.admin.snapshot(topic, group, name)

    async def seek_to_snapshot(self, topic: str, group: str, name: str) -> None:
        """Move the group back to a snapshot: it gets what it had not acknowledged then, and everything published since.

        Raises:
            BusError: there is no such group or snapshot.
        """
        await self.open()
        await self._pubsub.admin.seek_to_snapshot(topic, group, name)

    async def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot.

        Raises:
            BusError: there is no snapshot with that name.
        """
        await self.open()
        await self._pubsub.admin.delete_snapshot(name)
