# SPDX-License-Identifier: Apache-2.0
"""Where traces go: nowhere without an endpoint, and what is said where the extra is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serverlessllm.config import TelemetryConfig
from serverlessllm.errors import ConfigError
from serverlessllm.telemetry.otlp import open_sink


def test_without_an_endpoint_nothing_is_opened_and_nothing_imported() -> None:
    program = (
        "import sys; from serverlessllm.config import TelemetryConfig; from serverlessllm.telemetry import otlp; "
        "assert otlp.open_sink(TelemetryConfig()) is None; "
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    for name in ("grpc", "http"):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.{name}.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'serverlessllm\[otel\]'"):
        open_sink(TelemetryConfig(otlp_endpoint="http://127.0.0.1:4317", otlp_protocol=protocol))


def test_endpoint_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        open_sink(TelemetryConfig(otlp_endpoint="collector:4317"))
