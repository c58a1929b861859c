"""Settings of a mesh: one ``dimesh.toml`` and the environment."""

from __future__ import annotations

from dimesh.secrets import is_secret
from dimesh.settings.loading import LoadedSettings, load_settings
from dimesh.settings.model import DriverSection, HandlerSection, MeshSettings, SourceSection, parse_address
from dimesh.settings.toml import check_references

__all__ = [
    "DriverSection",
    "HandlerSection",
    "LoadedSettings",
    "MeshSettings",
    "SourceSection",
    "check_references",
    "is_secret",
    "load_settings",
    "parse_address",
]
