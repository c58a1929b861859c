"""``dimesh topics``: listing, creating, describing and deleting topics."""

from __future__ import annotations

import pytest

from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, Terminal


@pytest.mark.slow
def test_a_topic_is_created_described_and_deleted(dimesh: Run) -> None:
    assert dimesh("topics", "create", "orders", "--partitions", "3", "--retention", "7 days").out == (
        "created orders: 3 partitions, retention: 604,800 seconds\n"
    )
    detail = dimesh("--output", "json", "topics", "describe", "orders").json
    assert [p["partition"] for p in detail["partitions"]] == [0, 1, 2]
    assert (detail["records"], detail["retention"]["seconds"]) == (0, 604_800.0)
    assert "deleted orders" in dimesh("topics", "delete", "orders", "--yes").out


@pytest.mark.slow
def test_mistakes_about_topics(dimesh: Run) -> None:
    dimesh("topics", "create", "orders", "--partitions", "3")
    assert dimesh("topics", "create", "orders").out.startswith("orders existed already; it has 3 partitions")
    dimesh("topics", "create", "orders", "--partitions", "2", code=ExitCode.CONFIGURATION)
    dimesh("topics", "create", "../x", code=ExitCode.USAGE)
    assert (
        "is not a duration"
        in dimesh("topics", "create", "x", "--retention", "long", code=ExitCode.CONFIGURATION).err
    )
    assert "--yes" in dimesh("topics", "delete", "orders", code=ExitCode.CONFIGURATION).err
    for command in ("delete", "describe"):
        assert "no topic is named 'nope'" in dimesh("topics", command, "nope", code=ExitCode.NOT_FOUND).err
    assert [t["topic"] for t in dimesh("--output", "json", "topics", "list").json] == ["orders"]


@pytest.mark.slow
def test_deleting_asks_on_a_terminal(dimesh: Run, terminal: Terminal) -> None:
    dimesh("publish", "orders", "-p", "1", "-p", "2")
    code, lines = terminal("topics", "delete", "orders", typed=b"n\n")
    assert code == ExitCode.INTERRUPTED
    assert "Delete orders with 2 events? [y/N]" in "".join(lines)
    assert terminal("topics", "delete", "orders", typed=b"y\n")[0] == 0
    dimesh("topics", "describe", "orders", code=ExitCode.NOT_FOUND)
