"""Configuration, modes and contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dimesh.errors import ConfigurationError
from dimesh.events.names import show
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.model import CompatibilityMode
from dimesh.registry.rest.failures import (
    CONTEXT_NOT_EMPTY,
    INVALID_COMPATIBILITY,
    INVALID_MODE,
    NO_CONFIG,
    NO_MODE,
    NOT_PERMITTED,
    SUBJECT_NOT_FOUND,
    RestError,
)
from dimesh.registry.rest.requests import Request, context_name
from dimesh.registry.rest.routing import Handler
from dimesh.registry.rules import DEFAULT_MODE, SubjectMode, value_of
from dimesh.spi.registry import (
    COMPATIBILITY,
    DEFAULT_CONTEXT,
    KEPT_SETTINGS,
    MODE,
    POLICY,
    context_of,
    scopes_of,
)

POLICIES: Final = {"confluent": "STRICT", "confluent-lenient": "LENIENT"}
"""The names on the wire of Confluent's own policies. Ours have none, so they are neither shown nor set here."""
CONFIG: Final = (COMPATIBILITY, POLICY, *KEPT_SETTINGS)


class Settings:
    """The routes below ``/config``, ``/mode`` and ``/contexts``.

    Args:
        registry: the registry.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._store = registry.store
        self.routes: Mapping[str, Handler] = {
            "GET /config": self.config,
            "PUT /config": self.set_config,
            "DELETE /config": self.delete_config,
            "GET /config/{subject}": self.config,
            "PUT /config/{subject}": self.set_config,
            "DELETE /config/{subject}": self.delete_config,
            "GET /mode": self.mode,
            "PUT /mode": self.set_mode,
            "DELETE /mode": self.delete_mode,
            "GET /mode/{subject}": self.mode,
            "PUT /mode/{subject}": self.set_mode,
            "DELETE /mode/{subject}": self.delete_mode,
            "GET /contexts": self.contexts,
            "DELETE /contexts/{context}": self.delete_context,
        }

    # -- configuration ---------------------------------------------------------------------------

    async def config(self, request: Request) -> Any:
        """Return the configuration of a scope."""
        scope = request.scope
        own = _config(await self._store.get_settings(scope))
        if scope is not None and not own and not request.flag("defaultToGlobal"):
            raise RestError(NO_CONFIG, f"{show(scope)} has no configuration of its own")
        inherited = own if scope is None else _config(await self._inherited(scope))
        if request.flag("defaultToGlobal"):
            own = inherited
        level = inherited.pop(COMPATIBILITY, DEFAULT_MODE.value)
        return {**_shown({**own, COMPATIBILITY: level}), "compatibilityLevel": level}

    async def set_config(self, request: Request) -> Any:
        """Change the configuration of a scope. What is null is removed, and what is absent stays."""
        scope = request.scope
        given: dict[str, Any] = {key: request.body[key] for key in CONFIG if key in request.body}
        # Older clients write what GET returns.
        if COMPATIBILITY not in given and "compatibilityLevel" in request.body:
            given[COMPATIBILITY] = request.body["compatibilityLevel"]
        if not given:
            raise RestError(
                INVALID_COMPATIBILITY, "the body has no setting: give 'compatibility', such as 'BACKWARD'"
            )
        level, policy = given.get(COMPATIBILITY), given.get(POLICY)
        if level is not None:
            given[COMPATIBILITY] = _level(level)
        if policy is not None:
            given[POLICY] = _policy(policy)
        settings: dict[str, Any] = {**await self._store.get_settings(scope), **given}
        await self._store.set_settings(scope, {k: v for k, v in settings.items() if v is not None})
        return {key: value for key, value in given.items() if value is not None}

    async def delete_config(self, request: Request) -> Any:
        """Remove the configuration of a scope, and return it."""
        scope = request.scope
        settings = await self._store.get_settings(scope)
        own = _config(settings)
        if scope is not None and not own:
            raise RestError(SUBJECT_NOT_FOUND, f"{show(scope)} has no configuration of its own")
        await self._store.set_settings(scope, {k: v for k, v in settings.items() if k not in CONFIG})
        level = own.pop(COMPATIBILITY, DEFAULT_MODE.value)
        # One client reads the first name, another one the second.
        return {**_shown(own), COMPATIBILITY: level, "compatibilityLevel": level}

    async def _inherited(self, scope: str) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for one in _scopes(scope):
            settings.update(await self._store.get_settings(one))
        return settings

    # -- modes -----------------------------------------------------------------------------------

    async def mode(self, request: Request) -> Any:
        """Return the mode of a scope."""
        scope = request.scope
        settings: Mapping[str, Any] = await self._store.get_settings(scope)
        if scope is not None and MODE not in settings:
            if not request.flag("defaultToGlobal"):
                raise RestError(NO_MODE, f"{show(scope)} has no mode of its own")
            settings = await self._inherited(scope)
        return {"mode": settings.get(MODE, SubjectMode.READWRITE.value)}

    async def set_mode(self, request: Request) -> Any:
        """Set the mode of a scope."""
        scope, given = request.scope, request.body.get("mode")
        try:
            mode = value_of(
                SubjectMode, given.upper() if isinstance(given, str) else given, "mode of a subject"
            )
        except ConfigurationError as error:
            raise RestError(INVALID_MODE, str(error)) from None
        if mode is SubjectMode.IMPORT and not request.flag("force") and await self._has_versions(scope):
            raise RestError(
                NOT_PERMITTED, "import mode is for what has no versions: delete them first, or use force=true"
            )
        await self._registry.set_mode(scope, mode)
        return {"mode": mode.value}

    async def delete_mode(self, request: Request) -> Any:
        """Remove the mode of a scope, and return it."""
        scope = request.scope
        settings = dict(await self._store.get_settings(scope))
        mode = settings.pop(MODE, None)
        if mode is None and scope is not None:
            raise RestError(NO_MODE, f"{show(scope)} has no mode of its own")
        await self._store.set_settings(scope, settings)
        return {"mode": mode or SubjectMode.READWRITE.value}

    async def _has_versions(self, scope: str | None) -> bool:
        if scope is None:
            return bool(await self._store.subjects(limit=1))
        if scope == f":{context_of(scope)}:":
            return bool(await self._store.subjects(scope, limit=1))
        return bool(await self._store.numbers(scope, limit=1))

    # -- contexts --------------------------------------------------------------------------------

    async def contexts(self, request: Request) -> Any:
        """Return the names of the contexts."""
        prefix = request.text("contextPrefix") or ""
        return request.page([name for name in await self._store.contexts() if name.startswith(prefix)])

    async def delete_context(self, request: Request) -> Any:
        """Remove the settings of a context that has no versions."""
        context = context_name(request.name("context"))
        used = context == DEFAULT_CONTEXT or await self._store.subjects(f":{context}:", deleted=True, limit=1)
        if used:
            raise RestError(
                CONTEXT_NOT_EMPTY, f"context {show(context)} has subjects: delete them for good first"
            )
        await self._store.set_settings(f":{context}:", {})
        return None


def _scopes(scope: str) -> tuple[str | None, ...]:
    return (None, scope) if scope == f":{context_of(scope)}:" else scopes_of(scope)


def _config(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in CONFIG if key in settings}


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as clients read them, without the level, which has two names."""
    found = {key: settings[key] for key in KEPT_SETTINGS if key in settings}
    policy = settings.get(POLICY)
    policy = POLICIES.get(policy, policy) if isinstance(policy, str) else None
    if policy in POLICIES.values():
        found[POLICY] = policy
    return found


def _level(value: Any) -> str:
    try:
        return value_of(
            CompatibilityMode, value.upper() if isinstance(value, str) else value, "compatibility mode"
        ).value
    except ConfigurationError as error:
        raise RestError(INVALID_COMPATIBILITY, str(error)) from None


def _policy(value: Any) -> str:
    name = value.upper() if isinstance(value, str) else value
    if name not in POLICIES.values():
        raise RestError(
            INVALID_COMPATIBILITY, f"{show(value)} is not a compatibility policy: use STRICT or LENIENT"
        )
    return str(name)
