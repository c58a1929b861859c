"""``dimesh explain``: the story of one event, from its source record to its dead letters and results."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBusFactory, EventMetadata, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.cli.errors import guarded
from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, Terminal
from .processes import eventually, running

SHOP = """
from pathlib import Path
from dimesh import Event

async def ship(event):
    return Event("order.shipped", None, {"parcel": 7})

async def bill(event):
    if not Path("price").exists():
        raise ValueError("no price for the lamp")

async def mail(event):
    raise KeyError("address")
"""
SETTINGS = """
[[handlers]]
topic = "cdc.outbox"
call = "shop:ship"
start = "earliest"
produce_to = "shipments"
[[handlers]]
topic = "cdc.outbox"
call = "shop:bill"
group = "billing"
start = "earliest"
attempts = 2
retry_base = 0.01
[[handlers]]
topic = "cdc.*"
call = "shop:mail"
group = "farewells"
event_types = ["cdc.delete"]
start = "earliest"
[[handlers]]
topic = "shipments"
call = "shop:mail"
start = "earliest"
attempts = 1
[[sources]]
driver = "outbox"
name = "shop"
objects = ["orders"]
[sources.options]
path = "shop.db"
poll = 0.05
"""


@pytest.fixture
def shop(dimesh: Run, tmp_path: Path) -> str:
    """The id of a change that one handler dead-letters and one answers with a result, which is dead-lettered, too."""
    from dimesh.backends.cdc.outbox import watch

    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "dimesh.toml").write_text(SETTINGS)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as app:
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
            watch(app, "orders")
        with running(tmp_path, "run"):
            eventually(lambda: "stream" in dimesh("cdc", "status").out)
            with app:
                app.execute("INSERT INTO orders VALUES (7, 'lamp')")
            eventually(lambda: (tmp_path / "log").read_text().count("dead letter: event") == 2)
    (change,) = dimesh("--output", "json", "tail", "cdc.outbox").lines
    return str(change["metadata"]["event_id"])


def explained(dimesh: Run, *arguments: str) -> Any:
    return dimesh("--output", "json", "explain", *arguments).json


@pytest.mark.slow
def test_the_story_of_a_change(dimesh: Run, shop: str, tmp_path: Path) -> None:
    story = explained(dimesh, shop)
    record = story["event"]["record"]
    assert (record["source"], record["object"], record["key"]) == ("outbox", "orders", {"id": 7})
    assert (record["operation"], record["found_by"], record["position"]) == ("insert", "stream", "1")
    assert story["event"]["created"] == record["changed"]
    assert story["content"]["payload"]["after"] == {"id": 7, "product": "lamp"}
    (place,) = story["places"]
    assert (place["topic"], place["kind"]) == ("cdc.outbox", "published")
    groups = {group["group"]: group for group in story["groups"]}
    assert {name: group["fate"] for name, group in groups.items()} == {
        "billing": "dead-lettered",
        "farewells": "filtered",
        "shop:ship": "handled",
    }
    (letter,) = groups["billing"]["dead_letters"]
    assert (letter["attempts"], letter["reason"]) == (2, "ValueError: no price for the lamp")
    (result,) = story["results"]
    assert groups["shop:ship"]["produced"] == [result["event"]["event_id"]]
    assert (result["place"]["topic"], result["dead_letters"], result["reply"]) == ("shipments", 1, False)
    assert result["after"] >= 0

    # The same story from its other end.
    shipped = explained(dimesh, result["event"]["event_id"])
    (cause,) = shipped["causes"]
    assert cause["event"] == story["event"]
    assert shipped["missing_cause"] is None
    assert [group["fate"] for group in shipped["groups"]] == ["dead-lettered"]

    # The references of the printed story are those that the other commands accept.
    human = dimesh("explain", shop).out
    assert "billing of cdc.outbox: dead-lettered" in human
    assert "record   outbox orders id=7" in human
    commands = [line.split()[1:] for line in human.splitlines() if line.split()[0] == "dimesh"]
    assert [command[:2] for command in commands] == [["dlq", "show"], ["dlq", "redrive"]]
    assert "no price for the lamp" in dimesh(*commands[0]).out
    (tmp_path / "price").touch()
    assert "redriven: 1" in dimesh(*commands[1]).out
    assert {g["fate"] for g in explained(dimesh, shop)["groups"] if g["group"] == "billing"} == {"redriven"}
    with running(tmp_path, "run"):
        eventually(lambda: [g["lag"] for g in dimesh("--output", "json", "groups").json] == [0] * 4)
    (billing,) = [g for g in explained(dimesh, shop)["groups"] if g["group"] == "billing"]
    assert (billing["fate"], billing["place"]["kind"]) == ("passed", "redriven")
    assert [letter["state"] for letter in billing["dead_letters"]] == ["redriven"]


@pytest.mark.slow
def test_the_story_fits_80_columns(dimesh: Run, terminal: Terminal, shop: str) -> None:
    code, lines = terminal("explain", shop)
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert sum(shop in line for line in lines) == 3  # the event, and the two references
    assert len(dimesh("explain", shop).out.splitlines()) == len(lines)


def test_an_id_that_is_not_found(dimesh: Run, tmp_path: Path) -> None:
    async def publish() -> None:
        async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh-data" / "mesh.db")) as bus:
            await bus.publish("orders", Event("order.created"))

    asyncio.run(publish())
    missing = dimesh("explain", "no-such-id", code=ExitCode.NOT_FOUND)
    assert (
        "no event has the id 'no-such-id' among the 1 events that were searched in 1 topics (orders)"
        in missing.err
    )
    assert "which is all that they hold" in missing.err
    assert missing.out == ""


@pytest.mark.slow
def test_the_search_is_bounded(dimesh: Run) -> None:
    dimesh("publish", "orders", "--payload", "1")
    (event,) = dimesh("--output", "json", "tail", "orders").lines
    event_id = event["metadata"]["event_id"]
    dimesh(
        "publish", "orders", stdin="".join(f'{{"event_type": "a.b", "payload": {n}}}\n' for n in range(50))
    )
    missing = dimesh("explain", event_id, "--last", "10", code=ExitCode.NOT_FOUND).err
    assert "among the 10 events" in missing
    assert "the newest 10 of each partition, in orders back to" in missing
    assert "--since '2 days ago', or a larger --last" in missing
    assert explained(dimesh, event_id)["places"][0]["offset"] == 0
    assert explained(dimesh, event_id, "--since", "1h")["content"]["payload"] == 1
    assert "since 2100" in dimesh("explain", event_id, "--since", "2100-01-01", code=ExitCode.NOT_FOUND).err
    assert (
        "is not a time" in dimesh("explain", event_id, "--since", "some day", code=ExitCode.CONFIGURATION).err
    )


@pytest.mark.slow
def test_a_bus_in_memory_has_nothing_to_explain(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text('[bus]\ndriver = "memory"\n')
    missing = dimesh("explain", "x", code=ExitCode.NOT_FOUND).err
    assert "the memory bus keeps events in the memory of one process" in missing
    assert "the memory bus has no topics" in missing


FORGED = "results"
HOSTILE = f"x\n{FORGED}\r\x1b[2J\x9b2J\x85\u2028\u202e\x00\t'; rm -rf /"


@pytest.mark.slow
def test_no_value_forges_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dimesh.toml").write_text('[bus.options]\npath = "mesh.db"\n')

    async def fails(event: Event) -> None:
        raise ValueError(HOSTILE)

    async def make() -> None:
        async with EventBusFactory.create("sqlite", path="mesh.db") as bus:
            options = SubscriptionOptions(retry=RetryPolicy(attempts=1))
            await bus.subscribe("cdc.x", fails, "g", start=StartAt.EARLIEST, options=options)
            row = {HOSTILE: HOSTILE}
            change: dict[str, Any] = dict.fromkeys(
                ("source_system", "object", "operation", "sequence", "actor"), HOSTILE
            )
            change |= {"primary_key": row, "transaction": row, "lag": {"source": 1e300}, "metadata": 1}
            for name, cause in (("root", HOSTILE), (HOSTILE, "root"), ("leaf", HOSTILE)):
                metadata = EventMetadata(
                    event_id=name, source_pillar=HOSTILE, trace_id=HOSTILE, causation_id=cause
                )
                await bus.publish("cdc.x", Event("cdc.update", metadata, change))
            later = EventMetadata(event_id="later", source_pillar=HOSTILE, causation_id="leaf")
            await bus.publish("cdc.x", Event("cdc.update", later, change), delay=3_600)
            async with asyncio.timeout(60):
                await bus.idle()

    asyncio.run(make())
    assert guarded(["explain", "later"]) == 0
    assert "\nheld back\n  cdc.x until " in capsys.readouterr().out
    for name in ("root", HOSTILE, "leaf"):
        assert guarded(["explain", name]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert all(line.isprintable() for line in printed)
        assert sum(line.startswith(FORGED) for line in printed) == 1 - (name == "leaf")
        assert guarded(["--output", "json", "explain", name]) == 0
        printed_json = capsys.readouterr().out
        assert all(line.isprintable() for line in printed_json.splitlines())
        assert json.loads(printed_json)["event"]["record"]["actor"] == HOSTILE
