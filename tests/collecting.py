"""An OpenTelemetry collector that keeps the spans it is sent, over HTTP as real ones take them."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from serving import QuietHandler, serving


@dataclass(frozen=True)
class Collected:
    name: str
    trace: str
    id: str
    parent: str
    seconds: float
    attributes: dict[str, Any]
    status: int
    service: str


@dataclass
class Collector:
    url: str
    spans: list[Collected] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {one.key: one.value.string_value for one in part.resource.attributes}["service.name"]
            for span in (span for scope in part.scope_spans for span in scope.spans):
                self.spans.append(_collected(span, service))


def _collected(span: Any, service: str) -> Collected:
    values = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
    return Collected(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        values,
        span.status.code,
        service,
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector("")

    class Traces(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Traces)) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        yield collector
