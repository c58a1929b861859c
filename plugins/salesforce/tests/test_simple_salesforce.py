"""The common client of Salesforce's REST API works against the sandbox: proof that the sandbox behaves as the real API does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import trustme
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import (
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceResourceNotFound,
)

from dimesh_salesforce.sandbox import ACCESS_TOKEN, CLIENT_ID, CLIENT_SECRET, SalesforceSandbox


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[SalesforceSandbox, requests.Session]]:
    """Serve the sandbox with TLS, since the client uses nothing else."""
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    file = str(tmp_path / "server.pem")
    async with SalesforceSandbox(certificate=(file, file)) as sandbox:
        with requests.Session() as session:
            session.verify = str(tmp_path / "ca.pem")
            session.trust_env = False
            yield sandbox, session


def work(sandbox: SalesforceSandbox, session: requests.Session) -> None:
    client = Salesforce(session_id=ACCESS_TOKEN, instance_url=sandbox.url, version="66.0", session=session)
    ids = [client.Account.create({"Name": f"a{n}", "AnnualRevenue": n})["id"] for n in range(25)]
    assert client.Account.update(ids[3], {"Name": "changed"}) == 204
    assert client.Account.delete(ids[4]) == 204
    assert client.Account.get(ids[3])["Name"] == "changed"
    with pytest.raises(SalesforceResourceNotFound):
        client.Account.get(ids[4])
    with pytest.raises(SalesforceMalformedRequest) as refused:
        client.query("SELECT Nobody FROM Account")
    assert refused.value.content[0]["errorCode"] == "INVALID_FIELD"

    sandbox.rest.page = 10
    page = client.query("SELECT Id, Name FROM Account ORDER BY Id")
    assert (len(page["records"]), page["done"], page["totalSize"]) == (10, False, 24)
    assert page["records"][0]["attributes"]["type"] == "Account"
    rows = client.query_all("SELECT Id, Name FROM Account")["records"]
    assert [row["Id"] for row in rows] == [id for id in ids if id != ids[4]]
    assert [
        r["Name"] for r in client.query_all_iter("SELECT Name FROM Account WHERE AnnualRevenue >= 20")
    ] == [f"a{n}" for n in range(20, 25)]
    gone = client.query_all("SELECT Id FROM Account WHERE IsDeleted = true", include_deleted=True)["records"]
    assert [row["Id"] for row in gone] == [ids[4]]
    now = datetime.now(UTC)
    window = (now - timedelta(minutes=5), now + timedelta(minutes=5))
    assert [r["id"] for r in client.Account.deleted(*window)["deletedRecords"]] == [ids[4]]
    assert len(client.Account.updated(*window)["ids"]) == 24

    described = client.Account.describe()
    assert {f["name"]: f["type"] for f in described["fields"]}["AnnualRevenue"] == "currency"
    assert "Account" in {entry["name"] for entry in client.describe()["sobjects"]}
    assert client.api_usage["api-usage"].used == sandbox.used
    files = list(client.bulk2.Account.query("SELECT Id, Name FROM Account", wait=1))
    assert sum(len(file.splitlines()) - 1 for file in files) == 24
    sandbox.tokens.expire()
    with pytest.raises(SalesforceExpiredSession):
        client.Account.get(ids[3])


@pytest.mark.slow
async def test_its_usual_work(tls: tuple[SalesforceSandbox, requests.Session]) -> None:
    await asyncio.to_thread(work, *tls)
    told = [entry.object for entry in tls[0].org.events]
    assert told == ["Account"] * 27  # subscribers receive the changes


async def test_a_token_by_hand(tls: tuple[SalesforceSandbox, requests.Session]) -> None:
    sandbox, session = tls

    def login() -> str:
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = session.post(f"{sandbox.url}/services/oauth2/token", data=form).json()["access_token"]
        client = Salesforce(session_id=token, instance_url=sandbox.url, version="66.0", session=session)
        return str(client.Lead.create({"LastName": "Ada"})["id"])

    assert (await asyncio.to_thread(login)).startswith("00Q")
