"""nox sessions for plugins of third parties; install ``dimesh-contracts[nox]`` beside nox. A ``noxfile.py`` needs two lines::

    from dimesh_contracts.nox import plugin_tests

    plugin_tests(pythons=["3.11", "3.13"], dimesh=["0.1.0", "latest"])

``nox -s tests`` then builds the wheel of the project and runs its tests against the installed wheel, with each Python and each
release of dimesh. A Python that is missing is an error: what is not run must not look like what passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import nox

LATEST: Final = "latest"
"""The newest release that the plugin's own requirements allow."""


def plugin_tests(
    pythons: Sequence[str] = ("3.11", "3.12", "3.13"),
    dimesh: Sequence[str] = (LATEST,),
    *,
    extra: str = "test",
    name: str = "tests",
) -> Any:
    """Register the session that tests the wheel of the project.

    Args:
        pythons: the versions of Python. nox fails if one is not installed.
        dimesh: the releases of dimesh and dimesh-contracts to test with, such as ``0.1.0``, or ``latest``.
        extra: the optional dependencies of the project that its tests need; empty: none.
        name: the name of the session.

    Returns:
        The session, as ``nox.session`` returns it.
    """
    nox.options.error_on_missing_interpreters = True

    @nox.session(name=name, python=list(pythons))
    @nox.parametrize("dimesh", list(dimesh))
    def tests(session: nox.Session, dimesh: str) -> None:
        """Test the wheel with a release of dimesh. Arguments go to pytest."""
        session.install("build")
        built = session.create_tmp()
        session.run("python", "-m", "build", "--quiet", "--wheel", "--outdir", built, ".")
        (wheel,) = _wheels(built)
        session.install("--force-reinstall", *requirements(wheel, dimesh, extra))
        # The tests must import the wheel, not the sources beside them.
        session.run("python", "-P", "-m", "pytest", "--import-mode=importlib", *session.posargs)

    return tests


def requirements(wheel: str, dimesh: str, extra: str) -> list[str]:
    """Return what is installed for one run."""
    own = f"{wheel}[{extra}]" if extra else wheel
    if dimesh == LATEST:
        return [own]
    return [own, f"dimesh=={dimesh}", f"dimesh-contracts=={dimesh}"]


def _wheels(folder: str) -> list[str]:
    """Return the newest wheel in a folder, which earlier runs may have used."""
    from pathlib import Path

    found = sorted(Path(folder).glob("*.whl"), key=lambda path: path.stat().st_mtime)
    return [str(path) for path in found[-1:]]
