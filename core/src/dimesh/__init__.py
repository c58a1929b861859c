"""dimesh, the Data/Integration MESH: event bus, schema registry, change data capture and lineage.

Every public name is importable from here and is loaded when it is first used, so that ``import dimesh`` stays cheap.
Type checkers read the names and their types from ``__init__.pyi``.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "CDCConnector": "dimesh.cdc",
    "CDCConnectorStatus": "dimesh.cdc",
    "CDCEvent": "dimesh.cdc",
    "CDCManager": "dimesh.cdc",
    "CDCOffset": "dimesh.cdc",
    "CDCOperation": "dimesh.cdc",
    "CompatibilityMode": "dimesh.registry",
    "CircuitBreaker": "dimesh.bus.retry",
    "DeadLetter": "dimesh.bus.deadletter",
    "DeadLetters": "dimesh.bus.redrive",
    "Event": "dimesh.events",
    "EventBus": "dimesh.bus.engine",
    "EventBusFactory": "dimesh.bus.factory",
    "EventHandler": "dimesh.bus.handler",
    "EventMetadata": "dimesh.events",
    "EventPriority": "dimesh.events",
    "EventType": "dimesh.events",
    "ForeignRecords": "dimesh.bus.foreign",
    "InMemoryEventBus": "dimesh.bus.factory",
    "LineageEdge": "dimesh.lineage",
    "LineageEdgeType": "dimesh.lineage",
    "LineageNode": "dimesh.lineage",
    "LineageNodeType": "dimesh.lineage",
    "LineageQuery": "dimesh.lineage",
    "LineageService": "dimesh.lineage",
    "LineageVisualizer": "dimesh.lineage",
    "LoadedSettings": "dimesh.settings",
    "LocalSchemaRegistry": "dimesh.registry",
    "ManualClock": "dimesh.clock",
    "Mesh": "dimesh.mesh",
    "MeshSettings": "dimesh.settings",
    "Receipt": "dimesh.spi.receipt",
    "RetryPolicy": "dimesh.bus.retry",
    "SchemaEvolutionHelper": "dimesh.registry",
    "SchemaFormat": "dimesh.registry",
    "SchemaRegistry": "dimesh.registry",
    "SchemaSubject": "dimesh.registry",
    "SchemaVersion": "dimesh.registry",
    "Secret": "dimesh.secrets",
    "SourceConnector": "dimesh.cdc",
    "SqliteCDCStore": "dimesh.backends.state.sqlite",
    "StartAt": "dimesh.spi.bus",
    "SubscriptionOptions": "dimesh.bus.options",
    "SyncBus": "dimesh.bus.sync",
    "SubscriptionState": "dimesh.bus.options",
    "Topics": "dimesh.events",
    "current_event": "dimesh.bus.current",
    "load_settings": "dimesh.settings",
    "validate_event": "dimesh.registry",
}

_ERRORS = (
    "BackpressureError",
    "BusClosedError",
    "BusError",
    "CDCError",
    "CodecError",
    "ConfigurationError",
    "CredentialsError",
    "DeadLetterNotFoundError",
    "DimeshError",
    "EventError",
    "EventNotFoundError",
    "FencedError",
    "GroupNotFoundError",
    "IncompatibleSchemaError",
    "NotPermittedError",
    "NotSoftDeletedError",
    "ReferencedError",
    "ReferenceNotFoundError",
    "SchemaIdConflictError",
    "SoftDeletedError",
    "InvalidLineageError",
    "InvalidSchemaError",
    "LineageError",
    "ListenError",
    "NodeNotFoundError",
    "NotOfferedError",
    "PayloadError",
    "PluginConflictError",
    "PluginContractError",
    "PluginError",
    "PositionLostError",
    "PublishError",
    "RefusedError",
    "RegistryAccessError",
    "RegistryUnavailableError",
    "RejectError",
    "RequestTimeoutError",
    "SchemaError",
    "SchemaValidationError",
    "SourceObjectError",
    "SourcePositionLostError",
    "SourceUnavailableError",
    "StorageError",
    "SubjectNotFoundError",
    "TopicNotFoundError",
    "UnstorableError",
    "UnknownDriverError",
    "VersionConflictError",
)

# Names that live in a distribution of their own.
_PLUGIN_HOMES = {
    "ConfluentSchemaRegistry": ("dimesh_confluent", "confluent"),
    "ControlPlaneAgent": ("dimesh_adk", "adk"),
    "KafkaEventBus": ("dimesh_kafka", "kafka"),
    "NetSuiteCDCConnector": ("dimesh_netsuite", "netsuite"),
    "PubSubEventBus": ("dimesh_pubsub", "pubsub"),
    "SalesforceCDCConnector": ("dimesh_salesforce", "salesforce"),
    "StripeCDCConnector": ("dimesh_stripe", "stripe"),
    "ZendeskCDCConnector": ("dimesh_zendesk", "zendesk"),
}

_HOMES |= dict.fromkeys(_ERRORS, "dimesh.errors")

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
