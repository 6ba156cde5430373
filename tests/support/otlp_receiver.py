# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver for tests: takes traces over gRPC or HTTP, as a collector would, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came over the wire; ids in hex, times in nanoseconds."""

    service: str
    pid: int
    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    kind: int
    attributes: dict[str, Any]

    @property
    def duration_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class OtlpReceiver:
    """Use as a context manager; `endpoint` for `telemetry.otlp_endpoint`."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.spans: list[ReceivedSpan] = []
        self.paths: list[str] = []
        self._http: ThreadingHTTPServer | None = None
        self._grpc: grpc.Server | None = None
        self.endpoint = ""

    def __enter__(self) -> Self:
        if self.protocol == "http":
            self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            threading.Thread(target=self._http.serve_forever, daemon=True).start()
            port = self._http.server_address[1]
        else:
            self._grpc = grpc.server(futures.ThreadPoolExecutor(2))
            register: Callable[[object, object], None] = add_TraceServiceServicer_to_server
            register(_Servicer(self), self._grpc)
            port = self._grpc.add_insecure_port("127.0.0.1:0")
            self._grpc.start()
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        if self._grpc is not None:
            self._grpc.stop(None).wait()

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace, by their begin."""
        return sorted((s for s in self.spans if s.trace_id == trace_id), key=lambda span: span.start_ns)

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep what came."""
        for resource in request.resource_spans:
            of_resource = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span(span, of_resource) for span in scope.spans]


class _Servicer(TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        self._receiver.take(request)
        return ExportTraceServiceResponse()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.paths.append(self.path)
            receiver.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _span(span: Any, of_resource: dict[str, Any]) -> ReceivedSpan:
    attributes = _attributes(span.attributes)
    return ReceivedSpan(
        service=of_resource["service.name"],
        pid=attributes.get("process.pid", of_resource.get("process.pid", 0)),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        kind=span.kind,
        attributes=attributes,
    )
