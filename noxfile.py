#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.2"]
# ///
"""The checks, and the set-up that they need. ``python3 noxfile.py NAME`` runs one, ``nox -s NAME`` does the same.

``demo`` and ``tests`` need one Python of 3.11 or later with pip, and nothing else: they make ``.venv`` here, install uv into it,
and with uv everything else. The next time they start at once, until a pyproject.toml changes.

The other sessions have environments of their own: each distribution is tested with what it declares and nothing else, since a
shared environment hides a missing dependency. A Python that is missing is an error: the matrix is what is promised.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Images of containers often set this. The tests start hundreds of processes, each of which would compile everything again:
# half of what they cost.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
PLUGINS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml"))
MEMBERS = ["core", "contracts", *PLUGINS]

VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
EXE = ".exe" if os.name == "nt" else ""
PYTHON = BIN / f"python{EXE}"
STAMP = VENV / "dimesh-setup"


def run(*command: object) -> None:
    """Run a command quietly; print its output and end if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode("utf-8", "replace"))
        sys.exit(f"noxfile.py: {' '.join(str(part) for part in command)} failed")


def set_up(*groups: str) -> None:
    """Make .venv as the pyproject files say, with nox and these dependency groups, unless it is there already."""
    groups = ("nox", *groups)
    digest = hashlib.sha256(sys.version.encode())
    for path in [ROOT / "pyproject.toml", *(ROOT / member / "pyproject.toml" for member in MEMBERS)]:
        digest.update(path.read_bytes())
    wanted = digest.hexdigest()
    have = STAMP.read_text("utf-8").split() if STAMP.exists() else [""]
    if have[0] == wanted and set(groups) <= set(have[1:]) and PYTHON.exists():
        return
    groups = tuple(sorted({*groups, *have[1:]}))
    print("noxfile.py: setting up .venv", flush=True)
    STAMP.unlink(missing_ok=True)
    if Path(sys.prefix) != VENV and (have[0] != wanted or not PYTHON.exists()):
        # Without pip of its own: the Python of a Linux distribution may lack ensurepip, and its pip can install into .venv.
        venv.EnvBuilder(with_pip=False, clear=True, symlinks=os.name != "nt").create(VENV)
    uv = shutil.which("uv") or shutil.which("uv", path=str(BIN))
    if uv is None:
        run(sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "uv>=0.8")
        uv = str(BIN / f"uv{EXE}")
    install: list[object] = [uv, "pip", "install", "--quiet", "--python", PYTHON]
    for member in MEMBERS:
        install += ["--editable", ROOT / member]
    for group in groups:
        install += ["--group", group]
    run(*install)
    STAMP.write_text(" ".join((wanted, *groups)), "utf-8")


def start_nox(arguments: list[str]) -> int:
    """Run nox from .venv: ``NAME [ARGUMENT …]`` runs one session, options are passed on as they are."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python must get a clear message
        sys.exit(f"noxfile.py: Python 3.11 or later is needed, this is {sys.version.split()[0]}")
    set_up()
    if not arguments:
        arguments = ["-l"]
    elif not arguments[0].startswith("-"):
        arguments = ["-s", arguments[0], "--", *arguments[1:]]
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        return subprocess.run(
            [str(PYTHON), "-m", "nox", *arguments], cwd=ROOT, check=False, env={**os.environ, "PATH": path}
        ).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(start_nox(sys.argv[1:]))

import nox

os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests"]

PYTHONS = ["3.11", "3.12", "3.13"]
MAIN = "3.12"
DIST = ROOT / "dist"
# Three processes for two cores: many tests wait for a process, a time limit or the disk.
PARALLEL = ("-n", "3", "--dist", "worksteal")
# Slow tests wait most of the time. They are given out one by one, and the longest ones first (conftest.py).
WAITING = ("-n", "4", "--dist", "load", "--maxschedchunk", "1")
# Nobody waits for CI, whose machine may do other work, so a wait may take longer there before it counts as a failure.
PATIENT = ("--contract-patience", "2") if os.environ.get("CI") else ()
QUICK = ("-q", *PATIENT, *PARALLEL, "-m", "not slow and not wheels and not servers")
# Tests that kill processes, cut connections or feed hostile input behave the same on every Python: one is enough.
ONCE = (
    "--ignore=tests/faults",
    "--ignore=tests/hostile",
    "--ignore-glob=*/test_month.py",
)

# What the tests of a distribution use, and the distribution itself does not need.
TESTED_WITH = {
    "core": ("core[http,sandbox]", ()),
    "plugins/confluent": (
        "core[http]",
        ("plugins/avro", "plugins/protobuf"),
    ),  # the registry that it talks to
    "plugins/kafka": ("core[http]", ("plugins/avro", "plugins/confluent")),  # frames of payloads
}


def quick(session: nox.Session) -> tuple[str, ...]:
    """Return the selection of tests for the Python of the session."""
    return QUICK if session.python == MAIN else (*QUICK, *ONCE)


def editable(session: nox.Session, *members: str, groups: tuple[str, ...] = ("test",)) -> None:
    """Install distributions of this workspace for editing, and dependency groups."""
    arguments = [part for member in members for part in ("--editable", f"./{member}")]
    arguments += [part for group in groups for part in ("--group", group)]
    session.install(*arguments)


@nox.session(python=False)
def setup(session: nox.Session) -> None:
    """Make .venv with everything for development."""
    set_up("test", "lint", "docs")


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """Run the demo: a mesh on the embedded default, end to end. Arguments are passed on to 'dimesh demo'."""
    set_up()
    session.run(str(PYTHON), "-m", "dimesh", "demo", *session.posargs, external=True)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the quick tests of everything in .venv. Arguments are passed on to pytest in their place."""
    set_up("test")
    arguments = session.posargs or (*QUICK, "--hypothesis-profile=quick")
    session.run(str(PYTHON), "-m", "pytest", *arguments, external=True, env=_in_venv())


def _in_venv() -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"PATH": path, "VIRTUAL_ENV": str(VENV)}


@nox.session(python=PYTHONS)
@nox.parametrize("member", MEMBERS, ids=MEMBERS)
def member(session: nox.Session, member: str) -> None:
    """Run the tests of one distribution, with the contract kit and what it declares."""
    core, others = TESTED_WITH.get(member, ("core", ()))
    editable(session, *dict.fromkeys((core, "contracts", *({member} - {"core"}), *others)))
    tests = ROOT / member / "tests"
    if any(tests.rglob("test_*.py")):
        session.run("pytest", *quick(session), str(tests), *session.posargs)
    else:
        session.log(f"{member} has no tests of its own")


@nox.session(python=PYTHONS)
def across(session: nox.Session) -> None:
    """Run the tests that cross distributions: architecture, start-up, the user's document, documentation."""
    editable(session, *MEMBERS)
    session.run("pytest", *quick(session), "tests", *session.posargs)


@nox.session(python=MAIN)
def slow(session: nox.Session) -> None:
    """Run the tests that take longer."""
    editable(session, *MEMBERS, groups=("test", "lint", "nox"))  # one test runs mypy
    session.run(
        "pytest", "-q", *PATIENT, *WAITING, "--durations=30", "-m", "slow and not wheels and not servers", *session.posargs
    )  # fmt: skip


@nox.session(python=MAIN)
def servers(session: nox.Session) -> None:
    """Run the suites that need real servers: Kafka (Java and Maven), Pub/Sub (Go). A missing one is reported; in CI it fails."""
    editable(session, *MEMBERS)
    # One file stays in one process, and with it the servers that it starts.
    session.run("pytest", "-q", *PATIENT, "-n", "2", "--dist", "loadfile", "-m", "servers", *session.posargs)


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """Run ruff, as linter and as formatter."""
    session.install("--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """Run mypy, strict."""
    editable(session, *MEMBERS, groups=("test", "lint", "nox"))
    session.run("mypy", *(f"{m}/src" for m in MEMBERS))


@nox.session(python=MAIN)
def imports(session: nox.Session) -> None:
    """Check which package imports which."""
    editable(session, *MEMBERS, groups=("lint",))
    session.run("lint-imports")


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Check that generated pages are current and that the site builds without a warning."""
    editable(session, *MEMBERS, groups=("docs",))
    session.run("python", "docs/generate.py", "--check")
    session.run(
        "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(Path(session.create_tmp()) / "site")
    )


@nox.session(python=MAIN)
def wheels(session: nox.Session) -> None:
    """Build everything, install from the built files alone, and use it."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.install("uv")
    for member in MEMBERS:
        session.run("uv", "build", "--quiet", "--out-dir", str(DIST), f"./{member}")
    session.install("--group", "test", "--group", "lint")
    session.run("pytest", "-q", "-m", "wheels", "tests/wheels", env={"MESH_BUILT": str(DIST)})


@nox.session(python=PYTHONS[0], name="lowest-direct")
def lowest_direct(session: nox.Session) -> None:
    """Run the tests of the core with the oldest versions that it accepts."""
    session.install("--resolution", "lowest-direct", "./core[http,sandbox]", "./contracts", "httpx>=0.27")
    session.install("pytest-timeout", "pytest-xdist", "cloudevents", "prometheus-client", "trustme")
    session.run("pytest", *QUICK, "core/tests", *session.posargs)


@nox.session(python=MAIN)
def mutants(session: nox.Session) -> None:
    """Run each contract kit against broken plugins, each of which it must fail."""
    editable(session, *MEMBERS)
    session.run("python", "contracts/tests/mutants/run.py", *session.posargs)


@nox.session(python=MAIN)
def endurance(session: nox.Session) -> None:
    """Send a million events through the sqlite bus to a slow consumer (--short: a tenth) and draw the plot of the documentation;
    then kill and stop members of a group for ten minutes (--short: 40 seconds).
    """
    editable(session, *MEMBERS, groups=("bench",))
    session.run("python", "core/benchmarks/endurance.py", *session.posargs)
    short = [name for name in session.posargs if name == "--short"]
    session.run("python", "core/benchmarks/endurance_groups.py", *short)


@nox.session(python=MAIN, name="endurance-kafka")
def endurance_kafka(session: nox.Session) -> None:
    """Run 2,000 events a second for ten minutes (--short: one) on a real broker while everything around it fails."""
    editable(session, *MEMBERS)
    session.run("python", "plugins/kafka/benchmarks/endurance_kafka.py", *session.posargs)


@nox.session(python=MAIN)
def bench(session: nox.Session) -> None:
    """Run the benchmarks, as ratios to floors of the same run; JSON goes to bench-results/."""
    editable(session, *MEMBERS, groups=("bench",))
    session.run("python", "core/benchmarks/run.py", *session.posargs)
