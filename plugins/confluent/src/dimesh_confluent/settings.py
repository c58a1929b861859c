"""The settings of scopes: configuration and mode, which are two resources of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from dimesh.errors import ConfigurationError
from dimesh.events.names import show
from dimesh.spi.registry import COMPATIBILITY, KEPT_SETTINGS, MODE, POLICY
from dimesh_confluent.answers import table
from dimesh_confluent.failures import RefusalError
from dimesh_confluent.transport import Transport

CONFIG: Final = (COMPATIBILITY, POLICY, *KEPT_SETTINGS)
"""The members of a configuration."""
_POLICIES: Final = {"confluent": "STRICT", "confluent-lenient": "LENIENT"}
DEFAULTS: Final = {COMPATIBILITY: "BACKWARD", MODE: "READWRITE"}
"""The global settings of a new registry. The API does not tell them from settings that were made, and they mean the same."""


class Scopes:
    """Reads and writes settings.

    Args:
        transport: sends requests.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(self, scope: str | None) -> dict[str, Any]:
        """Return the own settings of a scope."""
        config, mode = await asyncio.gather(self._resource("config", scope), self._resource("mode", scope))
        settings = {name: config[name] for name in CONFIG if config.get(name) is not None}
        # PUT and GET name the level differently.
        level = config.get("compatibilityLevel") or config.get(COMPATIBILITY)
        if level is not None:
            settings[COMPATIBILITY] = level
        if mode.get(MODE) is not None:
            settings[MODE] = mode[MODE]
        if scope is None:
            settings = {name: value for name, value in settings.items() if DEFAULTS.get(name) != value}
        return settings

    async def _resource(self, resource: str, scope: str | None) -> Mapping[str, Any]:
        try:
            return table(await self._transport.request("GET", *_path(resource, scope)))
        except RefusalError as refusal:
            if refusal.missing:
                return {}
            raise refusal.error(f"the settings of {_name(scope)} cannot be read") from None

    async def write(self, scope: str | None, settings: Mapping[str, Any]) -> None:
        """Replace the own settings of a scope. The API takes the configuration and the mode one after the other.

        Raises:
            ConfigurationError: a setting or a value is not one of the API's.
            NotPermittedError: the registry refuses the mode.
        """
        for name in settings:
            if name != MODE and name not in CONFIG:
                raise ConfigurationError(
                    f"a Confluent registry does not keep the setting {show(name)}: use {MODE}, {', '.join(CONFIG)}"
                )
        policy = settings.get(POLICY)
        if policy is not None:
            name = _POLICIES.get(policy, policy) if isinstance(policy, str) else policy
            if name not in _POLICIES.values():
                raise ConfigurationError(
                    f"a Confluent registry does not know the compatibility policy {show(policy)}: use "
                    f"{' or '.join(_POLICIES)}"
                )
            settings = {**settings, POLICY: name}
        have = await self.read(scope)
        config = {name: value for name, value in settings.items() if name != MODE}
        gone = [name for name in have if name != MODE and name not in config]
        try:
            if config:
                body = {**config, **dict.fromkeys(gone)}
                await self._transport.request("PUT", *_path("config", scope), body=body)
            elif gone:
                await self._remove("config", scope)
            mode = settings.get(MODE)
            if mode is not None and mode != have.get(MODE):
                await self._transport.request("PUT", *_path("mode", scope), body={MODE: mode})
            elif mode is None and MODE in have:
                await self._remove("mode", scope)
        except RefusalError as refusal:
            raise refusal.error(f"the settings of {_name(scope)} cannot be changed") from None

    async def _remove(self, resource: str, scope: str | None) -> None:
        try:
            await self._transport.request("DELETE", *_path(resource, scope))
        except RefusalError as refusal:
            if refusal.status in (404, 405) and scope is None:
                # Older servers cannot remove the global ones.
                name = COMPATIBILITY if resource == "config" else MODE
                await self._transport.request("PUT", resource, body={name: DEFAULTS[name]})
            elif not refusal.missing:
                raise


def _path(resource: str, scope: str | None) -> tuple[str, ...]:
    return (resource,) if scope is None else (resource, scope)


def _name(scope: str | None) -> str:
    return "the registry" if scope is None else f"subject {show(scope)}"
