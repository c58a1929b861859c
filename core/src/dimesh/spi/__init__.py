"""The service provider interface: all that a plugin needs to import besides :mod:`dimesh.events`,
:mod:`dimesh.errors` and :mod:`dimesh.capabilities`.
"""

from __future__ import annotations

from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.options import Options, parse_options

__all__ = ["CONTRACT_VERSION", "Options", "hookimpl", "parse_options"]
