"""Imports at start-up: a program must not pay for modules that it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "aiokafka",
    "asyncio",
    "google",
    "grpc",
    "jsonschema",
    "jsonschema_rs",
    "msgspec",
    "networkx",
    "pluggy",
    "pydantic",
    "pydantic_settings",
    "rich",
    "sqlite3",
    "stevedore",
    "typer",
]


def imported_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_dimesh_imports_next_to_nothing() -> None:
    modules = imported_by("import dimesh")
    assert not modules & set(HEAVY), modules & set(HEAVY)
    assert {m for m in modules if m.startswith("dimesh")} == {"dimesh"}


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_imports_no_backend_and_no_command(arguments: list[str]) -> None:
    modules = imported_by(
        f"from dimesh.cli.main import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    )
    assert not modules & (set(HEAVY) - {"asyncio"}), modules & set(HEAVY)
    assert not [m for m in modules if m.startswith(("dimesh.backends", "dimesh.bus", "dimesh.cli.commands"))]


def test_a_memory_bus_imports_no_other_engine() -> None:
    modules = imported_by("import dimesh\ndimesh.EventBusFactory.create('memory')")
    unwanted = {
        "aiokafka",
        "google",
        "grpc",
        "jsonschema",
        "networkx",
        "pydantic",
        "rich",
        "sqlite3",
        "stevedore",
        "typer",
    }
    assert not modules & unwanted, modules & unwanted


def test_networkx_is_imported_on_first_use() -> None:
    assert "networkx" not in imported_by("import dimesh\ndimesh.LineageService()")
    assert "jsonschema" not in imported_by("import dimesh\ndimesh.LocalSchemaRegistry()")


def test_a_source_over_http_imports_the_client_only() -> None:
    modules = imported_by(
        "import dimesh_stripe.source\nimport httpx, sys\nassert httpx.Client and 'httpx._main' not in sys.modules"
    )
    assert "httpx" in modules
    unwanted = {"click", "pygments", "rich", "starlette", "uvicorn"}
    assert not modules & unwanted, modules & unwanted


def test_official_plugins_without_commands_are_those_that_help_trusts() -> None:
    from importlib.metadata import entry_points

    from dimesh.cli.main import WITHOUT_COMMANDS

    installed = {
        f"{point.name} = {point.value}".encode(): point for point in entry_points(group="dimesh.hooks")
    }
    assert set(installed) >= WITHOUT_COMMANDS
    for line in WITHOUT_COMMANDS:
        assert not hasattr(installed[line].load(), "dimesh_commands")
