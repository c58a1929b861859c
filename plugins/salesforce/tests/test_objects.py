"""Objects that need a way of their own: archived rows, objects that the Bulk API refuses, and objects that cannot be captured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_contracts.waiting import deadline
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.sandbox.kinds import FLAGS
from dimesh_salesforce.source import SalesforceSource

from .test_stream import Tape

NewSource = Callable[..., SalesforceSource]


@pytest.fixture
async def source(new_source: NewSource) -> AsyncIterator[SalesforceSource]:
    made = new_source(read_lag=0.0)
    await made.open()
    yield made
    await made.close()


async def read(source: SalesforceSource, object: str, resume: bytes | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with deadline():
        async for batch in source.snapshot(object, resume):
            found |= {c.primary_key["Id"]: c.after for c in batch.items if isinstance(c, Change)}
    return found


@pytest.mark.parametrize("bulk", [False, True], ids=["pages", "bulk"])
async def test_archived_rows_are_rows(sandbox: SalesforceSandbox, new_source: NewSource, bulk: bool) -> None:
    """A query leaves them out, queryAll has deleted ones too."""
    source = new_source(bulk_above=0 if bulk else 1_000, read_lag=0.0)
    await source.open()
    org = sandbox.org
    kept, archived, deleted = (
        org.create("Task", {"Subject": name}) for name in ("kept", "archived", "deleted")
    )
    tape = Tape(source, await source.position("Task"), "Task")
    org.archive(archived)
    org.delete("Task", deleted)
    assert (await read(source, "Task")).keys() == {kept, archived}
    gap = await tape.next()
    assert isinstance(gap, Gap)
    assert [(c.operation, c.after["IsArchived"]) for c in gap.repair] == [(Operation.UPDATE, True)]
    keys = [{"Id": archived}, {"Id": deleted}]
    assert [c and c.operation for c in await source.read_rows("Task", keys)] == [
        Operation.SNAPSHOT,
        Operation.DELETE,
    ]
    await tape.close()
    await source.close()


@pytest.mark.parametrize(
    "refusal",
    [
        "Entity 'Attachment' is not supported by the Bulk API.",
        "InvalidBatch : Cannot serialize value for 'X' in CSV format",
    ],
    ids=["refused", "failed"],
)
async def test_objects_that_the_bulk_api_refuses_are_read_in_pages(
    sandbox: SalesforceSandbox, new_source: NewSource, refusal: str
) -> None:
    source = new_source(bulk_above=0, page=10)
    await source.open()
    sandbox.org.kinds["Attachment"].bulk = refusal
    sandbox.org.seed("Attachment", 35)
    places = [batch.position async for batch in source.snapshot("Attachment", None)]
    jobs = sum("/jobs/" in path for _, path in sandbox.requests)
    assert jobs >= 1
    assert len(await read(source, "Attachment", places[1])) in (25, 35)  # from a page on, in pages
    assert sum("/jobs/" in path for _, path in sandbox.requests) <= jobs + 1
    assert len(await read(source, "Attachment")) == 35
    await source.close()


async def test_wide_objects_that_the_bulk_api_refuses_are_read_in_parts(
    sandbox: SalesforceSandbox, new_source: NewSource
) -> None:
    source = new_source(page=10)
    await source.open()
    for n in range(300):
        sandbox.org.add_field("Attachment", f"A_rather_long_name_of_a_custom_field_{n:03}__c")
    sandbox.org.seed("Attachment", 25)
    rows = await read(source, "Attachment")
    assert len(rows) == 25
    assert all(len(row) > 300 for row in rows.values())
    await source.close()


@pytest.mark.parametrize(
    ("object", "reason"),
    [
        ("Clicks__b", "big object"),
        ("Orders__x", "external object"),
        ("ActivityHistory", "capture Task and Event"),
        ("OpenActivity", "capture Task and Event"),
        ("ContentFolderItem", "by ParentContentFolderId only"),
        ("NewsFeed", "capture these, such as AccountFeed"),
    ],
)
async def test_objects_that_cannot_be_captured_say_why(
    source: SalesforceSource, object: str, reason: str
) -> None:
    with pytest.raises(SourceObjectError, match=reason):
        await source.position(object)
    with pytest.raises(SourceObjectError, match=reason):
        await read(source, object)


async def test_a_check_names_objects_that_cannot_be_captured(source: SalesforceSource) -> None:
    found = (await source.check()).objects
    assert (found["Account"], found["Task"]) == ("", "")
    assert "big object" in found["Clicks__b"]
    polled = ("AccountHistory", "AccountShare", "Invoice__Feed", "ContentDocumentLink")
    assert [found[name] for name in polled] == ["", "", "", ""]


async def test_an_object_that_turns_out_to_need_a_filter_says_so(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.org.kinds["Invoice__c"].filters = ("Id", "Name")
    with pytest.raises(
        SourceObjectError, match=r"Invoice__c cannot be read as a whole: .* requires a filter"
    ):
        await read(source, "Invoice__c")


async def test_the_preferences_of_a_user_are_read(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """An event lists the names of those that are on, for which a row has no field."""
    names = [f"UserPreferences{flag}" for flag in FLAGS]
    tape = Tape(source, await source.position("User"), "User")
    id = sandbox.org.create("User", {"LastName": "Ada", **dict.fromkeys(names, True)})
    sandbox.org.update("User", id, {names[0]: False})
    for wanted in (None, False):
        change = await tape.next()
        assert change.as_of is not None
        assert [change.after[name] for name in names[1:]] == [True, True]
        assert wanted is None or change.after[names[0]] is wanted
    await tape.close()


async def test_a_new_pricebook_entry_has_its_creator(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """The event of the insert lacks four fields that every row has."""
    tape = Tape(source, await source.position("PricebookEntry"), "PricebookEntry")
    sandbox.org.create("PricebookEntry", {"Name": "p", "UnitPrice": 2.0})
    change = await tape.next()
    assert change.operation is Operation.INSERT
    assert None not in [change.after[name] for name in ("CreatedById", "CreatedDate", "LastModifiedDate")]
    assert change.as_of is not None
    sandbox.org.lag = 3_600.0  # longer than the source waits: the insert comes without them, and says so
    sandbox.org.create("PricebookEntry", {"Name": "q", "UnitPrice": 3.0})
    change = await tape.next()
    assert (change.operation, change.after["Name"], change.as_of) == (Operation.INSERT, "q", None)
    assert {"CreatedById", "LastModifiedDate"} <= {*change.not_current}
    assert "CreatedById" not in change.after
    await tape.close()


async def test_a_row_that_leaves_nothing_behind(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    """A deleted CampaignMember is not in the recycle bin: the event tells of it, and the log of deletes."""
    tape = Tape(source, await source.position("CampaignMember"), "CampaignMember")
    id = sandbox.org.create("CampaignMember", {"Status": "sent"})
    sandbox.org.delete("CampaignMember", id)
    assert [(await tape.next()).operation for _ in range(2)] == [Operation.INSERT, Operation.DELETE]
    (found,) = await source.read_rows("CampaignMember", [{"Id": id}])
    assert found is not None
    assert found.operation is Operation.DELETE
    await tape.close()


async def test_parts_of_places(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    """A custom location has both parts in each event, an address the changed part only; neither undoes the other part."""
    org = sandbox.org
    id = org.create(
        "Account",
        {
            "Site__Latitude__s": 1.0,
            "Site__Longitude__s": 2.0,
            "BillingLatitude": 3.0,
            "BillingLongitude": 4.0,
        },
    )
    tape = Tape(source, await source.position("Account"))
    org.update("Account", id, {"Site__Latitude__s": 5.0})
    change = await tape.next()
    assert (change.after["Site__Latitude__s"], change.after["Site__Longitude__s"]) == (5.0, 2.0)
    org.update("Account", id, {"BillingLatitude": 6.0})
    change = await tape.next()
    assert change.after["BillingLatitude"] == 6.0
    assert "BillingLongitude" not in change.after
    org.update("Account", id, {"Site__Latitude__s": None, "Site__Longitude__s": None})
    change = await tape.next()
    assert (change.after["Site__Latitude__s"], change.after["Site__Longitude__s"]) == (None, None)
    await tape.close()
