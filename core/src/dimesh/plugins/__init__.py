"""Finds, loads and calls plugins."""

from __future__ import annotations

from dimesh.plugins.manager import PluginManager, PluginRow, default_manager

__all__ = ["PluginManager", "PluginRow", "default_manager"]
