"""Registers plugin objects with pluggy, checks their hooks, and calls observers."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from dimesh.errors import PluginContractError, describe
from dimesh.plugins import hookspecs
from dimesh.plugins.isolation import stdout_to_stderr
from dimesh.printable import printable_error

if TYPE_CHECKING:
    from dimesh.events import Event
    from dimesh.spi.cdc import Change, Gap
    from dimesh.spi.lineage import LineageRecord
    from dimesh.spi.receipt import Receipt
    from dimesh.spi.registry import StoredSchema

log = logging.getLogger("dimesh.plugins")


class Hooks:
    """The hook implementations of all registered plugins, with a typed method for each event that observers see.

    pluggy registers and orders the implementations and checks their arguments. It does not call them: its own call would
    ask every plugin for a driver that only one has, and would end at the first observer that raises.
    """

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager("dimesh")
        self._pluggy.add_hookspecs(hookspecs)
        self._complained: set[tuple[str, str]] = set()
        self.observer_errors = 0
        """The number of exceptions that observers have raised."""
        self.observes_published = False
        """Whether an observer implements ``dimesh_published``, which the hot path checks."""
        self.observes_delivered = False
        """Whether an observer implements ``dimesh_delivered``."""

    # -- registering -----------------------------------------------------------------------------

    def _add(self, plugin: object, who: str) -> None:
        if plugin is None:  # for pluggy, None is a blocked name
            raise PluginContractError(f"{who} is None, not a plugin")
        # By identity: plugins may be equal, or not hashable.
        if any(plugin is known for _, known in self._pluggy.list_name_plugin()):
            return
        name = who if not self._pluggy.has_plugin(who) else f"{who} ({id(plugin):#x})"
        try:
            with stdout_to_stderr:
                self._pluggy.register(plugin, name)
                self._check(plugin, who)
        except Exception as error:
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(name=name)
            if isinstance(error, PluginContractError):
                raise
            raise PluginContractError(f"{who} does not fit the hook specs: {describe(error)}") from error
        self._update_flags()

    def _remove(self, plugin: object) -> None:
        self._pluggy.unregister(plugin)
        self._update_flags()

    def _update_flags(self) -> None:
        self.observes_published = bool(self._impls("dimesh_published"))
        self.observes_delivered = bool(self._impls("dimesh_delivered"))

    def _check(self, plugin: object, who: str) -> None:
        """Refuse hooks that pluggy accepts, although dimesh never calls them or never awaits their result."""
        implemented = 0
        for hook, caller in vars(self._pluggy.hook).items():
            for impl in caller.get_hookimpls() if isinstance(caller, pluggy.HookCaller) else ():
                if impl.plugin is not plugin:
                    continue
                implemented += 1
                if not caller.has_spec() and not impl.optionalhook:
                    raise PluginContractError(f"{who} implements {_nearest(hook)}")
                if inspect.iscoroutinefunction(impl.function):
                    raise PluginContractError(
                        f"{who}: {hook} is an async function; hooks are plain functions"
                    )
                if impl.wrapper or impl.hookwrapper:
                    raise PluginContractError(
                        f"{who}: {hook} is a wrapper; hooks of dimesh cannot be wrapped"
                    )
        if not implemented:
            raise PluginContractError(
                f"{who} implements no hook: mark its functions with @dimesh.spi.hookimpl"
            )

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return caller.get_hookimpls()

    def _impl(self, hook: str, plugin: object) -> pluggy.HookImpl | None:
        return next((impl for impl in self._impls(hook) if impl.plugin is plugin), None)

    # -- observers -------------------------------------------------------------------------------

    def _notify(self, hook: str, **arguments: Any) -> None:
        for impl in reversed(self._impls(hook)):  # pluggy's order
            self._notify_one(impl, hook, arguments)

    def _notify_one(self, impl: pluggy.HookImpl, hook: str, arguments: Mapping[str, Any]) -> None:
        try:
            call(impl, arguments)
        except (Exception, SystemExit) as error:
            self.observer_errors += 1
            if (impl.plugin_name, hook) not in self._complained:
                self._complained.add((impl.plugin_name, hook))
                log.warning(
                    "observer %s failed in %s (logged once; further failures are only counted): %s",
                    impl.plugin_name,
                    hook,
                    printable_error(error),
                )
                log.debug("the failure of %s in full", impl.plugin_name, exc_info=error)

    def published(self, topic: str, event: Event, receipt: Receipt) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_published", topic=topic, event=event, receipt=receipt)

    def delivered(self, topic: str, subscription: str, event: Event) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_delivered", topic=topic, subscription=subscription, event=event)

    def failed(self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
        """Call the hook of this name."""
        self._notify(
            "dimesh_failed", topic=topic, subscription=subscription, event=event, error=error, attempt=attempt
        )

    def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Call the hook of this name."""
        self._notify(
            "dimesh_dead_lettered", topic=topic, subscription=subscription, event=event, reason=reason
        )

    def given_up(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_given_up", topic=topic, subscription=subscription, event=event, reason=reason)

    def change_captured(self, source: str, change: Change) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_change_captured", source=source, change=change)

    def gap_detected(self, source: str, gap: Gap) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_gap_detected", source=source, gap=gap)

    def schema_registered(self, schema: StoredSchema) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_schema_registered", schema=schema)

    def lineage_recorded(self, record: LineageRecord) -> None:
        """Call the hook of this name."""
        self._notify("dimesh_lineage_recorded", record=record)


def call(impl: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    """Call one implementation of a hook with those of the arguments that it names."""
    with stdout_to_stderr:
        return impl.function(*(arguments[name] for name in impl.argnames))


def _nearest(name: str) -> str:
    known = [hook for hook in vars(hookspecs) if hook.startswith("dimesh_")]
    near = difflib.get_close_matches(name, known, 1)
    return f"{name!r}, which is not a hook" + (f"; did you mean {near[0]!r}?" if near else "")
