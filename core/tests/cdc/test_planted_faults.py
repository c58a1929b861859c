"""Fifty faults of a feed, each in one of a thousand rows, are found and named within a simulated day, all of them together on one
percent of the requests. Ten days of ordinary traffic, with lag, late changes and repairs, raise no alarm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dimesh.spi.cdc import Change, Gap, Operation

from .simulation import DAY, Simulation
from .world import Alter, Row, World, WorldSource

ROWS = 1_000
APART = 18
"""The distance between two rows that faults touch."""
Edit = Callable[[Row], Any]
Happens = Callable[[World, str], None]


def fields(number: int) -> Row:
    """Return the fields of a row."""
    return {
        "name": f"name {number}",
        "email": f"{number}@example.com" if number % 3 else None,
        "amount": number + 0.25,
        "count": number,
        "big": 2**60 + number,
        "active": number % 2 == 0,
        "at": f"2026-0{number % 9 + 1}-11T10:00:00+00:00",
        "tags": [f"t{n}" for n in range(12)],
        "address": {"city": f"city {number}", "zip": "0815", "line2": None},
        "lines": {"data": [{"id": n, "amount": n} for n in range(12)], "has_more": False, "total": 12},
        "status": "open",
        "metadata": {"key": "value"},
        "note": "ünï → text",
    }


def edited(edit: Edit) -> Alter:
    """Return a fault that changes what a change of the row says about it."""

    def alter(change: Change) -> Sequence[Change]:
        if change.after is None:
            return [change]
        row = dict(change.after)
        edit(row)
        return [dataclasses.replace(change, after=row)]

    return alter


def lost(*operations: Operation) -> Alter:
    """Return a fault that loses changes of the row."""
    return lambda change: [] if change.operation in operations else [change]


def instead(operation: Operation) -> Alter:
    """Return a fault that shows another operation."""

    def alter(change: Change) -> Sequence[Change]:
        after = None if operation is Operation.DELETE else change.after
        return [dataclasses.replace(change, operation=operation, after=after)]

    return alter


def once(alter: Alter) -> Alter:
    """Return a fault of the first change of the row only."""
    hit: list[int] = []

    def only_first(change: Change) -> Sequence[Change]:
        if hit:
            return [change]
        hit.append(1)
        return alter(change)

    return only_first


def old(*names: str) -> Alter:
    """Return a fault that keeps old values of fields."""
    return edited(lambda row: row.update({name: before(row["id"])[name] for name in names}))


def before(id: str) -> Row:
    """Return the fields that a row had at first."""
    return fields(int(id[1:]))


def rekeyed(change: Change) -> Sequence[Change]:
    """Publish the row under another key."""
    id = str(change.primary_key["id"]).upper()
    return [dataclasses.replace(change, primary_key={"id": id}, after={**(change.after or {}), "id": id})]


def swapped(change: Change) -> Sequence[Change]:
    """Publish the row's values under the key of its neighbour."""
    return [dataclasses.replace(change, primary_key={"id": f"r{int(change.primary_key['id'][1:]) + 1:05}"})]


def resurrected(change: Change) -> Sequence[Change]:
    """Publish an old insert again, after the delete."""
    if change.operation is not Operation.DELETE:
        return [change]
    id = change.primary_key["id"]
    after = {"id": id, **before(id)}
    return [
        change,
        dataclasses.replace(change, identity=f"again {id}", operation=Operation.INSERT, after=after),
    ]


def reversed_(change: Change) -> Sequence[Change]:
    """Publish the old row after the new one."""
    id = change.primary_key["id"]
    return [change, dataclasses.replace(change, identity=f"old {id}", after={"id": id, **before(id)})]


def update(**values: Any) -> Happens:
    return lambda world, id: world.put(id, **values)


def delete(world: World, id: str) -> None:
    world.delete(id)


def insert(world: World, id: str) -> None:
    """Insert the row, which did not exist before."""
    world.put(id, **before(id))


def twice(world: World, id: str) -> None:
    world.put(id, name="first")
    world.put(id, name="second", status="closed")


def reborn(world: World, id: str) -> None:
    world.delete(id)
    world.put(id, **before(id), again=True)


def removes(*names: str) -> Edit:
    return lambda row: [row.pop(name, None) for name in names]


def sets(**values: Any) -> Edit:
    return lambda row: row.update(values)


def each(name: str, change: Callable[[Any], Any]) -> Edit:
    return lambda row: row.update({name: change(row[name])})


UPDATED = update(name="new", amount=7.75, tags=["x"] * 12, email="new@example.com")
UPDATE, INSERT, DELETE = Operation.UPDATE, Operation.INSERT, Operation.DELETE
FAULTS: dict[str, tuple[Happens, Alter, str]] = {
    "loses updates": (UPDATED, lost(UPDATE), "lost_update"),
    "loses deletes": (delete, lost(DELETE), "lost_delete"),
    "loses inserts": (insert, lost(INSERT, UPDATE), "missing_row"),
    "loses everything of the row": (reborn, lost(INSERT, UPDATE, DELETE), "lost_update"),
    "loses the first of two updates": (twice, once(lost(UPDATE)), ""),
    "loses the insert after a delete": (reborn, lost(INSERT), "false_delete"),
    "invents a delete": (UPDATED, instead(DELETE), "false_delete"),
    "takes a delete for an update": (delete, instead(UPDATE), "lost_delete"),
    "brings a deleted row back": (delete, resurrected, "lost_delete"),
    "publishes the old row last": (UPDATED, reversed_, "lost_update"),
    "publishes the row under another key": (insert, rekeyed, "missing_row"),
    "publishes the row under its neighbour's key": (insert, swapped, "missing_row"),
    "swaps two rows": (UPDATED, swapped, "lost_update"),
    "drops a field": (UPDATED, edited(removes("name")), "dropped_field"),
    "drops two fields": (UPDATED, edited(removes("name", "at")), "dropped_field"),
    "drops a hash": (UPDATED, edited(removes("address")), "dropped_field"),
    "drops fields that are null": (update(email=None), edited(removes("email")), "dropped_field"),
    "keeps one field old": (UPDATED, old("name"), "stale_field"),
    "keeps a list old": (UPDATED, old("tags"), "stale_field"),
    "keeps a number old": (UPDATED, old("amount"), "stale_field"),
    "keeps old values and times": (
        UPDATED,
        edited(lambda r: r.update(before(r["id"]), modified=0)),
        "lost_update",
    ),
    "misses a status": (update(status="closed"), old("status"), "stale_field"),
    "cuts a list": (UPDATED, edited(each("tags", lambda tags: tags[:10])), "cut_list"),
    "cuts a list in a page": (
        UPDATED,
        edited(each("lines", lambda page: {**page, "data": page["data"][:10], "total": 10})),
        "cut_list",
    ),
    "empties a list": (UPDATED, edited(sets(tags=[])), "cut_list"),
    "leaves out the middle of a list": (
        UPDATED,
        edited(each("lines", lambda page: {**page, "data": page["data"][:3] + page["data"][6:]})),
        "cut_list",
    ),
    "reverses a list": (update(tags=["a", "b"]), edited(each("tags", lambda t: t[::-1])), "stale_field"),
    "repeats an entry of a list": (UPDATED, edited(each("tags", lambda t: [*t, t[0]])), "stale_field"),
    "writes times in the wrong zone": (
        UPDATED,
        edited(each("at", lambda at: at.replace("T10", "T12"))),
        "stale_field",
    ),
    "drops the zone": (UPDATED, edited(each("at", lambda at: at[:19])), "stale_field"),
    "cuts times to days": (UPDATED, edited(each("at", lambda at: at[:10])), "stale_field"),
    "rounds numbers": (UPDATED, edited(each("amount", round)), "stale_field"),
    "takes numbers for texts": (UPDATED, edited(each("count", str)), "stale_field"),
    "loses digits of big integers": (UPDATED, edited(each("big", lambda n: int(float(n)))), "stale_field"),
    "takes booleans for numbers": (UPDATED, edited(each("active", int)), "stale_field"),
    "takes false for null": (update(active=False), edited(sets(active=None)), "stale_field"),
    "turns a boolean around": (UPDATED, edited(each("active", lambda b: not b)), "stale_field"),
    "loses a change to null": (update(name=None), old("name"), "stale_field"),
    "takes null for an empty text": (update(email=None), edited(sets(email="")), "stale_field"),
    "takes an empty text for null": (update(email=""), edited(sets(email=None)), "stale_field"),
    "cuts texts": (UPDATED, edited(each("note", lambda text: text[:3])), "stale_field"),
    "garbles letters": (
        UPDATED,
        edited(each("note", lambda text: text.encode().decode("latin-1"))),
        "stale_field",
    ),
    "trims texts": (update(name=" new "), edited(each("name", str.strip)), "stale_field"),
    "writes texts in small letters": (update(name="NEW"), edited(each("name", str.lower)), "stale_field"),
    "drops a key of a hash": (
        UPDATED,
        edited(each("address", lambda a: {k: v for k, v in a.items() if k != "zip"})),
        "stale_field",
    ),
    "keeps a removed key of a hash": (update(metadata={}), old("metadata"), "stale_field"),
    "merges a hash instead of replacing it": (
        update(metadata={"other": "value"}),
        edited(each("metadata", lambda m: {"key": "value", **m})),
        "stale_field",
    ),
    "flattens a hash": (UPDATED, edited(each("address", lambda a: a["city"])), "stale_field"),
    "invents a field": (UPDATED, edited(sets(invented=1)), "stale_field"),
    "shows a field of another row": (UPDATED, edited(sets(name="name 1")), "stale_field"),
    "multiplies amounts by a hundred": (UPDATED, edited(each("amount", lambda a: a * 100)), "stale_field"),
    "masks a field": (UPDATED, edited(sets(email="***")), "stale_field"),
}
"""What happens to a row at the source, what the feed makes of it, and the kind of error that is found; empty: none can be."""


@pytest.mark.slow
async def test_planted_faults_are_found_within_a_day(few_reports: None) -> None:
    simulation = Simulation(0)
    world = simulation.world
    ids = {name: f"r{number * APART:05}" for number, name in enumerate(FAULTS)}
    alters = {ids[name]: alter for name, (_, alter, _) in FAULTS.items()}
    absent = {ids[name] for name, (happens, _, _) in FAULTS.items() if happens is insert}
    for number in range(ROWS):
        id = f"r{number:05}"
        if id not in absent:
            world.put(id, **fields(number))
    nothing: Alter = lambda change: [change]  # noqa: E731
    source = WorldSource(world, alter=lambda c: alters.get(c.primary_key["id"], nothing)(c))
    await simulation.start(source, verify=0.01)
    for name, (happens, _, _) in FAULTS.items():
        happens(world, ids[name])
    wanted = {ids[name]: kind for name, (_, _, kind) in FAULTS.items() if kind}
    found: dict[str, str] = {}
    took = 0.0
    while not wanted.keys() <= found.keys() and took < DAY:
        await simulation.clock.advance(300)
        took += 300
        for notice in await simulation.notices():
            found |= {error["primary_key"]["id"]: error["kind"] for error in notice["errors"]}
    names = {id: name for name, id in ids.items()}
    assert {names[id]: kind for id, kind in found.items() if id in wanted} == {
        names[id]: kind for id, kind in wanted.items()
    }
    # A row under a wrong key is wrong on both sides; a change between two states is a blind spot; nothing else is found.
    assert {names.get(id, id) for id in found} - {names[id] for id in wanted} <= {
        ids["publishes the row under another key"].upper(),
        *(f"r{int(ids[name][1:]) + 1:05}" for name, (_, alter, _) in FAULTS.items() if alter is swapped),
    }
    report = simulation.connector.report().objects["thing"].verified
    assert report is not None
    assert report.requests <= 0.01 * source.budget.max_rate * took + 12
    await simulation.stop()


@pytest.mark.slow
async def test_ten_clean_days_raise_no_alarm(few_reports: None) -> None:
    """Rows come, change and go; the feed is up to half an hour late, reads lag up to five minutes, gaps are repaired."""
    simulation = Simulation(300, late=1_800.0, stale=300.0)
    source = WorldSource(simulation.world, rate=0.5, poll=300.0)
    await simulation.start(source, verify=0.01)
    rng, world, number = simulation.rng, simulation.world, 0
    for hour in range(240):
        for _ in range(6):
            ids = world.ids()
            for id in rng.sample(ids, 3):
                world.put(id, name=f"changed {rng.random()}", amount=rng.random())
            number += 1
            world.put(f"n{number:05}", name="new", amount=1.0)
            world.delete(rng.choice(ids))
            await simulation.clock.advance(600)
        if hour % 24 == 7:
            source.gaps.append(Gap("thing", "planned", resnapshot=True))
    found = simulation.connector.report().objects["thing"].verified
    assert found is not None
    assert found.kinds == {}
    assert found.rows > 50_000
    assert found.requests > 3_000
    assert [n["errors"] for n in await simulation.notices() if n["errors"]] == []
    await simulation.stop()
