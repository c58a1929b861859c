"""Settings files that are damaged or forged: valid settings, or one error that names the file and shows no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dimesh.errors import ConfigurationError, DimeshError
from dimesh.mesh import Mesh
from dimesh.plugins import PluginManager
from dimesh.settings import load_settings

from .hostile import amounts, hostile_text, mutated, refused, try_all

SECRET = "s3cr3t-hunter2"

GOOD = """\
[mesh]
name = "shop"
data_dir = "mesh-data"
[bus]
driver = "sqlite"
drain_timeout = 10.0
publish_timeout = 30
validate_schemas = false
options = { path = "mesh.db", partitions = 4 }
[registry]
driver = "sqlite"
[lineage]
driver = "file"
enabled = true
options = { durability = "interval" }
[[handlers]]
topic = "orders"
call = "shop.orders:bill"
event_types = ["deal.won"]
priorities = ["high", "critical"]
concurrency = 4
timeout = 5.5
[[sources]]
driver = "outbox"
name = "app"
objects = ["orders"]
[plugins]
block = ["toy"]
"""
LINES = GOOD.splitlines()

keys = (
    st.sampled_from(
        (
            "mesh", "bus", "registry", "lineage", "plugins", "handlers", "sources", "driver", "options", "name", "path",
            "bus.options", "bus.drain_timeout", "mesh.data_dir", "handlers.0.topic", "bus.options.partitions", "x",
            "bus.options.path", "plugins.allow", "bus.options.synchronous", "lineage.options.durability",
        )
    )
    | hostile_text.map(lambda text: '"' + text.encode("unicode_escape").decode().replace('"', "") + '"')
)  # fmt: skip
values = (
    st.sampled_from(
        (
            "1", "-1", "0", "1e400", "nan", "inf", "true", '""', "''", '"x"', "[]", "{}", "[[]]", "{a = {b = 1}}",
            "0x7fffffffffffffffffff", "9" * 5_000, "2026-13-40", "2026-01-01T00:00:00Z", "23:59:60", '"${NOPE}"',
            '"${"', '"${}"', '"$${x}"', '"${HOME}"', '"\\u0000"', '"\\ud800"', '"a', "[1,", "{", '"""', "'''", "@DEEP",
            '"../../escape"', '"/nowhere/x.db"', "[" * 40 + "]" * 40, '["x", 1]', "{path = 1}", '"' + "x" * 10_000 + '"',
        )
    )
    | st.integers().map(str)
    | st.floats().map(repr)
    | hostile_text.map(lambda text: f'"{text}"')
)  # fmt: skip
tables = st.sampled_from(
    ("[mesh]", "[bus]", "[bus.options]", "[[handlers]]", "[sources]", "[[bus]]", "[x]", "[", "]")
)
odd_lines = st.builds("{} = {}".format, keys, values) | tables | hostile_text


@st.composite
def rearranged(draw: st.DrawFn, more: st.SearchStrategy[str]) -> str:
    """Return the valid file with lines removed, inserted, duplicated and reordered."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(("insert", "insert", "delete", "double", "move")))
        if kind == "insert":
            lines.insert(at, draw(more))
        elif kind == "delete" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
    return "\n".join(lines).replace("@DEEP", "[" * 50_000)


def look(file: Path, manager: PluginManager) -> Any:
    """Use the file as a command does: read it, show it, build the mesh (without opening it)."""
    loaded = load_settings(file)
    rows = loaded.rows()
    assert all(isinstance(text, str) for row in rows for text in row)
    try:
        mesh = Mesh(loaded.settings, manager=manager)
        mesh.registry  # noqa: B018 - is created on first access
        mesh.lineage  # noqa: B018
    except DimeshError as error:
        refused(error)
        assert SECRET not in str(error)
    return rows


@amounts(83, 1_500)
def test_any_file_is_settings_or_an_error_that_names_it(cases: int, enclosed: Path) -> None:
    file = enclosed / "dimesh.toml"
    manager = PluginManager()
    taken = 0

    def check(content: bytes) -> None:
        nonlocal taken
        file.write_bytes(content)
        try:
            look(file, manager)
            taken += 1
        except ConfigurationError as error:
            refused(error, 8_000)  # it lists up to twenty mistakes
            assert "dimesh.toml" in str(error)

    damaged = mutated(
        st.just(GOOD.encode()) | rearranged(odd_lines).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    whole = rearranged(odd_lines).map(lambda text: text.encode("utf-8", "surrogatepass"))
    try_all(cases, check, content=damaged | whole | st.binary(max_size=60))
    assert taken > cases // 50
    assert [path.name for path in enclosed.iterdir()] == ["dimesh.toml"]  # nothing was created


secret_names = st.sampled_from(
    ("password", "api_key", "token", "client_secret", "private_key", "sasl_password", "dsn", "authorization")
)
secret_values = st.sampled_from(
    (
        SECRET,
        f"x{SECRET}y",
        "${SECRET_VARIABLE}",
        f"${{{SECRET}",
        f"a${{b-{SECRET}",
        f"$${{{SECRET}",
        f"\\n{SECRET}\\t",
    )
)
misplaced = st.sampled_from(
    (
        "bus.drain_timeout", "bus.validate_schemas", "bus.publish_timeout", "mesh.data_dir.x", "handlers", "sources",
        "plugins.allow", "plugins.block", "lineage.enabled", "bus.options", "registry.options", "bus.password", "token",
        "drain_timeout", "enabled", "concurrency", "options.partitions", "options.path.x", "options.durability",
        "options.synchronous", "priorities", "objects", "timeout", "mesh", "bus", "event_types",
    )
)  # fmt: skip
wrapped = st.sampled_from(
    ('"{}"', '["{}"]', '{{ value = "{}" }}', '[{{ x = "{}" }}]', '"""{}"""', '"{}" # "', '"{}", "x"')
)
secret_lines = st.builds(
    lambda key, form, value: f"{key} = {form.format(value)}",
    misplaced
    | secret_names
    | secret_names.map("options.".__add__)
    | secret_names.map("bus.options.".__add__),
    wrapped,
    secret_values,
)


@amounts(83, 1_000)
def test_no_error_shows_a_secret(cases: int, enclosed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = enclosed / "dimesh.toml"
    monkeypatch.setenv("SECRET_VARIABLE", SECRET)
    manager = PluginManager()
    wrong = 0

    def check(text: str) -> None:
        nonlocal wrong
        file.write_text(text, "utf-8", "replace")
        try:
            look(file, manager)
        except ConfigurationError as error:
            wrong += 1
            refused(error, 8_000)
            told = [error, error.__cause__, None if error.__suppress_context__ else error.__context__]
            assert all(SECRET not in f"{each} {each!r}" for each in told)
            assert "dimesh.toml" in str(error)

    try_all(cases, check, text=rearranged(secret_lines | secret_lines | odd_lines))
    assert wrong > cases // 4


@amounts(33, 300)
def test_a_secret_under_a_secret_name_is_never_shown(
    cases: int, enclosed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = enclosed / "dimesh.toml"
    monkeypatch.setenv("SECRET_VARIABLE", SECRET)

    def check(name: str, value: str, form: str) -> None:
        file.write_text(f"{GOOD}\n[bus.options.deep]\n{name} = {form.format(value)}\n")
        try:
            rows = load_settings(file).rows()
        except ConfigurationError as error:
            assert SECRET not in str(error)
        else:
            assert SECRET not in str(rows)

    try_all(cases, check, name=secret_names, value=secret_values, form=wrapped)
