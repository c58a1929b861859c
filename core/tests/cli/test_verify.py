"""``dimesh cdc verify``, as processes: what the feed lost is named, beside a running capture and alone."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .processes import answers, eventually, free_port, get, running

SETTINGS = """
[http]
listen = "127.0.0.1:{http}"
[bus]
driver = "sqlite"
[bus.options]
path = "mesh.db"
[cdc]
state = "cdc.db"
[[sources]]
name = "acme_billing"
driver = "stripe"
objects = ["customer"]
verify = 0.5
options = {{ api_key = 'sk_test_sandbox', url = 'http://127.0.0.1:{port}', ledger = '', poll = 0.1, reread = 0.2, overlap = 0, rate = 500 }}
"""


def control(port: int, method: str, command: str, **body: Any) -> Any:
    """Send a command to the sandbox."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_sandbox/{command}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"{}")


@pytest.mark.slow
def test_what_the_feed_lost_is_named(dimesh: Run, tmp_path: Path) -> None:
    port, http = free_port(), free_port()
    (tmp_path / "dimesh.toml").write_text(SETTINGS.format(port=port, http=http))

    def customer(name: str) -> str:
        fields = {"name": name, "email": f"{name}@example.com"}
        return str(control(port, "POST", "records", object="customer", fields=fields)["id"])

    def log() -> str:
        return (tmp_path / "log").read_text()

    with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "30"):
        eventually(lambda: answers(port))
        edited, deleted = customer("ada"), customer("bob")
        customer("kept")
        shared = tmp_path / "report.json"
        with running(tmp_path, "run"):
            eventually(lambda: "object customer: stream" in log())
            control(port, "POST", "silence", on=True)
            control(port, "PATCH", "records", object="customer", id=edited, fields={"name": "grace"})
            said = dimesh("cdc", "verify", "acme_billing", "--all", "--report", str(shared), code=1)
            assert "customer of acme_billing: 1 with lost update (name)" in said.out
            assert edited in said.out
            assert "not seen: " in said.err
            report = shared.read_text()
            for personal in (
                edited,
                "ada",
                "grace",
                "example.com",
                "acme_billing",
                str(port),
            ):
                assert personal not in report
            assert '"lost_update"' in report
            assert '"name"' in report
            # The running capture verifies itself, too.
            eventually(lambda: "1 rows differ from what was published (lost_update)" in log())
            assert "1 with lost update (name)" in dimesh("cdc", "status").out
            _, metrics = get(http, "/metrics")
            wrong = 'dimesh_source_wrong_rows{source="acme_billing",object="customer",kind="lost_update"} 1'
            assert wrong in metrics
        control(port, "DELETE", "records", object="customer", id=deleted)
        created = customer("new")
        # Alone, the command captures for as long as it verifies.
        (alone,) = dimesh("--output", "json", "cdc", "verify", code=1).json
        assert {(e["kind"], e["primary_key"]["id"]): e["fields"] for e in alone["errors"]} == {
            ("lost_update", edited): ["name"],
            ("lost_delete", deleted): [],
            ("missing_row", created): [],
        }
        assert alone["kinds"] == {"lost_update": 1, "lost_delete": 1, "missing_row": 1}
        assert 0.03 < alone["draws_upper"] < 1
