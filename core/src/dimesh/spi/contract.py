"""The marker of hook implementations, and the version of the contract between dimesh and its plugins."""

from __future__ import annotations

from typing import Final

import pluggy

CONTRACT_VERSION: Final = 1
"""Raised when a hook spec or an SPI changes so that older plugins no longer fit."""

hookimpl = pluggy.HookimplMarker("dimesh")
