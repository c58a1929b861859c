"""Every name in the specification exists; the error for a name of a missing plugin says how to install it."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dimesh
from dimesh import errors

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
    "DeadLetters",
    "Mesh",
    "load_settings",
    "Secret",
    "RejectError",
    "ConfigurationError",
    "PublishError",
]

OF_PLUGINS = {
    "ControlPlaneAgent": "adk",
    "ConfluentSchemaRegistry": "confluent",
    "KafkaEventBus": "kafka",
    "NetSuiteCDCConnector": "netsuite",
    "PubSubEventBus": "pubsub",
    "SalesforceCDCConnector": "salesforce",
    "StripeCDCConnector": "stripe",
    "ZendeskCDCConnector": "zendesk",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_importable_from_dimesh(name: str) -> None:
    assert getattr(dimesh, name) is not None
    assert name in dir(dimesh)


@pytest.mark.parametrize(("name", "extra"), OF_PLUGINS.items())
def test_the_error_for_a_missing_plugin_names_the_extra(name: str, extra: str) -> None:
    if importlib.util.find_spec(f"dimesh_{extra}") is not None:
        assert getattr(dimesh, name) is not None
        return
    with pytest.raises(ImportError, match=rf'pip install "dimesh\[{extra}\]"'):
        getattr(dimesh, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchThing"):
        dimesh.NoSuchThing  # noqa: B018


@pytest.mark.parametrize("driver", ["kafka", "pubsub"])
def test_the_factory_error_for_a_missing_driver_names_the_extra(driver: str) -> None:
    if importlib.util.find_spec(f"dimesh_{driver}") is not None:
        pytest.skip(f"dimesh-{driver} is installed")
    with pytest.raises(ValueError, match=rf'memory, sqlite.*pip install "dimesh\[{driver}\]"'):
        dimesh.EventBusFactory.create(driver, bootstrap_servers="localhost:9092")


def stub_names() -> set[str]:
    """Return the names that ``__init__.pyi`` gives a type to."""
    tree = ast.parse(Path(dimesh.__file__).with_suffix(".pyi").read_text("utf-8"))
    imported = {
        alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return {name for name in imported if name is not None} | {"__version__"}


def test_the_module_and_its_stub_have_the_same_names() -> None:
    assert stub_names() == set(dimesh.__all__) | set(OF_PLUGINS)


def test_every_error_is_public() -> None:
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")
    }
    assert defined <= set(dimesh.__all__)
    others = set(dimesh.__all__) - defined - {"__version__"}
    assert 45 <= len(others | set(OF_PLUGINS)) <= 60


WRONG = """
import dimesh
from dimesh import NoSuchThing
from dimesh import EventBus, EventBusFactory, LineageService, Mesh, load_settings

def use(lineage: LineageService, mesh: Mesh, bus: EventBus) -> None:
    lineage.no_such_method()
    mesh.no_such_attribute
    bus.publich
    EventBusFactory.create("memory").no_such_method()
    load_settings().settings.no_such_section
    dimesh.no_such_name
"""


@pytest.mark.slow
def test_a_type_checker_knows_every_name_and_refuses_wrong_ones(tmp_path: Path) -> None:
    names = sorted(stub_names() - {"__version__"})
    installed = [
        name
        for name in names
        if name not in OF_PLUGINS or importlib.util.find_spec(f"dimesh_{OF_PLUGINS[name]}") is not None
    ]
    user = [f"from dimesh import {', '.join(names)}", *(f"reveal_type({name})" for name in installed)]
    wrong = WRONG
    for name in ("KafkaEventBus", "StripeCDCConnector"):
        if name in installed:
            wrong += f"\ndef use_{name}(it: dimesh.{name}) -> None:\n    it.no_such_method()\n"
    (tmp_path / "user.py").write_text("\n".join(user), "utf-8")
    (tmp_path / "wrong.py").write_text(wrong, "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--config-file=",
            "user.py",
            "wrong.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    revealed = re.findall(r'^user\.py:(\d+): note: Revealed type is "(.*)"$', done.stdout, re.MULTILINE)
    assert [int(line) for line, _ in revealed] == list(range(2, len(installed) + 2)), (
        done.stdout + done.stderr
    )
    assert not [installed[int(line) - 2] for line, kind in revealed if kind == "Any"]
    assert not re.search(r"^user\.py:\d+: error", done.stdout, re.MULTILINE), done.stdout
    refused = {int(line) for line in re.findall(r"^wrong\.py:(\d+): error", done.stdout, re.MULTILINE)}
    expected = {
        n for n, line in enumerate(wrong.splitlines(), 1) if re.search("no_such|NoSuch|publich", line)
    }
    assert refused == expected, done.stdout
    assert all(
        path in ("user.py", "wrong.py") for path in re.findall(r"^([^:\n]+):\d+:", done.stdout, re.MULTILINE)
    )
