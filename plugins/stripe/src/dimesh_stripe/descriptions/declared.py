"""What Stripe's own SDK declares about its API: its lists with their parameters, the paths of single rows, and event types.

``declared.json`` has it, so that neither the source nor the sandbox depends on the SDK. The table of objects
(:mod:`dimesh_stripe.resources`) is compared with it in the tests, and the sandbox refuses requests that it does not have.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import stripe

_PATH: Final = re.compile(r'"/v1/([^"]*)"')
_METHODS: Final = {"list": "lists", "retrieve": "reads", "delete": "deletes"}
_ROOT: Final = Path(stripe.__file__).parent


def generate() -> dict[str, Any]:
    """Return ``lists`` with their ``objects``, ``params`` and ``required``, ``reads`` and ``deletes``, and ``events``."""
    found: dict[str, Any] = {"lists": {}, "reads": {}, "deletes": {}}
    for file in sorted(_ROOT.rglob("*_service.py")):
        if {"v2", "test_helpers"} & set(file.relative_to(_ROOT).parts):
            continue
        text = file.read_text("utf-8")
        tree = ast.parse(text)
        imports = dict(_imports(tree))
        for method in ast.walk(tree):
            if not isinstance(method, ast.FunctionDef) or method.name not in _METHODS:
                continue
            path = _PATH.search(ast.get_source_segment(text, method) or "")
            if path is None:
                continue
            names = re.findall(r"\w+", ast.unparse(method.returns) if method.returns else "")
            objects = sorted({o for name in names if name in imports for o in _object(imports[name], name)})
            entry: dict[str, Any] = {"objects": objects}
            if method.name == "list":
                params = next((a.annotation for a in method.args.args if a.arg == "params"), None)
                names = re.findall(r"\w+ListParams\b", ast.unparse(params) if params else "")
                entry |= _params(imports[names[0]], names[0])
            found[_METHODS[method.name]][path[1]] = entry
    return {**{kind: dict(sorted(paths.items())) for kind, paths in found.items()}, "events": _events()}


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.name, node.module


def _object(module: str, name: str) -> list[str]:
    kind = getattr(importlib.import_module(module), name, None)
    found = getattr(kind, "OBJECT_NAME", None)
    return [found] if isinstance(found, str) and found != "list" else []


def _params(module: str, name: str) -> dict[str, list[str]]:
    """Return the names of a list's parameters, and of those that it cannot do without."""
    tree = ast.parse(Path(importlib.import_module(module).__file__ or "").read_text("utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    params, required = [], []
    for field in kind.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            params.append(field.target.id)
            if not ast.unparse(field.annotation).startswith("NotRequired"):
                required.append(field.target.id)
    return {"params": sorted(params), "required": sorted(required)}


def _events() -> list[str]:
    """Return the types of events that a webhook endpoint can be given: all of those of v1."""
    text = (_ROOT / "params" / "_webhook_endpoint_create_params.py").read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "enabled_events"
        ):
            found = [c.value for c in ast.walk(node.annotation) if isinstance(c, ast.Constant)]
            return sorted(str(kind) for kind in found if kind != "*")
    raise LookupError("the SDK has no list of event types")
