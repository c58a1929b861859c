"""``dimesh sandbox``: local servers that behave as the captured systems do."""

from __future__ import annotations

import runpy
import sys
from typing import Annotated

import typer

from dimesh.discovery import companions
from dimesh.errors import ConfigurationError


def sandbox(
    context: typer.Context,
    system: Annotated[
        str, typer.Argument(help="Such as stripe or salesforce; what follows are its own options.")
    ],
) -> None:
    """Run a local server that behaves as a system that is captured, to try things out: no account, no network."""
    able = companions("sandbox")
    if system not in able:
        raise ConfigurationError(
            f"no installed plugin has a sandbox of {system!r:.60}; there are: {', '.join(sorted(able)) or 'none'} "
            "(pip install 'dimesh[stripe]')"
        )
    sys.argv = [f"dimesh sandbox {system}", *context.args]
    runpy.run_module(able[system], run_name="__main__", alter_sys=False)
