"""The command line on a broker, each command in a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dimesh import Event, EventBus, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.capabilities import Capability
from dimesh_contracts.broker.guarantees import BrokerGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import until

RunCommand = Callable[..., str]
"""Runs ``dimesh`` with arguments and returns its output."""
COMMON_CHECKS = ("round trip", "encryption", "clock", "retention")


class Commands(BusHarness):
    """Tests of the commands."""

    doctor_checks: ClassVar[Collection[str]] = ()
    """Words that ``dimesh doctor`` must report on this broker, beyond those that every broker has."""

    @pytest.fixture
    def dimesh(self, driver: tuple[str, Mapping[str, Any]], tmp_path: Path) -> RunCommand:
        """Run a command in a folder whose ``dimesh.toml`` names the driver."""
        name, options = driver
        lines = ["[bus]", f"driver = {json.dumps(name)}", "[bus.options]"]
        lines += [f"{option} = {json.dumps(value)}" for option, value in options.items()]
        (tmp_path / "dimesh.toml").write_text("\n".join(lines), "utf-8")

        def run(*arguments: str, given: str = "", code: int = 0) -> str:
            process = subprocess.Popen(  # noqa: S603 - the interpreter of this process
                [sys.executable, "-X", "faulthandler", "-m", "dimesh", *arguments],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                out, err = process.communicate(given, timeout=60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # shows where it waits
                out, err = process.communicate()
                pytest.fail(f"dimesh {' '.join(arguments)} did not end within 60 s:\n{out}{err}")
            assert process.returncode == code, out + err
            return out

        return run

    @proves(G.COMMANDS, Capability.GROUPS, Capability.MULTI_PROCESS, Capability.LOOK_BACK)
    async def test_publish_topics_tail_groups_and_replay(
        self, dimesh: RunCommand, new_backend: NewBackend, topic: str
    ) -> None:
        """What one command publishes, the next ones list, show, count and replay. Usually wrong: knowledge that only the
        publishing process has.
        """
        assert self.offers is not None
        counted = Capability.COUNTED_LAG in self.offers
        given = "".join(f"{n}\n" for n in range(5))
        await asyncio.to_thread(dimesh, "publish", topic, "--type", "a.b", given=given)
        found = await asyncio.to_thread(dimesh, "--output", "json", "topics")
        (mine,) = [row for row in rows(found) if row["topic"] == topic]
        assert mine["records"] == (5 if counted else None)
        if self.family == "queue":
            assert mine["partitions"] == 1
        tailed = await asyncio.to_thread(dimesh, "--output", "json", "tail", topic, "--since", "1h")
        assert [row["payload"] for row in rows(tailed)] == list(range(5))
        newest = await asyncio.to_thread(dimesh, "--output", "json", "tail", topic, "--newest", "2")
        assert [row["payload"] for row in rows(newest)] == [3, 4]
        handled: list[int] = []
        bus = EventBus(new_backend())
        await bus.subscribe(topic, lambda e: handled.append(e.payload), "team", start=StartAt.EARLIEST)
        await until(lambda: len(handled) == 5)
        await bus.close()
        await asyncio.to_thread(dimesh, "replay", topic, "--group", "team", "--from", "earliest")
        groups = rows(await asyncio.to_thread(dimesh, "--output", "json", "groups", "--topic", topic))
        assert {row["group"] for row in groups} == {"team"}
        assert [row["lag"] for row in groups if row["lag"] != 0] == [5 if counted else None]
        bus = EventBus(new_backend())
        await bus.subscribe(topic, lambda e: handled.append(e.payload), "team")
        await until(lambda: handled == [*range(5), *range(5)])
        await bus.close()

    @proves(G.COMMANDS, Capability.GROUPS, Capability.MULTI_PROCESS)
    async def test_dead_letters_are_listed_shown_and_sent_back(
        self, dimesh: RunCommand, new_backend: NewBackend, topic: str
    ) -> None:
        """Another process lists, shows, explains and redrives the dead letter. Usually wrong: a dead letter that cannot be
        found by its event's id, or one that comes back under another topic.
        """
        bus = EventBus(new_backend())
        broken = True
        handled: list[int] = []

        async def handle(event: Event) -> None:
            if broken:
                raise ValueError("not today")
            handled.append(event.payload)

        options = SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0.01))
        await bus.subscribe(topic, handle, "team", options=options)
        event = Event("a.b", None, 7)
        await bus.publish(topic, event)
        await until(lambda: bus.stats()["team"].dead_lettered == 1)
        listed = rows(await asyncio.to_thread(dimesh, "--output", "json", "dlq", "list", topic))
        assert listed[0]["event_id"] == event.event_id
        assert "not today" in await asyncio.to_thread(dimesh, "dlq", "show", topic, event.event_id)
        explain = ("--output", "json", "explain", event.event_id, "--since", "1h")
        story = json.loads(await asyncio.to_thread(dimesh, *explain))
        assert [(place["topic"], place["kind"]) for place in story["places"]] == [(topic, "published")]
        assert [(group["group"], group["fate"]) for group in story["groups"]] == [("team", "dead-lettered")]
        broken = False
        await asyncio.to_thread(dimesh, "dlq", "redrive", topic)
        await until(lambda: handled == [7])
        story = json.loads(await asyncio.to_thread(dimesh, *explain))
        assert [(place["group"], place["kind"]) for place in story["places"]] == [
            (None, "published"),
            ("team", "redriven"),
        ]
        await bus.close()

    @proves(G.DOCTOR)
    async def test_the_doctor_tries_what_it_reports(self, dimesh: RunCommand) -> None:
        """Usually wrong: a check that only reads the settings, or two checks with one name, of which scripts see the last."""
        report = await asyncio.to_thread(dimesh, "--output", "json", "doctor")
        checks = [row["check"] for row in rows(report)]
        assert len(checks) == len(set(checks)), "each check has a name of its own"
        for word in (*COMMON_CHECKS, *self.doctor_checks):
            assert word in report, report

    @proves(G.DOCTOR)
    async def test_the_doctor_leaves_nothing(self, dimesh: RunCommand, new_backend: NewBackend) -> None:
        """Usually wrong: a client that still asks about the topic of the round trip makes the broker create it again."""

        async def made() -> tuple[set[str], set[str]]:
            backend = new_backend()
            await backend.open()
            topics, groups = await backend.topics(), await backend.groups()
            await backend.close()
            return {topic.name for topic in topics}, {group.group for group in groups}

        before = await made()
        await asyncio.to_thread(dimesh, "doctor")
        assert await made() == before


def rows(output: str) -> list[dict[str, object]]:
    """Parse the output of a command: a JSON array, or one JSON object on each line."""
    if output.lstrip().startswith("["):
        return list(json.loads(output))
    return [json.loads(line) for line in output.splitlines()]
