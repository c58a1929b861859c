"""Every hook that a plugin can implement. Four give a provider, the others observe.

Hooks are synchronous and quick; a provider's methods are async. A plugin is any object (a module, an instance)
with functions of these names marked ``@dimesh.spi.hookimpl``; it may say ``contract_version = 1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from dimesh.bus.receipt import Receipt
    from dimesh.clock import Clock
    from dimesh.events import Event
    from dimesh.spi.bus import BusBackend
    from dimesh.spi.cdc import CDCSource, Change, Gap
    from dimesh.spi.lineage import LineageRecord, LineageSink
    from dimesh.spi.registry import RegistryStore, StoredSchema

CONTRACT_VERSION: Final = 1
"""Raised when a spec or an SPI changes so that older plugins no longer fit."""

hookspec = pluggy.HookspecMarker("dimesh")
hookimpl = pluggy.HookimplMarker("dimesh")


# -- providers: the driver that is asked for answers, nobody else ------------------------------------


@hookspec(firstresult=True)
def dimesh_bus_backend(options: Mapping[str, Any], clock: Clock) -> BusBackend | None:
    """Make a bus backend; not opened yet."""


@hookspec(firstresult=True)
def dimesh_registry_store(options: Mapping[str, Any], clock: Clock) -> RegistryStore | None:
    """Make a schema store; not opened yet."""


@hookspec(firstresult=True)
def dimesh_cdc_source(options: Mapping[str, Any], clock: Clock) -> CDCSource | None:
    """Make a change source; not opened yet."""


@hookspec(firstresult=True)
def dimesh_lineage_sink(options: Mapping[str, Any], clock: Clock) -> LineageSink | None:
    """Make a lineage sink; not opened yet."""


# -- observers: what happened, after it happened; an error here is logged and goes no further ---------


@hookspec
def dimesh_published(topic: str, event: Event, receipt: Receipt) -> None:
    """An event was acknowledged by the backend."""


@hookspec
def dimesh_delivered(topic: str, subscription: str, event: Event) -> None:
    """A handler finished an event."""


@hookspec
def dimesh_failed(topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
    """A handler failed an event; ``attempt`` counts from 1."""


@hookspec
def dimesh_dead_lettered(topic: str, subscription: str, event: Event, reason: str) -> None:
    """An event went to the dead letters."""


@hookspec
def dimesh_change_captured(source: str, change: Change) -> None:
    """A change was published and acknowledged."""


@hookspec
def dimesh_gap_detected(source: str, gap: Gap) -> None:
    """A source may have missed changes."""


@hookspec
def dimesh_schema_registered(schema: StoredSchema) -> None:
    """A new schema version was stored."""


@hookspec
def dimesh_lineage_recorded(record: LineageRecord) -> None:
    """A lineage fact reached the log."""
