"""Tickets: each change by itself, tombstones, and whatever the export hides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dimesh.errors import SourcePositionLostError, SourceUnavailableError
from dimesh.spi.cdc import Before, Change, Gap, Operation
from dimesh_contracts.waiting import deadline
from dimesh_zendesk.sandbox import ZendeskSandbox
from dimesh_zendesk.source import ZendeskSource

New = Callable[..., ZendeskSource]
MINUTE = 61.0
DAY = 86_400


class Story:
    """Makes changes, and reads what is published of them."""

    def __init__(self, sandbox: ZendeskSandbox, source: ZendeskSource, read: Callable[..., Any]) -> None:
        self.account = sandbox.account
        self.source = source
        self._read = read
        self._ends = 0

    async def begin(self, object: str = "tickets") -> None:
        self.object = object
        self.account.advance(1_000)  # rows that are older are not new
        await self.source.open()
        self.position = await self.source.position(object)

    async def told(self) -> list[Any]:
        """Return everything that was published since the last call: up to a row that is made for that."""
        self.account.advance(MINUTE)
        self._ends += 1
        name = {"tickets": "subject"}.get(self.object, "name")
        id = self.account.create(self.object, {name: f"end {self._ends}"})["id"]
        self.account.advance(MINUTE)
        found, self.position = await self._read(
            self.source,
            self.object,
            self.position,
            lambda item: isinstance(item, Change) and item.primary_key["id"] == id,
        )
        return found[:-1]


@pytest.fixture
async def story(sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]) -> Story:
    return Story(sandbox, new_source(), read)


@pytest.fixture
async def plain(sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]) -> Story:
    return Story(sandbox, new_source(history=False), read)


def summary(changes: list[Any]) -> list[tuple[str, Any]]:
    return [(change.operation.value, change.primary_key["id"]) for change in changes]


async def test_changes_between_two_polls_are_taken_apart(story: Story) -> None:
    account = story.account
    id = account.create(
        "tickets", {"subject": "a", "tags": ["x"], "custom_fields": [{"id": 7, "value": "old"}]}
    )["id"]
    await story.begin()
    account.update("tickets", id, {"status": "open", "tags": ["x", "y"]})
    account.advance(1)
    account.update("tickets", id, {"subject": "b", "custom_fields": [{"id": 7, "value": "new"}]})
    first, second = await story.told()
    assert (first.before["status"], first.after["status"], first.after["subject"]) == ("new", "open", "a")
    assert (first.before["tags"], first.after["tags"]) == (["x"], ["x", "y"])
    assert second.before["subject"] == "a"
    assert second.before["custom_fields"] == [{"id": 7, "value": "old"}]
    assert second.after["custom_fields"] == [{"id": 7, "value": "new"}]
    assert {first.before_from, second.before_from} == {Before.DERIVED}
    assert second.changed_fields == sorted(
        ["custom_fields", "fields", "generated_timestamp", "raw_subject", "subject", "updated_at"]
    )
    assert second.before["updated_at"] == first.after["updated_at"]
    assert first.actor == "1"


async def test_created_and_changed_between_two_polls_is_an_insert_first(story: Story) -> None:
    await story.begin()
    id = story.account.create("tickets", {"subject": "a"})["id"]
    story.account.update("tickets", id, {"subject": "b"})
    first, second = await story.told()
    assert (first.operation, first.before, first.after["subject"]) == (Operation.INSERT, None, "a")
    assert (second.operation, second.before["subject"]) == (Operation.UPDATE, "a")


async def test_a_change_by_the_system_moves_no_time_of_ours_and_is_published(story: Story) -> None:
    """generated_timestamp moves and updated_at does not, and there is no event."""
    id = story.account.create("tickets", {"subject": "a"})["id"]
    await story.begin()
    story.account.update("tickets", id, {"satisfaction_rating": {"score": "good"}}, event=False, stamp=False)
    (change,) = await story.told()
    assert change.operation is Operation.UPDATE
    assert change.after["satisfaction_rating"] == {"score": "good"}
    assert change.before is None  # the runner has the stored row


@pytest.mark.parametrize("events", [True, False], ids=["events", "no-events"])
async def test_a_deleted_ticket_is_scrubbed_later_and_gives_one_delete(story: Story, events: bool) -> None:
    story.account.events_of_deletes = events
    id = story.account.create("tickets", {"subject": "secret"})["id"]
    await story.begin()
    story.account.delete("tickets", id)
    (deleted,) = await story.told()
    assert (deleted.operation, deleted.after) == (Operation.DELETE, None)
    assert (deleted.before or {}).get("subject") == ("secret" if events else None)
    story.account.advance(31 * DAY)
    assert await story.told() == []
    assert story.account.get("tickets", id)["subject"] == "SCRUBBED"


async def test_a_delete_and_its_scrubbing_after_a_long_pause_give_one_delete(story: Story) -> None:
    id = story.account.create("tickets", {"subject": "secret"})["id"]
    await story.begin()
    before = story.position
    story.account.delete("tickets", id)
    (first,) = await story.told()
    story.account.advance(31 * DAY)
    story.account.work()
    story.position = before  # the mesh was off all the time
    again = [change for change in await story.told() if change.primary_key["id"] == id]
    assert [(c.operation, c.identity) for c in again] == [(Operation.DELETE, first.identity)]


@pytest.mark.parametrize(("events", "operation"), [(True, Operation.UNDELETE), (False, Operation.UPDATE)])
async def test_a_ticket_that_is_deleted_and_restored(
    story: Story, events: bool, operation: Operation
) -> None:
    story.account.events_of_deletes = events
    id = story.account.create("tickets", {"subject": "back"})["id"]
    await story.begin()
    story.account.delete("tickets", id)
    (deleted,) = await story.told()
    assert deleted.operation is Operation.DELETE
    story.account.restore(id)
    (restored,) = await story.told()
    assert (restored.operation, restored.after["subject"]) == (operation, "back")
    story.account.delete("tickets", id)
    (again,) = await story.told()
    assert again.operation is Operation.DELETE
    assert again.identity != deleted.identity
    story.account.advance(31 * DAY)
    assert await story.told() == []


async def test_a_closed_ticket_still_changes(story: Story) -> None:
    id = story.account.create("tickets", {"subject": "a", "status": "closed"})["id"]
    await story.begin()
    story.account.update("tickets", id, {"tags": ["late"]})
    (change,) = await story.told()
    assert change.after["tags"] == ["late"]


async def test_merged_tickets_are_two_updates_minutes_apart(story: Story) -> None:
    source, target = (story.account.create("tickets", {"subject": name})["id"] for name in "ab")
    await story.begin()
    story.account.merge_tickets(source, target, minutes=5)
    assert await story.told() == []
    story.account.advance(300)
    story.account.work()
    assert summary(await story.told()) == [("update", source), ("update", target)]


async def test_merged_users_change_their_tickets_without_a_webhook(story: Story, plain: Story) -> None:
    account = story.account
    loser, winner = (account.create("users", {"name": name})["id"] for name in "ab")
    tickets = [account.create("tickets", {"requester_id": loser})["id"] for _ in range(5)]
    await story.begin()
    await plain.begin("users")
    told: list[str] = []
    account.listeners.append(lambda kind, row, old: told.append(kind))
    account.merge_users(loser, winner)
    assert not told
    assert summary(await story.told()) == [("update", id) for id in tickets]
    assert summary(await plain.told()) == [("delete", loser)]


async def test_archived_tickets_are_in_the_snapshot_and_no_404_is_a_delete(
    story: Story, snapshot: Callable[..., Any]
) -> None:
    account = story.account
    ids = [account.create("tickets", {"subject": f"t{n}"})["id"] for n in range(3)]
    account.archive(ids[0])
    account.tables["tickets"].drop(ids[1])  # out of reach, for whatever reason
    await story.begin()
    assert [row["id"] for row in await snapshot(story.source, "tickets")] == [ids[0], ids[2]]
    archived, absent, there = await story.source.read_rows("tickets", [{"id": id} for id in ids])
    assert (archived.operation, absent, there.operation) == (Operation.SNAPSHOT, None, Operation.SNAPSHOT)


async def test_a_repair_finds_deletes_by_the_tombstones_of_the_export(
    story: Story, snapshot: Callable[..., Any]
) -> None:
    ids = [story.account.create("tickets", {"subject": f"t{n}"})["id"] for n in range(3)]
    story.account.delete("tickets", ids[1])
    await story.begin()
    await snapshot(story.source, "tickets")
    found = await story.source.read_rows("tickets", [{"id": id} for id in ids])
    assert [change.operation for change in found] == [
        Operation.SNAPSHOT,
        Operation.DELETE,
        Operation.SNAPSHOT,
    ]


async def test_a_deletion_schedule_removes_thousands_of_tickets(story: Story) -> None:
    ids = [story.account.create("tickets", {"status": "closed"})["id"] for n in range(2_500)]
    for id in ids:
        story.account.archive(id)
    await story.begin()
    story.account.remove_schedule(ids)
    assert summary(await story.told()) == [("delete", id) for id in ids]


async def test_tickets_of_ai_agents_are_included(story: Story, snapshot: Callable[..., Any]) -> None:
    before = story.account.create("tickets", {"support_type": "ai_agent"})["id"]
    await story.begin()
    assert [row["id"] for row in await snapshot(story.source, "tickets")] == [before]
    id = story.account.create("tickets", {"support_type": "ai_agent"})["id"]
    assert summary(await story.told()) == [("insert", id)]


@pytest.mark.parametrize("history", [True, False], ids=["history", "plain"])
async def test_more_rows_in_one_second_than_a_page(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], history: bool
) -> None:
    story = Story(sandbox, new_source(history=history), read)
    await story.begin()
    now = story.account.now()
    ids = [story.account.create("tickets", {"subject": f"t{n}"}, at=now)["id"] for n in range(2_300)]
    found = await story.told()
    assert sorted(summary(found)) == sorted(("insert", id) for id in ids)
    assert len({change.identity for change in found}) == 2_300


async def test_changes_of_the_last_minute_are_held_back_and_not_lost(story: Story) -> None:
    await story.begin()
    ids = []
    for _ in range(10):
        ids.append(story.account.create("tickets", {})["id"])
        story.account.advance(13)
    assert summary(await story.told()) == [("insert", id) for id in ids]


async def test_an_export_that_takes_too_long_is_asked_for_smaller_pages(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    sandbox.account.seed("tickets", 2_000)
    sandbox.faults.plan("too_heavy", path="/api/v2/incremental", page=125, times=-1)
    source = new_source()
    await source.open()
    assert len(await snapshot(source, "tickets")) == 2_000
    sizes = [path.rpartition("per_page=")[2] for _, path in sandbox.requests if "cursor" in path]
    assert sizes[:4] == ["1000", "500", "250", "125"]
    assert len(sizes) == 3 + 16


async def test_a_cursor_that_stays_the_same_is_an_error_and_no_endless_loop(
    sandbox: ZendeskSandbox, new_source: New
) -> None:
    sandbox.account.create("tickets", {})
    sandbox.account.advance(MINUTE)
    source = new_source()
    await source.open()
    position = await source.position("tickets")
    sandbox.account.create("tickets", {})
    sandbox.account.advance(MINUTE)
    stream = source.stream("tickets", position)
    batch = await anext(stream)
    sandbox.account.create("tickets", {})
    sandbox.account.advance(MINUTE)
    sandbox.faults.plan("same_cursor", path="/api/v2/incremental/tickets", times=-1)
    before = len(sandbox.requests)
    batches = [batch]

    async def drain() -> None:
        async with deadline():
            while True:
                batches.append(await anext(stream))

    with pytest.raises(SourceUnavailableError, match="same cursor"):
        await drain()
    assert len(sandbox.requests) - before <= 8
    sandbox.faults.clear()
    stream = source.stream("tickets", batches[-1].position)
    async with deadline():
        assert [c.operation for c in (await anext(stream)).items] == [Operation.INSERT]
    await stream.aclose()


async def test_a_cursor_that_zendesk_refuses_is_a_lost_position(
    sandbox: ZendeskSandbox, story: Story
) -> None:
    story.account.create("tickets", {})
    await story.begin()
    story.account.create("tickets", {})
    await story.told()
    sandbox.exports.epoch += 1
    with pytest.raises(SourcePositionLostError, match="Invalid cursor"):
        await anext(story.source.stream("tickets", story.position))


async def test_an_option_that_is_gone_is_a_gap(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """Old tickets lose the value of a removed option without any sign; a new option changes nothing."""
    account = sandbox.account
    field = account.create("ticket_fields", {"custom_field_options": [{"value": "red"}, {"value": "blue"}]})
    story = Story(sandbox, new_source(options_look=0.05), read)
    await story.begin()
    options = [*field["custom_field_options"], {"value": "green"}]
    account.update("ticket_fields", field["id"], {"custom_field_options": options})
    await asyncio.sleep(0.06)  # the interval at which the options are compared
    assert await story.told() == []
    account.update("ticket_fields", field["id"], {"custom_field_options": options[1:]})
    await asyncio.sleep(0.06)
    (gap,) = await story.told()
    assert isinstance(gap, Gap)
    assert gap.resnapshot
    assert "option" in gap.cause
    await asyncio.sleep(0.06)
    assert await story.told() == []


async def test_unknown_kinds_of_events_leave_the_ticket_as_it_is(story: Story) -> None:
    id = story.account.create("tickets", {"subject": "a"})["id"]
    await story.begin()
    story.account.update("tickets", id, {"subject": "b"})
    story.account.events[-1]["child_events"] += [
        {"id": 1, "event_type": "TalkBridge", "via": "?", "data": {"x": 1}},
        {"id": 2, "event_type": "Change", "unheard_of": 1, "previous_value": 0},
    ]
    (change,) = await story.told()
    assert change.before["subject"] == "a"
    assert "unheard_of" not in change.before


async def test_an_event_of_a_time_before_the_position_is_not_used(story: Story) -> None:
    id = story.account.create("tickets", {"subject": "a"})["id"]
    story.account.update("tickets", id, {"subject": "b"})
    await story.begin()
    story.account.update("tickets", id, {"subject": "c"})
    (change,) = await story.told()
    assert (change.before["subject"], change.after["subject"]) == ("b", "c")


async def test_a_ticket_that_changes_again_while_it_is_held_back_keeps_its_first_change(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """Other tickets move the position past the first change; also a restart must not lose it, or publish used events again."""
    account = sandbox.account
    story = Story(sandbox, new_source(), read)
    id = account.create("tickets", {"subject": "a"})["id"]
    await story.begin()
    account.update("tickets", id, {"subject": "b"})
    account.advance(1)
    other = account.create("tickets", {"subject": "other"})["id"]
    account.advance(30)
    account.update("tickets", id, {"subject": "c"})
    account.advance(31)
    found, story.position = await read(
        story.source, "tickets", story.position, lambda item: item.primary_key["id"] == other
    )
    assert summary(found) == [("insert", other)]
    story.source = new_source()
    await story.source.open()
    account.update("tickets", other, {"subject": "again"})
    told = await story.told()
    assert [(c.primary_key["id"], c.before["subject"], c.after["subject"]) for c in told] == [
        (id, "a", "b"),
        (id, "b", "c"),
        (other, "other", "again"),
    ]


async def test_a_repair_that_another_process_began_finds_all_deletes(story: Story, new_source: New) -> None:
    ids = [story.account.create("tickets", {"subject": f"t{n}"})["id"] for n in range(30)]
    await story.begin()
    first = new_source(page=20)
    await first.open()
    story.account.delete("tickets", ids[0])
    story.account.delete("tickets", ids[29])
    story.account.advance(MINUTE)
    batches = first.snapshot("tickets", None)
    resume = (await anext(batches)).position
    second = new_source(page=20)
    await second.open()
    async for _ in second.snapshot("tickets", resume):
        pass
    found = await second.read_rows("tickets", [{"id": ids[n]} for n in (0, 1, 29)])
    assert [change.operation for change in found] == [Operation.DELETE, Operation.SNAPSHOT, Operation.DELETE]


async def test_the_export_is_a_record_of_deletes(story: Story, new_source: New) -> None:
    """Used by a repair where no rows are stored."""
    old, new = (story.account.create("tickets", {"subject": name})["id"] for name in "ab")
    await story.begin()
    story.account.delete("tickets", old)
    story.account.advance(10_000)
    since = datetime.fromtimestamp(story.account.now(), UTC)
    story.account.delete("tickets", new)
    story.account.advance(MINUTE)
    recent = [c async for batch in story.source.deleted("tickets", since) for c in batch.items]
    assert summary(recent) == [("delete", new)]
    ever = [c async for batch in story.source.deleted("tickets", None) for c in batch.items]
    assert summary(ever) == [("delete", old), ("delete", new)]
    with pytest.raises(SourcePositionLostError, match="no record"):
        await anext(story.source.deleted("macros", None))


async def test_events_that_lag_behind_their_tickets_are_not_published_again(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """The ticket is then published as it is, and its next change has the row before it."""
    account = sandbox.account
    source = new_source()
    await source.open()
    account.advance(1_000)
    sandbox.exports.events_lag = 600.0
    stream = source.stream("tickets", await source.position("tickets"))

    async def changes(count: int) -> list[Any]:
        found: list[Any] = []
        async with deadline():
            while len(found) < count:
                found += (await anext(stream)).items
        return found

    id = account.create("tickets", {"subject": "a"})["id"]
    account.update("tickets", id, {"subject": "b"})
    account.advance(61)
    (plain,) = await changes(1)
    assert (plain.operation, plain.after["subject"]) == (Operation.INSERT, "b")
    account.advance(600)
    sandbox.exports.events_lag = 0.0
    account.update("tickets", id, {"subject": "c"})
    account.advance(61)
    (change,) = await changes(1)
    assert (change.operation, change.before["subject"], change.after["subject"]) == (
        Operation.UPDATE,
        "b",
        "c",
    )
    await stream.aclose()
