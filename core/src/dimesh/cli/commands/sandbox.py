"""``dimesh sandbox``: local servers that behave as the captured systems do."""

from __future__ import annotations

import runpy
import sys
from typing import Annotated

import typer

from dimesh.errors import ConfigurationError
from dimesh.plugins.discovery import companion_modules


def sandbox(
    context: typer.Context,
    system: Annotated[
        str,
        typer.Argument(
            help="The system, such as stripe or salesforce. The sandbox has options of its own: '-- --help' lists them."
        ),
    ],
) -> None:
    """Run a local server that behaves as a system's API does.

    It serves for trying out change capture without an account and without a network.
    """
    able = companion_modules("sandbox")
    if system not in able:
        raise ConfigurationError(
            f"no installed plugin has a sandbox of {system!r:.60}; there are: {', '.join(sorted(able)) or 'none'} "
            "(pip install 'dimesh[stripe]')"
        )
    sys.argv = [f"dimesh sandbox {system}", *context.args]
    try:
        runpy.run_module(able[system], run_name="__main__", alter_sys=False)
    except SystemExit as ended:  # as a script ends: with the code of its parser or its own
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise typer.Exit(code if 0 <= code < 256 else 1) from None  # the system would make 0 of 256
