"""``dimesh doctor`` as a process: what it prints, its exit code, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, Terminal


@pytest.mark.slow
def test_doctor_fails_with_what_to_do_and_leaves_nothing(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text(
        "[lineage]\nenabled = true\n"
        '[[handlers]]\ntopic = "orders"\ncall = "nowhere:ship"\n'
        '[[sources]]\ndriver = "outbox"\nname = "shop"\nobjects = ["orders"]\n[sources.options]\npath = "shop.db"\n'
    )
    found = {row["check"]: row for row in dimesh("--output", "json", "doctor", code=ExitCode.FAILED).json}
    assert {name for name, row in found.items() if row["result"] == "failed"} == {
        "handler nowhere:ship",
        "source shop",
    }
    assert "no module 'nowhere'" in found["handler nowhere:ship"]["detail"]
    assert found["source shop"]["detail"].startswith("there is no database")
    assert found["source shop"]["advice"] == "'dimesh cdc check shop' shows each object"
    assert found["round trip"]["result"] == found["flush"]["result"] == "ok"
    # Its own topic is gone, and its event is nobody's lineage.
    assert dimesh("--output", "json", "topics").json == []
    assert not (tmp_path / "mesh-data/lineage").exists()
    # In a pipe there is one line for each check, with the advice below it.
    lines = dimesh("doctor", code=ExitCode.FAILED).out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("source shop ")]
    assert lines[at].split()[:3] == ["source", "shop", "failed"]
    assert lines[at + 1].strip() == "-> 'dimesh cdc check shop' shows each object"
    assert lines[-1].endswith(" warning, 2 failed")


@pytest.mark.slow
def test_doctor_fits_a_narrow_terminal(terminal: Terminal, tmp_path: Path) -> None:
    long = "handlers_of_the_shop_in_a_package_with_a_long_name.orders_and_returns:ship_them"
    (tmp_path / "dimesh.toml").write_text(f'[[handlers]]\ntopic = "orders"\ncall = "{long}"\n')
    code, lines = terminal("doctor")
    assert code == ExitCode.FAILED
    assert max(map(len, lines)) <= 80
    assert long.replace("-", "") in "".join(line.strip() for line in lines)
