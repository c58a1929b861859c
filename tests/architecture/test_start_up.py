"""What is imported when: a start-up must not pay for what it does not use."""

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


def test_networkx_waits_until_it_is_asked_for() -> None:
    assert "networkx" not in imported_by("import dimesh\ndimesh.LineageService()")
    assert "jsonschema" not in imported_by("import dimesh\ndimesh.LocalSchemaRegistry()")
