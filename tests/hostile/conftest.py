from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dimesh import EventBus, EventBusFactory


@pytest.fixture(autouse=True)
def enclosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run the test in ``tmp_path/work``, and check that nothing is written outside it: a name or argument that escapes by
    ``..`` leaves a file in ``tmp_path``.
    """
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in list(os.environ):
        if name.startswith("DIMESH_"):
            monkeypatch.delenv(name)
    yield work
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.fixture(params=["memory", "sqlite"])
def make_bus(request: pytest.FixtureRequest, enclosed: Path) -> Callable[[], EventBus]:
    """Create a bus; with sqlite, each has its own file."""
    made: list[EventBus] = []

    def make() -> EventBus:
        made.append(
            EventBusFactory.create("memory", history=100_000)
            if request.param == "memory"
            else EventBusFactory.create("sqlite", path=str(enclosed / f"mesh-{len(made)}.db"))
        )
        return made[-1]

    return make
