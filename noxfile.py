"""The checks. ``nox -l`` lists them; ``.ci/run`` runs all of them.

Each distribution is tested in an environment of its own, with what it declares and nothing else: a shared one hides a
missing dependency. A Python that is missing is an error: the matrix is what is promised.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests-3.12"]

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
MAIN = "3.12"
PLUGINS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml"))
MEMBERS = ["core", "contracts", *PLUGINS]
DIST = ROOT / "dist"
PARALLEL = ("-n", "2", "--dist", "worksteal")
QUICK = ("-q", *PARALLEL, "-m", "not slow and not wheels and not servers")
# What is killed, cut off or fed with anything behaves the same on every Python: once is enough.
ONCE = (
    "--ignore=tests/faults",
    "--ignore=tests/hostile",
    "--ignore-glob=*/test_month.py",
)


def quick(session: nox.Session) -> tuple[str, ...]:
    """Which tests run on the session's Python."""
    return QUICK if session.python == MAIN else (*QUICK, *ONCE)


def editable(session: nox.Session, *members: str, groups: tuple[str, ...] = ("test",)) -> None:
    """Install distributions of this workspace for editing, and dependency groups."""
    arguments = [part for member in members for part in ("--editable", f"./{member}")]
    arguments += [part for group in groups for part in ("--group", group)]
    session.install(*arguments)


@nox.session(python=PYTHONS)
@nox.parametrize("member", MEMBERS, ids=MEMBERS)
def member(session: nox.Session, member: str) -> None:
    """The tests of one distribution, with the contract kit and what it declares."""
    editable(session, *dict.fromkeys(("core", "contracts", member)))
    tests = ROOT / member / "tests"
    if any(tests.rglob("test_*.py")):
        session.run("pytest", *quick(session), str(tests), *session.posargs)
    else:
        session.log(f"{member} has no tests of its own")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """What crosses distributions: architecture, start-up, the user's document, documentation."""
    editable(session, *MEMBERS)
    session.run("pytest", *quick(session), "tests", *session.posargs)


@nox.session(python=MAIN)
def slow(session: nox.Session) -> None:
    """The tests that take longer."""
    editable(session, *MEMBERS)
    session.run("pytest", "-q", *PARALLEL, "-m", "slow and not wheels and not servers", *session.posargs)


@nox.session(python=MAIN)
def servers(session: nox.Session) -> None:
    """The suites that need real servers: Kafka (Java and Maven), Pub/Sub (Go). Without them: said loudly, in CI an error."""
    editable(session, *MEMBERS)
    # One file stays in one process, and with it the servers that it starts.
    session.run("pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "servers", *session.posargs)


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """ruff, both ways."""
    session.install("--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """mypy, strict."""
    editable(session, *MEMBERS, groups=("test", "lint"))
    session.run("mypy", *(f"{m}/src" for m in MEMBERS))


@nox.session(python=MAIN)
def imports(session: nox.Session) -> None:
    """Which package may import which."""
    editable(session, *MEMBERS, groups=("lint",))
    session.run("lint-imports")


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Generated pages are current; the site builds without a warning."""
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
    """The oldest versions that the distributions say they work with."""
    session.install("--resolution", "lowest-direct", "./core", "./contracts")
    session.install("pytest-timeout", "pytest-xdist", "cloudevents")
    session.run("pytest", *QUICK, "core/tests", *session.posargs)


@nox.session(python=MAIN)
def mutants(session: nox.Session) -> None:
    """Broken plugins, each of which its contract kit must fail."""
    editable(session, *MEMBERS)
    session.run("python", "contracts/tests/mutants/run.py", *session.posargs)


@nox.session(python=MAIN)
def endurance(session: nox.Session) -> None:
    """A million events through the sqlite bus with a slow consumer (--short: a tenth); draws the documentation's plot."""
    editable(session, *MEMBERS, groups=("bench",))
    session.run("python", "core/benchmarks/endurance.py", *session.posargs)


@nox.session(python=MAIN, name="endurance-kafka")
def endurance_kafka(session: nox.Session) -> None:
    """Ten minutes (--short: two) of 2,000 events a second on a real broker while everything around it breaks."""
    editable(session, *MEMBERS)
    session.run("python", "plugins/kafka/benchmarks/endurance_kafka.py", *session.posargs)


@nox.session(python=MAIN)
def bench(session: nox.Session) -> None:
    """Benchmarks, as ratios to floors of the same run; JSON goes to bench-results/."""
    editable(session, *MEMBERS, groups=("bench",))
    session.run("python", "core/benchmarks/run.py", *session.posargs)
