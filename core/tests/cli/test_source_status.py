"""Sources, as the command line shows them while their systems work and while they do not."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dimesh.backends.cdc.outbox import watch
from dimesh.cli.exit_codes import ExitCode

from .conftest import Run
from .processes import answers, control, eventually, free_port, get, running

STRIPE = """
[bus]
driver = "sqlite"
[bus.options]
path = "mesh.db"
[cdc]
state = "cdc.db"
[[sources]]
name = "billing"
driver = "stripe"
objects = ["customer"]
"""
POLL = 0.5


@pytest.mark.slow
def test_a_command_needs_only_the_secrets_that_it_uses(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text(f"{STRIPE}options = {{ api_key = '${{NOT_SET_ANYWHERE}}' }}\n")
    dimesh("topics", "create", "orders")
    assert [row["phase"] for row in dimesh("--output", "json", "cdc", "status").json] == ["not started"]
    findings = {one["check"]: one for one in dimesh("--output", "json", "doctor", code=1).json}
    assert findings["settings"]["result"] == "failed"
    assert "NOT_SET_ANYWHERE" in findings["settings"]["detail"]
    refused = dimesh("cdc", "check", code=3)
    assert "sources.0.options.api_key needs the environment variable NOT_SET_ANYWHERE" in refused.err


@pytest.mark.slow
def test_a_check_of_a_system_that_refuses_connections_takes_seconds(dimesh: Run, tmp_path: Path) -> None:
    options = f"{{ api_key = 'sk_test_sandbox', url = 'http://127.0.0.1:{free_port()}', ledger = '' }}"
    (tmp_path / "dimesh.toml").write_text(f"{STRIPE}options = {options}\n")
    began = time.monotonic()
    (row,) = json.loads(dimesh("--output", "json", "cdc", "check", code=1).out)
    assert time.monotonic() - began < 15  # the option retry_for is 60 seconds
    assert "ConnectError" in row["reason"]


@pytest.mark.slow
def test_a_system_that_is_killed_shows_within_one_poll(dimesh: Run, tmp_path: Path) -> None:
    port = free_port()
    options = (
        f"{{ api_key = 'sk_test_sandbox', url = 'http://127.0.0.1:{port}', ledger = '', poll = {POLL},"
        f" reread = {POLL} }}"
    )
    http = free_port()
    (tmp_path / "dimesh.toml").write_text(
        f"[http]\nlisten = '127.0.0.1:{http}'\n{STRIPE}options = {options}\n"
    )

    def metric(name: str, *labels: str) -> float:
        code, text = get(http, "/metrics")
        assert code == 200
        return {
            (s.name, *s.labels.values()): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }[name, *labels]

    def status() -> dict[str, Any]:
        (row,) = dimesh("--output", "json", "cdc", "status").json
        return dict(row)

    def log() -> str:
        return (tmp_path / "log").read_text()

    def captured() -> dict[str, Any] | None:
        row = status()
        return row if (row["state"], row["phase"]) == ("running", "stream") else None

    with ExitStack() as processes:
        with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "3") as stripe:
            eventually(lambda: answers(port))
            processes.enter_context(running(tmp_path, "run"))
            # The counts are stored every half second, the phase at once.
            row = eventually(lambda: found if (found := captured()) and found["rows"] else None)
            assert (row["rows"], row["error"], row["lag"] < 10) == (3, "", True)
            assert get(http, "/readyz")[0] == 200
            assert metric("dimesh_source_up", "billing", "customer") == 1
            assert metric("dimesh_source_phase", "billing", "customer", "stream") == 1
            assert metric("dimesh_source_rows_total", "billing", "customer") == 3
            assert metric("dimesh_source_lag_seconds", "billing", "customer") < 10
            assert metric("dimesh_source_requests_total", "billing") > 3
            assert metric("dimesh_source_object_requests_total", "billing", "customer") > 3
            assert 0 < metric("dimesh_source_budget_used_ratio", "billing") < 1
            assert time.time() - metric("dimesh_source_heartbeat_timestamp_seconds", "billing") < 30
            row = eventually(lambda: found if (found := status())["requests"] > 3 else None)
            assert (0 < row["budget_used"] < 1, row["heartbeat"] < 30) == (True, True)
            text = dimesh("cdc", "status").out
            assert all(name in text for name in ("missing", "skipped", "budget used", "0 of 0", " ago"))
            assert metric("dimesh_events_published_total", "cdc.stripe") == 3
            stripe.kill()
            killed = time.time()
            stripe.wait(20)
        row = eventually(lambda: status() if "cannot be captured" in log() else None)
        assert (row["state"], row["phase"], row["rows"]) == ("failing", "backoff", 3)
        assert "ConnectError" in row["error"]
        assert -1 <= datetime.fromisoformat(row["since"]).timestamp() - killed < POLL + 5
        assert get(http, "/healthz")[0] == 200  # a restart would not bring Stripe back
        code, body = get(http, "/readyz")
        (problem,) = json.loads(body)["problems"]
        assert (code, problem["part"], problem["name"]) == (503, "source", "billing/customer")
        assert ("ConnectError" in problem["reason"], problem["since"]) == (True, row["since"])
        assert metric("dimesh_ready") == metric("dimesh_source_up", "billing", "customer") == 0
        assert metric("dimesh_source_phase", "billing", "customer", "backoff") == 1
        assert metric("dimesh_source_down_since_timestamp_seconds", "billing", "customer") >= killed - 1
        findings = {one["check"]: one for one in dimesh("--output", "json", "doctor", code=1).json}
        assert findings["sources"]["result"] == "failed"
        assert "customer of billing: since" in findings["sources"]["detail"]
        with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "3"):
            row = eventually(captured)
            assert (row["error"], "ConnectError" in row["last_error"]) == ("", True)
            assert "captured again" in log()
            assert get(http, "/readyz")[0] == 200
            assert metric("dimesh_source_up", "billing", "customer") == 1
            processes.close()
    assert status()["state"] == "not running"
    (tmp_path / "dimesh.toml").write_text(f"{STRIPE}options = {{ api_key = '${{NOT_SET_ANYWHERE}}' }}\n")
    dimesh("cdc", "history")


@pytest.mark.slow
def test_a_permission_that_is_withdrawn_and_given_back(dimesh: Run, tmp_path: Path) -> None:
    port = free_port()
    options = (
        f"{{ api_key = 'sk_test_sandbox', url = 'http://127.0.0.1:{port}', ledger = '', poll = {POLL},"
        f" reread = {POLL}, retry_for = 1.0 }}"
    )
    (tmp_path / "dimesh.toml").write_text(f"{STRIPE}status_events = true\noptions = {options}\n")

    def phase(wanted: str) -> dict[str, Any] | None:
        (row,) = dimesh("--output", "json", "cdc", "status").json
        return dict(row) if row["phase"] == wanted else None

    def log() -> str:
        return (tmp_path / "log").read_text()

    with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "3"):
        eventually(lambda: answers(port))
        with running(tmp_path, "run"):
            eventually(lambda: phase("stream"))
            control(port, "faults", kind="forbidden", times=-1, path="/v1/events")
            row = eventually(lambda: phase("failed"))
            assert "the key may not read customer" in row["error"]
            assert log().count("source billing, object customer cannot be captured") == 1
            assert "source billing, object customer: failed" in log()
            control(port, "faults", "DELETE")
            eventually(lambda: phase("stream"), 4)  # the next attempt may begin in a minute
            # The page of a proxy, whatever its status, is an outage and no refusal.
            control(port, "faults", kind="proxy", status=403, times=-1, path="/v1/events")
            row = eventually(lambda: phase("backoff"))
            assert "HTTP 403 Forbidden, not an answer of Stripe" in row["error"]
            control(port, "faults", "DELETE")
            eventually(lambda: phase("stream"))
    assert "Traceback" not in log()
    listed = dimesh("--output", "json", "tail", "cdc.stripe", "--all").lines
    changes = [e["payload"] for e in listed if e["event_type"] == "cdc.status"]
    assert [(c["previous_phase"], c["phase"]) for c in changes] == [
        ("waiting", "snapshot"),
        ("snapshot", "stream"),
        ("stream", "failed"),
        ("failed", "stream"),
        ("stream", "backoff"),
        ("backoff", "stream"),
        ("stream", "stopped"),
    ]
    assert [c["error"] is not None for c in changes] == [False, False, True, False, True, False, False]
    assert "sk_test_sandbox" not in json.dumps(changes)


@pytest.mark.slow
def test_a_source_that_was_renamed(dimesh: Run, tmp_path: Path) -> None:
    options = "options = { path = 'shop.db' }\n"
    settings = f"[[sources]]\nname = 'shop'\ndriver = 'outbox'\nobjects = ['orders']\n{options}"
    (tmp_path / "dimesh.toml").write_text(settings)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as app, app:
        app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        app.execute("INSERT INTO orders VALUES (1)")
        watch(app, "orders")
    dimesh("cdc", "snapshot", "shop", "orders")
    (tmp_path / "dimesh.toml").write_text(settings.replace("'shop'", "'store'"))
    status = dimesh("cdc", "status").out
    assert "stream, not in the settings" in status
    assert "'dimesh cdc state move shop NEW'" in status
    assert "add --yes" in dimesh("cdc", "state", "drop", "shop", code=ExitCode.CONFIGURATION).err
    dimesh("cdc", "state", "move", "shop", "store")
    (row,) = dimesh("--output", "json", "cdc", "status").json
    assert (row["source"], row["phase"], row["rows"], row["state"]) == ("store", "stream", 1, "not running")
    (listed,) = dimesh("--output", "json", "cdc", "state", "list").json
    assert (listed["source"], listed["state"], listed["rows"]) == ("store", "not running", 1)
    assert "no state of shop" in dimesh("cdc", "state", "move", "shop", "store", code=ExitCode.FAILED).err
    dimesh("cdc", "state", "drop", "store", "--yes")
    assert dimesh("--output", "json", "cdc", "state", "list").json == []
