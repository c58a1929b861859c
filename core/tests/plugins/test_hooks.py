"""Every hook reaches an observer that implements it, with the arguments that its spec names."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from dimesh import Event, Receipt
from dimesh.plugins import PluginManager, hookspecs
from dimesh.spi import hookimpl

CALLS: dict[str, dict[str, Any]] = {
    "dimesh_published": {"topic": "t", "event": Event("custom"), "receipt": Receipt("t", "id")},
    "dimesh_delivered": {"topic": "t", "subscription": "s", "event": Event("custom")},
    "dimesh_failed": {
        "topic": "t",
        "subscription": "s",
        "event": Event("custom"),
        "error": ValueError("x"),
        "attempt": 1,
    },
    "dimesh_dead_lettered": {"topic": "t", "subscription": "s", "event": Event("custom"), "reason": "r"},
    "dimesh_given_up": {"topic": "t", "subscription": "s", "event": Event("custom"), "reason": "r"},
    "dimesh_change_captured": {"source": "s", "change": object()},
    "dimesh_gap_detected": {"source": "s", "gap": object()},
    "dimesh_schema_registered": {"schema": object()},
    "dimesh_lineage_recorded": {"record": object()},
}
PROVIDERS = {"dimesh_bus_backend", "dimesh_registry_store", "dimesh_cdc_source", "dimesh_lineage_sink"}
EXTENSIONS = {"dimesh_interceptor", "dimesh_commands", "dimesh_http", "dimesh_start", "dimesh_stop"}
"""These are tested in test_extensions.py."""


def test_no_hook_is_left_out() -> None:
    specs = {name for name in vars(hookspecs) if name.startswith("dimesh_")}
    assert specs == set(CALLS) | PROVIDERS | EXTENSIONS


@pytest.mark.parametrize("hook", CALLS)
def test_an_observer_hears_it(hook: str) -> None:
    heard: list[dict[str, Any]] = []
    names = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    code = f"def {hook}(self, {', '.join(names)}): heard.append(dict({', '.join(f'{n}={n}' for n in names)}))"
    namespace: dict[str, Any] = {"heard": heard}
    exec(code, namespace)
    observer = type("Observer", (), {hook: hookimpl(namespace[hook])})()
    manager = PluginManager()
    manager.register(observer)
    getattr(manager, hook.removeprefix("dimesh_"))(**CALLS[hook])
    assert heard == [CALLS[hook]]
