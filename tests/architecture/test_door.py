"""Only the door holds the backend of a bus, so that its checks cannot be bypassed."""

from __future__ import annotations

import ast
from pathlib import Path

CORE = Path(__file__).parents[2] / "core/src/dimesh"
DOOR = CORE / "bus/door.py"
MAKE_BACKENDS = {"bus/door.py", "bus/engine.py", "plugins/manager.py", "plugins/hookspecs.py", "spi/bus.py"}
"""The modules that may name the protocol: the door, the makers of backends, and the module that defines it."""


def sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(CORE).as_posix(), ast.parse(path.read_bytes()))
        for path in sorted(CORE.rglob("*.py"))
        if "backends/bus" not in path.as_posix()
    ]


def test_no_other_module_uses_a_backend() -> None:
    found = [
        f"{name}:{node.lineno} .{node.attr}"
        for name, tree in sources()
        if name != DOOR.relative_to(CORE).as_posix()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("backend", "_backend")
    ]
    assert found == []


def test_no_other_module_names_the_protocol_of_backends() -> None:
    found = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "BusBackend" for alias in node.names)
    }
    assert found <= MAKE_BACKENDS, found - MAKE_BACKENDS
