"""The projects that ``dimesh new plugin`` writes: text files with ``$name``-like places (string.Template)."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from dimesh import __version__
from dimesh.errors import StorageError

_GROUPS = {"bus": "bus", "registry": "registry", "cdc": "cdc", "lineage": "lineage", "hooks": "hooks"}


def render(target: Path, kind: str, name: str, author: str) -> list[Path]:
    """Write a project; returns its files.

    Raises:
        StorageError: the folder cannot be written; nothing is left behind.
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
        "group": f"dimesh.{_GROUPS[kind]}",
    }
    sources = [*_templates(files(__name__) / "common"), *_templates(files(__name__) / kind)]
    written: list[Path] = []
    try:
        for relative, text in sources:
            path = target / relative.replace("PACKAGE", package).removesuffix(".tmpl")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), "utf-8")
            written.append(path)
    except OSError as error:
        import shutil

        shutil.rmtree(target, ignore_errors=True)
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
