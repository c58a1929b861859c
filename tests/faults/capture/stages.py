"""The systems whose changes are captured while the capturing process dies again and again."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Protocol, Self

from dimesh.backends.cdc.outbox import watch
from dimesh_netsuite.sandbox import NetSuiteSandbox
from dimesh_salesforce.sandbox import CLIENT_ID, CLIENT_SECRET, SalesforceSandbox
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_zendesk.sandbox import CLIENT_ID as ZENDESK_ID
from dimesh_zendesk.sandbox import CLIENT_SECRET as ZENDESK_SECRET
from dimesh_zendesk.sandbox import ZendeskSandbox


class Stage(Protocol):
    """A system; each of its rows has a name."""

    driver: str
    object: str
    options: dict[str, Any]

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def put(self, key: str | None, name: str) -> str:
        """Change a row or, without a key, create one; return its key."""
        ...

    def delete(self, key: str) -> None: ...
    def rows(self) -> dict[str, str]:
        """Return the names of all rows, by key."""
        ...

    def forget(self) -> None:
        """Make the system drop every earlier change and position."""
        ...

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        """Return the key and the name of a change; the name of a delete is None."""
        ...


class OutboxStage:
    driver = "outbox"
    object = "things"

    def __init__(self, folder: Path) -> None:
        self.options: dict[str, Any] = {"path": str(folder / "app.db"), "poll": 0.01}

    async def __aenter__(self) -> Self:
        self._file = sqlite3.connect(self.options["path"], isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=OFF")
        self._file.execute("CREATE TABLE things (key INTEGER PRIMARY KEY, name TEXT)")
        watch(self._file, "things")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()

    def put(self, key: str | None, name: str) -> str:
        if key is None:
            return str(self._file.execute("INSERT INTO things (name) VALUES (?)", (name,)).lastrowid)
        self._file.execute("UPDATE things SET name = ? WHERE key = ?", (name, int(key)))
        return key

    def delete(self, key: str) -> None:
        self._file.execute("DELETE FROM things WHERE key = ?", (int(key),))

    def rows(self) -> dict[str, str]:
        return {str(key): name for key, name in self._file.execute("SELECT key, name FROM things")}

    def forget(self) -> None:
        self._file.execute(
            "INSERT INTO dimesh_outbox (object, operation, primary_key) VALUES ('x', 'insert', '{}')"
        )
        (last,) = self._file.execute("SELECT max(id) FROM dimesh_outbox").fetchone()
        self._file.execute("DELETE FROM dimesh_outbox")
        self._file.execute(
            "INSERT OR REPLACE INTO dimesh_outbox_meta VALUES ('trimmed:things', ?)", (str(last),)
        )

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        return str(payload["primary_key"]["key"]), payload["after"] and payload["after"]["name"]


class StripeStage:
    driver = "stripe"
    object = "customer"

    def __init__(self, folder: Path) -> None:
        self.sandbox = StripeSandbox()
        self._ledger = str(folder / "budgets.db")

    async def __aenter__(self) -> Self:
        await self.sandbox.start()
        self.options: dict[str, Any] = {
            "api_key": KEY, "url": self.sandbox.url, "poll": 0.02, "reread": 0.2, "rate": 1_000, "page": 20,
            "ledger": self._ledger,
        }  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.stop()

    def put(self, key: str | None, name: str) -> str:
        if key is None:
            return str(self.sandbox.account.create("customer", {"name": name})["id"])
        self.sandbox.account.update("customer", key, {"name": name})
        return key

    def delete(self, key: str) -> None:
        self.sandbox.account.delete("customer", key)

    def rows(self) -> dict[str, str]:
        return {row["id"]: row["name"] for row in self.sandbox.account.rows("customer")}

    def forget(self) -> None:
        self.sandbox.account.age(31 * 86_400)

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        name = None if payload["operation"] == "delete" else payload["after"]["name"]
        return payload["primary_key"]["id"], name


class NetSuiteStage:
    driver = "netsuite"
    object = "customer"
    only_rows = True

    def __init__(self, folder: Path) -> None:
        self.sandbox = NetSuiteSandbox()
        self._ledger = str(folder / "budgets.db")

    async def __aenter__(self) -> Self:
        await self.sandbox.start()
        self.options: dict[str, Any] = {
            **self.sandbox.options(legacy=True), "poll": 0.02, "reread": 0.2, "refresh": 0.0, "rate": 1_000, "page": 20,
            "ledger": self._ledger, "read_lag": 0.1, "notes": False,
        }  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.stop()

    def put(self, key: str | None, name: str) -> str:
        if key is None:
            return str(self.sandbox.account.create("customer", {"companyname": name}))
        self.sandbox.account.update("customer", int(key), {"companyname": name})
        return key

    def delete(self, key: str) -> None:
        self.sandbox.account.delete("customer", int(key))

    def rows(self) -> dict[str, str]:
        return {str(row["id"]): row["companyname"] for row in self.sandbox.account.rows("customer")}

    def forget(self) -> None:
        self.sandbox.account.skew += 31 * 86_400

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        name = None if payload["operation"] == "delete" else payload["after"]["companyname"]
        return payload["primary_key"]["id"], name


class SalesforceStage:
    driver = "salesforce"
    object = "Account"

    def __init__(self, folder: Path) -> None:
        self.sandbox = SalesforceSandbox(keep_alive=0.05)
        self._ledger = str(folder / "budgets.db")

    async def __aenter__(self) -> Self:
        await self.sandbox.start()
        self.options: dict[str, Any] = {
            "instance_url": self.sandbox.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "pubsub": self.sandbox.grpc_target, "plaintext": True, "rate": 10_000, "page": 20, "ledger": self._ledger,
            "read_lag": 0.2,  # this sandbox does not lag
        }  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.stop()

    def put(self, key: str | None, name: str) -> str:
        if key is None:
            return self.sandbox.org.create("Account", {"Name": name})
        self.sandbox.org.update("Account", key, {"Name": name})
        return key

    def delete(self, key: str) -> None:
        self.sandbox.org.delete("Account", key)

    def rows(self) -> dict[str, str]:
        return {row["Id"]: row["Name"] for row in self.sandbox.org.rows("Account")}

    def forget(self) -> None:
        self.sandbox.org.migrate()

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        name = None if payload["operation"] == "delete" else payload["after"].get("Name")
        return payload["primary_key"]["Id"], name


class ZendeskStage:
    driver = "zendesk"
    object = "tickets"

    def __init__(self, folder: Path) -> None:
        # Within a second, the order of an export is that of ids: a shorter time would show a second that is not over.
        self.sandbox = ZendeskSandbox(hold_back=1.0, exports_a_minute=1_000_000)
        self._folder = folder

    async def __aenter__(self) -> Self:
        await self.sandbox.start()
        self.options: dict[str, Any] = {
            "client_id": ZENDESK_ID, "client_secret": ZENDESK_SECRET, "token_file": str(self._folder / "tokens.json"),
            "url": self.sandbox.url, "hold_back": 1.0, "poll": 0.02, "rate": 10_000, "exports": 1_000_000, "page": 20,
            "ledger": str(self._folder / "budgets.db"), "read_lag": 0.2,
        }  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.stop()

    def put(self, key: str | None, name: str) -> str:
        if key is None:
            return str(self.sandbox.account.create("tickets", {"subject": name})["id"])
        self.sandbox.account.update("tickets", int(key), {"subject": name})
        return key

    def delete(self, key: str) -> None:
        self.sandbox.account.delete("tickets", int(key))

    def rows(self) -> dict[str, str]:
        return {str(row["id"]): row["subject"] for row in self.sandbox.account.rows("tickets")}

    def forget(self) -> None:
        self.sandbox.exports.epoch += 1  # no cursor of earlier is accepted

    def key_and_name(self, payload: dict[str, Any]) -> tuple[str, str | None]:
        name = None if payload["operation"] == "delete" else payload["after"]["subject"]
        return str(payload["primary_key"]["id"]), name


STAGES: dict[
    str,
    type[OutboxStage] | type[StripeStage] | type[SalesforceStage] | type[NetSuiteStage] | type[ZendeskStage],
] = {
    "outbox": OutboxStage, "stripe": StripeStage, "salesforce": SalesforceStage, "netsuite": NetSuiteStage,
    "zendesk": ZendeskStage,
}  # fmt: skip
