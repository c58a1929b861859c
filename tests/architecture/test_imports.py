"""No module imports in a circle, wherever the import is: at the top, inside a function, or for type checking only.

A module that needs another one and is needed by it cannot be read, tested or moved alone. An import inside a function
hides such a circle from Python, and one under ``TYPE_CHECKING`` hides it from the import linter.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "core/src", ROOT / "contracts/src", *sorted((ROOT / "plugins").glob("*/src"))]


def modules() -> dict[str, Path]:
    """Return the file of every module, by the module's name."""
    found: dict[str, Path] = {}
    for source in SOURCES:
        for path in source.rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, module: str, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield the modules of ours that a module imports, each with its line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            # A name that is not a module is an attribute of the module that it is imported from.
            names = [name if name in known else base for name in names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name in known and name != module)


def graph(known: Mapping[str, Path]) -> nx.DiGraph:
    found: nx.DiGraph = nx.DiGraph()
    for module, path in known.items():
        for target, line in imports(path, module, known):
            if (module, target) not in found.edges:
                found.add_edge(module, target, line=line)
    return found


def circles(found: nx.DiGraph) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or through others."""
    return [group for group in nx.strongly_connected_components(found) if len(group) > 1]


def describe(found: nx.DiGraph, circle: set[str], known: Mapping[str, Path]) -> str:
    """Return the shortest path round a circle: one line for each import, with its file and line."""
    inside = [edge for edge in found.edges if circle.issuperset(edge)]
    way = min((nx.shortest_path(found, target, source) for source, target in inside), key=len)
    steps = zip(way, [*way[1:], way[0]], strict=True)
    return "\n".join(
        f"  {known[a].relative_to(ROOT)}:{found.edges[a, b]['line']}: {a} imports {b}" for a, b in steps
    )


def test_no_module_imports_in_a_circle() -> None:
    known = modules()
    found = graph(known)
    ways = [describe(found, circle, known) for circle in circles(found)]
    assert not ways, "modules import each other:\n\n" + "\n\n".join(ways)


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    texts = {
        "a": "from pack import b\n",
        "b": "def late():\n    from pack.c import thing\n",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pack.d\n",
        "d": "from . import a\n",
        "e": "from .a import thing\n",
    }
    known = {"pack": tmp_path / "__init__.py"}
    known["pack"].write_text("")
    for name, text in texts.items():
        known[f"pack.{name}"] = tmp_path / f"{name}.py"
        known[f"pack.{name}"].write_text(text)
    assert circles(graph(known)) == [{"pack.a", "pack.b", "pack.c", "pack.d"}]
