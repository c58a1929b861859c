"""Options of the plugin."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import Options
from dimesh.secrets import Secret


class OtelOptions(Options, frozen=True, kw_only=True):
    """Options of the plugin, in ``[plugins.options.otel]``. Times are seconds. Without that section, the plugin does nothing.

    Whatever is not here is set by OpenTelemetry's own variables, such as ``OTEL_EXPORTER_OTLP_CERTIFICATE``.
    """

    endpoint: str | None = None
    """The address of a collector that accepts OTLP over HTTP, such as ``http://localhost:4318``; None: what
    ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, else that address."""
    headers: dict[str, Secret] = {}
    """Headers of each request to the collector, such as a key."""
    service: str | None = None
    """The name of the service; None: what ``OTEL_SERVICE_NAME`` says, else the name of the mesh."""
    traces: bool = True
    """Whether spans are made."""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of the traces that spans are made for. All processes with the same share choose the same traces. An event that is
    published inside a span goes the way of that span."""
    create_spans: bool = True
    """Whether each event of a batch has a span of its own (``create``), which its handling then continues; otherwise the batch
    has one span for all."""
    metrics: bool = True
    """Whether metrics are made."""
    interval: Annotated[float, Meta(ge=0.05, le=86_400)] = 60.0
    """The interval at which metrics are sent."""
    flush: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """How long a stop waits for the collector to take what is left."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            try:
                parts = urlsplit(self.endpoint)
                good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                good = False
            if not good or parts.query or parts.fragment:
                raise ConfigurationError(
                    "endpoint must be the address of a collector, such as http://localhost:4318; the paths /v1/traces and "
                    "/v1/metrics are added"
                )
        for name, value in self.headers.items():
            if not name.isascii() or not name.strip() or "\n" in name + value.reveal():
                raise ConfigurationError("headers: a name is empty or not ASCII, or there is a line break")
