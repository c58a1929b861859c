"""Stripe's objects through `dimesh run`: changes without events, rows listed by parent, deletes that only a listing shows."""

from __future__ import annotations

import json
import urllib.parse
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
name = "billing"
driver = "stripe"
objects = ["payment_intent", "radar.value_list", "customer_balance_transaction"]
"""


def command(port: int, name: str, method: str = "POST", **body: Any) -> dict[str, Any]:
    """Give the sandbox a command, and return its answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_sandbox/{name}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.loads(answer.read()))


def captured(dimesh: Run, count: int) -> list[dict[str, Any]] | None:
    """Return the changes on the topic; None if there are fewer."""
    found = dimesh("--output", "json", "tail", "cdc.stripe", "--all", code=None)
    if found.code:  # there is no topic yet
        return None
    changes = [event["payload"] for event in found.lines if "operation" in event["payload"]]
    return changes if len(changes) >= count else None


@pytest.mark.slow
def test_changes_that_stripe_reports_by_no_event(dimesh: Run, tmp_path: Path) -> None:
    port = free_port()
    options = (
        f"url = 'http://127.0.0.1:{port}', ledger = '', poll = 0.2, reread = 0.5, refresh = 0.5, rate = 200.0"
    )
    (tmp_path / "dimesh.toml").write_text(
        f"{SETTINGS}options = {{ api_key = 'sk_test_sandbox', {options} }}\n"
    )

    def records(method: str, object: str, **body: Any) -> str:
        return str(command(port, "records", method, object=object, **body).get("id"))

    def changes(count: int) -> list[tuple[str, str, Any, Any]] | None:
        found = captured(dimesh, count)
        return found and [(p["object"], p["operation"], p.get("before"), p.get("after")) for p in found]

    with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "0"):
        eventually(lambda: answers(port))
        intent = records("POST", "payment_intent", fields={"status": "processing", "amount": 1})
        listed = records("POST", "radar.value_list", fields={"name": "blocked"})
        customer = records("POST", "customer")
        records("POST", "customer_balance_transaction", fields={"customer": customer, "amount": -5})
        with running(tmp_path, "run"):
            first = eventually(lambda: changes(3))
            assert {operation for _, operation, _, _ in first} == {"snapshot"}
            records("PATCH", "payment_intent", id=intent, fields={"metadata": {"order": "7"}})
            records("DELETE", "radar.value_list", id=listed)
            records("POST", "customer_balance_transaction", fields={"customer": customer, "amount": 9})
            found = {change[0]: change[1:] for change in eventually(lambda: changes(6), 2)[3:]}
    operation, before, after = found["payment_intent"]
    assert (operation, before["metadata"], after["metadata"]) == ("update", {}, {"order": "7"})
    operation, before, _ = found["radar.value_list"]
    assert (operation, before["name"]) == ("delete", "blocked")
    operation, _, after = found["customer_balance_transaction"]
    assert (operation, after["amount"]) == ("insert", 9)
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_connected_accounts_in_one_source(dimesh: Run, tmp_path: Path) -> None:
    """Both accounts have a coupon of the same id."""
    port = free_port()
    options = f"url = 'http://127.0.0.1:{port}', ledger = '', poll = 0.2, accounts = ['acct_one', 'acct_two']"
    settings = SETTINGS.replace(
        '"payment_intent", "radar.value_list", "customer_balance_transaction"', '"coupon"'
    )
    (tmp_path / "dimesh.toml").write_text(
        f"{settings}options = {{ api_key = 'sk_test_sandbox', {options} }}\n"
    )

    def coupon(account: str, path: str, **fields: str) -> None:
        headers = {"authorization": "Bearer sk_test_sandbox", "stripe-account": account}
        data = urllib.parse.urlencode(fields).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/coupons{path}", data, headers)
        with urllib.request.urlopen(request, timeout=10):
            pass

    with running(tmp_path, "sandbox", "stripe", "--", "--port", str(port), "--customers", "0"):
        eventually(lambda: answers(port))
        for account in ("acct_one", "acct_two"):
            command(port, "accounts", id=account)
            coupon(account, "", id="SUMMER", name=account)
        with running(tmp_path, "run"):
            eventually(lambda: captured(dimesh, 2))
            coupon("acct_two", "/SUMMER", name="changed")
            *_, change = eventually(lambda: captured(dimesh, 3))
    assert (change["operation"], change["primary_key"]) == ("update", {"account": "acct_two", "id": "SUMMER"})
    assert (change["before"]["name"], change["after"]["name"]) == ("acct_two", "changed")
    assert "Traceback" not in (tmp_path / "log").read_text()
