"""OpenTelemetry traces and metrics of dimesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimesh_otel.telemetry import Telemetry

__all__ = ["Telemetry"]


def __getattr__(name: str) -> Any:
    # Loaded when used: the entry point is imported with every mesh, also where the plugin has nothing to do.
    if name == "Telemetry":
        from dimesh_otel.telemetry import Telemetry

        return Telemetry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
