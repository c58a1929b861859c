"""``dimesh run`` on both sandboxes, judged by what it prints and by ``dimesh cdc status``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .processes import answers, control, eventually, free_port, running

SETTINGS = """
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
[sources.options]
api_key = "sk_test_sandbox"
url = "http://127.0.0.1:{stripe}"
ledger = ""
poll = 0.5
reread = 0.5
retry_for = 1.0

[[sources]]
name = "crm"
driver = "salesforce"
objects = ["Account", "Contact"]
[sources.options]
instance_url = "http://127.0.0.1:{salesforce}"
client_id = "3MVG9sandbox"
client_secret = "sandbox-secret"
pubsub = "127.0.0.1:{pubsub}"
plaintext = true
ledger = ""
read_lag = 1.0
retry_for = 1.0
"""
Status = dict[str, dict[str, Any]]


@pytest.mark.slow
def test_faults_of_two_systems_are_switched_on_and_off(dimesh: Run, tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("stripe", "salesforce", "pubsub")}
    stripe, salesforce = ports["stripe"], ports["salesforce"]
    (tmp_path / "dimesh.toml").write_text(SETTINGS.format(**ports))
    grpc = ("--grpc-port", str(ports["pubsub"]), "--keep-alive", "0.2", "--accounts", "3")

    def printed(*texts: str) -> None:
        """Wait until the log has all texts: a command costs more than to read it."""
        eventually(lambda: all(text in (tmp_path / "log").read_text() for text in texts))

    def status(true: Callable[[Status], bool]) -> Status:
        def found() -> Status | None:
            rows = {row["object"]: row for row in dimesh("--output", "json", "cdc", "status").json}
            return rows if true(rows) else None

        return dict(eventually(found))

    def phases(rows: Status) -> set[str]:
        return {row["phase"] for row in rows.values()}

    def each(text: str) -> list[str]:
        names = ("billing, object customer", "crm, object Account", "crm, object Contact")
        return [f"source {name}{text}" for name in names]

    with (
        running(tmp_path, "sandbox", "stripe", "--", "--port", str(stripe), "--customers", "3"),
        running(tmp_path, "sandbox", "salesforce", "--", "--port", str(salesforce), *grpc),
    ):
        eventually(lambda: answers(stripe) and answers(salesforce))
        account, other = (
            control(salesforce, "records", object="Account", fields={"Name": name})["id"] for name in "ab"
        )
        control(salesforce, "records", object="Contact", fields={"LastName": "c", "AccountId": account})
        with running(tmp_path, "run"):
            printed(*each(": stream"))
            rows = status(lambda rows: phases(rows) == {"stream"})
            assert [rows[name]["rows"] for name in ("customer", "Account", "Contact")] == [3, 5, 1]
            # Nothing can be read; what changes meanwhile is captured once something can.
            control(stripe, "faults", kind="error", status=503, times=-1, path="/v1/events")
            control(salesforce, "streams", code="service.unavailable")
            printed(*each(" cannot be captured"))
            rows = status(lambda rows: phases(rows) == {"backoff"})
            assert "HTTP 503" in rows["customer"]["error"]
            assert "service.unavailable" in rows["Account"]["error"]
            control(stripe, "records", object="customer", fields={"email": "a@x.example"})
            control(salesforce, "records", "PATCH", object="Account", id=other, fields={"Name": "d"})
            control(stripe, "faults", "DELETE")
            control(salesforce, "streams", code=None)
            printed(*each(" is captured again"))
            # A merge, while queries lag behind and the tokens expire: the contact gets the winner without an event of its own.
            control(salesforce, "lag", seconds=0.5)
            control(salesforce, "tokens", "DELETE")
            control(salesforce, "merge", object="Account", winner=other, losers=[account])
            printed("their children in Contact")
            rows = status(lambda rows: phases(rows) == {"stream"} and rows["customer"]["changes"] == 1)
            assert (rows["Account"]["changes"], rows["Contact"]["gaps"]) == (3, 1)
            # The org is moved, and forgets all positions.
            control(salesforce, "migrate")
            printed("does not know the position of /data/AccountChangeEvent")
            rows = status(lambda rows: rows["Account"]["repairs"] == 1 and phases(rows) == {"stream"})
            assert rows["Account"]["rows"] == 5 + 4
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "sandbox-secret" not in log
    listed = dimesh("--output", "json", "tail", "cdc.salesforce", "--all").lines
    changes = [event["payload"] for event in listed if "operation" in event["payload"]]
    (renamed,) = [
        c for c in changes if c["operation"] == "update" and c["changed_fields"] and c["after"]["Name"] == "d"
    ][:1]
    assert renamed["metadata"]["not_current"] == ["Score__c", "LastActivityDate"]
    assert [c["after"]["AccountId"] for c in changes if c["object"] == "Contact"][-1] == other
