"""A collector: an HTTP server that reads what the official exporter sends, with the official messages of OTLP 1.x."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What has been received so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, Any]] = []
        """The name of the service, and the span."""
        self.metrics: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.stuck = threading.Event()
        """While set, requests are answered by nothing."""
        self.released = threading.Event()

    def received(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                service = next(
                    a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                )
                self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            metrics = ExportMetricsServiceRequest.FromString(body)
            for resource in metrics.resource_metrics:
                self.metrics += [metric for scope in resource.scope_metrics for metric in scope.metrics]
        else:
            raise AssertionError(path)

    def names(self) -> set[str]:
        return {span.name for _, span in self.spans}

    def totals(self, name: str) -> dict[str, int]:
        """Return the last value of a counter by the name of its topic or source."""
        found: dict[str, int] = {}
        for metric in self.metrics:
            if metric.name == name:
                for point in metric.sum.data_points:
                    labels = {a.key: a.value.string_value for a in point.attributes}
                    found[labels.get("messaging.destination.name") or labels["dimesh.source"]] = point.as_int
        return found

    def calls(self, name: str) -> int:
        """Return the last count of a histogram, over all labels."""
        last = [metric for metric in self.metrics if metric.name == name][-1:]
        return sum(point.count for metric in last for point in metric.histogram.data_points)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.stuck.is_set():
                collector.released.wait(60)
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers.append(dict(self.headers))
            collector.received(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        collector.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
