"""Command lines as people type them: global options after the command, plurals, completion of names."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dimesh import Event, EventBusFactory
from dimesh.cli.app import app
from dimesh.cli.arguments import global_options_first
from dimesh.cli.exit_codes import ExitCode
from dimesh_contracts.waiting import patience

from .conftest import Run

ROOT: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("typed", "sorted_"),
    [
        ("topics --output json", "--output json topics"),
        ("topics list --output=json -q", "--output=json -q topics list"),
        ("topic describe t --config x.toml", "--config x.toml topic describe t"),
        ("--quiet topics --no-color", "--quiet --no-color topics"),
        ("tail t -n 5 --debug --where a=b", "--debug tail t -n 5 --where a=b"),
        ("publish t -p --debug", "publish t -p --debug"),
        ("publish t --payload=--debug -q", "-q publish t --payload=--debug"),
        ("publish t -- --output json", "publish t -- --output json"),
        ("publish t - --output json", "--output json publish t -"),
        ("sandbox stripe --output json", "sandbox stripe --output json"),
        ("of-a-plugin --output json", "of-a-plugin --output json"),
        ("topics --help", "topics --help"),
        ("topics --output", "--output"),
        ("", ""),
    ],
)
def test_global_options_come_first(typed: str, sorted_: str) -> None:
    assert global_options_first(ROOT, typed.split()) == sorted_.split()


def options(command: Any) -> set[str]:
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
    }


def test_no_command_has_an_option_of_the_name_of_a_global_one() -> None:
    """Such an option would mean something else after the command than before it."""
    left = list(ROOT.commands.values())
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        assert not options(command) & (options(ROOT) - {"--help", "-h"}), command.name


@pytest.mark.slow
def test_options_after_the_command_and_singulars(dimesh: Run) -> None:
    assert dimesh("topic", "--output", "json").json == []
    missing = dimesh("topics", "--output", code=ExitCode.USAGE)
    assert "requires an argument" in missing.err


@pytest.mark.slow
def test_every_built_in_command_can_be_singular_or_plural(dimesh: Run) -> None:
    for name in ("group", "plugin", "topic", "topics"):
        dimesh(name)
    assert " topic " not in dimesh("--help").out
    assert "No such command 'topicss'" in dimesh("topicss", code=ExitCode.USAGE).err


def propose(dimesh: Run, typed: str, **extra: str) -> list[str]:
    words = len(typed.split(" ")) - 1
    variables = {"_DIMESH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(words), **extra}
    result = dimesh(**variables)
    assert result.err == ""
    return result.out.split()


def eventually_proposed(dimesh: Run, typed: str) -> list[str]:
    """Return the proposals. A machine that is too busy to answer in time proposes nothing, so it is asked again."""
    until = time.monotonic() + patience()
    while not (found := propose(dimesh, typed)) and time.monotonic() < until:
        pass
    return found


async def make_topics(path: Path) -> None:
    async with EventBusFactory.create("sqlite", path=str(path)) as bus:
        await bus.subscribe("orders", print, group="billing")
        await bus.publish("orders", Event("a.b"))
        await bus.publish("payments", Event("a.b"))


@pytest.mark.slow
def test_names_of_topics_are_completed(dimesh: Run, tmp_path: Path) -> None:
    assert propose(dimesh, "dimesh tail ") == []
    assert list(tmp_path.iterdir()) == []  # a look creates no mesh
    asyncio.run(make_topics(tmp_path / "mesh.db"))
    assert eventually_proposed(dimesh, "dimesh --bus-path mesh.db tail or") == ["orders"]


@pytest.mark.slow
def test_names_of_groups_are_completed(dimesh: Run, tmp_path: Path) -> None:
    asyncio.run(make_topics(tmp_path / "mesh.db"))
    assert eventually_proposed(dimesh, "dimesh --bus-path mesh.db replay orders --group ") == ["billing"]
    assert eventually_proposed(dimesh, "dimesh --bus-path mesh.db dlq list ") == ["orders", "payments"]


@pytest.mark.slow
def test_names_of_subjects_are_completed(dimesh: Run, tmp_path: Path) -> None:
    assert propose(dimesh, "dimesh schema get ") == []
    assert list(tmp_path.iterdir()) == []  # a look creates no registry
    (tmp_path / "schema.json").write_text("{}")
    dimesh("schema", "register", "event.order.created", "schema.json")
    for command in ("get", "list", "evolve", "check", "delete"):
        assert eventually_proposed(dimesh, f"dimesh schema {command} event.o") == ["event.order.created"]


@pytest.mark.slow
def test_completion_is_silent_on_errors(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text("[bus\n")
    (tmp_path / "mesh.db").write_text("not a database" * 100)
    assert propose(dimesh, "dimesh tail ") == []
    assert propose(dimesh, "dimesh --bus-path mesh.db tail ") == []
    assert propose(dimesh, "dimesh tail ", DIMESH_BUS__DRIVER="nope") == []
