"""The projects that ``dimesh init`` and ``dimesh new plugin`` create: text files with placeholders such as ``$name``, as in
:class:`string.Template`.
"""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from dimesh import __version__
from dimesh.errors import ConfigurationError, StorageError


def render(target: Path, kind: str, name: str, author: str) -> list[Path]:
    """Create a project and return its files.

    Raises:
        StorageError: the folder cannot be written; the files written so far are removed again.
    """
    package = f"{author}_dimesh_{name}"
    values = {
        "name": name,
        "kind": kind,
        "author": author,
        "package": package,
        "distribution": package.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "version": __version__,
        "group": f"dimesh.{kind}",
    }
    sources = [*_templates(files(__name__) / "common"), *_templates(files(__name__) / kind)]
    return _write(target, [(path.replace("PACKAGE", package), text) for path, text in sources], values)


def render_mesh(target: Path, name: str) -> list[Path]:
    """Create a project with a mesh that runs, in a new or an existing folder, and return its files.

    Raises:
        ConfigurationError: one of the files exists; nothing was written.
        StorageError: the folder cannot be written; what was written is removed again.
    """
    sources = _templates(files(__name__) / "mesh")
    for relative, _ in sources:
        if os.path.lexists(path := target / relative.removesuffix(".tmpl")):
            raise ConfigurationError(f"{path} already exists, and nothing was written: choose another folder")
    return _write(target, sources, {"name": name})


def _write(target: Path, sources: list[tuple[str, str]], values: dict[str, str]) -> list[Path]:
    written: list[Path] = []
    try:
        for relative, text in sources:
            path = target / relative.removesuffix(".tmpl")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(Template(text).substitute(values))
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise StorageError(f"{target} cannot be written: {error.strerror}") from error
    return written


def _templates(folder: Traversable, prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            found += _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".tmpl"):
            found.append((prefix + entry.name, entry.read_text("utf-8")))
    return found
