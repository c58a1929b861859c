#!/usr/bin/env python3
"""Set up this checkout and run it: ``python3 dev.py demo`` or ``python3 dev.py test``.

Needs one Python of 3.11 or later with pip, and nothing else. Makes ``.venv`` here, installs uv into it, and with uv
everything the command needs. The second time it starts at once, until a pyproject.toml changes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
EXE = ".exe" if os.name == "nt" else ""
PYTHON = BIN / f"python{EXE}"
STAMP = VENV / "dimesh-setup"

COMMANDS = {
    "demo": ("run the demo (arguments are passed on to 'dimesh demo')", ()),
    "test": ("run the tests (arguments are passed on to pytest)", ("test",)),
    "setup": ("only set up, for development", ("test", "lint", "docs")),
    "nox": ("run nox (arguments are passed on), e.g. 'nox -s lint'", ("nox",)),
}


def members() -> list[Path]:
    """Folders of the distributions."""
    return [
        ROOT / "core",
        ROOT / "contracts",
        *sorted(p.parent for p in (ROOT / "plugins").glob("*/pyproject.toml")),
    ]


def run(*command: object, quiet: bool = False) -> None:
    """Run a command; end with its code if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        if quiet:
            sys.stderr.write(done.stdout.decode("utf-8", "replace"))
        sys.exit(f"dev.py: {' '.join(str(part) for part in command)} failed")


def set_up(groups: tuple[str, ...]) -> None:
    """Make .venv as the pyproject files say, if it is not yet."""
    digest = hashlib.sha256(sys.version.encode())
    for path in [ROOT / "pyproject.toml", *(member / "pyproject.toml" for member in members())]:
        digest.update(path.read_bytes())
    wanted = digest.hexdigest()
    have = STAMP.read_text("utf-8").split() if STAMP.exists() else [""]
    if have[0] == wanted and set(groups) <= set(have[1:]) and PYTHON.exists():
        return
    groups = tuple(sorted({*groups, *have[1:]}))
    print("dev.py: setting up .venv", flush=True)
    STAMP.unlink(missing_ok=True)
    # Without pip of its own: a distribution's Python may lack ensurepip, and the pip that is there can install into it.
    venv.EnvBuilder(with_pip=False, clear=have[0] != wanted).create(VENV)
    run(sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "uv>=0.8", quiet=True)
    install: list[object] = [BIN / f"uv{EXE}", "pip", "install", "--quiet", "--python", PYTHON]
    for member in members():
        install += ["--editable", member]
    for group in groups:
        install += ["--group", group]
    run(*install)
    STAMP.write_text(" ".join((wanted, *groups)), "utf-8")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the file that tells people
        sys.exit(f"dev.py: Python 3.11 or later is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        lines = [f"  python3 dev.py {name:6} {text}" for name, (text, _) in COMMANDS.items()]
        sys.exit("\n".join(["usage:", *lines]))
    command, rest = sys.argv[1], sys.argv[2:]
    set_up(COMMANDS[command][1])
    target: list[object]
    if command == "demo":
        target = [PYTHON, "-m", "dimesh", "demo", *rest]
    elif command == "test":
        target = [
            PYTHON,
            "-m",
            "pytest",
            *(
                rest
                or ["-q", "-n", "2", "--dist", "worksteal", "-m", "not slow and not wheels and not servers"]
            ),
        ]
    elif command == "nox":
        target = [PYTHON, "-m", "nox", *rest]
    else:
        return
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(VENV),
    }
    sys.stdout.flush()
    try:
        sys.exit(
            subprocess.run([str(part) for part in target], cwd=ROOT, env=environment, check=False).returncode
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
