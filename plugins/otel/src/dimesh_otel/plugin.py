"""The entry point. Without a section of options the plugin does nothing, and costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.interceptor import Interceptor
from dimesh_otel import conventions

if TYPE_CHECKING:
    from dimesh_otel.pipeline import Pipeline
    from dimesh_otel.telemetry import Telemetry


class _Plugin:
    contract_version = CONTRACT_VERSION

    def __init__(self) -> None:
        # One object serves all meshes of the process. A mesh that is never opened must not stay here.
        self._made: WeakValueDictionary[int, Telemetry] = WeakValueDictionary()
        self._running: dict[int, Pipeline] = {}

    @hookimpl
    def dimesh_interceptor(
        self, options: Mapping[str, Any] | None, context: PluginContext
    ) -> Interceptor | None:
        if options is None:
            return None
        from dimesh_otel.telemetry import Telemetry

        telemetry = self._made[id(context)] = Telemetry()  # it does nothing until the mesh is open
        return telemetry

    @hookimpl
    def dimesh_start(self, options: Mapping[str, Any], context: PluginContext) -> None:
        telemetry = self._made.get(id(context))
        if telemetry is None:
            return
        from dimesh_otel.options import OtelOptions
        from dimesh_otel.pipeline import Pipeline

        pipeline = Pipeline(parse_options(OtelOptions, options, "plugin 'otel'"), context.mesh, telemetry)
        pipeline.start()
        self._running[id(context)] = pipeline

    @hookimpl
    def dimesh_stop(self, context: PluginContext) -> None:
        pipeline = self._running.pop(id(context), None)
        if pipeline is not None:
            pipeline.stop()

    @hookimpl
    def dimesh_dead_lettered(self, topic: str) -> None:
        self._count(conventions.DEAD_LETTERS, topic)

    @hookimpl
    def dimesh_given_up(self, topic: str) -> None:
        self._count(conventions.GIVEN_UP, topic)

    @hookimpl
    def dimesh_change_captured(self, source: str) -> None:
        self._count(conventions.CHANGES, source)

    @hookimpl
    def dimesh_gap_detected(self, source: str) -> None:
        self._count(conventions.GAPS, source)

    def _count(self, name: str, of: str) -> None:
        # Observers are not told the mesh; a process rarely has two.
        for pipeline in reversed(self._running.values()):
            pipeline.count(name, of)
            return


plugin = _Plugin()
