"""Users, organizations, events, late lists, listed objects, and rows below tickets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_contracts.waiting import deadline, until
from dimesh_zendesk.catalogue import RESOURCES, Way
from dimesh_zendesk.sandbox import ZendeskSandbox
from dimesh_zendesk.source import ZendeskSource

New = Callable[..., ZendeskSource]
MINUTE = 61.0


def ends(id: int) -> Callable[[Any], bool]:
    return lambda item: isinstance(item, Change) and item.primary_key.get("id") == id


class Captured:
    """A connector with a store, and what it publishes."""

    def __init__(self, source: ZendeskSource, folder: Path) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self._source = source
        self._folder = folder

    async def __aenter__(self) -> Captured:
        self._store = SqliteCDCStore(self._folder / "captured.db", last_state=True)
        self._bus = EventBusFactory.create("memory")
        await self._bus.subscribe("cdc.zendesk", self._note, "noted", start=StartAt.EARLIEST)
        self.connector = SourceConnector("captured", self._source, self._bus, store=self._store)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connector.disconnect()
        await self._bus.close()
        await self._store.close()

    async def _note(self, event: Event) -> None:
        self.kinds.append(event.event_type.value)
        if "operation" in event.payload:
            self.payloads.append(event.payload)

    def status(self, object: str) -> dict[str, Any]:
        found: dict[str, Any] = self.connector.get_status()["objects"][object]
        return found

    def told(self) -> list[tuple[str, Any]]:
        return [(p["operation"], next(iter(p["primary_key"].values()))) for p in self.payloads]


@pytest.fixture
async def captured(new_source: New, tmp_path: Path) -> Any:
    async with Captured(new_source(poll=0.02), tmp_path) as made:
        yield made


# -- users ---------------------------------------------------------------------------------------


async def test_a_user_that_is_deleted_for_good_gives_one_delete(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    account = sandbox.account
    id = account.create("users", {"name": "Ada", "email": "ada@example.com"})["id"]
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("users")
    account.delete("users", id)
    account.advance(MINUTE)
    found, position = await read(source, "users", position, ends(id))
    assert [change.operation for change in found] == [Operation.DELETE]
    account.delete_for_good(id)
    account.advance(1)
    last = account.create("users", {"name": "end"})["id"]
    account.advance(MINUTE)
    found, _ = await read(source, "users", position, ends(last))
    assert [change.primary_key["id"] for change in found] == [last]


async def test_a_user_that_is_deleted_for_good_between_two_polls_is_a_delete(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    account = sandbox.account
    id = account.create("users", {"name": "Ada"})["id"]
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("users")
    account.delete("users", id)
    account.delete_for_good(id)
    account.advance(MINUTE)
    ((change), _) = await read(source, "users", position, ends(id))
    assert (change[0].operation, change[0].metadata) == (Operation.DELETE, {"permanently_deleted": True})


async def test_a_user_that_changes_again_while_it_is_held_back_is_an_insert(
    sandbox: ZendeskSandbox, captured: Captured
) -> None:
    account = sandbox.account
    account.advance(MINUTE)
    await captured.connector.start(["users"])
    await until(lambda: captured.status("users")["phase"] == "stream")
    id = account.create("users", {"name": "a"})["id"]
    account.advance(1)
    other = account.create("users", {"name": "other"})["id"]
    account.advance(30)
    account.update("users", id, {"name": "b"})
    account.advance(31)
    await until(lambda: ("insert", other) in captured.told())
    account.advance(MINUTE)
    await until(lambda: ("insert", id) in captured.told())
    account.update("users", id, {"name": "c"})
    account.advance(MINUTE)
    await until(lambda: ("update", id) in captured.told())
    assert captured.payloads[-1]["before"]["name"] == "b"


# -- organizations and events ---------------------------------------------------------------------


async def test_organizations_repeat_no_row_of_a_second(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """A page ends within a full second, and a poll gives the last second again: each row is published once."""
    account = sandbox.account
    source = new_source(page=3)
    await source.open()
    account.advance(MINUTE)
    position = await source.position("organizations")
    ids: list[int] = []
    found: list[Any] = []
    for _ in range(4):
        now = account.now()
        ids += [account.create("organizations", {"name": f"o{n}"}, at=now)["id"] for n in range(7)]
        account.advance(MINUTE)
        items, position = await read(source, "organizations", position, ends(ids[-1]))
        found += items
    assert [c.primary_key["id"] for c in found] == ids
    assert {c.operation for c in found} == {Operation.INSERT}
    account.update("organizations", ids[0], {"name": "new"})
    account.delete("organizations", ids[1])
    account.advance(MINUTE)
    found, _ = await read(source, "organizations", position, ends(ids[1]))
    assert [(c.operation, c.primary_key["id"]) for c in found] == [
        (Operation.SNAPSHOT, ids[0]),  # it is minutes old: the engine knows whether it is new
        (Operation.DELETE, ids[1]),
    ]


async def test_more_organizations_in_a_second_than_a_page_are_a_gap_that_is_repaired(
    sandbox: ZendeskSandbox, captured: Captured
) -> None:
    account = sandbox.account
    await captured.connector.start(["organizations"])
    await until(lambda: captured.status("organizations")["phase"] == "stream")
    account.advance(MINUTE)
    now = account.now()
    ids = [account.create("organizations", {"name": f"o{n}"}, at=now)["id"] for n in range(1_700)]
    account.advance(MINUTE)
    await until(lambda: "cdc.repaired" in captured.kinds)
    assert "cdc.gap" in captured.kinds
    await until(lambda: {id for _, id in captured.told()} == set(ids))
    last = account.create("organizations", {"name": "and on"})["id"]
    account.advance(MINUTE)
    await until(lambda: ("insert", last) in captured.told())


async def test_a_merged_organization_is_deleted_and_its_tickets_follow_later(
    sandbox: ZendeskSandbox, captured: Captured
) -> None:
    account = sandbox.account
    loser, winner = (account.create("organizations", {"name": name})["id"] for name in "ab")
    ticket = account.create("tickets", {"organization_id": loser})["id"]
    account.advance(MINUTE)
    await captured.connector.start(["organizations", "tickets"])
    await until(lambda: len(captured.payloads) == 3)
    await until(
        lambda: captured.status("tickets")["phase"] == captured.status("organizations")["phase"] == "stream"
    )
    account.merge_organizations(loser, winner)
    account.advance(MINUTE)
    await until(lambda: ("delete", loser) in captured.told())
    assert ("update", ticket) not in captured.told()
    account.advance(120)
    account.work()
    account.advance(MINUTE)
    await until(lambda: ("update", ticket) in captured.told())


async def test_a_refusal_is_never_an_empty_list(sandbox: ZendeskSandbox, captured: Captured) -> None:
    """An agent may not export, and a list that is refused deletes nothing."""
    ids = [sandbox.account.create("macros", {"title": f"m{n}"})["id"] for n in range(3)]
    await captured.connector.start(["macros"])
    await until(lambda: len(captured.payloads) == 3)
    sandbox.faults.plan("forbidden", path="/api/v2/macros", times=-1)
    await until(lambda: captured.status("macros")["phase"] == "failed")
    assert "do not have access" in captured.status("macros")["last_error"]
    assert captured.told() == [("snapshot", id) for id in ids]


async def test_ticket_events_are_rows_that_never_change(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], snapshot: Callable[..., Any]
) -> None:
    account = sandbox.account
    ticket = account.create("tickets", {"subject": "a"})["id"]
    account.advance(MINUTE)
    source = new_source()
    await source.open()
    position = await source.position("ticket_events")
    assert [row["ticket_id"] for row in await snapshot(source, "ticket_events")] == [ticket]
    account.comment(ticket, "hello")
    account.update("tickets", ticket, {"subject": "b"})
    account.advance(MINUTE)
    last = account.events[-1]["id"]
    found, _ = await read(source, "ticket_events", position, ends(last))
    assert [c.operation for c in found] == [Operation.INSERT, Operation.INSERT]
    assert found[0].after["child_events"][0]["body"] == "hello"


async def test_more_events_in_a_second_than_a_page_are_reported(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    account = sandbox.account
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("ticket_events")
    now = account.now()
    for _ in range(1_300):
        account.create("tickets", {"subject": "x"}, at=now)
    account.advance(MINUTE)
    account.create("tickets", {"subject": "x"})
    last = account.events[-1]["id"]
    account.advance(MINUTE)
    found, _ = await read(source, "ticket_events", position, ends(last))
    gaps = [item for item in found if isinstance(item, Gap)]
    assert len(gaps) == 1
    assert "than a page" in gaps[0].cause
    assert not gaps[0].resnapshot
    assert len(found) == 1_002


# -- late lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "object", ["ticket_metric_events", "satisfaction_ratings", "ticket_skips", "audit_logs"]
)
async def test_rows_that_appear_late_and_behind_others_are_found_once(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], object: str
) -> None:
    account = sandbox.account
    source = new_source()
    await source.open()
    old = account.append(object, {})["id"]
    account.advance(MINUTE)
    position = await source.position(object)
    late = account.append(object, {}, appears=200.0)["id"]
    account.advance(5)
    early = account.append(object, {})["id"]
    account.advance(MINUTE)
    found, position = await read(source, object, position, ends(early))
    assert [c.primary_key["id"] for c in found] == [early]
    account.advance(140)
    found, position = await read(source, object, position, ends(late))
    assert [c.primary_key["id"] for c in found] == [late]
    last = account.append(object, {})["id"]
    account.advance(MINUTE)
    found, _ = await read(source, object, position, ends(last))
    assert [(c.primary_key["id"], c.operation) for c in found] == [(last, Operation.INSERT)]
    assert old not in {late, early, last}


async def test_activities_are_those_of_the_caller(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    mine, theirs = (sandbox.account.append("ticket_activities", {})["id"] for _ in range(2))
    sandbox.account.owners["ticket_activities", theirs] = 99
    source = new_source()
    await source.open()
    assert [row["id"] for row in await snapshot(source, "ticket_activities")] == [mine]


# -- listed objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "object",
    ["groups", "organization_memberships", "ticket_forms", "sla_policies", "custom_roles", "ticket_fields"],
)
async def test_listed_objects_are_compared(sandbox: ZendeskSandbox, captured: Captured, object: str) -> None:
    """Silent deletes, null updated_at, deleted groups that stay in the list."""
    account = sandbox.account
    ids = [account.create(object, {"name": f"n{n}"})["id"] for n in range(130)]
    await captured.connector.start([object])
    await until(lambda: len(captured.payloads) == 130)
    account.change_silently(object, ids[3], {"name": "new"})
    account.delete(object, ids[4])
    new = account.create(object, {"name": "later"})["id"]
    await until(lambda: len(captured.payloads) == 133)
    assert sorted(captured.told()[130:]) == sorted([("update", ids[3]), ("delete", ids[4]), ("insert", new)])


@pytest.mark.parametrize(("caller", "told"), [(1, True), (2, False)], ids=["same-user", "another-user"])
async def test_a_view_is_deleted_only_for_the_user_that_saw_it(
    sandbox: ZendeskSandbox, captured: Captured, caller: int, told: bool
) -> None:
    account = sandbox.account
    mine, all_of_us = (account.create("views", {"title": title})["id"] for title in ("mine", "ours"))
    account.owners["views", mine] = 1
    sandbox.roles[2] = "admin"
    await captured.connector.start(["views"])
    await until(lambda: len(captured.payloads) == 2)
    sandbox.caller = caller
    if told:
        account.delete("views", mine)
    account.change_silently("views", all_of_us, {"title": "new"})
    await until(lambda: ("update", all_of_us) in captured.told())
    await until(lambda: ("delete", mine) in captured.told() if told else "cdc.missing" in captured.kinds)
    assert (("delete", mine) in captured.told()) is told


async def test_an_agent_sees_less_and_deletes_nothing(sandbox: ZendeskSandbox, captured: Captured) -> None:
    ids = [sandbox.account.create("macros", {"title": f"m{n}"})["id"] for n in range(2)]
    await captured.connector.start(["macros"])
    await until(lambda: len(captured.payloads) == 2)
    sandbox.roles[1] = "agent"
    sandbox.account.delete("macros", ids[0])  # for an agent, it might be out of reach as well
    await until(lambda: "cdc.missing" in captured.kinds)
    assert ("delete", ids[0]) not in captured.told()


async def test_tags_that_leave_the_list_are_not_deleted(sandbox: ZendeskSandbox, captured: Captured) -> None:
    ids = {name: sandbox.account.create("tags", {"name": name})["id"] for name in ("common", "rare")}
    await captured.connector.start(["tags"])
    await until(lambda: len(captured.payloads) == 2)
    sandbox.account.delete("tags", ids["rare"])
    await until(lambda: "cdc.missing" in captured.kinds)
    assert not any(operation == "delete" for operation, _ in captured.told())


async def test_a_list_that_the_plan_lacks_fails_alone(sandbox: ZendeskSandbox, new_source: New) -> None:
    sandbox.absent.add("slas/policies")
    source = new_source()
    await source.open()
    with pytest.raises(SourceObjectError, match="doesn't exist"):
        await anext(source.snapshot("sla_policies", None))


# -- below tickets -------------------------------------------------------------------------------------


async def test_all_comments_of_a_ticket_are_read_again_when_it_changes(
    sandbox: ZendeskSandbox, captured: Captured
) -> None:
    """A comment of an archived ticket is redacted: the one that changed is published."""
    account = sandbox.account
    ticket = account.create("tickets", {"description": "0"})["id"]
    comments = [account.comment(ticket, f"c{n}")["id"] for n in range(120)]
    account.archive(ticket)
    account.advance(MINUTE)
    await captured.connector.start(["ticket_comments"])
    await until(lambda: len(captured.payloads) == 121)
    await until(lambda: captured.status("ticket_comments")["phase"] == "stream")
    account.redact(ticket, comments[7])
    account.advance(MINUTE)
    await until(lambda: len(captured.payloads) == 122)
    change = captured.payloads[-1]
    assert (change["operation"], change["primary_key"], change["changed_fields"]) == (
        "update",
        {"id": comments[7]},
        ["body", "html_body", "plain_body"],
    )
    assert change["before"]["body"] == "c7"
    assert change["after"]["ticket_id"] == ticket


async def test_a_ticket_deleted_meanwhile_has_no_comments(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    account = sandbox.account
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("ticket_comments")
    first, second = (account.create("tickets", {"description": f"d{n}"})["id"] for n in range(2))
    account.advance(MINUTE)
    account.delete("tickets", first)  # the export does not show that yet
    account.tables["tickets"].stamps[first] = account.tables["tickets"].stamps[second]
    wanted = account.comments[second][0]["id"]
    found, _ = await read(source, "ticket_comments", position, ends(wanted))
    assert [c.primary_key["id"] for c in found] == [wanted]


async def test_side_conversations_that_are_refused_for_one_ticket_stop_nothing(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """The refusal is a 403 with the type of a page and no body."""
    account = sandbox.account
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("side_conversations")
    first, second = (account.create("tickets", {})["id"] for _ in range(2))
    for ticket in (first, second):
        account.side_conversations[ticket] = [{"id": ticket * 2, "subject": "s", "created_at": None}]
    sandbox.faults.plan("empty_forbidden", path=f"/api/v2/tickets/{first}/side", times=-1)
    account.advance(MINUTE)
    found, _ = await read(source, "side_conversations", position, ends(second * 2))
    assert [c.primary_key["id"] for c in found] == [second * 2]


async def test_metrics_come_with_the_export(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """Deleted tickets have null in place of their metrics."""
    account = sandbox.account
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("ticket_metrics")
    gone, there = (account.create("tickets", {})["id"] for _ in range(2))
    account.delete("tickets", gone)
    account.advance(MINUTE)
    before = len(sandbox.requests)
    found, _ = await read(source, "ticket_metrics", position, ends(there * 10))
    assert [c.primary_key["id"] for c in found] == [there * 10]
    assert not any("/tickets/" in path and "incremental" not in path for _, path in sandbox.requests[before:])


async def test_audits_of_an_archived_ticket_do_not_page(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    account = sandbox.account
    ticket = account.create("tickets", {})["id"]
    for n in range(130):
        account.update("tickets", ticket, {"subject": f"s{n}"})
    account.archive(ticket)
    account.advance(MINUTE)
    source = new_source()
    await source.open()
    assert len(await snapshot(source, "ticket_audits")) == 131


@pytest.mark.parametrize(
    "object", ["tickets", "users", "organizations", "ticket_events", "groups", "satisfaction_ratings"]
)
async def test_an_empty_account(
    sandbox: ZendeskSandbox,
    new_source: New,
    snapshot: Callable[..., Any],
    read: Callable[..., Any],
    object: str,
) -> None:
    """The cursor of an export that never had a row is null."""
    source = new_source()
    await source.open()
    position = await source.position(object)
    assert await snapshot(source, object) == []
    if object in ("tickets", "users", "organizations"):
        sandbox.account.advance(MINUTE)
        id = sandbox.account.create(object, {})["id"]
        sandbox.account.advance(MINUTE)
        async with deadline():
            found, _ = await read(source, object, position, ends(id))
        assert [c.operation for c in found] == [Operation.INSERT]


async def test_identities_follow_their_user(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], snapshot: Callable[..., Any]
) -> None:
    account = sandbox.account
    user = account.create("users", {"name": "a"})["id"]
    account.identities[user] = [
        {"id": 5, "type": "email", "value": "a@example.com", "created_at": "2020-01-01T00:00:00Z"}
    ]
    source = new_source()
    await source.open()
    account.advance(MINUTE)
    position = await source.position("user_identities")
    assert [row["user_id"] for row in await snapshot(source, "user_identities")] == [user]
    account.identities[user].append({"id": 6, "type": "phone_number", "value": "1", "created_at": None})
    account.update("users", user, {"phone": "1"})
    account.advance(MINUTE)
    found, _ = await read(source, "user_identities", position, ends(6))
    assert [c.primary_key["id"] for c in found] == [5, 6]


async def test_suspended_tickets_expire(sandbox: ZendeskSandbox, captured: Captured) -> None:
    """They have ids of their own, and are deleted unreviewed after 14 days."""
    id = sandbox.account.create("suspended_tickets", {"subject": "spam"})["id"]
    await captured.connector.start(["suspended_tickets"])
    await until(lambda: captured.told() == [("snapshot", id)])
    sandbox.account.delete("suspended_tickets", id)
    await until(lambda: captured.told() == [("snapshot", id), ("delete", id)])


async def test_each_object_of_the_catalogue_has_a_position_and_a_snapshot(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    source = new_source()
    await source.open()
    for name in RESOURCES:
        assert await source.position(name)
        assert await snapshot(source, name) == []
        interval = source.relist_interval(name)
        assert (interval is not None) is (RESOURCES[name].way is Way.LISTED)
