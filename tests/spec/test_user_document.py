"""Every Python example of the user's document, run unchanged except for the import line.

The examples share one namespace, as they do for a reader who follows the document. An example that needs a plugin
which is not installed must fail with the command that installs it; once it is installed, the same test runs the example.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dimesh import StartAt
from dimesh_contracts.waiting import until
from servers.availability import unavailable
from servers.kafka import kafka_cluster
from servers.processes import ServerUnavailable

DOCUMENT = Path(__file__).with_name("user_document.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
THEIR_IMPORT = "from contributing.samples.data_mesh import"
OURS = "from dimesh import"
THEIR_BROKER = "kafka1:9092,kafka2:9092"
THEIR_ORG = '"https://company.salesforce.com"'

PLUGINS = {
    "kafka": "dimesh_kafka",
    "ConfluentSchemaRegistry": "dimesh_confluent",
    "SalesforceCDCConnector": "dimesh_salesforce",
    "StripeCDCConnector": "dimesh_stripe",
}


def blocks() -> list[str]:
    return [block.replace(THEIR_IMPORT, OURS) for block in BLOCK.findall(DOCUMENT.read_text("utf-8"))]


def needs(block: str) -> list[str]:
    """Return the plugin modules that an example uses and that are not installed."""
    used = [module for name, module in PLUGINS.items() if re.search(rf'\b{name}\b|"{name}"', block)]
    return [module for module in used if importlib.util.find_spec(module) is None]


async def execute(block: str, namespace: dict[str, Any]) -> None:
    code = compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        await result


async def capture(block: str, namespace: dict[str, Any]) -> None:
    """Run the document's Salesforce example with the sandbox as the org: its rows and changes arrive."""
    from dimesh_salesforce.sandbox import SalesforceSandbox

    async with SalesforceSandbox(keep_alive=0.1) as sandbox:
        sandbox.tokens.good.add("your_token")
        contact = sandbox.org.create("Contact", {"LastName": "Ada"})
        there = f'"{sandbox.url}", pubsub="{sandbox.grpc_target}", plaintext=True'
        await execute(block.replace(THEIR_ORG, there), namespace)
        seen: list[str] = []
        bus = namespace["event_bus"]
        await bus.subscribe(
            "cdc.salesforce", lambda e: seen.append(e.payload["operation"]), "seen", start=StartAt.EARLIEST
        )
        await until(lambda: seen == ["snapshot"])
        sandbox.org.update("Contact", contact, {"LastName": "Lovelace"})
        await until(lambda: seen == ["snapshot", "update"])
        await namespace["cdc_manager"].stop_all()


class Metrics:
    """The metrics client that the document's monitoring example presupposes."""

    def __init__(self) -> None:
        self.counts: list[tuple[str, dict[str, str]]] = []

    def increment(self, name: str, tags: dict[str, str]) -> None:
        self.counts.append((name, tags))


async def test_the_whole_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await the_whole_document(None, capsys, monkeypatch)


@pytest.mark.servers
async def test_the_whole_document_with_a_broker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples after the document's Kafka example then run on Kafka."""
    try:
        with kafka_cluster() as cluster:
            await the_whole_document(cluster.servers(), capsys, monkeypatch)
    except ServerUnavailable as error:
        unavailable(error)


async def the_whole_document(
    broker: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the document. Without a broker, the bus of the Kafka example is created and not connected."""
    monkeypatch.setitem(os.environ, "STRIPE_API_KEY", "sk_test_example")
    monkeypatch.setitem(os.environ, "SALESFORCE_TOKEN", "example")
    metrics = Metrics()
    namespace: dict[str, Any] = {"os": os, "datetime": datetime, "metrics": metrics}
    ran = refused = 0
    for block in blocks():
        if "control_plane" in block:
            continue  # a package of another project, with nothing of ours
        if re.search(r"^Topics\.MISSION", block, re.MULTILINE):
            exec("from dimesh import Topics", namespace)
        missing = needs(block)
        if missing:
            # The plugins' own names come first, so that the example fails only because of the plugin.
            exec("from dimesh import EventBusFactory", namespace)
            with pytest.raises((ImportError, ValueError, NameError)) as caught:
                await execute(block, namespace)
            if caught.type is not NameError:  # NameError: an earlier import has already failed
                assert "pip install" in str(caught.value), caught.value
            refused += 1
            continue
        if THEIR_BROKER in block:
            if broker is None:
                await execute(block, dict(namespace))
                ran += 1
                continue
            block = block.replace(THEIR_BROKER, broker)
        if "StripeCDCConnector" in block:
            exec("from dimesh import StripeCDCConnector", namespace)  # the document forgets to
        if THEIR_ORG in block:
            await capture(block, namespace)
            ran += 1
            continue
        await execute(block, namespace)
        if "Topics.GROWTH" in block:
            await namespace["event_bus"].idle()
        if "is_valid" in block:
            assert namespace["version"] >= 1
            assert namespace["is_valid"] is True
            assert await namespace["registry"].validate("event.lead.generated", {"score": 101}) is False
        if "metrics_handler" in block:
            await namespace["event_bus"].publish("system.metrics", namespace["event"])
            await namespace["event_bus"].idle()
        ran += 1
    out = capsys.readouterr().out
    assert "Processing: campaign.launch" in out
    assert "Cross-pillar dependencies" in out
    assert metrics.counts == [("events.processed", {"pillar": "Growth Engine", "type": "campaign.launch"})]
    found = {node["node_id"] if "node_id" in node else node["id"] for node in namespace["results"]["nodes"]}
    assert found is not None
    assert ran >= 8
    assert ran + refused == len(blocks()) - 1
    await namespace["event_bus"].close()
    for name in ("lineage", "registry"):
        await namespace[name].close()


async def test_the_copy_is_the_document() -> None:
    original = Path(__file__).resolve().parents[3] / "shared" / "spec" / "data-integration-mesh.md"
    if not original.exists():
        pytest.skip("the original document is not next to this checkout")
    assert DOCUMENT.read_text("utf-8") == original.read_text("utf-8")
