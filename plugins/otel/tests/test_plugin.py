"""The plugin in a mesh of this process: what it does where nobody asked for it, and with the providers of an application."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace

from dimesh import Event
from dimesh.errors import ConfigurationError
from dimesh.mesh import Mesh
from dimesh.plugins import PluginManager
from dimesh.settings import load_settings
from dimesh_otel.plugin import plugin


def mesh(tmp_path: Path, options: dict[str, Any] | None, **more: Any) -> Mesh:
    plugins = {"options": {"otel": options}} if options is not None else {}
    settings = load_settings(
        None, mesh={"data_dir": str(tmp_path)}, bus={"driver": "memory"}, plugins=plugins, **more
    ).settings
    return Mesh(settings, manager=PluginManager())


def test_without_a_section_it_is_no_interceptor(tmp_path: Path) -> None:
    made = mesh(tmp_path, None)
    assert made.plugins.interceptors(made.context) == []
    assert len(mesh(tmp_path, {}).plugins.interceptors()) == 1


async def test_the_providers_of_the_application_are_used(
    tmp_path: Path, traces: Any, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", traces.provider)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", measured.provider)
    async with mesh(tmp_path, {}) as running:
        await running.bus.publish("orders", Event("order.created"))
        plugin.dimesh_gap_detected("stripe")
        points = measured.points()
    assert set(traces.spans) == {"publish orders"}
    assert [p.value for p in points["messaging.client.sent.messages"]] == [1]
    assert [p.value for p in points["dimesh.source.gaps"]] == [1]
    # They belong to the application: they go on after the mesh.
    with traces.provider.get_tracer("app").start_as_current_span("later"):
        pass
    assert set(traces.spans) == {"publish orders", "later"}


async def test_two_meshes_in_turn_and_at_once(
    tmp_path: Path, traces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", traces.provider)
    async with (
        mesh(tmp_path, {"metrics": False}) as one,
        mesh(tmp_path, {"traces": False, "metrics": False}) as two,
    ):
        await one.bus.publish("first", Event("a.b"))
        await two.bus.publish("none", Event("a.b"))
    async with mesh(tmp_path, {"metrics": False}) as three:
        await three.bus.publish("third", Event("a.b"))
        await one.bus.close()
    assert set(traces.spans) == {"publish first", "publish third"}


async def test_a_wrong_option_names_the_plugin(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="plugin 'otel': there is no option 'endpont'; did you mean 'endpoint'"
    ):
        await mesh(tmp_path, {"endpont": "http://localhost:4318"}).open()


def test_the_entry_point_alone_imports_nothing_of_opentelemetry() -> None:
    import subprocess

    program = "import sys, dimesh_otel.plugin, dimesh_otel; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
