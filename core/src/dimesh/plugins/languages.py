"""Checks the plugins of the group ``dimesh.schema``: each is a schema language."""

from __future__ import annotations

from dimesh.errors import PluginContractError
from dimesh.plugins.discovery import canonical


def check_language(plugin: object, driver: str, who: str) -> None:
    """Refuse an object that is no schema language, or that has another name than its entry point.

    Raises:
        PluginContractError: with what the object lacks.
    """
    from dimesh.spi.schema import SchemaLanguage

    if isinstance(plugin, type):
        raise PluginContractError(f"{who} is the class {plugin.__name__} instead of an instance of it")
    if not isinstance(plugin, SchemaLanguage):
        lacking = [
            member
            for member in ("name", "content_type", "self_describing", "parse", "compare")
            if not hasattr(plugin, member)
        ]
        raise PluginContractError(
            f"{who} is a {type(plugin).__name__}, which is not a SchemaLanguage: it lacks {', '.join(lacking)}"
        )
    if canonical(str(plugin.name)) != driver:
        raise PluginContractError(
            f"{who} is the language {plugin.name!r:.60}: name its entry point {canonical(str(plugin.name))!r:.60}"
        )
