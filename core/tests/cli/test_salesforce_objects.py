"""Salesforce's objects without change events through `dimesh run`: histories, shares, and links listed by their documents."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .processes import answers, eventually, free_port, running

SETTINGS = """
[bus]
driver = "sqlite"
[bus.options]
path = "mesh.db"
[cdc]
state = "cdc.db"
[[sources]]
name = "crm"
driver = "salesforce"
objects = ["AccountHistory", "AccountShare", "ContentDocumentLink"]
[sources.options]
client_id = "3MVG9sandbox"
client_secret = "sandbox-secret"
plaintext = true
ledger = ""
poll = 0.2
refresh = 0.5
read_lag = 0.1
rate = 200.0
"""


@pytest.mark.slow
def test_changes_that_salesforce_reports_by_no_event(dimesh: Run, tmp_path: Path) -> None:
    """Some of the changes happen while nothing runs; each of them is published once."""
    port, pubsub = free_port(), free_port()
    addresses = f"instance_url = 'http://127.0.0.1:{port}'\npubsub = '127.0.0.1:{pubsub}'\n"
    (tmp_path / "dimesh.toml").write_text(SETTINGS + addresses)

    def records(method: str, object: str, **body: Any) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/_sandbox/records",
            json.dumps({"object": object, **body}).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(json.loads(answer.read()).get("id"))

    def changes(count: int) -> list[dict[str, Any]] | None:
        found = dimesh("--output", "json", "tail", "cdc.salesforce", "--all", code=None)
        if found.code:  # there is no topic yet
            return None
        told = [event["payload"] for event in found.lines if "operation" in event["payload"]]
        return told if len(told) >= count else None

    ports = ("--port", str(port), "--grpc-port", str(pubsub), "--accounts", "0")
    with running(tmp_path, "sandbox", "salesforce", "--", *ports):
        eventually(lambda: answers(port))
        account = records("POST", "Account", fields={"Name": "Ada"})
        document = records("POST", "ContentDocument", fields={"Title": "Contract"})
        share = records("POST", "AccountShare", fields={"AccountId": account, "AccountAccessLevel": "Read"})
        with running(tmp_path, "run"):
            first = eventually(lambda: changes(3))
            assert {change["operation"] for change in first} == {"snapshot"}
            history = {"AccountId": account, "Field": "Name", "NewValue": "Ada Ltd"}
            records("POST", "AccountHistory", fields=history)
            eventually(lambda: changes(4))
        records("DELETE", "AccountShare", id=share)
        link = {"ContentDocumentId": document, "LinkedEntityId": account}
        records("POST", "ContentDocumentLink", fields=link)
        with running(tmp_path, "run"):
            found = eventually(lambda: changes(6), 2)[3:]
    assert [(change["object"], change["operation"]) for change in found[:1]] == [("AccountHistory", "insert")]
    assert found[0]["after"]["NewValue"] == "Ada Ltd"
    rest = {change["object"]: change for change in found[1:]}
    gone, new = rest["AccountShare"], rest["ContentDocumentLink"]
    assert (gone["operation"], gone["primary_key"]) == ("delete", {"Id": share, "AccountId": account})
    assert (new["operation"], new["after"]["LinkedEntityId"]) == ("insert", account)
    assert len(found) == 3
    assert "Traceback" not in (tmp_path / "log").read_text()
