"""Clients of schema registries that others wrote, in Go and for Node: built once, run as programs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from servers.processes import cache_folder, made_once, needs, run

HERE = Path(__file__).parent


def _digest(folder: Path, names: list[str]) -> str:
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()[:16]


def franz() -> list[str]:
    """Return the command of the program with franz-go's client; build it if necessary.

    Raises:
        ServerUnavailable: Go is missing, or the module cannot be downloaded.
    """
    go = needs("go", "one client of the schema registry is written in Go (1.24 or newer)")
    folder, names = HERE / "franz", ["main.go", "go.mod", "go.sum"]

    def make(fresh: Path) -> None:
        for name in names:
            shutil.copy(folder / name, fresh)
        run([go, "build", "-mod=mod", "-o", "franz", "."], cwd=fresh)

    return [str(made_once(cache_folder(f"franz-{_digest(folder, names)}"), make) / "franz")]


def kafkajs() -> list[str]:
    """Return the command of the program with KafkaJS's client; install it if necessary.

    Raises:
        ServerUnavailable: Node is missing, or the package cannot be downloaded.
    """
    node = needs("node", "one client of the schema registry runs on Node (20 or newer)")
    npm = needs("npm", "one client of the schema registry is a package of npm")
    folder, names = HERE / "kafkajs", ["run.js", "package.json"]

    def make(fresh: Path) -> None:
        for name in names:
            shutil.copy(folder / name, fresh)
        run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=fresh)

    return [node, str(made_once(cache_folder(f"kafkajs-{_digest(folder, names)}"), make) / "run.js")]
