"""What was published of an org is what the org has, and a verification says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dimesh import EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh_contracts.waiting import until
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource


async def test_rows_of_snapshots_and_of_events_are_those_that_are_read(
    sandbox: SalesforceSandbox, new_source: Callable[..., SalesforceSource], tmp_path: Path
) -> None:
    """Usually wrong: fields without a value, which events leave out; times and numbers in another form; formulas."""
    org = sandbox.org
    ids = [
        org.create("Account", {"Name": f"account {n}", "BillingCity": "Bonn" if n % 2 else None})
        for n in range(30)
    ]
    store = SqliteCDCStore(tmp_path / "cdc.db")
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", new_source(), bus, store=store)
        await connector.start(["Account"])
        await until(lambda: connector.get_status()["objects"]["Account"]["phase"] == "stream")
        for n in range(0, 30, 3):
            org.update("Account", ids[n], {"Name": f"changed {n}", "BillingCity": None})
        for n in range(5):
            org.create("Account", {"Name": f"late {n}", "Website": "example.com"})
        org.delete("Account", ids[1])
        await until(lambda: connector.get_status()["objects"]["Account"]["changes"] >= 16)
        verifier = connector.verifier("Account")
        async for _ in verifier.check_all():
            pass
        assert (verifier.pending, verifier.tally.rows) == (0, 34)
        assert set(verifier.tally.skipped) == {"LastActivityDate", "Score__c"}  # no event has them
        anchor = (await store.keys(verifier.key, "", 1))[0]
        await verifier.check_listed(anchor, 10)
        assert (verifier.pending, verifier.tally.rows) == (0, 44)
        # A change that is on its way is a suspicion, and no error.
        org.update("Account", ids[2], {"Name": "on its way"})
        await verifier.check_published([f'{{"Id": "{ids[2]}"}}'])
        assert verifier.tally.differing == 0
        await connector.disconnect()
    await store.close()
