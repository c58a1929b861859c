from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dimesh.mesh import Mesh
from dimesh.settings import load_settings

Open = Callable[..., Mesh]


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a mesh on sqlite with one source: an application's database."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "dimesh.toml"
    file.write_text(
        '[[sources]]\ndriver = "outbox"\nname = "shop"\nobjects = ["orders"]\n'
        '[sources.options]\npath = "shop.db"\npoll = 0.02\n'
    )
    return file


@pytest.fixture
async def mesh(settings_file: Path) -> AsyncIterator[Mesh]:
    async with Mesh(load_settings(settings_file).settings) as opened:
        yield opened


@pytest.fixture
def shop(settings_file: Path) -> Iterator[sqlite3.Connection]:
    """The application's database, with three orders."""
    from dimesh.backends.cdc.outbox import watch

    with closing(sqlite3.connect(settings_file.with_name("shop.db"))) as app:
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
            app.executemany("INSERT INTO orders VALUES (?, ?)", [(1, "lamp"), (2, "desk"), (3, "chair")])
            watch(app, "orders")
        yield app
