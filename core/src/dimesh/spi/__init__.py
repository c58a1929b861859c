"""The service provider interface: all that a plugin needs to import besides :mod:`dimesh.events`,
:mod:`dimesh.errors` and :mod:`dimesh.capabilities`.
"""

from __future__ import annotations

from dimesh.spi.contract import CONTRACT_VERSION, hookimpl

__all__ = ["CONTRACT_VERSION", "hookimpl"]
