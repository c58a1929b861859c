"""Every name that the specification lists is there; one of a plugin that is missing says how to get it."""

from __future__ import annotations

import importlib.util

import pytest

import dimesh

NAMES = [
    "EventPriority",
    "EventType",
    "EventMetadata",
    "Event",
    "EventHandler",
    "EventBus",
    "EventBusFactory",
    "InMemoryEventBus",
    "Topics",
    "SchemaFormat",
    "CompatibilityMode",
    "SchemaVersion",
    "SchemaSubject",
    "SchemaRegistry",
    "LocalSchemaRegistry",
    "SchemaEvolutionHelper",
    "validate_event",
    "CDCOperation",
    "CDCConnectorStatus",
    "CDCOffset",
    "CDCEvent",
    "CDCConnector",
    "CDCManager",
    "LineageNodeType",
    "LineageEdgeType",
    "LineageNode",
    "LineageEdge",
    "LineageQuery",
    "LineageService",
    "LineageVisualizer",
]

OF_PLUGINS = {
    "ConfluentSchemaRegistry": "confluent",
    "KafkaEventBus": "kafka",
    "NetSuiteCDCConnector": "netsuite",
    "PubSubEventBus": "pubsub",
    "SalesforceCDCConnector": "salesforce",
    "StripeCDCConnector": "stripe",
    "ZendeskCDCConnector": "zendesk",
}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_importable_from_dimesh(name: str) -> None:
    assert getattr(dimesh, name) is not None
    assert name in dir(dimesh)


@pytest.mark.parametrize(("name", "extra"), OF_PLUGINS.items())
def test_a_missing_plugin_says_how_to_get_it(name: str, extra: str) -> None:
    if importlib.util.find_spec(f"dimesh_{extra}") is not None:
        assert getattr(dimesh, name) is not None
        return
    with pytest.raises(ImportError, match=rf'pip install "dimesh\[{extra}\]"'):
        getattr(dimesh, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchThing"):
        dimesh.NoSuchThing  # noqa: B018


@pytest.mark.parametrize("driver", ["kafka", "pubsub"])
def test_the_factory_says_how_to_get_a_driver(driver: str) -> None:
    if importlib.util.find_spec(f"dimesh_{driver}") is not None:
        pytest.skip(f"dimesh-{driver} is installed")
    with pytest.raises(ValueError, match=rf'memory, sqlite.*pip install "dimesh\[{driver}\]"'):
        dimesh.EventBusFactory.create(driver, bootstrap_servers="localhost:9092")
