"""Metrics: what they count, that their labels are bounded, and that a real parser reads them, whatever the labels contain."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dimesh import Event
from dimesh.bus.counts import MOST, OTHER
from dimesh.errors import StorageError
from dimesh.http.exposition import Family, render
from dimesh.mesh import Mesh
from dimesh.ops import metrics
from dimesh.ops.metrics import Metrics
from dimesh.ops.readiness import Stage, Watch
from dimesh.settings import MeshSettings

HANDLERS = """
def handle(event):
    if event.payload == "down":
        raise ConnectionError("the database is down")
    if event.payload == "bad":
        raise LookupError("the password is hunter2")
"""


METRIC = re.compile(r"`((?:dimesh|process)_\w+)`")


def parsed(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "handlers_of_metrics.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    return "handlers_of_metrics:handle"


def mesh_with(**handler: Any) -> Mesh:
    return Mesh(
        MeshSettings(
            bus={"driver": "memory"}, http={"listen": "127.0.0.1:0"}, handlers=[{"retry_base": 0, **handler}]
        )
    )


async def scraped(mesh: Mesh) -> dict[tuple[str, tuple[str, ...]], float]:
    watch = Watch(mesh)
    watch.stage = Stage.RUNNING
    return parsed(render(await Metrics(watch).collect()))


async def test_events_are_counted_by_topic_and_group(handlers: str) -> None:
    async with mesh_with(topic="orders", call=handlers, group="billing", attempts=2) as mesh:
        await mesh.start()
        for payload in ("good", "good", "bad"):
            await mesh.bus.publish("orders", Event("order.created", None, payload))
        await mesh.bus.publish_many("orders", [Event("order.created", None, n) for n in range(4)])
        await mesh.bus.idle()
        pair = ("orders", "billing")
        async with asyncio.timeout(10):
            while (found := await scraped(mesh))["dimesh_group_lag_events", pair]:
                await asyncio.sleep(0.01)  # it is the lag of what was committed
    assert found["dimesh_events_published_total", ("orders",)] == 7
    assert found["dimesh_events_handled_total", pair] == 6
    assert found["dimesh_events_dead_lettered_total", pair] == 1
    assert found["dimesh_handler_failures_total", (*pair, "LookupError")] == 2
    assert found["dimesh_events_in_flight", pair] == 0
    assert found["dimesh_subscription_state", (*pair, "running")] == 1
    assert found["dimesh_ready", ()] == 1
    assert not [key for key in found if "hunter2" in str(key)]


async def test_the_page_lists_every_metric_and_no_other(handlers: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "health.md").read_text("utf-8")
    listed = {name for row in page.splitlines() if row.startswith("| `") for name in METRIC.findall(row)}
    async with mesh_with(topic="orders", call=handlers) as mesh:
        families = await Metrics(Watch(mesh)).collect()
    assert {family.name for family in families} == listed


async def test_lineage_is_counted_where_it_is_recorded(handlers: str, tmp_path: Path) -> None:
    (tmp_path / "lineage").write_text("a file, where a folder should be")
    for enabled in (False, True):
        settings = MeshSettings(
            mesh={"data_dir": tmp_path},
            bus={"driver": "memory"},
            http={"listen": "127.0.0.1:0"},
            lineage={"enabled": enabled},
            handlers=[{"topic": "orders", "call": handlers}],
        )
        mesh = Mesh(settings)
        await mesh.start()
        await mesh.bus.publish("orders", Event("order.created", None, 1))
        await mesh.bus.idle()
        found = {name: value for (name, _), value in (await scraped(mesh)).items() if "lineage" in name}
        if enabled:
            assert found == {
                "dimesh_lineage_observations_total": 0,
                "dimesh_lineage_dropped_total": 0,
                "dimesh_lineage_pending": 1,
            }
            with pytest.raises(StorageError, match="1 lineage observation"):
                await mesh.close()
        else:
            assert found == {}
            await mesh.close()


async def test_labels_are_bounded(handlers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_TOPICS", 5)
    async with mesh_with(topic=["orders", "customer.*"], call=handlers, group="billing") as mesh:
        await mesh.start()
        await mesh.bus.subscribe("orders", lambda event: None, group="of-the-program")
        for n in range(20):
            await mesh.bus.publish(f"customer.{n}", Event("order.created", None, n))
        await mesh.bus.idle()
        found = await scraped(mesh)
    topics = {labels[0] for name, labels in found if name == "dimesh_events_handled_total"}
    assert len(topics) == 6
    assert {"orders", OTHER} < topics
    handled = [value for (name, _), value in found.items() if name == "dimesh_events_handled_total"]
    assert sum(handled) == 20
    assert found["dimesh_events_handled_total", (OTHER, "billing")] == 16
    assert found["dimesh_events_handled_total", ("orders", OTHER)] == 0


async def test_counters_do_not_grow_without_end(handlers: str) -> None:
    async with mesh_with(topic="orders", call=handlers) as mesh:
        assert mesh.counts is not None
        for n in range(MOST + 10):
            await mesh.bus.publish(f"t{n}", Event("order.created", None, n))
            mesh.counts.failed("t", f"s{n}", Event("x.y"), ValueError(), 1)
        assert (len(mesh.counts.events), mesh.counts.events[OTHER]) == (MOST + 1, 10)
        assert (len(mesh.counts.errors), mesh.counts.errors[OTHER, OTHER]) == (MOST + 1, 10)


@pytest.mark.parametrize(
    "hostile",
    ["a\nb", 'a"b', "a\\", "\\n", "a\udc80b", "\0", "é\u2028", "", "}", " 1\n# TYPE x counter\n", "\r"],
)
def test_a_hostile_label_does_not_break_the_scrape(hostile: str) -> None:
    text = render(
        [
            Family("first_total", "counter", "A \\ help\nin two lines.", ("a", "b"), [((hostile, "x"), 1)]),
            Family("second", "gauge", "help", (), [((), 0.5)]),
        ]
    )
    found = parsed(text)
    shown = hostile.encode("utf-8", "backslashreplace").decode()
    assert found == {("first_total", (shown, "x")): 1, ("second", ()): 0.5}


async def test_readiness_names_what_is_not_ready(handlers: str) -> None:
    mesh = mesh_with(topic="orders", call=handlers, group="billing")
    watch = Watch(mesh)
    async with mesh:
        await mesh.start()
        assert [p.reason for p in (await watch.readiness()).problems] == ["the process is starting"]
        watch.stage = Stage.RUNNING
        assert (await watch.readiness()).ready
        await mesh.bus.door.delete_topic("orders")
        async with asyncio.timeout(10):
            while (found := await watch.readiness()).ready:
                await asyncio.sleep(0.005)
        (problem,) = found.problems
        assert (problem.part, problem.name) == ("handler", f"{handlers} of orders")


async def test_an_open_circuit_breaker_is_not_ready(handlers: str) -> None:
    async with mesh_with(topic="orders", call=handlers, group="billing", breaker_failures=2) as mesh:
        await mesh.start()
        watch = Watch(mesh)
        watch.stage = Stage.RUNNING
        await mesh.bus.publish("orders", Event("order.created", None, "down"))
        async with asyncio.timeout(10):
            while (found := await watch.readiness()).ready:
                await asyncio.sleep(0.005)
        assert [(p.part, p.name) for p in found.problems] == [("handler", f"{handlers} of orders")]
        assert (await scraped(mesh))["dimesh_breaker_opened_total", ("orders", "billing")] == 1
        (id,) = mesh.bus.stats()
        mesh.bus.pause(id)  # otherwise closing waits for the event


async def test_a_bus_that_does_not_work_is_not_ready(tmp_path: Path) -> None:
    bus = {"driver": "sqlite", "options": {"path": str(tmp_path / "mesh.db")}}
    async with Mesh(MeshSettings(bus=bus)) as mesh:
        watch = Watch(mesh)
        watch.stage = Stage.RUNNING
        assert (await watch.readiness()).ready
        await mesh.bus.door.close()
        async with asyncio.timeout(10):
            while (found := await watch.readiness()).ready:  # an answer is used for a second
                await asyncio.sleep(0.01)
    assert [(p.part, p.name) for p in found.problems] == [("bus", "sqlite")]


@pytest.mark.parametrize("listen", ["8080", "localhost:", "localhost:http", "::1:80", "localhost:65536", ""])
def test_an_address_that_is_none(listen: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        MeshSettings(http={"listen": listen})


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), (":0", ("", 0)), ("[::1]:80", ("::1", 80)), ("a:1", ("a", 1))],
)
def test_an_address(listen: str, address: tuple[str, int]) -> None:
    assert MeshSettings(http={"listen": listen}).http.address == address
