"""dimesh, the Data/Integration MESH: event bus, schema registry, change data capture and lineage.

Every public name is importable from here and loaded when it is first used, so that ``import dimesh`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dimesh.bus.deadletter import DeadLetter as DeadLetter
    from dimesh.bus.engine import EventBus as EventBus
    from dimesh.bus.factory import EventBusFactory as EventBusFactory
    from dimesh.bus.factory import InMemoryEventBus as InMemoryEventBus
    from dimesh.bus.handler import EventHandler as EventHandler
    from dimesh.bus.options import SubscriptionOptions as SubscriptionOptions
    from dimesh.bus.receipt import Receipt as Receipt
    from dimesh.bus.retry import RetryPolicy as RetryPolicy
    from dimesh.cdc import CDCOperation as CDCOperation
    from dimesh.cdc.connector import CDCConnector as CDCConnector
    from dimesh.cdc.connector import SourceConnector as SourceConnector
    from dimesh.cdc.events import CDCEvent as CDCEvent
    from dimesh.cdc.events import CDCOffset as CDCOffset
    from dimesh.cdc.manager import CDCManager as CDCManager
    from dimesh.cdc.status import CDCConnectorStatus as CDCConnectorStatus
    from dimesh.cdc.store import SqliteCDCStore as SqliteCDCStore
    from dimesh.clock import ManualClock as ManualClock
    from dimesh.errors import DimeshError as DimeshError
    from dimesh.errors import RejectError as RejectError
    from dimesh.events.event import Event as Event
    from dimesh.events.metadata import EventMetadata as EventMetadata
    from dimesh.events.topics import Topics as Topics
    from dimesh.events.types import EventPriority as EventPriority
    from dimesh.events.types import EventType as EventType
    from dimesh.spi.bus import StartAt as StartAt

_HOMES = {
    "CDCConnector": "dimesh.cdc",
    "CDCConnectorStatus": "dimesh.cdc",
    "CDCEvent": "dimesh.cdc",
    "CDCManager": "dimesh.cdc",
    "CDCOffset": "dimesh.cdc",
    "CDCOperation": "dimesh.cdc",
    "CompatibilityMode": "dimesh.registry",
    "DeadLetter": "dimesh.bus.deadletter",
    "DimeshError": "dimesh.errors",
    "Event": "dimesh.events",
    "EventBus": "dimesh.bus.engine",
    "EventBusFactory": "dimesh.bus.factory",
    "EventHandler": "dimesh.bus.handler",
    "EventMetadata": "dimesh.events",
    "EventPriority": "dimesh.events",
    "EventType": "dimesh.events",
    "InMemoryEventBus": "dimesh.bus.factory",
    "LineageEdge": "dimesh.lineage",
    "LineageEdgeType": "dimesh.lineage",
    "LineageNode": "dimesh.lineage",
    "LineageNodeType": "dimesh.lineage",
    "LineageQuery": "dimesh.lineage",
    "LineageService": "dimesh.lineage",
    "LineageVisualizer": "dimesh.lineage",
    "LocalSchemaRegistry": "dimesh.registry",
    "ManualClock": "dimesh.clock",
    "Receipt": "dimesh.bus.receipt",
    "RejectError": "dimesh.errors",
    "RetryPolicy": "dimesh.bus.retry",
    "SchemaEvolutionHelper": "dimesh.registry",
    "SchemaFormat": "dimesh.registry",
    "SchemaRegistry": "dimesh.registry",
    "SchemaSubject": "dimesh.registry",
    "SchemaVersion": "dimesh.registry",
    "SourceConnector": "dimesh.cdc",
    "SqliteCDCStore": "dimesh.cdc",
    "StartAt": "dimesh.spi.bus",
    "SubscriptionOptions": "dimesh.bus.options",
    "Topics": "dimesh.events",
    "validate_event": "dimesh.registry",
}

# Names that live in a distribution of their own.
_PLUGIN_HOMES = {
    "ConfluentSchemaRegistry": ("dimesh_confluent", "confluent"),
    "KafkaEventBus": ("dimesh_kafka", "kafka"),
    "NetSuiteCDCConnector": ("dimesh_netsuite", "netsuite"),
    "PubSubEventBus": ("dimesh_pubsub", "pubsub"),
    "SalesforceCDCConnector": ("dimesh_salesforce", "salesforce"),
    "StripeCDCConnector": ("dimesh_stripe", "stripe"),
    "ZendeskCDCConnector": ("dimesh_zendesk", "zendesk"),
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(home), name)
    elif name in _PLUGIN_HOMES:
        module, extra = _PLUGIN_HOMES[name]
        try:
            value = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise ImportError(
                f"{name} is in the plugin {module.replace('_', '-')}, which is not installed: "
                f'pip install "dimesh[{extra}]"',
                name=module,
            ) from None
    else:
        raise AttributeError(f"module 'dimesh' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
