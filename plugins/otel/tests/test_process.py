"""``dimesh run`` and ``dimesh publish`` as processes, and a collector that receives what they send."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otel_collector import Collector, collecting

from dimesh_contracts.waiting import until

SHOP = """
from dimesh import Event

def charge(event):
    if event.payload == "bad":
        raise LookupError("no such order")
    return Event("payment.made", None, event.payload)

def book(event):
    pass
"""
SETTINGS = """
[mesh]
name = "shop"

[[handlers]]
topic = "orders"
call = "shop:charge"
produce_to = "payments"
start = "earliest"
attempts = 1

[[handlers]]
topic = "payments"
call = "shop:book"
start = "earliest"

[plugins.options.otel]
endpoint = "{url}"
headers = {{authorization = "hunter2hunter2"}}
interval = 0.2
{more}
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "MESH_", "DIMESH_"))}
    # Spans are sent after five seconds otherwise.
    return kept | {"OTEL_BSP_SCHEDULE_DELAY": "100"} | more


def write(folder: Path, url: str, more: str = "") -> None:
    (folder / "dimesh.toml").write_text(SETTINGS.format(url=url, more=more), "utf-8")
    (folder / "shop.py").write_text(SHOP, "utf-8")


def dimesh(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dimesh", *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=90,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
async def test_a_mesh_from_the_shell_to_the_collector(tmp_path: Path, collector: Collector) -> None:
    write(tmp_path, collector.url)
    log = (tmp_path / "log").open("wb")
    running = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "run"], cwd=tmp_path, env=environment(), stdout=log, stderr=log
    )
    try:
        for payload in ('"good"', '"bad"'):
            done = dimesh(tmp_path, "publish", "orders", "--type", "order.created", "--payload", payload)
            assert done.returncode == 0, done.stderr
            assert "hunter2" not in done.stderr + done.stdout
        everything = {"publish orders", "process orders", "produce payments", "process payments"}
        await until(lambda: collector.names() == everything)
        await until(lambda: collector.totals("dimesh.dead_letters") == {"orders": 1})
        await until(lambda: collector.calls("messaging.process.duration") == 3)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        log.close()
    text = (tmp_path / "log").read_text()
    assert running.returncode == 0, text
    assert "hunter2" not in text
    assert {service for service, _ in collector.spans} == {"shop"}
    assert {headers["authorization"] for headers in collector.headers} == {"hunter2hunter2"}
    traces: dict[bytes, dict[str, Any]] = {}
    for _, span in collector.spans:
        traces.setdefault(span.trace_id, {})[span.name] = span
    good = next(spans for spans in traces.values() if len(spans) == 4)
    bad = next(spans for spans in traces.values() if len(spans) == 2)
    assert good["process orders"].parent_span_id == good["publish orders"].span_id
    assert good["process payments"].parent_span_id == good["produce payments"].span_id
    assert bad["process orders"].status.code == 2
    assert collector.totals("messaging.client.consumed.messages") == {"orders": 1, "payments": 1}


@pytest.mark.slow
@pytest.mark.parametrize("down", ["refuses", "never answers"])
def test_a_collector_that_is_down_holds_nothing_up(tmp_path: Path, collector: Collector, down: str) -> None:
    url = collector.url
    if down == "refuses":
        url = "http://127.0.0.1:9"
    else:
        collector.stuck.set()
    write(tmp_path, url, "flush = 1.0")
    began = time.monotonic()
    done = dimesh(tmp_path, "publish", "orders", "--type", "order.created", "--payload", "1")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    assert "OpenTelemetry did not take the last spans and metrics within 1 s" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    tailed = dimesh(tmp_path, "topics", OTEL_SDK_DISABLED="true")
    assert "orders" in tailed.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ('endpoint = "localhost:4318"', "endpoint must be the address of a collector"),
        ('endpoint = "http://[::1"', "endpoint must be the address of a collector"),
        ("sample = 1.5", "sample: expected `float` <= 1.0"),
        ("smaple = 0.5", "there is no option 'smaple'; did you mean 'sample'?"),
        ('headers = {authorization = "hunter2hunter2\\nx"}', "there is a line break"),
    ],
)
def test_a_wrong_option(tmp_path: Path, option: str, says: str) -> None:
    (tmp_path / "dimesh.toml").write_text(f"[plugins.options.otel]\n{option}\n", "utf-8")
    done = dimesh(tmp_path, "topics")
    assert done.returncode == 3
    assert says in done.stderr
    assert "plugin 'otel'" in done.stderr
    assert "hunter2" not in done.stderr
