"""The installed plugins and their states."""

from __future__ import annotations

from dimesh.plugins import PluginManager
from dimesh.plugins.manager import PluginRow
from dimesh.settings import MeshSettings


def list_plugins(settings: MeshSettings) -> list[PluginRow]:
    """Return every installed plugin with its state, as the settings allow or block it. Imports none of them."""
    return PluginManager(settings.plugins.allow, settings.plugins.block).rows()


def check_plugins(settings: MeshSettings) -> list[PluginRow]:
    """Import every plugin that may be used; return its state and the time that the import took."""
    return PluginManager(settings.plugins.allow, settings.plugins.block).check()
