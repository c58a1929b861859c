"""The health of a mesh, as typed results."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from dimesh.mesh import Mesh
from dimesh.ops import machine
from dimesh.ops.health import diagnose
from dimesh.ops.plugins import list_plugins
from dimesh.ops.results import CheckResult, Outcome
from dimesh.ops.topics import list_topics
from dimesh.settings import load_settings


async def results(file: Path, limit: float = 20.0) -> dict[str, CheckResult]:
    return {result.check: result async for result in diagnose(lambda: load_settings(file), limit)}


async def test_a_mesh_that_works(settings_file: Path, shop: sqlite3.Connection) -> None:
    found = await results(settings_file)
    assert list(found)[:2] == ["sqlite", "settings"]
    assert {
        "durability",
        "round trip",
        "disk",
        "flush",
        "file modes",
        "groups",
        "dead letters",
        "clock",
    } <= set(found)
    assert found["round trip"].outcome is Outcome.OK
    assert Outcome.FAILED not in {result.outcome for result in found.values()}
    async with Mesh(load_settings(settings_file).settings) as mesh:
        assert await list_topics(mesh.bus) == []  # its own topic is gone again


async def test_what_fails_is_a_result(settings_file: Path) -> None:
    last = list((await results(settings_file.with_name("nope.toml"))).values())[-1]
    assert (last.check, last.outcome) == ("settings", Outcome.FAILED)
    settings_file.write_text('[bus]\ndriver = "sqlit"\n')
    assert (await results(settings_file))["plugins"].outcome is Outcome.FAILED
    settings_file.write_text('[[handlers]]\ntopic = "t"\ncall = "nowhere:f"\n')
    assert "no module 'nowhere'" in (await results(settings_file))["handler nowhere:f"].detail
    settings_file.write_text('[bus.options]\npath = "/proc/nope/x.db"\n')
    assert (await results(settings_file))["bus"].outcome is Outcome.FAILED


def test_plugins_are_listed_as_the_settings_allow_them(settings_file: Path) -> None:
    settings_file.write_text('[plugins]\nblock = ["outbox"]\n')
    states = {(p.kind, p.name): p.state for p in list_plugins(load_settings(settings_file).settings)}
    assert (states["bus", "memory"], states["cdc", "outbox"]) == ("available", "blocked")


HANGS = """
import threading

def ship(event):
    pass

{}
"""


@pytest.mark.slow
async def test_a_check_that_hangs_is_bounded_and_does_not_stop_the_others(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings_file.parent
    monkeypatch.syspath_prepend(str(folder))
    (folder / "hanging_shop.py").write_text(HANGS.format("threading.Event().wait(30)"))
    (folder / "leaving_shop.py").write_text(HANGS.format("raise SystemExit(3)"))
    settings_file.write_text(
        '[[handlers]]\ntopic = "t"\ncall = "leaving_shop:ship"\n[[handlers]]\ntopic = "t"\ncall = "hanging_shop:ship"\n'
    )
    found = [r async for r in diagnose(lambda: load_settings(settings_file), 2.0)]
    leaving, hanging = [r for r in found if r.check.startswith("handler ")]
    assert (leaving.outcome, hanging.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert leaving.check == "handler leaving_shop:ship"
    assert hanging.detail == "no answer within 2 s"
    assert hanging.advice
    assert len({r.check for r in found}) == len(found)
    assert {"round trip", "flush", "clock"} <= {r.check for r in found if r.outcome is Outcome.OK}


async def test_a_source_that_is_down_fails(settings_file: Path) -> None:
    found = (await results(settings_file))["source shop"]
    assert found.outcome is Outcome.FAILED
    assert found.detail.startswith("there is no database shop.db")
    assert "dimesh cdc check shop" in found.advice


def test_the_machine_is_checked_by_use(tmp_path: Path) -> None:
    assert machine.check_sqlite().outcome is Outcome.OK
    flush = machine.check_flush(tmp_path)
    assert " ms, the slowest of 10 " in flush.detail
    file = tmp_path / "mesh.db"
    file.touch(0o600)
    assert machine.check_modes([file, tmp_path / "none"]).outcome is Outcome.OK
    file.chmod(0o640)
    modes = machine.check_modes([file])
    assert (modes.outcome, modes.advice) == (Outcome.WARNING, f"chmod 600 {file}")
    assert machine.check_clock([tmp_path], [file]).outcome is Outcome.OK
    later = file.stat().st_mtime + 3_600
    os.utime(file, (later, later))
    clock = machine.check_clock([tmp_path], [file])
    assert clock.outcome is Outcome.WARNING
    assert "the clock went back" in clock.detail
    assert not [path for path in tmp_path.iterdir() if path != file]  # nothing is left


@pytest.mark.skipif(machine.file_system(Path("/dev/shm")) != "tmpfs", reason="there is no /dev/shm here")
def test_files_in_memory_are_a_warning() -> None:
    found = machine.check_flush(Path("/dev/shm"))
    assert found.outcome is Outcome.WARNING
    assert "lost when the machine restarts" in found.advice
