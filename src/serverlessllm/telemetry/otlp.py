# SPDX-License-Identifier: Apache-2.0
"""Sends spans by OTLP, over gRPC or HTTP, in batches and from a thread of its own. Needs the extra `otel`.

OpenTelemetry's SDK is imported when a sink is opened, so that who sends no traces pays nothing for them. Its
environment variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*` …) hold.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from serverlessllm import __version__
from serverlessllm.config import TelemetryConfig
from serverlessllm.errors import ConfigError
from serverlessllm.telemetry.spans import Part, Span, SpanSink

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

HTTP_PATH: Final = "/v1/traces"
SCOPE: Final = "serverlessllm"


def open_sink(config: TelemetryConfig) -> SpanSink | None:
    """Where `telemetry.otlp_endpoint` says; None when it says nothing. Raises ConfigError."""
    if not config.otlp_endpoint:
        return None
    parts = urlsplit(config.otlp_endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "telemetry.otlp_endpoint: write http://HOST:PORT or https://HOST:PORT",
            param="telemetry.otlp_endpoint",
        )
    try:
        return OtlpSink(_exporter(config))
    except ImportError as error:
        raise ConfigError(
            f"telemetry.otlp_endpoint is set, and sending traces needs the extra `otel` ({error.name} is missing); "
            "pip install 'serverlessllm[otel]', or leave the setting empty",
            param="telemetry.otlp_endpoint",
        ) from error


def _exporter(config: TelemetryConfig) -> SpanExporter:
    endpoint = config.otlp_endpoint
    if config.otlp_protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        if urlsplit(endpoint).path in ("", "/"):
            endpoint = endpoint.rstrip("/") + HTTP_PATH
        return HttpExporter(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))


class OtlpSink:
    """A `SpanSink`. Each part of the platform is a service of its own to whoever looks at the traces."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._processor = BatchSpanProcessor(exporter)
        self._scope = InstrumentationScope(SCOPE, __version__)
        self._resources: dict[Part, Resource] = {}

    def add(self, span: Span) -> None:
        """See `SpanSink`; when the receiver does not keep up, the SDK drops spans and says so in the log."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.status import Status, StatusCode

        context = span.context
        has_parent = bool(context.parent_span_id)
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(context.trace_id, context.span_id),
                parent=_context(context.trace_id, context.parent_span_id) if has_parent else None,
                resource=self._resource(span.part),
                attributes=span.attributes,
                kind=SpanKind.SERVER if span.kind == "server" else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
                start_time=round(span.start_s * 1e9),
                end_time=round(span.end_s * 1e9),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """See `SpanSink`."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it without types

    def _resource(self, part: Part) -> Resource:
        from opentelemetry.sdk.resources import Resource

        if part not in self._resources:
            attributes: dict[str, str | int] = {
                "service.name": f"sllm-{part}",
                "service.namespace": "serverlessllm",
                "service.version": __version__,
                "host.name": socket.gethostname(),
            }
            if part != "engine":  # one sender speaks for many workers: their spans carry their own
                attributes["process.pid"] = os.getpid()
            self._resources[part] = Resource.create(attributes)
        return self._resources[part]


def _context(trace_id: str, span_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
