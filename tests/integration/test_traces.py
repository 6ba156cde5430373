# SPDX-License-Identifier: Apache-2.0
"""Traces of a cluster of processes, received over OTLP; logs that carry their ids; prompts only where asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serverlessllm.cli.exit_codes import USAGE
from serverlessllm.cli.main import run
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire.admin import RequestView
from support.cluster import Cluster, until_alive
from support.hub_objects import directory_files, hub_objects
from support.model_dirs import write_simulated
from support.otlp_receiver import OtlpReceiver, ReceivedSpan
from support.platform import PATIENCE_S, Platform, eventually
from support.ranged_server import RangedServer

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SECRET_WORDS = "the sesame opens at noon"
SENDING = {
    "SLLM_TELEMETRY_LOG_REQUESTS": "yes",
    "SLLM_INGEST_ALLOW_PRIVATE_URLS": "yes",
    "SLLM_LOG_FORMAT": "json",
    "SLLM_LOG_LEVEL": "debug",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}


@dataclass
class Traced:
    """One cold streamed call: its spans, and what the orchestrator says of it."""

    spans: list[ReceivedSpan]
    view: RequestView
    front: LocalServer
    agent: LocalServer
    worker_pid: int

    def one(self, name: str) -> ReceivedSpan:
        """The span of that name."""
        return next(span for span in self.spans if span.name == name)


@pytest.fixture(params=["grpc", "http"], scope="module")
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A model of a hub, called while nothing of it is here, by a caller that traces; we would trace nobody."""
    home = tmp_path_factory.mktemp(request.param)
    objects = hub_objects("org/m", directory_files(write_simulated(home / "m", nbytes=4 << 20)))
    with RangedServer(objects) as hub, OtlpReceiver(request.param) as receiver:
        environment = {
            **SENDING,
            "HF_ENDPOINT": hub.url(""),
            "SLLM_TELEMETRY_OTLP_ENDPOINT": receiver.endpoint,
            "SLLM_TELEMETRY_OTLP_PROTOCOL": request.param,
            "SLLM_TELEMETRY_SAMPLE_RATIO": "0",
        }
        with Cluster(home, f"sqlite:{home / 'metadata.sqlite'}", environment) as cluster:
            front, agent = cluster.orchestrator(), cluster.agent()
            until_alive(front, 1)
            yield _call(front, agent, receiver)


def _call(front: LocalServer, agent: LocalServer, receiver: OtlpReceiver) -> Traced:
    with Client(front.url) as client:
        client.add_model(
            "m", "org/m", engine="simulated", options={"load_s": 0.1, "prefill_s": 0.1, "token_s": 0.01}
        )
    answer = _stream(front.url, "m", traceparent=CALLER)
    assert answer.text.rstrip().endswith("[DONE]")
    _stream(front.url, "m")  # nobody traces this one
    names = {"chat m", "load m", "infer m"}
    eventually(lambda: names <= {span.name for span in receiver.spans})
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
    with Client(front.url) as client:
        view = client.request(answer.headers["x-request-id"]).request
        status = client.agents()[0].status
    assert status is not None
    return Traced(receiver.spans, view, front, agent, status.replicas[0].pid or 0)


def _stream(url: str, model: str, max_tokens: int = 8, **headers: str) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": SECRET_WORDS}],
        "stream": True,
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_S)


def test_spans_of_all_processes_are_connected_below_the_callers_span(traced: Traced) -> None:
    known = {span.span_id for span in traced.spans}
    root = traced.one("chat m")
    assert root.parent_span_id == "b7ad6b7169203331"
    assert all(span.parent_span_id in known for span in traced.spans if span is not root)
    processes = {(span.service, span.pid) for span in traced.spans}
    assert processes == {
        ("sllm-orchestrator", traced.front.pid),
        ("sllm-agent", traced.agent.pid),
        ("sllm-engine", traced.worker_pid),
    }


def test_every_phase_is_a_span_as_long_as_the_timeline_says(traced: Traced) -> None:
    took = {phase: ms for phase, ms in traced.view.phases.items() if ms > 0}
    shown = {
        span.name: span.duration_ms for span in traced.spans if span.attributes.get("sllm.phase") == span.name
    }
    stream_ms = shown.pop("stream")
    assert shown == pytest.approx(took, abs=0.01)  # the timeline is rounded to 0.01 ms
    assert set(shown) >= {"place", "fetch", "read", "bind", "prefill"}
    assert traced.view.start == "cold"
    assert sum(shown.values()) == pytest.approx(traced.view.ttft_ms, abs=0.05)
    assert sum(shown.values()) + stream_ms == pytest.approx(traced.one("chat m").duration_ms, abs=0.05)


def test_what_agent_and_engine_measured_is_what_the_timeline_says(traced: Traced) -> None:
    phases = traced.view.phases
    assert traced.one("agent.bind").duration_ms == pytest.approx(phases["bind"], abs=0.01)
    assert traced.one("engine.prefill").duration_ms == pytest.approx(phases["prefill"], abs=0.01)
    assert traced.one("engine.bind").parent_span_id == traced.one("agent.bind").span_id
    assert traced.one("engine.decode").parent_span_id == traced.one("infer m").span_id
    assert traced.one("load m").attributes["sllm.tier"] == "nvme"


def test_root_span_speaks_the_conventions_of_generative_ai_and_tells_no_prompt(traced: Traced) -> None:
    root = traced.one("chat m")
    assert root.kind == 2  # SERVER
    assert root.attributes["gen_ai.operation.name"] == "chat"
    assert root.attributes["gen_ai.request.model"] == "m"
    assert root.attributes["gen_ai.usage.output_tokens"] == 8
    assert root.attributes["gen_ai.usage.input_tokens"] == traced.view.prompt_tokens
    assert root.attributes["gen_ai.response.id"] == traced.view.request_id
    assert not any(SECRET_WORDS in str(span.attributes) for span in traced.spans)


def test_log_is_json_with_the_ids_of_the_trace_and_no_prompt(traced: Traced) -> None:
    lines = [json.loads(line) for line in traced.front.log_path.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == traced.view.request_id]
    assert line["trace_id"] == TRACE_ID == traced.view.trace_id
    assert (line["state"], line["status"], line["completion_tokens"]) == ("done", 200, 8)
    for server in (traced.front, traced.agent):
        text = server.log_path.read_text()
        assert all("message" in json.loads(line) for line in text.splitlines())
        assert SECRET_WORDS not in text


def test_cold_stream_that_moves_is_one_trace_over_front_and_both_nodes(tmp_path: Path) -> None:
    objects = hub_objects("org/m", directory_files(write_simulated(tmp_path / "m", nbytes=1 << 20)))
    with RangedServer(objects) as hub, OtlpReceiver("grpc") as receiver:
        sending = {**SENDING, "HF_ENDPOINT": hub.url(""), "SLLM_TELEMETRY_OTLP_ENDPOINT": receiver.endpoint}
        with Cluster(tmp_path, f"sqlite:{tmp_path / 'metadata.sqlite'}", sending) as cluster:
            front, agents = cluster.orchestrator(), [cluster.agent(), cluster.agent()]
            until_alive(front, 2)
            with Client(front.url) as client:
                client.add_model("m", "org/m", engine="simulated", options={"token_s": 0.05})
                with ThreadPoolExecutor(1) as pool:
                    call = pool.submit(_stream, front.url, "m", max_tokens=100, traceparent=CALLER)
                    moving = eventually(
                        lambda: next((r for r in client.requests() if r.completion_tokens > 3), None)
                    )
                    assert client.move_request(moving.request_id).result.state == "moved"
                    assert call.result().text.rstrip().endswith("[DONE]")
                view = client.request(moving.request_id).request
            wanted = {"chat m": 1, "load m": 2, "infer m": 2, "migrate m": 1}
            eventually(
                lambda: all(_num(receiver.trace(TRACE_ID), name) == num for name, num in wanted.items())
            )
            spans = receiver.trace(TRACE_ID)
    known = {span.span_id for span in spans} | {"b7ad6b7169203331"}
    assert {span.parent_span_id for span in spans} <= known
    pids = {span.pid for span in spans if span.service != "sllm-engine"}
    assert pids == {front.pid, *(agent.pid for agent in agents)}
    root = next(span for span in spans if span.name == "chat m")
    assert (view.start, root.attributes["gen_ai.usage.output_tokens"]) == ("cold", 100)
    shown = {s.name: s.duration_ms for s in spans if s.attributes.get("sllm.phase") == s.name != "stream"}
    assert shown == pytest.approx({phase: ms for phase, ms in view.phases.items() if ms > 0}, abs=0.01)


def _num(spans: list[ReceivedSpan], name: str) -> int:
    return sum(span.name == name for span in spans)


def test_prompts_are_told_to_who_asks_for_them(tmp_path: Path) -> None:
    asked = {"SLLM_TELEMETRY_RECORD_PROMPTS": "yes", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with (
        OtlpReceiver("http") as receiver,
        Platform(
            tmp_path, asked, telemetry_otlp_endpoint=receiver.endpoint, telemetry_otlp_protocol="http"
        ) as one,
    ):
        one.add("m", write_simulated(tmp_path / "m"))
        _stream(one.url, "m")
        root = eventually(lambda: next((s for s in receiver.spans if s.name == "chat m"), None))
    assert SECRET_WORDS in root.attributes["gen_ai.input.messages"]
    assert receiver.paths[0] == "/v1/traces"
    assert root.attributes["sllm.start"] == "warm"


def test_receiver_that_is_away_costs_no_request(tmp_path: Path) -> None:
    with Platform(tmp_path, telemetry_otlp_endpoint="http://127.0.0.1:1") as platform:
        platform.add("m", write_simulated(tmp_path / "m"))
        assert platform.chat("m").status_code == 200


def test_endpoint_that_is_no_url_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--port", "0", "--data-dir", str(tmp_path / "d"), "--arena-budget-bytes", "64MiB"]
    assert run([*arguments, "--telemetry-otlp-endpoint", "collector:4317"]) == USAGE
    assert "http://HOST:PORT" in capsys.readouterr().err
