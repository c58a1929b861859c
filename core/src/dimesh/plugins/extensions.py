"""Calls the plugins that extend a mesh: interceptors, pages, commands, and their start and stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dimesh.errors import ConfigurationError, DimeshError, PluginContractError, PluginError, describe
from dimesh.plugins.discovery import PluginRef, missing_module
from dimesh.plugins.hooks import Hooks, call
from dimesh.secrets import wrap_secrets
from dimesh.spi.context import PluginContext
from dimesh.tasks import report_if_stuck

if TYPE_CHECKING:
    import pluggy

    from dimesh.plugins.hookspecs import ASGIApp
    from dimesh.spi.interceptor import Interceptor

log = logging.getLogger("dimesh.plugins")

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Extension:
    """A plugin of the group ``dimesh.hooks`` (or one of this process) that is in use."""

    plugin: Any
    who: str
    name: str
    ref: PluginRef | None
    options: Mapping[str, Any] | None = None
    """The options from the settings; None if the settings have none for this plugin."""

    @property
    def essential(self) -> bool:
        """Whether a failure is raised to the caller: the plugin was configured or registered, not merely installed."""
        return self.ref is None or self.options is not None


class Extensions(Hooks):
    """The plugins of the group ``dimesh.hooks`` that are in use."""

    def __init__(self, context: PluginContext) -> None:
        super().__init__()
        self._context = context
        self._extensions: list[Extension] = []
        self._started: list[Extension] | None = None
        self._started_for = context

    def interceptors(self, context: PluginContext | None = None) -> list[Interceptor]:
        """Return the interceptors of the loaded plugins, in the order in which the plugins were loaded.

        Raises:
            PluginError: a configured plugin cannot be used.
        """
        from dimesh.spi.interceptor import HandleInterceptor, PublishInterceptor

        def checked(who: str, result: Any) -> list[Interceptor]:
            if isinstance(result, type) or not isinstance(result, (PublishInterceptor, HandleInterceptor)):
                kind = result.__name__ if isinstance(result, type) else f"a {type(result).__name__}"
                raise PluginContractError(
                    f"{who} returned {kind} as an interceptor: return an instance with a method publish or handle"
                )
            return [result]

        def arguments(extension: Extension) -> dict[str, Any]:
            options = None if extension.options is None else wrap_secrets(extension.options)
            return {"options": options, "context": context or self._context}

        return self._collect("dimesh_interceptor", arguments, checked)

    def http_mounts(self, context: PluginContext | None = None) -> list[tuple[str, ASGIApp]]:
        """Return the ASGI applications of the loaded plugins, each with the path to mount it at.

        Raises:
            PluginError: a configured plugin cannot be used, or two plugins mount the same path.
        """
        taken: dict[str, str] = {}

        def checked(who: str, result: Any) -> list[tuple[str, ASGIApp]]:
            mounts = list(result)
            for path, app in mounts:
                if not isinstance(path, str) or not path.startswith("/") or not callable(app):
                    raise PluginContractError(
                        f"{who} returned {path!r:.80}: return pairs of a path that begins with '/' and an ASGI application"
                    )
                if path in taken:
                    raise PluginContractError(
                        f"{who} mounts the path {path!r:.80}, which {taken[path]} already mounts"
                    )
            taken.update((path, who) for path, _ in mounts)
            return mounts

        return self._collect("dimesh_http", lambda _: {"context": context or self._context}, checked)

    def extend_commands(self, new_cli: Callable[[], T]) -> list[tuple[str, T]]:
        """Let each loaded plugin add its commands to a command line of its own.

        Args:
            new_cli: creates an empty ``typer.Typer``.

        Returns:
            The plugin, for messages, and its command line.
        """
        found = []
        for extension in self._extensions_with("dimesh_commands"):
            cli = new_cli()
            if self._ask(extension, "dimesh_commands", {"cli": cli}, lambda who, result: True):
                found.append((extension.who, cli))
        return found

    def _extensions_with(self, hook: str) -> list[Extension]:
        return [extension for extension in self._extensions if self._impl(hook, extension.plugin) is not None]

    def _collect(
        self,
        hook: str,
        arguments: Callable[[Extension], Mapping[str, Any]],
        checked: Callable[[str, Any], list[T]],
    ) -> list[T]:
        results: list[T] = []
        for extension in self._extensions_with(hook):
            results += self._ask(extension, hook, arguments(extension), checked) or []
        return results

    def _ask(
        self,
        extension: Extension,
        hook: str,
        arguments: Mapping[str, Any],
        checked: Callable[[str, Any], T],
    ) -> T | None:
        """Call a plugin's hook. A merely installed plugin that fails is not used from then on."""
        impl = self._impl(hook, extension.plugin)
        assert impl is not None
        subject = f"plugin {extension.name!r}" if extension.name else extension.who
        try:
            result = call_or_raise(impl, hook, extension.who, arguments, subject, extension.ref)
            if result is None and hook in ("dimesh_interceptor", "dimesh_http"):
                return None
            return checked(extension.who, result)
        except Exception as error:
            if not isinstance(error, DimeshError):
                error = PluginContractError(
                    f"{extension.who}: the result of {hook} is wrong: {describe(error)}"
                )
            if extension.essential:
                raise error from error.__cause__
            log.warning("%s; the plugin is not used", error)
            self._drop(extension, str(error))
            return None

    def _drop(self, extension: Extension, reason: str) -> None:
        self._extensions.remove(extension)
        self._remove(extension.plugin)
        if extension.ref is not None:
            self._forget(extension.ref, reason)

    def _forget(self, ref: PluginRef, reason: str) -> None:
        """Record that an installed plugin failed after it was loaded."""

    # -- start and stop --------------------------------------------------------------------------

    def start(self, context: PluginContext | None = None) -> None:
        """Start the loaded plugins, each with its options; does nothing if they are started already.

        Raises:
            ConfigurationError: a plugin refuses its options, or has options although it accepts none.
            PluginError: a configured plugin failed. The plugins that were started before it have been stopped.
        """
        if self._started is not None:
            return
        self._started = []
        self._started_for = context or self._context
        try:
            for extension in list(self._extensions):
                self._start(extension, self._started_for)
        except BaseException:
            self.stop()
            raise

    def _start(self, extension: Extension, context: PluginContext) -> None:
        assert self._started is not None
        if self._impl("dimesh_start", extension.plugin) is None:
            if extension.options:
                raise ConfigurationError(
                    f"it accepts no options: {extension.who} does not implement dimesh_start",
                    subject=f"plugin {extension.name!r}",
                )
            started: bool | None = True
        else:
            arguments = {"options": wrap_secrets(extension.options or {}), "context": context}
            started = self._ask(extension, "dimesh_start", arguments, lambda who, result: True)
        if started:
            self._started.append(extension)

    def stop(self) -> None:
        """Stop the started plugins, the last one first. One that fails is logged like any observer."""
        started, self._started = self._started or [], None
        for extension in reversed(started):
            impl = self._impl("dimesh_stop", extension.plugin)
            if impl is not None:
                with report_if_stuck(f"dimesh_stop of {extension.who}"):
                    self._notify_one(impl, "dimesh_stop", {"context": self._started_for})


def call_or_raise(
    impl: pluggy.HookImpl,
    hook: str,
    who: str,
    arguments: Mapping[str, Any],
    subject: str,
    ref: PluginRef | None,
) -> Any:
    """Call a hook and raise its failure to the caller, as an error of dimesh."""
    try:
        return call(impl, arguments)
    except ConfigurationError as error:
        # With the plugin's name in the settings, whatever subject the plugin set.
        raise ConfigurationError(error.problem, subject=subject) from error.__cause__
    except (DimeshError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and ref is not None:
            raise PluginError(f"{who} {missing_module(ref, error)}") from error
        raise PluginError(f"{who} failed in {hook}: {describe(error)}") from error
